//! The comparison believes what its load generators print: recorded outputs, and every error in them found.

#[path = "../benches/load/parse.rs"]
mod parse;

use parse::{Handshakes, Latency, Load};

const WRK: &str = "\
Running 1s test @ http://127.0.0.1:17001/x
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    49.03us   60.60us   2.11ms   99.34%
    Req/Sec   107.88k    53.14k  139.32k    83.33%
  64079 requests in 1.10s, 67.53MB read
";
const WRK_END: &str = "\
Requests/sec:  58262.22
Transfer/sec:     61.40MB
";
const OHA: &str = r#"{
  "summary": {"successRate": 1.0, "total": 2.0, "requestsPerSec": 499.17855077848185},
  "latencyPercentiles": {"p50": 0.000015677, "p99": 0.000129907, "p99.9": 0.000565633, "p99.99": 0.000565633},
  "statusCodeDistribution": {"200": 500},
  "errorDistribution": {}
}"#;
const H2LOAD: &str = "\
Main benchmark duration is started for thread #0.
TLS Protocol: TLSv1.3
Cipher: TLS_AES_256_GCM_SHA384
Server Temp Key: X25519 253 bits
Application protocol: h2
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 2.00s, 240685.50 req/s, 15.61MB/s
requests: 481371 total, 481499 started, 481371 done, 481371 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 481371 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 31.22MB (32734012) total, 22.04MB (23105808) headers (space savings 51.02%), 940.18KB (962742) data
";
const SUITE: &str = "TLS_AES_256_GCM_SHA384";

fn errors(load: &Load) -> Vec<(&str, u64)> {
    load.errors.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()
}

#[test]
fn a_good_run_of_wrk() {
    let load = parse::wrk(&format!("{WRK}{WRK_END}")).unwrap();
    assert_eq!((load.requests, load.per_second, errors(&load)), (64_079, 58_262.22, vec![]));
}

#[test]
fn every_error_of_wrk_counts() {
    let trouble =
        "  Socket errors: connect 1, read 8, write 100458, timeout 0\n  Non-2xx or 3xx responses: 7\n";
    let load = parse::wrk(&format!("{WRK}{trouble}{WRK_END}")).unwrap();
    let expected = vec![
        ("socket: connect", 1),
        ("socket: read", 8),
        ("socket: write", 100_458),
        ("status not 2xx or 3xx", 7),
    ];
    assert_eq!(errors(&load), expected);
    let nothing = WRK.replace("64079 requests", "0 requests");
    let load = parse::wrk(&format!("{nothing}{}", WRK_END.replace("58262.22", "0.00"))).unwrap();
    assert_eq!(errors(&load), [("no answer at all", 1)]);
    assert!(parse::wrk("unable to connect to 127.0.0.1:1 Connection refused").is_err());
    assert!(parse::wrk(&format!("{WRK}  Socket errors: connect many\n{WRK_END}")).is_err());
}

#[test]
fn a_good_run_of_oha() {
    let load = parse::oha(OHA).unwrap();
    assert_eq!((load.requests, load.per_second, errors(&load)), (500, 250.0, vec![]));
    let Some(Latency { p50, p99, p999 }) = load.latency else { panic!("no latency") };
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(close(p50, 0.015677) && close(p99, 0.129907) && close(p999, 0.565633), "{p50} {p99} {p999}");
}

#[test]
fn every_error_of_oha_counts() {
    let text = OHA.replace("\"200\": 500", "\"200\": 490, \"503\": 10").replace(
        "\"errorDistribution\": {}",
        "\"errorDistribution\": {\"Connection refused (os error 111)\": 50}",
    );
    let load = parse::oha(&text).unwrap();
    assert_eq!(load.requests, 500);
    assert_eq!(errors(&load), [("Connection refused (os error 111)", 50), ("status 503", 10)]);
    let load = parse::oha(&OHA.replace("\"200\": 500", "")).unwrap();
    assert_eq!(errors(&load), [("no answer at all", 1)]);
    assert!(parse::oha("oha: no").is_err());
}

#[test]
fn a_good_run_of_h2load() {
    let load = parse::h2load(H2LOAD, SUITE).unwrap();
    assert_eq!((load.requests, load.per_second, errors(&load)), (481_371, 240_685.5, vec![]));
}

