//! Lines that fit: words of which the important ones stay, and columns of which the important ones stay. It refuses to
//! make a line wider than its room, except for its most important word or column, which the terminal's edge cuts off.

use crate::cli::status::text;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Blanks between two columns or words.
const GAP: usize = 2;
/// Columns from this rank on get what all others leave.
pub(super) const LUXURY: u8 = 10;

/// Words of a line as they stand in it, each with a rank: those of low rank stay when room is short.
pub(super) struct Words(pub(super) Vec<(u8, Span<'static>)>);

impl Words {
    /// The line of those that have room; the one of rank 0 always is there, and empty ones never.
    pub(super) fn line(mut self, room: usize) -> Line<'static> {
        self.0.retain(|(_, span)| !span.content.is_empty());
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(|at| self.0[*at].0);
        let mut used = 1;
        let mut kept = vec![false; self.0.len()];
        for at in order {
            used += self.0[at].1.width() + if used > 1 { GAP } else { 0 };
            if used > room && self.0[at].0 > 0 {
                break;
            }
            kept[at] = true;
        }
        let mut spans = vec![Span::raw(" ")];
        for (_, span) in self.0.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(word, _)| word) {
            if spans.len() > 1 {
                spans.push(Span::raw(" ".repeat(GAP)));
            }
            spans.push(span);
        }
        Line::from(spans)
    }
}

/// A column of a table.
pub(super) struct Column {
    /// What is above it.
    pub(super) title: &'static str,
    /// Those of low rank stay when room is short.
    pub(super) rank: u8,
    /// It is left out rather than narrower than this.
    pub(super) least: usize,
    /// Numbers stand at the right.
    pub(super) right: bool,
}

/// A column of words.
pub(super) const fn words(title: &'static str, rank: u8, least: usize) -> Column {
    Column { title, rank, least, right: false }
}

/// A column of numbers.
pub(super) const fn numbers(title: &'static str, rank: u8, least: usize) -> Column {
    Column { title, rank, least, right: true }
}

/// A cell of a table.
pub(super) type Cell = (String, Style);

/// The line of titles and the lines of a table in so many cells; texts that are too long are cut off with `…`.
pub(super) fn table(
    columns: &[Column],
    rows: &[Vec<Cell>],
    room: usize,
    head: Style,
) -> (Line<'static>, Vec<Line<'static>>) {
    let widths = widths(columns, rows, room);
    let titles: Vec<Cell> = columns.iter().map(|column| (column.title.to_owned(), head)).collect();
    let line = |row: &Vec<Cell>| {
        let mut spans = Vec::with_capacity(2 * row.len());
        for ((column, cells), (content, style)) in columns.iter().zip(&widths).zip(row) {
            if *cells > 0 {
                let content = text::cut(content, *cells);
                let put = if column.right { text::right } else { text::left };
                spans.push(Span::raw(if spans.is_empty() { " " } else { "  " }));
                spans.push(Span::styled(put(&content, *cells), *style));
            }
        }
        Line::from(spans)
    };
    (line(&titles), rows.iter().map(line).collect())
}

/// The width of each column, 0 for those without room: first each gets its least, then the first ones what they need;
/// the luxuries come after that.
fn widths(columns: &[Column], rows: &[Vec<Cell>], room: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|at| columns[*at].rank);
    let mut widths = vec![0; columns.len()];
    let mut left = (room + 1).saturating_sub(GAP); // one blank before the first column
    let (needs, luxuries) = order.split_at(order.partition_point(|at| columns[*at].rank < LUXURY));
    for order in [needs, luxuries] {
        for at in order {
            let column = &columns[*at];
            let needed = column.least + if column.rank == 0 { 0 } else { GAP };
            if needed > left && column.rank > 0 {
                break;
            }
            widths[*at] = column.least;
            left = left.saturating_sub(needed);
        }
        for at in order {
            let cells = rows.iter().filter_map(|row| row.get(*at)).map(|(cell, _)| text::width(cell));
            let longest = cells.max().unwrap_or(0).max(text::width(columns[*at].title));
            if widths[*at] > 0 {
                let more = longest.saturating_sub(widths[*at]).min(left);
                widths[*at] += more;
                left -= more;
            }
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_without_room_are_left_out_the_last_ones_first() {
        let words = || Words(vec![(0, "one".into()), (2, "two".into()), (1, "three".into()), (1, "".into())]);
        assert_eq!(words().line(80).to_string(), " one  two  three");
        assert_eq!(words().line(12).to_string(), " one  three");
        assert_eq!(words().line(2).to_string(), " one");
    }

    #[test]
    fn columns_without_room_are_left_out_and_long_texts_cut() {
        let columns = [words("name", 0, 5), words("what", 2, 4), numbers("n", 1, 3)];
        let cell = |text: &str| (text.to_owned(), Style::new());
        let rows = vec![vec![cell("a long name"), cell("thing"), cell("12")]];
        let lines = |room| {
            let (head, rows) = table(&columns, &rows, room, Style::new());
            (head.to_string(), rows[0].to_string())
        };
        let full = (" name         what     n".to_owned(), " a long name  thing   12".to_owned());
        assert_eq!(lines(80), full);
        assert_eq!(lines(24), full);
        assert_eq!(lines(20).1, " a long …  thi…   12");
        assert_eq!(lines(12).1, " a lon…   12");
        assert_eq!(lines(6).1, " a lo…");
        assert_eq!(lines(0).1, " a lo…");
    }
}
