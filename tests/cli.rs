//! The command line: help, exit codes, where the file is found, the demo as a newcomer walks it, and how it ends.

mod kit;

use kit::gateway::{run, wait_closed};
use kit::origin::{reply, Step};
use kit::raw::get;
use kit::{until, wait_for, Gateway, Origin, Raw};
use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn here(arguments: &[&str]) -> (i32, String, String) {
    run(arguments, Path::new("."), &[])
}

/// A configuration with this many routes, to tell files apart by what `check` says of them.
fn routes(count: usize) -> String {
    let routes: String = (0..count).map(|i| format!("  - {{path: /{i}, respond: {{}}}}\n")).collect();
    format!("listeners: [{{address: \"127.0.0.1:0\"}}]\nroutes:\n{routes}")
}

// ---- help and usage ----

#[test]
fn help_says_what_a_newcomer_needs() {
    for (arguments, needs) in [
        (
            &["--help"][..],
            &[
                "portcullis demo",
                "check -c",
                "run -c",
                "listeners:",
                "routes:",
                "upstream:",
                "RUST_LOG",
                "Exit codes",
            ][..],
        ),
        (&["help"], &["portcullis demo"]),
        (&["-h"], &["portcullis demo"]),
        (
            &["run", "--help"],
            &[
                "-c",
                "$PORTCULLIS_CONFIG",
                "conf/portcullis.yaml",
                "SIGTERM",
                "Ctrl-C",
                "grace_period",
                "Exit codes",
                "Example:",
            ],
        ),
        (
            &["check", "--help"],
            &[
                "-c",
                "$PORTCULLIS_CONFIG",
                "FILE:LINE:COL: PATH: MESSAGE",
                "Exit codes",
                "Example:",
                "${file:PATH}",
            ],
        ),
        (&["key", "--help"], &["new", "hash", "Example:"]),
        (&["demo", "--help"], &["--listen", "127.0.0.1:8080", "Ctrl-C", "curl"]),
    ] {
        let (code, out, err) = here(arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        for need in needs {
            assert!(out.contains(need), "{arguments:?} does not say {need:?}:\n{out}");
        }
        let widest = out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(110), "{arguments:?} is {widest:?} characters wide:\n{out}");
    }
    let (code, out, _) = here(&["--version"]);
    assert_eq!((code, out), (0, format!("portcullis {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_minimum_in_the_help_is_good() {
    let (_, out, _) = here(&["--help"]);
    let minimum: String = out
        .lines()
        .skip_while(|line| !line.starts_with("The least"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .map(|line| format!("{}\n", &line[2..]))
        .collect();
    let (code, errors) = kit::gateway::check(&minimum);
    assert_eq!((code, errors), (0, vec![]), "{minimum}");
}

#[test]
fn wrong_usage_is_2_and_says_what_was_meant() {
    for (arguments, says) in [
        (&[][..], "Usage: portcullis <COMMAND>"),
        (&["chek"], "'check'"),
        (&["demos"], "'demo'"),
        (&["run", "--confg", "x"], "'--config'"),
        (&["demo", "--lisen", "127.0.0.1:0"], "'--listen'"),
        (&["--verison"], "'--version'"),
        (&["check", "p.yaml"], "portcullis check [-c FILE]"),
        (&["check", "-c"], "a value is required"),
        (&["demo", "--listen", "localhost"], "'localhost'"),
    ] {
        let (code, out, err) = here(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(says), "{arguments:?} does not say {says:?}:\n{err}");
    }
}

// ---- the file ----

#[test]
fn the_file_is_looked_for_in_three_places() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, count| std::fs::write(folder.path().join(name), routes(count)).unwrap();
    let elsewhere: &[(&str, &str)] = &[("PORTCULLIS_CONFIG", "variable.yaml")];
    let check = |arguments: &[&str], environment| run(arguments, folder.path(), environment);

    if !Path::new("/etc/portcullis/portcullis.yaml").exists() {
        for command in ["check", "run"] {
            let (code, out, err) = check(&[command], &[]);
            assert_eq!((code, out.as_str()), (3, ""));
            assert_eq!(
                err,
                "no configuration: there is no conf/portcullis.yaml and no /etc/portcullis/portcullis.yaml; \
                 name one with -c FILE or $PORTCULLIS_CONFIG\n"
            );
        }
    }
    std::fs::create_dir(folder.path().join("conf")).unwrap();
    write("conf/portcullis.yaml", 1);
    assert_eq!(check(&["check"], &[]), (0, "conf/portcullis.yaml: good, 1 route\n".into(), String::new()));
    // What the variable names must be there: the usual place is no second choice.
    let missing = "variable.yaml: No such file or directory\n".to_owned();
    assert_eq!(check(&["check"], elsewhere), (3, String::new(), missing));
    write("variable.yaml", 2);
    assert_eq!(check(&["check"], elsewhere), (0, "variable.yaml: good, 2 routes\n".into(), String::new()));
    assert_eq!(check(&["check"], &[("PORTCULLIS_CONFIG", "")]).1, "conf/portcullis.yaml: good, 1 route\n");
    write("named.yaml", 3);
    for option in [
        &["check", "-c", "named.yaml"][..],
        &["check", "--config", "named.yaml"],
        &["check", "--config=named.yaml"],
    ] {
        assert_eq!(check(option, elsewhere), (0, "named.yaml: good, 3 routes\n".into(), String::new()));
    }
}

#[test]
fn run_does_not_start_on_a_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("p.yaml"),
        "listeners: [{address: here}]\nroutes: [{upstream: nowhere}]\nx: 1\n",
    )
    .unwrap();
    let (code, out, err) = run(&["run", "-c", "p.yaml"], folder.path(), &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    let places: Vec<_> =
        err.lines().map(|line| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":")).collect();
    assert_eq!(places, ["p.yaml:1:23", "p.yaml:2:21", "p.yaml:3:1"], "{err}");
    assert_eq!(
        run(&["run", "-c", "none.yaml"], folder.path(), &[]),
        (3, String::new(), "none.yaml: No such file or directory\n".into())
    );
    assert_eq!(
        run(&["run", "-c", "."], folder.path(), &[]),
        (3, String::new(), ".: Is a directory\n".into())
    );
}

/// Also when the log is off: who started it must know.
#[test]
fn an_address_that_cannot_be_had_ends_the_start_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let socket = folder.path().join("s");
    let _owner = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (listeners, says) in [
        (format!("\"{address}\""), format!("cannot listen on {address}: another process does already")),
        (
            format!("unix:{}", socket.display()),
            format!("cannot listen on unix:{}: another process does already", socket.display()),
        ),
        ("203.0.113.7:80".into(), "cannot listen on 203.0.113.7:80: Cannot assign requested address".into()),
        (
            "unix:/nonexistent/s".into(),
            "cannot listen on unix:/nonexistent/s: No such file or directory".into(),
        ),
    ] {
        let yaml = format!("listeners: [{{address: \"127.0.0.1:0\"}}, {{address: {listeners}}}]\nroutes: [{{respond: {{}}}}]\n");
        std::fs::write(folder.path().join("p.yaml"), yaml).unwrap();
        for log in ["info", "off"] {
            let start = Instant::now();
            let (code, _, err) = run(&["run", "-c", "p.yaml"], folder.path(), &[("RUST_LOG", log)]);
            assert_eq!(code, 3, "{err}");
            assert!(err.contains(&says), "{says}: {err}");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        }
    }
    drop(taken);
    assert!(socket.exists(), "another's socket is left alone");
}

// ---- credentials ----

/// What is printed is a piece of a file that lets in who has the key.
#[test]
fn a_new_key_is_one_for_the_file_that_is_printed_with_it() {
    for more in [&[][..], &["--expires", "2099-01-01"], &["--expires", "2099-01-01T12:00:00+02:00"]] {
        let (code, out, err) = here(&[&["key", "new", "mobile-app"], more].concat());
        assert_eq!((code, err.as_str()), (0, ""));
        let key = out.lines().find(|line| line.starts_with("pck_")).unwrap();
        assert_eq!((key.len(), out.matches(key).count()), (47, 1), "{out}");
        let file: String = out.lines().filter(|line| *line != key).map(|line| format!("{line}\n")).collect();
        let gateway =
            Gateway::start(&format!("{file}routes: [{{respond: {{body: inside}}, auth: api_key}}]\n"));
        let ask = |key: &str| {
            let request = format!("GET / HTTP/1.1\r\nHost: t\r\nX-Api-Key: {key}\r\n\r\n");
            Raw::connect(gateway.address()).send(request).response()
        };
        assert_eq!(ask(key).text(), "inside");
        assert_eq!(ask(&key[..46]).status, 401);
        let (_, other, _) = here(&["key", "new", "mobile-app"]);
        assert!(!other.contains(key), "each is another one");
    }
}

#[test]
fn a_key_for_nobody_is_wrong_usage() {
    for arguments in [
        &["key"][..],
        &["key", "new"],
        &["key", "new", "two words"],
        &["key", "new", "a", "--expires", "tomorrow"],
        &["key", "new", "a", "b"],
    ] {
        let (code, out, err) = here(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(!err.is_empty() && !err.contains("pck_"), "{err}");
    }
}

#[test]
fn a_hash_of_a_password_is_read_by_the_gateway_and_verified() {
    let hashed =
        shell(&format!("printf 'open sesame\\nmore\\n' | {} key hash", env!("CARGO_BIN_EXE_portcullis")));
    assert!(hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && hashed.lines().count() == 1, "{hashed}");
    let gateway = Gateway::start(&format!(
        "consumers: {{a: {{basic: {{username: ali, password: \"{}\"}}}}}}\nroutes: [{{respond: {{}}, auth: basic}}]\n",
        hashed.trim()
    ));
    let status = |encoded: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: t\r\nAuthorization: Basic {encoded}\r\n\r\n");
        Raw::connect(gateway.address()).send(request).response().status
    };
    assert_eq!(status("YWxpOm9wZW4gc2VzYW1l"), 200); // ali:open sesame
    assert_eq!(status("YWxpOm9wZW4gc2VzYW0="), 401); // ali:open sesam
    let (code, out, err) = here(&["key", "hash"]); // nothing to read
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("standard input"), "{err}");
}

