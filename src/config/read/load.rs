//! `concurrency`, of routes and of upstreams.

use super::super::decode::Item;
use crate::upstream::load::{Adaptive, LoadSpec};

/// More is no limit: the file descriptors of any machine end before.
const MOST: u64 = 10_000_000;

/// Of a route: `{max: 500}`.
pub(super) fn route(item: &Item<'_, '_>) -> Option<usize> {
    let fields = item.fields("a mapping such as {max: 500}")?;
    let max = fields.need("max").and_then(|i| i.number("a number of requests", 1, MOST));
    fields.close();
    max.map(|max| max.value as usize)
}

/// Of an upstream: `{max: 1000, adaptive: {tolerance: 3, min: 20}}`.
pub(super) fn upstream(item: &Item<'_, '_>) -> Option<LoadSpec> {
    let fields = item.fields("a mapping such as {max: 1000} or {adaptive: false}")?;
    let max = fields.get("max").and_then(|i| i.number("a number of requests", 1, MOST));
    let adaptive = fields.get("adaptive").map_or(Some(Adaptive::default()), |i| adaptive(&i));
    fields.close();
    Some(LoadSpec { max: max.map(|max| max.value as usize), adaptive })
}

fn adaptive(item: &Item<'_, '_>) -> Option<Adaptive> {
    let default = Adaptive::default();
    if !item.is_map() {
        let wanted =
            item.parse("true, false or a mapping such as {tolerance: 3, min: 20}", |text| match text {
                "true" => Ok(true),
                "false" => Ok(false),
                other => Err(format!(
                    "expected true, false or a mapping such as {{tolerance: 3, min: 20}}, found {other:?}"
                )),
            });
        return wanted.is_none_or(|wanted| wanted.value).then_some(default);
    }
    let fields = item.fields("a mapping such as {tolerance: 3, min: 20}")?;
    let tolerance = fields.get("tolerance").and_then(|i| i.parse("a factor", tolerance));
    let min = fields.get("min").and_then(|i| i.number("a number of requests", 1, MOST));
    fields.close();
    Some(Adaptive {
        tolerance: tolerance.map_or(default.tolerance, |tolerance| tolerance.value),
        min: min.map_or(default.min, |min| min.value as usize),
    })
}

/// A factor in percent.
fn tolerance(text: &str) -> Result<u32, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| (1.2..=100.0).contains(factor));
    let percent = factor.map(|factor| (factor * 100.0).round() as u32);
    percent.ok_or_else(|| format!("expected a factor between 1.2 and 100, such as 3, found {text:?}"))
}
