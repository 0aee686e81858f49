//! Metrics: what they say, that they stay few, and that Prometheus itself takes them, the rules and the dashboard.

mod kit;

use kit::gateway::repository;
use kit::origin::{refusing, reply};
use kit::raw::{exchange, get};
use kit::{until, wait_for, Gateway, Origin, Raw};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const ADMIN: &str = "admin: {address: \"127.0.0.1:0\"}\n";

fn scrape(admin: SocketAddr, accept: &str) -> (String, String) {
    let response = exchange(admin, format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n{accept}\r\n"));
    assert_eq!(response.status, 200, "{response:?}");
    (response.field("content-type").unwrap().to_owned(), response.text())
}

/// The value of a series, written as it stands.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Runs a tool of Prometheus on a text.
fn promtool(arguments: &[&str], input: &str) {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: prometheus; tests/run does it)");
    tool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "promtool {arguments:?}: {said}\n{input}");
}

#[test]
fn the_series_say_what_happened() {
    let (_refusing, dead) = refusing();
    let good = Origin::start(|r| reply(if r.target() == "/shop/no" { 500 } else { 200 }, "x"));
    let gateway = Gateway::start(&format!(
        "{ADMIN}upstreams:\n  app: {{targets: [\"{dead}\", \"{}\"], health_check: {{interval: 1h, unhealthy_after: 5}}}}\n\
         routes: [{{name: shop, path: /shop, upstream: app}}]\n",
        good.target()
    ));
    let admin = gateway.admin();
    let mut client = Raw::connect(gateway.address());
    for path in ["/shop", "/shop", "/shop/no", "/none"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).response();
    }
    let text = wait_for("all are counted", || {
        let (_, text) = scrape(admin, "");
        (value(&text, r#"portcullis_requests_total{route="",code="4xx"}"#) == Some(1.0)).then_some(text)
    });
    for (series, expected) in [
        (r#"portcullis_requests_total{route="shop",code="2xx"}"#, 2.0),
        (r#"portcullis_requests_total{route="shop",code="5xx"}"#, 1.0),
        (r#"portcullis_request_duration_seconds_count{route="shop"}"#, 3.0),
        (r#"portcullis_request_duration_seconds_bucket{route="shop",le="+Inf"}"#, 3.0),
        (r#"portcullis_rejected_total{route="",reason="no_route"}"#, 1.0),
        (r#"portcullis_in_flight_requests{route="shop"}"#, 0.0),
        (r#"portcullis_upstream_connections_total{upstream="app",reused="false"}"#, 1.0),
        (r#"portcullis_upstream_connections_total{upstream="app",reused="true"}"#, 2.0),
        (r#"portcullis_config_generation"#, 1.0),
        (r#"portcullis_config_reloads_total{result="failure"}"#, 0.0),
        (r#"portcullis_ready"#, 1.0),
        (r#"portcullis_connections"#, 1.0),
        (r#"portcullis_connections_accepted_total"#, 1.0),
        (&format!(r#"portcullis_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION")), 1.0),
        (&format!(r#"portcullis_upstream_healthy{{upstream="app",target="{}"}}"#, good.target()), 1.0),
        (&format!(r#"portcullis_upstream_healthy{{upstream="app",target="{dead}"}}"#), 0.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    }
    for series in ["process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds"] {
        assert!(value(&text, series).is_some_and(|v| v > 0.0), "{series} in\n{text}");
    }
    assert_eq!(
        value(&text, "portcullis_runtime_workers"),
        Some(std::thread::available_parallelism().unwrap().get() as f64)
    );
    gateway.reload("nonsense: 1\n");
    let (_, text) = scrape(admin, "");
    assert_eq!(value(&text, r#"portcullis_config_reloads_total{result="failure"}"#), Some(1.0));
    assert_eq!(value(&text, "portcullis_config_last_reload_successful"), Some(0.0));
}

/// A retry, and why.
#[test]
fn further_attempts_are_counted_by_their_reason() {
    let (_refusing, dead) = refusing();
    let good = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "{ADMIN}upstreams: {{app: {{targets: [\"{dead}\", \"{}\"]}}}}\nroutes: [{{path: /, upstream: app}}]\n",
        good.target()
    ));
    (0..2).for_each(|_| assert_eq!(get(gateway.address(), "/").status, 200));
    let (_, text) = scrape(gateway.admin(), "");
    // In turn: the second request begins at the dead target too if the first one's second attempt took a turn.
    let retries = value(&text, r#"portcullis_retries_total{upstream="app",reason="connect"}"#);
    assert!(retries == Some(1.0) || retries == Some(2.0), "{text}");
}

#[test]
fn both_formats_are_sound() {
    let gateway = Gateway::start(&format!("{ADMIN}routes: [{{path: {{regex: 'a\"b|/'}}, respond: {{}}}}]\n"));
    let admin = gateway.admin();
    (0..10).for_each(|n| assert!(get(gateway.address(), &format!("/{n}")).status == 200));
    let (kind, text) = scrape(admin, "");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    promtool(&["check", "metrics"], &text);
    assert!(text.contains(r#"route="~a\"b|/""#), "{text}");
    let (kind, open) =
        scrape(admin, "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("# EOF\n"));
    let families: Vec<&str> =
        open.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let distinct: BTreeSet<&&str> = families.iter().collect();
    assert_eq!(families.len(), distinct.len(), "a family stands once: {families:?}");
}

/// Nothing that a client chooses becomes a series.
#[test]
fn ten_thousand_hosts_paths_and_methods_make_no_series() {
    let gateway = Gateway::start(&format!(
        "{ADMIN}routes: [{{path: /a, respond: {{}}}}, {{path: /b, methods: [GET], respond: {{}}}}]\n"
    ));
    let admin = gateway.admin();
    let mut client = Raw::connect(gateway.address());
    let mut ask = |n: usize| {
        let (path, method) = (["a", "b", "c"][n % 3], ["GET", "POST"][n / 3 % 2]);
        let method = if n.is_multiple_of(7) { format!("M{n}") } else { method.to_owned() };
        let request =
            format!("{method} /{path}/{n}?q{n}={n} HTTP/1.1\r\nHost: h{n}.test\r\nUser-Agent: u{n}\r\n\r\n");
        client.send(request).response();
    };
    (0..100).for_each(&mut ask);
    let series = || scrape(admin, "").1.lines().filter(|l| !l.starts_with('#')).count();
    let before = series();
    (100..10_000).for_each(&mut ask);
    assert_eq!(series(), before);
    assert!(before < 200, "{before} series for two routes");
}

/// A real Prometheus scrapes a running gateway, with the rules that are shipped.
#[test]
fn prometheus_scrapes_it_with_our_rules() {
    let gateway = Gateway::start(&format!("{ADMIN}routes: [{{name: shop, path: /, respond: {{}}}}]\n"));
    assert_eq!(get(gateway.address(), "/").status, 200);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n  \
         - {{job_name: portcullis, static_configs: [{{targets: [\"{}\"]}}]}}\n",
        repository("conf/prometheus-rules.yaml").display(),
        gateway.admin()
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    let (mut prometheus, address) = wait_for("a Prometheus that listens", || {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed (Debian: prometheus; tests/run does it)");
        loop {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            if std::net::TcpStream::connect(address).is_ok() {
                return Some((child, address));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let query = |query: &str| -> Option<f64> {
        let answer = get(address, &format!("/api/v1/query?query={query}"));
        let answer: serde_json::Value = serde_json::from_str(&answer.text()).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    until("it has scraped", || query("up{job=\"portcullis\"}".replace('"', "%22").as_str()) == Some(1.0));
    until("the route's requests", || {
        query("portcullis_requests_total{route=%22shop%22,code=%222xx%22}") == Some(1.0)
    });
    let rules = get(address, "/api/v1/rules").text();
    assert!(rules.contains("\"type\":\"alerting\"") && !rules.contains("\"health\":\"err\""), "{rules}");
    let _ = prometheus.kill();
    let _ = prometheus.wait();
}

/// Every expression of Grafana's dashboard is sound, and everything that it or a rule asks for is what a gateway has.
#[test]
fn what_the_dashboard_and_the_rules_ask_for_exists() {
    let board = std::fs::read_to_string(repository("conf/grafana-dashboard.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&board).unwrap();
    let mut expressions = Vec::new();
    gather(&board, &mut expressions);
    assert!(expressions.len() > 40, "{}", expressions.len());
    let variables = [("$__rate_interval", "5m"), ("$__range", "1h"), ("$__interval", "1m")];
    let filled =
        |text: &String| variables.iter().fold(text.clone(), |text, (from, to)| text.replace(from, to));
    let mut rules = String::from("groups:\n- name: board\n  rules:\n");
    for (number, expression) in expressions.iter().map(filled).enumerate() {
        rules += &format!("  - record: board:{number}\n    expr: {}\n", serde_json::Value::from(expression));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");

    let (receiver, _refusing) = refusing();
    let gateway = Gateway::start(&format!(
        "{ADMIN}traces: {{endpoint: \"http://{_refusing}\"}}\nupstreams: {{app: {{targets: [\"{_refusing}\"]}}}}\n\
         rate_limit_store: {{redis: \"redis://{_refusing}\"}}\n\
         providers: {{idp: {{jwt: {{issuer: i, audience: a, algorithms: [RS256], jwks: \"http://{_refusing}\"}}}}}}\n\
         routes: [{{path: /, upstream: app, rate_limit: {{rate: 1000/s}}}}]\n"
    ));
    drop(receiver);
    let (_, text) = scrape(gateway.admin(), "");
    let known: BTreeSet<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let shipped =
        std::fs::read_to_string(repository("conf/prometheus-rules.yaml")).unwrap() + &expressions.join("\n");
    let name = regex::Regex::new(r"\b(?:portcullis|process)_[a-z_]+[a-z]\b").unwrap();
    let of_a_family = |name: &str| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        known.contains(name) || family.is_some_and(|family| known.contains(family))
    };
    // What a rule records has a colon before or behind the name.
    let recorded = |found: &regex::Match<'_>| {
        shipped[..found.start()].ends_with(':') || shipped[found.end()..].starts_with(':')
    };
    let missing: BTreeSet<&str> = name
        .find_iter(&shipped)
        .filter(|found| !recorded(found))
        .map(|found| found.as_str())
        .filter(|name| !of_a_family(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?} in\n{text}");
}

/// Every `expr` in a tree, and the queries of its variables and annotations.
fn gather(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(text) if name == "expr" => found.push(text.clone()),
                    _ => gather(value, found),
                }
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| gather(value, found)),
        _ => {}
    }
}

#[test]
fn the_rules_hold_what_they_promise() {
    promtool(&["check", "rules", repository("conf/prometheus-rules.yaml").to_str().unwrap()], "");
    promtool(&["test", "rules", repository("tests/prometheus-rules.test.yaml").to_str().unwrap()], "");
}
