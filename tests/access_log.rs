//! The access log: one line for each request that reached a listener, whatever became of it, and no secret in any.

mod kit;

use kit::origin::{refusing, reply, silent};
use kit::raw::{exchange, get};
use kit::{until, wait_for, Gateway, Origin, Raw, Step};
use serde_json::Value;
use std::io::Read;
use std::time::Duration;

const LOG: &str = "access_log: {path: $FOLDER/access.log}\n";

fn line<'a>(lines: &'a [Value], path: &str) -> &'a Value {
    let found: Vec<_> = lines.iter().filter(|l| l["path"] == path).collect();
    assert_eq!(found.len(), 1, "{path} in {lines:#?}");
    found[0]
}

#[test]
fn a_line_says_what_became_of_a_request() {
    let origin = Origin::start(|_| reply(200, "hello"));
    let gateway = Gateway::start(&format!(
        "{LOG}upstreams: {{app: {{targets: [\"{}\"]}}}}\nroutes: [{{name: shop, path: /shop, upstream: app}}]",
        origin.target()
    ));
    let mut client = Raw::connect(gateway.address());
    let request = "POST /shop/./cart?item=7&api_key=geheim HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: test/1\r\n\
                   Referer: http://a.test/?token=geheim\r\nAuthorization: Bearer geheim\r\nCookie: s=geheim\r\n\
                   Content-Length: 3\r\n\r\nabc";
    let first = client.send(request).response();
    client.send(request).response();
    let lines = gateway.access_lines(2);
    // Two workers may have served them, whose lines may change places.
    let [one, two] = [false, true].map(|reused| lines.iter().find(|l| l["reused"] == reused).unwrap());
    assert_eq!(one["request_id"], first.field("x-request-id").unwrap());
    assert_eq!(one["trace_id"], origin.first().field("traceparent").unwrap()[3..35]);
    for (name, value) in [
        ("client_ip", "127.0.0.1"),
        ("method", "POST"),
        ("host", "shop.test"),
        ("path", "/shop/cart"),
        ("query", "item=7&api_key=***"),
        ("route", "shop"),
        ("upstream", "app"),
        ("user_agent", "test/1"),
        ("referer", "http://a.test/?token=***"),
        ("target", &origin.target()),
    ] {
        assert_eq!(one[name], value, "{name}");
    }
    for (name, value) in [("status", 200), ("bytes_in", 3), ("bytes_out", 5), ("attempts", 1)] {
        assert_eq!(one[name], value, "{name}");
    }
    assert!(one["error"].is_null() && two["error"].is_null(), "{lines:#?}");
    let (whole, upstream) = (one["duration_ms"].as_f64().unwrap(), one["upstream_ms"].as_f64().unwrap());
    assert!(whole >= upstream && upstream > 0.0, "{one}");
    let text = std::fs::read_to_string(gateway.folder.path().join("access.log")).unwrap();
    assert!(!text.contains("geheim"), "{text}");
}

