//! Durations, sizes and rates as users write them: `250ms`, `5s`, `64KiB`, `1KiB/s`.

use std::time::Duration;

/// Parses a duration: a number and one of `ms`, `s`, `m`, `h`, `d`. A bare number is refused, because
/// configuration languages disagree on what it would mean (seconds in NGINX, milliseconds in HAProxy).
///
/// # Errors
/// A sentence that says what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "a duration like 250ms, 5s, 2m, 1h or 1d";
    let (number, unit) = split(text).ok_or_else(|| format!("expected {FORM}, found {text:?}"))?;
    let millis_per_unit = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        "" => return Err(format!("expected {FORM}, found {text:?}: write its unit, {number}s?")),
        other => return Err(format!("expected {FORM}, found the unit {other:?}")),
    };
    let millis =
        number.parse::<f64>().map_err(|_| format!("expected {FORM}, found {text:?}"))? * millis_per_unit;
    // A century keeps every later addition to a clock far from overflow.
    if millis > 100.0 * 365.0 * 86_400_000.0 {
        return Err(format!("{text} is longer than a hundred years"));
    }
    Ok(Duration::from_micros((millis * 1_000.0).round() as u64))
}

/// Parses a size in bytes: a whole number and one of `B`, `KB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`; a bare number
/// is bytes.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn size(text: &str) -> Result<u64, String> {
    const FORM: &str = "a size like 512B, 64KiB, 10MiB or 1GiB";
    let (number, unit) = split(text).ok_or_else(|| format!("expected {FORM}, found {text:?}"))?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        "K" | "k" | "M" | "m" | "G" | "g" => {
            return Err(format!("expected {FORM}, found {text:?}: write {number}{}iB?", unit.to_uppercase()))
        }
        other => return Err(format!("expected {FORM}, found the unit {other:?}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("expected {FORM}, found {text:?}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too large"))
}

/// Parses bytes a second: a size followed by `/s`.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn byte_rate(text: &str) -> Result<u64, String> {
    let per_second = text
        .strip_suffix("/s")
        .ok_or_else(|| format!("expected bytes a second like 240B/s or 1KiB/s, found {text:?}"))?;
    size(per_second.trim_end())
}

/// `64KiB` for 65536: the largest binary unit that divides the number.
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        n if n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

/// The leading digits (and at most one point) and the rest; `None` when there are no digits in front.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    number.starts_with(|c: char| c.is_ascii_digit()).then_some((number, unit.trim_start()))
}

/// A share such as `5%`, `0.5%` or `100%`, as a number from 0 to 1.
///
/// # Errors
/// What to write instead.
pub fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').map(str::trim).and_then(|number| number.parse::<f64>().ok());
    match number {
        Some(number) if (0.0..=100.0).contains(&number) => Ok(number / 100.0),
        _ => Err(format!("expected a share such as 5% or 0.1%, found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_bare_numbers_refused() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "s", "5 parsecs", "-5s", "1.2.3s", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("5").unwrap_err().contains("5s?"));
    }

    #[test]
    fn sizes_are_read_and_ambiguous_units_refused() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("10 MB"), Ok(10_000_000));
        for bad in ["", "KiB", "1.5MiB", "-1", "1TiBx", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size("10M").unwrap_err().contains("10MiB?"));
        assert_eq!(byte_rate("1KiB/s"), Ok(1024));
        assert!(byte_rate("1KiB").is_err());
        assert_eq!(show_size(65_536), "64KiB");
        assert_eq!(show_size(1000), "1000B");
    }
}