// ---- the demo ----

/// A line that the demo printed, run as a newcomer would: what it wrote on standard output.
fn shell(line: &str) -> String {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn the_demo_does_what_it_says() {
    let mut demo = Gateway::command(&["demo", "--listen", "127.0.0.1:0"], tempfile::tempdir().unwrap(), &[]);
    until("the demo's invitation", || demo.output().iter().any(|line| line.contains("Ctrl-C ends it")));
    let printed = demo.output();
    let lines: Vec<&str> = printed.iter().map(String::as_str).filter(|line| line.contains("curl ")).collect();
    assert_eq!(lines.len(), 6, "{printed:#?}");
    // Each line says behind a # what it shows.
    assert!(lines.iter().all(|line| line.contains(" # ")), "{lines:#?}");
    let address = printed[1].split("http://").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    demo.wait_log(&["] listening on "]);

    assert!(lines[0].contains("chosen by path"));
    assert!(shell(lines[0]).starts_with("service1, instance "));
    assert!(shell(lines[1]).starts_with("service2, instance "));

    assert!(lines[2].contains("balanced over both instances"));
    let balanced = shell(lines[2]);
    let mut shares = HashMap::new();
    balanced.lines().for_each(|line| *shares.entry(line).or_insert(0) += 1);
    assert_eq!((shares.len(), shares.values().max()), (2, Some(&2)), "{balanced}");

    assert!(lines[3].contains("404 with a problem body"));
    let none = shell(lines[3]);
    assert!(none.starts_with("HTTP/1.1 404 "), "{none}");
    assert!(none.contains("application/problem+json") && none.contains("Service not found"), "{none}");

    assert!(lines[4].contains("goes down for ten seconds"));
    let stopped = shell(lines[4]);
    let (who, what) = stopped.split_once(": ").unwrap();
    assert!(who.starts_with("service1, instance ") && what == "down for 10 s from now\n", "{stopped}");

    assert!(lines[5].contains("nobody notices"));
    let survivors = shell(lines[5]);
    assert_eq!(survivors.lines().count(), 4, "{survivors}");
    let all_but_who =
        |text: &str| text.lines().all(|l| l.starts_with("service1, instance ") && !l.starts_with(who));
    assert!(all_but_who(&survivors), "{who} is down: {survivors}");

    // And so on until it is back, after which both answer again.
    until("the instance that was stopped answers again", || {
        let response = get(address, "/service1");
        assert_eq!(response.status, 200, "{response:?}");
        response.text().starts_with(who)
    });

    demo.signal("INT");
    assert_eq!(demo.wait_exit().code(), Some(0));
}

/// What it prints is a configuration that one may copy into a file.
#[test]
fn the_demos_configuration_is_good() {
    let demo = Gateway::command(&["demo", "--listen", "127.0.0.1:0"], tempfile::tempdir().unwrap(), &[]);
    until("the demo's invitation", || demo.output().iter().any(|line| line.contains("Ctrl-C ends it")));
    let printed = demo.output();
    let yaml: String =
        printed.iter().filter_map(|line| line.strip_prefix("    ")).map(|l| format!("{l}\n")).collect();
    assert!(yaml.contains("health_check:"), "{yaml}");
    assert!(!yaml.contains("127.0.0.1:0\""), "it shows the port that it got: {yaml}");
    assert_eq!(kit::gateway::check(&yaml), (0, vec![]));
}

#[test]
fn the_demo_says_plainly_that_its_port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, out, err) = here(&["demo", "--listen", &address]);
    assert_eq!((code, out.as_str()), (3, ""));
    let expected = format!(
        "cannot listen on {address}: another process does already\n\
         Stop what uses it, or choose another: portcullis demo --listen 127.0.0.1:8081\n"
    );
    assert_eq!(err, expected);
}

