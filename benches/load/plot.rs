//! Bars with whiskers as SVG that takes its colours from the page, so that one drawing is right in light and in dark.

use crate::words;
use plotters::coord::types::RangedCoordf64;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Drawn at the width of a phone: the page never has to shrink the letters.
const WIDTH: u32 = 340;
const ROW: u32 = 30;
/// Room for the labels; longer ones get more.
const LABELS: u32 = 108;
const TICKS: u32 = 22;
const LETTERS: f64 = 14.0;

/// The drawing library knows colours only by value: each of these stands for a variable of the page.
const STANDS_FOR: [(RGBColor, &str); 9] = [
    (INK, "var(--ink)"),
    (GRID, "var(--grid)"),
    (FAINT, "var(--faint)"),
    (RGBColor(1, 1, 11), "var(--portcullis)"),
    (RGBColor(1, 1, 12), "var(--nginx)"),
    (RGBColor(1, 1, 13), "var(--haproxy)"),
    (RGBColor(1, 1, 14), "var(--bare)"),
    (RGBColor(1, 1, 15), "var(--direct)"),
    (RGBColor(1, 1, 16), "var(--other)"),
];
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(1, 1, 2);
const FAINT: RGBColor = RGBColor(1, 1, 3);

pub struct Bar {
    pub label: String,
    pub contender: String,
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A horizontal bar for each median, a whisker from the least to the most, the median in figures.
pub fn bars(bars: &[Bar], decimals: usize) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH, ROW * bars.len() as u32 + TICKS)).into_drawing_area();
        draw(&area, bars, decimals).map_err(|e| format!("drawing: {e}"))?;
        area.present().map_err(|e| format!("drawing: {e}"))?;
    }
    for (RGBColor(r, g, b), variable) in STANDS_FOR {
        svg = svg.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"{variable}\""));
    }
    let inside = svg.split_once("<svg").ok_or("drawing: no <svg")?.1;
    Ok(format!("<svg role=\"img\"{inside}"))
}

fn draw(area: &Area<'_>, bars: &[Bar], decimals: usize) -> Result<(), Box<dyn std::error::Error>> {
    let longest = bars.iter().map(|b| words::number(b.median, decimals).chars().count()).max().unwrap_or(0);
    let most = bars.iter().map(|b| b.max).fold(0.0, f64::max);
    let least = bars.iter().map(|b| b.min).fold(0.0, f64::min);
    let letters = bars.iter().map(|b| b.label.chars().count()).max().unwrap_or(0);
    let labels = LABELS.max((letters as f64 * LETTERS * 0.52) as u32 + 12);
    // Room for the figure behind the longest whisker.
    let room = (longest as f64 * LETTERS * 0.62 + 12.0) / f64::from(WIDTH - labels);
    let span = if most > least { (most - least) / (1.0 - room) } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .set_label_area_size(LabelAreaPosition::Left, labels)
        .set_label_area_size(LabelAreaPosition::Bottom, TICKS)
        .build_cartesian_2d(least..least + span, 0.0..bars.len() as f64)?;
    let ticks = |v: &f64| tick(*v, span);
    let style = ("sans-serif", 11).into_font().color(&FAINT);
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .disable_x_axis()
        .x_labels(4)
        .x_max_light_lines(0)
        .bold_line_style(GRID)
        .x_label_formatter(&ticks)
        .x_label_style(style)
        .draw()?;
    for (at, bar) in bars.iter().enumerate() {
        let middle = bars.len() as f64 - at as f64 - 0.5;
        one(area, &mut chart, bar, (labels, middle), decimals)?;
    }
    Ok(())
}

fn one(
    area: &Area<'_>,
    chart: &mut Chart<'_, '_>,
    bar: &Bar,
    (labels, middle): (u32, f64),
    decimals: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let colour = colour(&bar.contender);
    chart
        .draw_series([Rectangle::new([(0.0, middle - 0.3), (bar.median, middle + 0.3)], colour.filled())])?;
    let line = |from: (f64, f64), to: (f64, f64)| PathElement::new(vec![from, to], INK.stroke_width(1));
    chart.draw_series([
        line((bar.min, middle), (bar.max, middle)),
        line((bar.min, middle - 0.13), (bar.min, middle + 0.13)),
        line((bar.max, middle - 0.13), (bar.max, middle + 0.13)),
    ])?;
    let (left, y) = chart.backend_coord(&(bar.max.max(0.0), middle));
    let font = ("sans-serif", LETTERS).into_font().color(&INK);
    let label = font.clone().pos(Pos::new(HPos::Right, VPos::Center));
    area.draw(&Text::new(bar.label.clone(), (labels as i32 - 8, y), label))?;
    let value = font.pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(words::number(bar.median, decimals), (left + 6, y), value))?;
    Ok(())
}

fn colour(contender: &str) -> RGBColor {
    let name = format!("var(--{contender})");
    STANDS_FOR.iter().find(|(_, variable)| *variable == name).map_or(RGBColor(1, 1, 16), |(c, _)| *c)
}

/// Short enough to stand beside its neighbours.
fn tick(value: f64, span: f64) -> String {
    if span >= 4000.0 {
        return format!("{}k", value / 1000.0);
    }
    let decimals = if span >= 8.0 {
        0
    } else if span >= 0.8 {
        1
    } else {
        2
    };
    words::number(value, decimals)
}