#[test]
fn whatever_becomes_of_a_request_it_has_one_line() {
    let (_silent, mute) = silent();
    let (_refusing, dead) = refusing();
    let breaks = Origin::start(|_| vec![Step::Close]);
    let good = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "{LOG}limits: {{header_timeout: 300ms}}\nupstreams:\n  mute: {{targets: [\"{mute}\"], timeouts: {{read: 300ms}}}}\n  \
         dead: {{targets: [\"{dead}\"]}}\n  breaks: {{targets: [\"{}\"]}}\n  both: {{targets: [\"{dead}\", \"{}\"]}}\n\
         routes:\n  - {{path: /mute, upstream: mute}}\n  - {{path: /dead, upstream: dead}}\n  - {{path: /breaks, upstream: breaks}}\n  \
         - {{path: /both, upstream: both}}\n  - {{path: /get, methods: [GET], max_body: 3B, upstream: both}}\n  \
         - {{path: /fixed, respond: {{status: 204}}}}\n  - {{path: /moved, redirect: {{to: /fixed}}}}\n",
        breaks.target(), good.target()
    ));
    let to = gateway.address();
    let expect = |path: &str, status: u16, error: &str| (path.to_owned(), status, error.to_owned());
    let mut expected = Vec::new();
    for (path, status, error) in [
        ("/mute", 504, "upstream_timeout"),
        ("/dead", 502, "connect"),
        ("/breaks", 502, "upstream_broke"),
        ("/fixed", 204, ""),
        ("/moved", 308, ""),
        ("/none", 404, "no_route"),
        ("/a%2Fb", 400, "path_encoded_slash"),
        ("/both", 200, ""),
        ("/both/2", 200, ""),
    ] {
        let response = get(to, path);
        assert_eq!(response.status, status, "{path}");
        if !error.is_empty() {
            let problem: Value = serde_json::from_str(&response.text()).unwrap();
            assert_eq!(problem["reason"], error, "{path}: the body says what the log says");
            assert!(
                response.field("server-timing").is_some_and(|t| t.starts_with("gateway;dur=")),
                "{response:?}"
            );
        }
        expected.push(expect(path, status, error));
    }
    let ask = |request: &str| exchange(to, request).status;
    assert_eq!(ask("PUT /get HTTP/1.1\r\nHost: t\r\n\r\n"), 405);
    expected.push(expect("/get", 405, "method_not_allowed"));
    assert_eq!(ask("GET /get/large HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nabcd"), 413);
    expected.push(expect("/get/large", 413, "body_too_large"));
    assert_eq!(ask("GET /lf HTTP/1.1\nHost: t\n\n"), 400);
    expected.push(expect("/lf", 400, "bare_lf"));
    assert_eq!(ask("OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"), 404);
    expected.push(expect("*", 404, "no_route"));
    assert_eq!(Raw::connect(to).send("GET /slow HTTP/1.1\r\nHo").response().status, 408);
    expected.push(expect("/slow", 408, "slow_head"));
    Raw::connect(to).send("GET /gone HTTP/1.1\r\nHo");
    expected.push(expect("/gone", 499, "client_gone"));
    drop(Raw::connect(to)); // no request, no line

    let mut lines: Vec<_> = gateway.access_lines(expected.len());
    let told = |l: &Value| {
        let text = |name: &str| l[name].as_str().unwrap_or_default().to_owned();
        (text("path"), l["status"].as_u64().unwrap() as u16, text("error"))
    };
    expected.sort();
    lines.sort_by_key(told);
    assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), expected);
    let retried = [line(&lines, "/both"), line(&lines, "/both/2")];
    assert!(retried.iter().any(|l| l["attempts"] == 2 && l["target"] == good.target()), "{retried:#?}");
    assert_eq!(line(&lines, "/dead")["target"], dead.to_string());
    assert!(line(&lines, "/dead")["detail"].as_str().unwrap().contains("ConnectRefused"), "{lines:#?}");
}