#[test]
fn every_error_of_h2load_counts() {
    let text = H2LOAD
        .replace("0 failed, 0 errored, 0 timeout", "9 failed, 7 errored, 2 timeout")
        .replace("0 3xx, 0 4xx, 0 5xx", "1 3xx, 4 4xx, 5 5xx");
    let load = parse::h2load(&text, SUITE).unwrap();
    let expected = [("3xx", 1), ("4xx", 4), ("5xx", 5), ("errored", 7), ("failed", 9), ("timeout", 2)];
    assert_eq!(errors(&load), expected);
    let load = parse::h2load(&H2LOAD.replace("481371 done", "0 done"), SUITE).unwrap();
    assert_eq!(errors(&load), [("no answer at all", 1)]);
    assert!(parse::h2load("starting benchmark...", SUITE).is_err());
}

/// Nor does it count when it spoke something else than was to be measured.
#[test]
fn what_h2load_negotiated_counts() {
    let text = H2LOAD
        .replace("TLSv1.3", "TLSv1.2")
        .replace("Cipher: TLS_AES_256_GCM_SHA384", "Cipher: ECDHE-RSA-AES128-GCM-SHA256")
        .replace("Application protocol: h2\n", "");
    let expected = [
        ("Application protocol: nothing, not h2", 1),
        ("Cipher: ECDHE-RSA-AES128-GCM-SHA256, not TLS_AES_256_GCM_SHA384", 1),
        ("TLS Protocol: TLSv1.2, not TLSv1.3", 1),
    ];
    assert_eq!(errors(&parse::h2load(&text, SUITE).unwrap()), expected);
}

/// What the dialler prints for so many handshakes.
fn dialled(expected: &str, primers: u64, [connections, full, resumed, retried]: [u64; 4]) -> Load {
    let line = serde_json::json!({
        "expected": expected, "primers": primers, "connections": connections, "full": full, "resumed": resumed,
        "retried": retried, "seconds": 2.0, "errors": {},
    });
    parse::dial(&line.to_string()).unwrap()
}

#[test]
fn handshakes_are_what_they_were_to_be() {
    let load = dialled("full", 0, [100, 100, 0, 0]);
    assert_eq!((load.requests, load.per_second, errors(&load)), (100, 50.0, vec![]));
    assert_eq!(load.handshakes, Some(Handshakes { full: 100, resumed: 0 }));
    let load = dialled("resumed", 8, [100, 0, 100, 0]);
    assert_eq!((load.requests, load.per_second, errors(&load)), (108, 50.0, vec![]));
    assert_eq!(load.handshakes, Some(Handshakes { full: 8, resumed: 100 }));
    let load = dialled("plain", 0, [100, 0, 0, 0]);
    assert_eq!((load.requests, load.handshakes.is_none(), errors(&load)), (100, true, vec![]));
}

#[test]
fn a_handshake_of_another_kind_is_an_error() {
    let other = "handshakes of another kind";
    assert_eq!(errors(&dialled("full", 0, [100, 99, 1, 0])), [(other, 1)]);
    assert_eq!(errors(&dialled("full", 0, [100, 98, 0, 2])), [(other, 2)]);
    assert_eq!(errors(&dialled("resumed", 8, [100, 3, 97, 0])), [(other, 3)]);
    assert_eq!(errors(&dialled("plain", 0, [100, 1, 0, 0])), [(other, 1)]);
    let without = [("connections without a handshake", 1)];
    assert_eq!(errors(&dialled("full", 0, [100, 99, 0, 0])), without);
    assert_eq!(errors(&dialled("full", 0, [0, 0, 0, 0])), [("no answer at all", 1)]);
}

#[test]
fn every_error_of_the_dialler_counts() {
    let line = r#"{"expected":"full","primers":0,"connections":9,"full":9,"resumed":0,"retried":0,"seconds":1.0,
        "errors":{"read: reset":2}}"#;
    assert_eq!(errors(&parse::dial(line).unwrap()), [("read: reset", 2)]);
    assert!(parse::dial(&line.replace("\"full\",", "\"some\",")).is_err());
    assert!(parse::dial(&line.replace("\"resumed\":0,", "")).is_err());
    assert!(parse::dial("dial: no").is_err());
}
