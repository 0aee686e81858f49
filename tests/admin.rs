//! The admin address: health, status and who may look; in every state of the process.

mod kit;

use kit::origin::{refusing, reply};
use kit::raw::{exchange, get};
use kit::{until, wait_for, Gateway, Origin, Raw, Response, Step};
use serde_json::Value;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const ADMIN: &str = "admin: {address: \"127.0.0.1:0\"}\n";

fn ask(admin: SocketAddr, path: &str, fields: &str) -> Response {
    exchange(admin, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n{fields}\r\n"))
}

fn status(admin: SocketAddr) -> Value {
    let response = ask(admin, "/status", "");
    assert_eq!((response.status, response.field("content-type")), (200, Some("application/json")));
    serde_json::from_str(&response.text()).unwrap()
}

/// `None` while nobody answers.
fn ready(admin: SocketAddr) -> Option<u16> {
    let mut client = Raw::from(std::net::TcpStream::connect(admin).ok()?);
    client.send(format!("GET /health/ready HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    client.one_response("GET").map(|response| response.status)
}

#[test]
fn ready_follows_the_process_and_never_an_upstream() {
    let (_refusing, dead) = refusing();
    let held = Origin::start(|_| [vec![Step::Hold], reply(200, "done")].concat());
    let mut gateway = Gateway::start_controlled(&format!(
        "{ADMIN}upstreams: {{dead: {{targets: [\"{dead}\"], health_check: {{interval: 50ms}}}}}}\n\
         routes: [{{path: /dead, upstream: dead}}, {{path: /held, upstream: \"{}\"}}]",
        held.url()
    ));
    let admin = gateway.admin();
    until("ready though its only target is dead", || ready(admin) == Some(200));
    assert_eq!(ask(admin, "/health/live", "").status, 200);
    gateway.command_done("drain");
    assert_eq!(ready(admin), Some(503), "drained");
    assert_eq!(ask(admin, "/health/live", "").status, 200);
    assert!(ask(admin, "/health/ready", "").text().contains("drained"));
    gateway.command_done("undrain");
    assert_eq!(ready(admin), Some(200));
    // At the end it is not ready before anything else happens, and says so until the last request is over.
    let mut client = Raw::connect(*gateway.listening().last().unwrap());
    client.send("GET /held HTTP/1.1\r\nHost: t\r\n\r\n");
    held.wait_count(1);
    gateway.signal("TERM");
    gateway.wait_log(&["SIGTERM: no new connections"]);
    assert_eq!(ready(admin), Some(503), "leaving");
    held.release();
    assert!(gateway.wait_exit().success());
}

#[test]
fn the_status_says_what_hurts_and_since_when() {
    let (good, bad) = (Origin::text("x"), Origin::start(|_| reply(503, "no")));
    let gateway = Gateway::start(&format!(
        "{ADMIN}upstreams:\n  app:\n    targets: [\"{}\", {{address: \"{}\", weight: 3}}]\n    \
         health_check: {{path: /, interval: 50ms}}\nroutes:\n  - {{name: shop, methods: [GET], path: /shop, upstream: app}}\n  \
         - {{name: moved, path: {{exact: /old}}, redirect: {{to: /shop}}}}\n",
        good.target(),
        bad.target()
    ));
    let admin = gateway.admin();
    for (path, expected) in [("/shop", 200), ("/shop/2", 200), ("/old", 308), ("/none?token=geheim", 404)] {
        assert_eq!(get(gateway.address(), path).status, expected);
    }
    let status = wait_for("all are counted", || Some(status(admin)).filter(|s| s["answered"] == 4));
    assert_eq!(status["state"], "serving");
    assert_eq!(status["ready"], true);
    assert_eq!(status["generation"], 1);
    assert_eq!(status["listeners"][0], gateway.address().to_string());
    let shop = &status["routes"][0];
    assert_eq!((&shop["name"], &shop["matches"]), (&"shop".into(), &"GET /shop".into()));
    assert_eq!(shop["upstreams"], serde_json::json!(["app"]));
    assert_eq!(shop["codes"], serde_json::json!([0, 2, 0, 0, 0]));
    assert_eq!(status["routes"][1]["matches"], "=/old");
    assert_eq!(status["routes"][2]["rejected"]["no_route"], 1);
    let targets = status["upstreams"][0]["targets"].as_array().unwrap();
    let target = |address: String| targets.iter().find(|t| t["address"] == address).unwrap();
    assert_eq!(target(good.target())["health"], "healthy");
    let sick = target(bad.target());
    assert_eq!((&sick["health"], &sick["weight"]), (&"unhealthy".into(), &3.into()));
    assert_eq!(sick["check_error"], "it answered 503");
    assert!(
        sick["since_ms"].as_u64() > Some(1_700_000_000_000)
            && sick["checked_ms"].as_u64() >= sick["since_ms"].as_u64()
    );
    let refusal = &status["refusals"][0];
    assert_eq!((&refusal["reason"], &refusal["path"]), (&"no_route".into(), &"/none".into()));
    assert_eq!(status["history"][0]["kind"], "start");
    assert!(!status.to_string().contains("geheim"));
    assert!(gateway.reload_as_is().contains("reloaded"));
    gateway.reload("routes: [{path: /, upstrem: x}]");
    let status = self::status(admin);
    let kinds: Vec<_> =
        status["history"].as_array().unwrap().iter().map(|e| (&e["kind"], &e["ok"])).collect();
    assert_eq!(
        format!("{kinds:?}"),
        r#"[(String("reload"), Bool(false)), (String("reload"), Bool(true)), (String("start"), Bool(true))]"#
    );
    assert!(status["history"][0]["text"].as_str().unwrap().contains("upstrem"), "with the reason");
    assert_eq!(status["routes"][0]["codes"][1], 2, "what is counted goes on after a reload");
}

#[test]
fn in_flight_is_counted_where_it_is() {
    let held = Origin::start(|_| vec![Step::Hold]);
    let gateway = Gateway::start(&format!("{ADMIN}routes: [{{path: /, upstream: \"{}\"}}]", held.url()));
    let admin = gateway.admin();
    let mut client = Raw::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    held.wait_count(1);
    let in_flight = || {
        let status = status(admin);
        let target = &status["upstreams"][0]["targets"][0]["in_flight"];
        [&status["routes"][0]["in_flight"], target, &status["requests"], &status["connections"]]
            .map(|n| n.as_u64().unwrap())
    };
    assert_eq!(in_flight(), [1, 1, 1, 1]);
    drop(client);
    until("nothing is in flight", || in_flight() == [0, 0, 0, 0]);
}

#[test]
fn who_may_look() {
    let gateway = Gateway::start(&format!("{ADMIN}routes: [{{path: /, respond: {{}}}}]"));
    let admin = gateway.admin();
    let with_host = |host: &str, fields: &str| {
        exchange(admin, format!("GET /status HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).status
    };
    assert_eq!(with_host("localhost:9901", ""), 200);
    assert_eq!(with_host("evil.example", ""), 421, "DNS rebinding");
    assert_eq!(with_host("localhost", "Origin: http://evil.example\r\n"), 403);
    assert_eq!(with_host("localhost", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"), 403);
    assert_eq!(
        exchange(admin, format!("POST / HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n")).status,
        405
    );
    assert_eq!(ask(admin, "/nothing", "").status, 404);
    let page = ask(admin, "/", "");
    let policy = page.field("content-security-policy").unwrap();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(page.text().contains(&format!("nonce=\"{nonce}\"")) && nonce.len() == 32);
    assert!(
        !page.text().contains("src=\"http") && !page.text().contains("href=\"http"),
        "nothing from elsewhere"
    );
    assert_eq!(page.field("x-frame-options"), Some("DENY"));
    assert_eq!(page.field("cache-control"), Some("no-store"));
    let head = Raw::connect(admin)
        .send(format!("HEAD /status HTTP/1.1\r\nHost: {admin}\r\n\r\n"))
        .response_to("HEAD");
    assert_eq!((head.status, head.body.len()), (200, 0));
    // The public listener knows nothing of it.
    assert_eq!(get(gateway.address(), "/metrics").text(), "");
}

#[test]
fn with_a_token_only_who_has_it_may() {
    let gateway = Gateway::start(
        "admin: {address: \"127.0.0.1:0\", token: 0123456789abcdef}\nroutes: [{path: /, respond: {}}]",
    );
    let admin = gateway.admin();
    let denied = ask(admin, "/metrics", "");
    assert_eq!(denied.status, 401);
    assert!(denied.field("www-authenticate").unwrap().contains("Basic"), "browsers ask for it");
    assert_eq!(ask(admin, "/metrics", "Authorization: Bearer 0123456789abcdex\r\n").status, 401);
    assert_eq!(ask(admin, "/metrics", "Authorization: Bearer 0123456789abcdef\r\n").status, 200);
    assert_eq!(ask(admin, "/health/ready", "").status, 200, "a probe has no token");
    // Another one from the next reload on.
    let changed =
        "admin: {address: \"127.0.0.1:0\", token: fedcba9876543210}\nroutes: [{path: /, respond: {}}]";
    assert!(gateway.reload(changed).contains("reloaded"));
    assert_eq!(ask(admin, "/metrics", "Authorization: Bearer 0123456789abcdef\r\n").status, 401);
    assert_eq!(ask(admin, "/metrics", "Authorization: Bearer fedcba9876543210\r\n").status, 200);
    let secret = |line: &String| line.contains("0123456789abcdef") || line.contains("fedcba9876543210");
    assert!(!gateway.log().iter().any(secret), "{:?}", gateway.log());
}

#[test]
fn a_reload_moves_it() {
    let routes = "routes: [{path: /, respond: {}}]";
    let gateway = Gateway::start(&format!("{ADMIN}{routes}"));
    let first = gateway.admin();
    let socket = gateway.folder.path().join("admin.sock");
    assert!(gateway
        .reload(&format!("admin: {{address: unix:$FOLDER/admin.sock}}\n{routes}"))
        .contains("reloaded"));
    let mut unix = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    std::io::Write::write_all(&mut unix, b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut unix, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    until("the first is closed", || std::net::TcpStream::connect(first).is_err());
    // One that cannot be had refuses the whole.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _taken = std::net::TcpListener::bind(taken).unwrap();
    assert!(gateway.reload(&format!("admin: {{address: \"{taken}\"}}\n{routes}")).contains("not reloaded"));
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert!(gateway.reload(routes).contains("reloaded"));
    until("it is gone", || std::os::unix::net::UnixStream::connect(&socket).is_err());
}

#[test]
fn it_goes_over_at_an_upgrade_and_the_history_with_it() {
    let gateway = Gateway::start_controlled(&format!("{ADMIN}routes: [{{path: /, respond: {{}}}}]"));
    let admin = gateway.admin();
    let mut events = Raw::connect(admin);
    events.send(format!("GET /events HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    events.wait_text("data: {");
    gateway.reload_as_is();
    gateway.command_done("upgrade");
    assert!(events.closed(), "the stream ends, so that the page asks the new process");
    let new = wait_for("the new process answers", || {
        let mut client = Raw::from(std::net::TcpStream::connect(admin).ok()?);
        client.send(format!("GET /status HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
        let response = client.one_response("GET")?;
        let status: Value = serde_json::from_str(&response.text()).ok()?;
        (status["pid"] != gateway.pid()).then_some(status)
    });
    let kinds: Vec<_> =
        new["history"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["upgrade", "reload", "start"]);
    assert_eq!((&new["ready"], &new["generation"]), (&true.into(), &3.into()));
}

/// Many who connect and say nothing, who read nothing, or who listen, keep no probe waiting.
#[test]
fn a_crowd_at_the_door_keeps_no_probe_waiting() {
    let gateway = Gateway::start(&format!("{ADMIN}routes: [{{path: /, respond: {{}}}}]"));
    let admin = gateway.admin();
    let live = |why: &str| {
        let mut probe = Raw::connect(admin);
        probe.socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        probe.send(format!("GET /health/live HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
        assert_eq!(probe.response().status, 200, "{why}");
    };
    let crowd = |request: &str| -> Vec<Raw> {
        (0..300)
            .map(|_| {
                let mut raw = Raw::connect(admin);
                raw.send(request);
                raw
            })
            .collect()
    };
    let _silent = crowd("");
    live("behind three hundred who say nothing");
    let _slow =
        crowd(&format!("GET /health/live HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 99999\r\n\r\nx"));
    live("behind three hundred with a body that never ends");
    let mut listening = crowd(&format!("GET /events HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    live("behind three hundred who listen");
    let heads = listening.iter_mut().filter_map(|raw| {
        let mut head = [0; 12];
        raw.socket.read_exact(&mut head).ok().map(|()| String::from_utf8_lossy(&head).into_owned())
    });
    let refused = heads.filter(|head| head == "HTTP/1.1 503").count();
    assert!(refused > 30, "{refused} of 300 were refused: only so many may listen");
    assert_eq!(get(gateway.address(), "/").status, 200);
    assert_eq!(status(admin)["connections"].as_u64().map(|n| n <= 1), Some(true), "they are no clients");
}

#[test]
fn who_listens_is_let_go_when_the_token_changes() {
    let yaml = |token: &str| {
        format!("admin: {{address: \"127.0.0.1:0\", token: {token}}}\nroutes: [{{path: /, respond: {{}}}}]")
    };
    let gateway = Gateway::start(&yaml("0123456789abcdef"));
    let admin = gateway.admin();
    let mut events = Raw::connect(admin);
    events.send(format!(
        "GET /events HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n"
    ));
    events.wait_text("data: {");
    assert!(gateway.reload(&yaml("fedcba9876543210")).contains("reloaded"));
    assert!(events.closed());
}

/// Nothing of a reload that is refused stays behind, and what is in the way is named.
#[test]
fn a_refused_move_leaves_nothing_and_says_why() {
    let routes = "routes: [{path: /, respond: {}}]";
    let gateway = Gateway::start(&format!("{ADMIN}{routes}"));
    let (socket, log) = (gateway.folder.path().join("a.sock"), gateway.folder.path().join("new.log"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = gateway.reload(&format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}, {{address: \"{}\"}}]\nadmin: {{address: unix:$FOLDER/a.sock}}\n\
         access_log: {{path: $FOLDER/new.log}}\n{routes}",
        taken.local_addr().unwrap()
    ));
    assert!(refused.contains("not reloaded"));
    assert!(!socket.exists() && !log.exists());
    let (public, admin) = (gateway.address(), gateway.admin());
    let swapped = format!("listeners: [{{address: \"{admin}\"}}]\n{routes}");
    assert!(gateway.reload(&swapped).contains("not reloaded"));
    gateway.wait_log(&[&format!("this gateway listens on {admin}"), "needs a restart"]);
    assert_eq!(get(public, "/").status, 200);
    assert_eq!(ready(admin), Some(200));
}

/// Whoever asks while one process takes over from another is answered, and never that it is not ready.
#[test]
fn an_upgrade_is_not_seen_at_the_door() {
    let gateway = Gateway::start_controlled(&format!(
        "{ADMIN}upgrade: {{rollback_window: 0s}}\nroutes: [{{path: /, respond: {{}}}}]"
    ));
    let (admin, over) = (gateway.admin(), AtomicBool::new(false));
    let asked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let answer = ask(admin, "/health/ready", "");
                    assert_eq!(answer.text(), "ready\n", "{answer:?}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..3 {
            let before = asked.load(Ordering::SeqCst);
            gateway.command_done("upgrade");
            until("more questions", || asked.load(Ordering::SeqCst) > before + 50);
        }
        over.store(true, Ordering::SeqCst);
    });
}
