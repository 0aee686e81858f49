//! The comparison believes what its load generators print: recorded outputs, and every error in them found.

#[path = "../benches/load/parse.rs"]
mod parse;

use parse::{Latency, Load};

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