#[test]
fn a_client_that_vanishes_and_a_tunnel_have_theirs_when_they_are_over() {
    let held = Origin::start(|r| {
        if r.target() == "/ws" {
            vec![Step::Send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello".to_vec()), Step::Hold]
        } else {
            vec![Step::Hold]
        }
    });
    let gateway = Gateway::start(&format!("{LOG}routes: [{{path: /, upstream: \"{}\"}}]", held.url()));
    let mut client = Raw::connect(gateway.address());
    client.send("GET /vanished HTTP/1.1\r\nHost: t\r\n\r\n");
    held.wait_count(1);
    drop(client);
    let lines = gateway.access_lines(1);
    assert_eq!((&lines[0]["status"], &lines[0]["error"]), (&499.into(), &"client_gone".into()));
    let mut client = Raw::connect(gateway.address());
    client.send("GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n");
    assert_eq!(client.one_response("GET").unwrap().status, 101);
    drop(client);
    held.release();
    let lines = gateway.access_lines(2);
    let tunnel = line(&lines, "/ws");
    assert_eq!((&tunnel["status"], &tunnel["bytes_out"]), (&101.into(), &5.into()), "{tunnel}");
}

#[test]
fn who_is_turned_away_has_a_line_too() {
    let gateway = Gateway::start(&format!(
        "{LOG}limits: {{connections: 1}}\nroutes: [{{path: /, respond: {{status: 204}}}}]"
    ));
    let mut first = Raw::connect(gateway.address());
    assert_eq!(first.send("GET /in HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 204);
    let turned_away = wait_for("it is full", || {
        let response = Raw::connect(gateway.address()).one_response("GET")?;
        (response.status == 503).then_some(response)
    });
    let lines = gateway.access_lines(2);
    let line = lines.iter().find(|l| l["error"] == "too_many_connections").unwrap();
    assert_eq!(line["request_id"], turned_away.field("x-request-id").unwrap());
    assert!(line["path"].is_null() && line["status"] == 503);
}

/// Those in flight when the grace period is over, and those that a second signal cuts off; with what is known of them.
#[test]
fn what_is_cut_off_at_the_end_has_a_line() {
    let held = Origin::start(|r| match r.target() {
        "/begun" => {
            let begun = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello";
            vec![Step::Send(begun.as_bytes().to_vec()), Step::Hold]
        }
        _ => vec![Step::Hold],
    });
    for (grace, twice) in [("300ms", false), ("60s", true)] {
        let mut gateway = Gateway::start(&format!(
            "{LOG}grace_period: {grace}\nroutes: [{{name: all, path: /, upstream: \"{}\"}}]",
            held.url()
        ));
        let before = held.received().len();
        let [mut waiting, mut begun] = [(); 2].map(|()| Raw::connect(gateway.address()));
        waiting.send("GET /held?a=b HTTP/1.1\r\nHost: t\r\n\r\n");
        begun.send("GET /begun HTTP/1.1\r\nHost: t\r\n\r\n");
        held.wait_count(before + 2);
        begun.wait_text("hello");
        gateway.signal("TERM");
        if twice {
            gateway.wait_log(&["requests in flight: 2"]);
            gateway.signal("TERM");
        }
        assert!(gateway.wait_exit().success());
        let lines = gateway.access_log();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        let ids: Vec<_> =
            held.received()[before..].iter().map(|r| r.field("x-request-id").unwrap().to_owned()).collect();
        for (path, status, sent) in [("/held", 503, 0), ("/begun", 200, 5)] {
            let line = line(&lines, path);
            assert_eq!((&line["method"], &line["error"]), (&"GET".into(), &"cut_off".into()), "{line:#}");
            assert_eq!((&line["status"], &line["bytes_out"]), (&status.into(), &sent.into()), "{line:#}");
            assert_eq!((&line["route"], &line["target"]), (&"all".into(), &held.target().into()), "{line:#}");
            assert!(
                ids.contains(&line["request_id"].as_str().unwrap().to_owned()),
                "the id that the upstream has"
            );
            assert!(line["duration_ms"].as_f64() > Some(0.0));
        }
    }
}

/// What stands in the place of a request line may be anything: a field, a piece of a body, a password.
#[test]
fn what_cannot_be_read_is_not_told() {
    let gateway = Gateway::start(&format!(
        "admin: {{address: \"127.0.0.1:0\"}}\n{LOG}routes: [{{path: /, respond: {{status: 204}}}}]"
    ));
    let to = gateway.address();
    for request in [
        "Cookie: sid=geheim; b=c\r\n\r\n",
        "X-Api-Key: geheim\r\n\r\n",
        "password=geheim&u=1 HTTP/1.1\r\n\r\n",
        "GET http://me:geheim@h/x?token=geheim HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /;jsessionid=geheim?a=1;token=geheim HTTP/1.1\r\nHost: h\r\nBad Field: geheim\r\n\r\n",
    ] {
        assert_eq!(exchange(to, request).status, 400, "{request}");
    }
    assert_eq!(get(to, "/a;sid=geheim/b?next=http://a/%3Ftoken=geheim").status, 204);
    let lines = gateway.access_lines(6);
    let text = format!("{lines:?}") + &get_admin(gateway.admin(), "/status");
    assert!(!text.contains("geheim"), "{text}");
    let refused: Vec<_> = lines.iter().filter(|l| l["status"] == 400).collect();
    assert!(
        refused.iter().all(|l| l["bytes_out"].as_u64() > Some(100)),
        "the body that was sent: {refused:#?}"
    );
}

#[test]
fn without_it_the_programs_log_says_what_is_refused_and_no_secret() {
    let gateway = Gateway::start("access_log: {path: off}\nroutes: [{path: /a, respond: {}}]\n");
    assert_eq!(get(gateway.address(), "/b;sid=geheim?token=geheim").status, 404);
    gateway.wait_log(&["GET /b;sid=*** -> 404 no_route"]);
    assert!(!gateway.log().iter().any(|l| l.contains("geheim")), "{:?}", gateway.log());
}

/// An empty line behind a body is no beginning of a request.
#[test]
fn an_empty_line_behind_a_body_is_no_request() {
    let gateway = Gateway::start(&format!(
        "{LOG}limits: {{header_timeout: 100ms, idle_timeout: 1s}}\nroutes: [{{path: /, respond: {{status: 204}}}}]"
    ));
    let mut client = Raw::connect(gateway.address());
    let request = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx\r\n";
    assert_eq!(client.send(request).response().status, 204);
    assert_eq!(client.rest(), b"", "the connection is idle, and ends as one");
    assert_eq!(gateway.access_lines(1).len(), 1);
}

#[test]
fn a_moved_file_is_made_anew_at_a_reload_also_at_a_refused_one() {
    const YAML: &str =
        "access_log: {path: $FOLDER/access.log}\nroutes: [{path: /, respond: {status: 204}}]\n";
    let gateway = Gateway::start(YAML);
    let (log, old) = (gateway.folder.path().join("access.log"), gateway.folder.path().join("access.log.1"));
    let count = |path: &std::path::Path| std::fs::read_to_string(path).map_or(0, |t| t.lines().count());
    get(gateway.address(), "/1");
    until("the first line", || count(&log) == 1);
    std::fs::rename(&log, &old).unwrap();
    get(gateway.address(), "/2");
    until("it goes on in the file that was moved", || count(&old) == 2);
    assert!(gateway.reload_as_is().contains("reloaded"));
    get(gateway.address(), "/3");
    until("the new file", || count(&log) == 1);
    std::fs::rename(&log, &old).unwrap();
    assert!(gateway.reload("routes: []\n").contains("not reloaded"));
    get(gateway.address(), "/4");
    until("the new file again", || count(&log) == 1);
    // A file that cannot be made refuses the whole, and the one before goes on.
    assert!(gateway.reload(&YAML.replace("access.log", "none/access.log")).contains("not reloaded"));
    gateway.wait_log(&["access_log: cannot write to", "none/access.log: No such file or directory"]);
    get(gateway.address(), "/5");
    until("it goes on", || count(&log) == 2);
    // Another format from the next request on.
    assert!(gateway
        .reload(&YAML.replace("access.log}", "access.log, format: combined}"))
        .contains("reloaded"));
    exchange(gateway.address(), "GET /6?a=1 HTTP/1.0\r\nHost: t\r\nUser-Agent: x\r\n\r\n");
    until("another format", || count(&log) == 3);
    let text = std::fs::read_to_string(&log).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("127.0.0.1 - - [") && last.ends_with("\"GET /6?a=1 HTTP/1.0\" 204 0 \"-\" \"x\""),
        "{last}"
    );
}

#[test]
fn a_start_that_cannot_write_its_log_fails() {
    let mut gateway =
        Gateway::spawn("access_log: {path: /nowhere/access.log}\nroutes: [{path: /, respond: {}}]");
    assert_eq!(gateway.wait_exit().code(), Some(3));
    gateway.wait_log(&["access_log: cannot write to /nowhere/access.log: No such file or directory"]);
}

/// The reader of standard error stops, and requests do not.
#[test]
fn a_reader_that_stops_costs_lines_not_requests() {
    let origin = Origin::text("x");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    let yaml = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\nadmin: {{address: \"127.0.0.1:0\"}}\naccess_log: {{buffer: 64KiB}}\n\
         routes: [{{path: /, upstream: \"{}\"}}]\n",
        origin.url()
    );
    std::fs::write(&file, yaml).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "-c", file.to_str().unwrap()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut text = String::new();
    let mut address = |marker: &str| {
        wait_for(marker, || {
            let found = |text: &str| text.split_once(marker)?.1.split_once('\n')?.0.parse().ok();
            found(&text).or_else(|| {
                let mut some = [0; 4096];
                let n = stderr.read(&mut some).unwrap();
                text += std::str::from_utf8(&some[..n]).unwrap();
                found(&text)
            })
        })
    };
    let (admin, address) = (address("] admin at "), address("] listening on "));
    // From here on nobody reads: 64 KiB fit into the pipe, 64 into the buffer, and these are a megabyte.
    let mut client = Raw::connect(address);
    for _ in 0..4_000 {
        assert_eq!(client.send("GET /xxxxxxxxxx HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    }
    let metrics = get_admin(admin, "/metrics");
    let dropped =
        metrics.lines().find_map(|l| l.strip_prefix("portcullis_access_log_dropped_total ")).unwrap();
    assert!(dropped.parse::<u64>().unwrap() > 1_000, "{dropped}");
    let reading = std::thread::spawn(move || {
        let mut rest = String::new();
        let _ = stderr.read_to_string(&mut rest);
        rest
    });
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    let rest = reading.join().unwrap();
    assert!(rest.contains("access log stderr: lines are lost"), "it is said once somebody reads");
}

fn get_admin(admin: std::net::SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    let mut client = Raw::connect(admin);
    client.socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let response = client.send(request).response();
    assert_eq!(response.status, 200, "{response:?}");
    response.text()
}
