//! Numbers and names as people read them.

use std::time::Duration;

/// 12345.678 with one decimal is 12,345.7.
pub fn number(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let zero = text.bytes().all(|b| b == b'0' || b == b'.');
    format!("{}{grouped}{rest}", if value < 0.0 && !zero { "−" } else { "" })
}

/// 125 s is 2:05.
pub fn clock(duration: Duration) -> String {
    format!("{}:{:02}", duration.as_secs() / 60, duration.as_secs() % 60)
}

/// A contender's name for people.
pub fn title(contender: &str) -> &str {
    match contender {
        "portcullis" => "Portcullis",
        "nginx" => "NGINX",
        "portcullis-logs" => "Portcullis with log",
        "nginx-logs" => "NGINX with log",
        "haproxy-logs" => "HAProxy with log",
        "haproxy" => "HAProxy",
        "bare" => "bare Pingora",
        "direct" => "no proxy",
        other => other,
    }
}

/// "a, b and c".
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