// ---- the end ----

/// A grace period so long that a test would fail if it were slept out.
const LONG: &str = "grace_period: 10m\n";

#[test]
fn an_idle_gateway_leaves_at_once() {
    for signal in ["TERM", "INT"] {
        let origin = Origin::text("x");
        let mut gateway = Gateway::start(&format!("{LONG}routes: [{{upstream: \"{}\"}}]", origin.url()));
        // Connections that wait for a next request, or have never sent one, are no reason to stay.
        let mut used = Raw::connect(gateway.address());
        assert_eq!(used.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
        let mut fresh = Raw::connect(gateway.address());
        gateway.signal(signal);
        assert_eq!(gateway.wait_exit().code(), Some(0), "SIG{signal}");
        assert!(used.closed() && fresh.closed());
    }
}

#[test]
fn a_busy_gateway_finishes_what_it_has_begun() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let origin = Origin::start(move |request| match request.target() {
        "/begun" => vec![Step::Send(format!("{head}01234").into()), Step::Hold, Step::Send("56789".into())],
        _ => vec![Step::Hold, Step::Send(format!("{head}abcdefghij").into())],
    });
    let mut gateway = Gateway::start(&format!("{LONG}routes: [{{upstream: \"{}\"}}]", origin.url()));
    let mut waiting = Raw::connect(gateway.address());
    waiting.send("GET /waiting HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut begun = Raw::connect(gateway.address());
    begun.send("GET /begun HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(2);
    gateway.signal("TERM");
    gateway.wait_log(&["SIGTERM", "requests in flight: 2"]);
    wait_closed(gateway.address());
    assert!(gateway.is_running(), "it waits for them");
    origin.release();
    let response = waiting.response();
    assert_eq!((response.status, response.text().as_str(), response.complete), (200, "abcdefghij", true));
    let response = begun.response();
    assert_eq!((response.status, response.text().as_str(), response.complete), (200, "0123456789", true));
    assert!(waiting.closed() && begun.closed());
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

/// A client that keeps such a connection would have its next request cut off.
#[test]
fn while_it_leaves_no_next_request_is_invited() {
    let origin = Origin::start(|_| [vec![Step::Hold], reply(200, "x")].concat());
    let gateway = Gateway::start(&format!("{LONG}routes: [{{upstream: \"{}\"}}]", origin.url()));
    let mut client = Raw::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    gateway.signal("TERM");
    gateway.wait_log(&["requests in flight: 1"]);
    origin.release();
    assert_eq!(client.response().field("connection"), Some("close"));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let origin = Origin::start(|_| vec![Step::Hold]);
        let mut gateway = Gateway::start(&format!("{LONG}routes: [{{upstream: \"{}\"}}]", origin.url()));
        let mut client = Raw::connect(gateway.address());
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        origin.wait_count(1);
        gateway.signal(first);
        gateway.wait_log(&["requests in flight: 1"]);
        gateway.signal(second);
        assert_eq!(gateway.wait_exit().code(), Some(0), "{first} {second}");
        assert!(client.closed());
        gateway.wait_log(&["a second signal", "requests cut off: 1"]);
    }
}

#[test]
fn the_grace_period_is_the_longest_it_waits() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let mut gateway =
        Gateway::start(&format!("grace_period: 300ms\nroutes: [{{upstream: \"{}\"}}]", origin.url()));
    let mut client = Raw::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    gateway.wait_log(&["the grace period is over, requests cut off: 1"]);
    assert!(client.closed());
}

/// An upload that is still coming in is in flight as well.
#[test]
fn a_request_still_arriving_is_waited_for() {
    let origin = Origin::start(|request| reply(200, &request.body.len().to_string()));
    let mut gateway = Gateway::start(&format!("{LONG}routes: [{{upstream: \"{}\"}}]", origin.url()));
    let mut client = Raw::connect(gateway.address());
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n01234");
    until("the gateway has the request", || origin.connections() > 0);
    gateway.signal("TERM");
    gateway.wait_log(&["requests in flight: 1"]);
    wait_closed(gateway.address());
    client.send("56789");
    let response = wait_for("the answer", || client.one_response("POST"));
    assert_eq!((response.status, response.text().as_str()), (200, "10"));
    assert_eq!(gateway.wait_exit().code(), Some(0));
}
