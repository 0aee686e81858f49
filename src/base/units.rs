//! Durations, sizes and rates as users write them: `250ms`, `5s`, `64KiB`, `1KiB/s`, `100/s`.

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

/// Parses how often something may happen: a whole number, `/`, and one of `s`, `m` (or `min`), `h` (or `hour`), `d` (or
/// `day`), with a number of them before it if it is not one: `100/s`, `5/10s`. Thousands may be set apart, `10_000/day`.
/// The number is at most a billion, the time at most 366 days.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn rate(text: &str) -> Result<(u32, Duration), String> {
    const FORM: &str = "a rate like 100/s, 10/m, 1000/h or 10_000/day";
    const MOST: u32 = 1_000_000_000;
    const LONGEST: u64 = 366 * 86_400;
    let bad = || format!("expected {FORM}, found {text:?}");
    let (number, per) = text.split_once('/').ok_or_else(bad)?;
    let (number, per) = (number.trim_end(), per.trim_start());
    let digits: String = number.chars().filter(|c| !matches!(c, '_' | ',')).collect();
    if !number.starts_with(|c: char| c.is_ascii_digit()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let count = digits.parse().ok().filter(|count| *count <= MOST);
    let count = count.ok_or_else(|| format!("{text} is more than a billion at once"))?;
    if count == 0 {
        return Err(format!("{text} would let nothing through; leave the route out instead"));
    }
    let (times, unit) = split(per).unwrap_or(("1", per));
    let seconds: u64 = match unit {
        "s" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hour" => 3_600,
        "d" | "day" => 86_400,
        _ => return Err(bad()),
    };
    let times: u64 = times.parse().ok().filter(|times| *times > 0).ok_or_else(bad)?;
    let period = times.checked_mul(seconds).filter(|period| *period <= LONGEST);
    let period = period.ok_or_else(|| format!("{text} looks back further than 366 days"))?;
    Ok((count, Duration::from_secs(period)))
}

/// `1s`, `5m`, `1h`, `1d`: the largest unit that divides whole seconds.
pub fn show_seconds(seconds: u64) -> String {
    match seconds {
        n if n > 0 && n % 86_400 == 0 => format!("{}d", n / 86_400),
        n if n > 0 && n % 3_600 == 0 => format!("{}h", n / 3_600),
        n if n > 0 && n % 60 == 0 => format!("{}m", n / 60),
        n => format!("{n}s"),
    }
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

    #[test]
    fn rates_are_read_and_what_is_none_is_refused() {
        let s = Duration::from_secs;
        assert_eq!(rate("100/s"), Ok((100, s(1))));
        assert_eq!(rate("10/m"), Ok((10, s(60))));
        assert_eq!(rate("1000/h"), Ok((1000, s(3600))));
        assert_eq!(rate("10_000/day"), Ok((10_000, s(86_400))));
        assert_eq!(rate("10,000/d"), Ok((10_000, s(86_400))));
        assert_eq!(rate("5 / 10s"), Ok((5, s(10))));
        for bad in [
            "",
            "5",
            "/s",
            "0/s",
            "-1/s",
            "1.5/s",
            "5/",
            "5/fortnight",
            "5/0s",
            "5/1.5s",
            "_/s",
            "9999999999/s",
            "5/999d",
        ] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert_eq!([1, 60, 90, 86_400].map(show_seconds), ["1s", "1m", "90s", "1d"]);
    }
}
