//! W3C Trace Context (level 1): which trace a request is part of, and what is passed on of it.
//!
//! A `traceparent` that keeps the standard's form is continued; one that does not is dropped with its `tracestate`, and a new
//! trace begins: it is never passed on.

use super::export::{Exporter, Spec};
use crate::base::decimal::{hex_128, hex_64};

/// A request's place in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace_id: u128,
    /// The span that it came from; none where the trace begins here.
    pub parent: Option<u64>,
    /// Whoever began or continued the trace records it.
    pub sampled: bool,
}

/// The length of `00-…-…-01`.
const LENGTH: usize = 55;

impl Context {
    /// What a `traceparent` says (§3.2); none when it breaks the standard.
    pub fn parse(field: &[u8]) -> Option<Context> {
        if field.len() < LENGTH || field[2] != b'-' || field[35] != b'-' || field[52] != b'-' {
            return None;
        }
        let version = hex(&field[..2])?;
        // A later version may have more behind a hyphen, and is read as far as this one goes (§3.2.4).
        let more = field.len() > LENGTH;
        if version == 0xff || (more && (version == 0 || field[LENGTH] != b'-')) {
            return None;
        }
        let trace_id = hex(&field[3..35])?;
        let parent = hex(&field[36..52])? as u64;
        let flags = hex(&field[53..55])?;
        (trace_id != 0 && parent != 0).then_some(Context {
            trace_id,
            parent: Some(parent),
            sampled: flags & 1 == 1,
        })
    }

    /// A `traceparent` that names `span` as the parent.
    pub fn field(&self, span: u64) -> [u8; LENGTH] {
        let mut field = [b'-'; LENGTH];
        field[..2].copy_from_slice(b"00");
        field[3..35].copy_from_slice(&hex_128(self.trace_id));
        field[36..52].copy_from_slice(&hex_64(span));
        field[53..].copy_from_slice(if self.sampled { b"01" } else { b"00" });
        field
    }
}

/// Which traces are recorded, and where they go.
pub struct Tracing {
    /// Takes the spans.
    pub exporter: Exporter,
    /// Of 2^64 traces that begin here so many are recorded.
    sampled: u128,
}

impl Tracing {
    /// As configured; `sample` is the share of traces that are recorded, 0 to 1, where nobody before has decided.
    pub fn new(spec: Spec, sample: f64) -> Self {
        Tracing { exporter: Exporter::new(spec), sampled: share(sample) }
    }

    /// Whether it is as this is configured.
    pub fn is(&self, spec: &Spec, sample: f64) -> bool {
        self.exporter.spec() == spec && self.sampled == share(sample)
    }

    /// Whether a trace that begins here is recorded: by its id, so that everybody with the same share decides alike
    /// (OpenTelemetry's TraceIdRatioBased).
    pub fn samples(&self, trace_id: u128) -> bool {
        trace_id & u128::from(u64::MAX) < self.sampled
    }
}

fn share(sample: f64) -> u128 {
    (sample.clamp(0.0, 1.0) * 2f64.powi(64)) as u128
}

/// Lower case digits only (§3.2.2).
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// A span's id: 64 random bits, not all of them zero (§3.2.2.4).
pub fn new_span() -> u64 {
    fastrand::u64(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_sound_field_is_read_and_written() {
        let context = Context::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.parent, Some(0x00f0_67aa_0ba9_02b7));
        assert!(context.sampled);
        assert_eq!(context.field(0x00f0_67aa_0ba9_02b7).as_slice(), GOOD.as_bytes());
        assert!(!Context::parse(GOOD.replace("-01", "-02").as_bytes()).unwrap().sampled);
        assert!(Context::parse(GOOD.replacen("00", "cc", 1).as_bytes()).is_some(), "a later version");
        assert!(Context::parse(format!("{}-more", GOOD.replacen("00", "cc", 1)).as_bytes()).is_some());
    }

    #[test]
    fn what_breaks_the_standard_is_nothing() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replacen("00-", "0g-", 1),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
            &format!("{}.more", GOOD.replacen("00", "cc", 1)),
            &GOOD.replace("-01", "-0x"),
        ] {
            assert_eq!(Context::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
