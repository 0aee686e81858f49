//! Commands to a running gateway over its control socket.

mod kit;

use kit::gateway::{run, wait_closed};
use kit::origin::reply;
use kit::raw::get;
use kit::{until, wait_for, Gateway, Origin, Raw, Step};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

fn saying(text: &str) -> String {
    format!("routes: [{{path: /, respond: {{body: {text}}}}}]\n")
}

#[test]
fn status_tells_how_it_is() {
    let gateway = Gateway::start_controlled(&saying("hi"));
    let _kept = Raw::connect(gateway.address());
    get(gateway.address(), "/");
    until("one is connected, one was answered", || {
        let status = gateway.command_done("status");
        status.contains("connections  1\n") && status.contains("answered     1,")
    });
    let status = gateway.command_done("status");
    for line in [
        "state        serving".to_owned(),
        format!("process      {}, version {}", gateway.pid(), env!("CARGO_PKG_VERSION")),
        "generation   1".to_owned(),
        format!("listeners    {}", gateway.address()),
        "in flight    0".to_owned(),
    ] {
        assert!(status.contains(&line), "{line} in\n{status}");
    }
    let mode = std::fs::metadata(gateway.folder.path().join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_reload_is_told_to_who_asked_for_it() {
    let gateway = Gateway::start_controlled(&saying("old"));
    gateway.configure_controlled(&saying("new"));
    let said = gateway.command_done("reload");
    assert!(said.starts_with("reloaded ") && said.contains("generation 2, routes: 1"), "{said}");
    assert_eq!(get(gateway.address(), "/").text(), "new");

    gateway.configure_controlled("routes: [{path: /, respnd: {}}]\nlimits: {connections: none}\n");
    let (code, out, err) = gateway.operate("reload");
    assert_eq!((code, out.as_str()), (1, ""));
    let file = gateway.file().display().to_string();
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 3, "{err}");
    assert!(lines[1].starts_with(&format!("{file}:3:")) && lines[1].contains("did you mean"), "{err}");
    assert!(lines[2].starts_with(&format!("{file}:4:")), "{err}");
    assert_eq!(get(gateway.address(), "/").text(), "new");
    // The socket is found though the file has errors.
    assert!(gateway.command_done("status").contains("generation   2"));
    assert_eq!(gateway.operate("reload-or-upgrade").0, 1);
}

#[test]
fn listeners_come_and_go_with_a_reload() {
    let gateway = Gateway::start_controlled(&saying("hi"));
    let first = gateway.address();
    let mut kept = Raw::connect(first);
    let folder = tempfile::tempdir().unwrap();
    let unix = folder.path().join("http.sock");
    let listeners = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}, {{address: \"[::1]:0\"}}, {{address: \"unix:{}\"}}]\n",
        unix.display()
    );
    gateway.configure_controlled(&format!("{listeners}{}", saying("more")));
    let said = gateway.command_done("reload");
    assert!(said.contains("listeners: 2 new, 0 removed"), "{said}");
    assert_eq!(get(first, "/").text(), "more", "it is the same socket");
    let second = wait_for("the new address", || gateway.listening().get(1).copied());
    assert_eq!(get(second, "/").text(), "more");
    let mut over_unix = UnixStream::connect(&unix).unwrap();

    // Taken away: closed to new connections, and those that are there go on.
    gateway.configure_controlled(&format!("listeners: [{{address: \"[::1]:0\"}}]\n{}", saying("less")));
    assert!(gateway.command_done("reload").contains("listeners: 0 new, 2 removed"));
    wait_closed(first);
    assert!(!unix.exists(), "its file is taken away");
    kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(kept.response().text(), "less");
    over_unix.write_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    over_unix.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("less"), "{answer}");
    assert_eq!(get(second, "/").text(), "less");
}

#[test]
fn an_address_in_use_refuses_the_whole_reload() {
    let gateway = Gateway::start_controlled(&saying("old"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let listeners = format!("listeners: [{{address: \"127.0.0.1:0\"}}, {{address: \"{at}\"}}]\n");
    gateway.configure_controlled(&format!("{listeners}{}", saying("new")));
    let (code, _, err) = gateway.operate("reload");
    assert_eq!((code, err.trim_end()), (1, &*format!("cannot listen on {at}: another process does already")));
    assert_eq!(get(gateway.address(), "/").text(), "old");
    drop(taken);
    assert!(gateway.command_done("reload").contains("listeners: 1 new"));
    assert_eq!(get(at, "/").text(), "new");
}

#[test]
fn a_drain_tells_what_is_open_and_can_be_taken_back() {
    let origin = Origin::start(|_| [vec![Step::Hold], reply(200, "done")].concat());
    let gateway = Gateway::start_controlled(&format!(
        "linger: 0s\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let address = gateway.address();
    let mut busy = Raw::connect(address);
    busy.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    let mut idle = Raw::connect(address);
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| gateway.command_done("drain"));
        wait_closed(address);
        assert!(idle.closed(), "a connection that only waits is closed");
        until("the drain is seen", || gateway.command_done("status").contains("state        drained"));
        origin.release();
        let answer = busy.response();
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("done", Some("close")));
        let said = draining.join().unwrap();
        assert!(said.contains("still open: requests 1"), "{said}");
        assert!(said.ends_with("drained: nothing is open; undrain accepts connections again\n"), "{said}");
    });
    assert_eq!(gateway.operate("drain").0, 1, "it is drained");
    let (code, _, err) = gateway.operate("reload");
    assert_eq!((code, err.trim_end()), (1, "the gateway is drained: undrain it first"));

    gateway.command_done("undrain");
    let again = *gateway.listening().last().unwrap();
    let mut kept = Raw::connect(again);
    for _ in 0..2 {
        kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        origin.release();
        let answer = kept.response();
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("done", Some("keep-alive")));
    }
    assert_eq!(gateway.operate("undrain").0, 1, "it is not drained");
}

#[test]
fn who_is_not_there_or_not_understood_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, err) = run(&["status", "--socket", "none.sock"], folder.path(), &[]);
    assert_eq!(code, 1);
    assert!(err.contains("no gateway takes commands at none.sock: is it running"), "{err}");

    let gateway = Gateway::start_controlled(&saying("hi"));
    let socket = gateway.folder.path().join("control.sock");
    for nonsense in ["{\"command\":\"self_destruct\"}\n".to_owned(), "x\n".to_owned(), "y".repeat(5000)] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(nonsense.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("{\"failed\":[\"no command of this version"), "{answer}");
    }
    assert!(gateway.command_done("status").contains("serving"));
}

#[test]
fn a_control_socket_that_cannot_be_is_no_start() {
    let mut gateway = Gateway::spawn(&format!("control: {{socket: /nowhere/c.sock}}\n{}", saying("hi")));
    assert_eq!(gateway.wait_exit().code(), Some(3));
    gateway.wait_log(&["cannot take commands at /nowhere/c.sock: No such file or directory"]);
}

#[test]
fn two_gateways_do_not_share_a_control_socket() {
    let gateway = Gateway::start_controlled(&saying("hi"));
    let file = gateway.file().display().to_string();
    let (code, _, err) = run(&["run", "-c", &file], gateway.folder.path(), &[]);
    assert_eq!(code, 3);
    assert!(err.contains("another gateway takes commands at "), "{err}");
    assert_eq!(get(gateway.address(), "/").text(), "hi");
}

#[test]
fn a_drain_that_is_taken_back_ends_its_command_and_dismisses_nobody() {
    let gateway = Gateway::start_controlled(&format!("linger: 10s\n{}", saying("hi")));
    let mut kept = Raw::connect(gateway.address());
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| gateway.operate("drain"));
        wait_closed(gateway.address());
        until("the drain is seen", || gateway.command_done("status").contains("state        drained"));
        gateway.command_done("undrain");
        let (code, _, err) = draining.join().unwrap();
        assert_eq!((code, err.trim_end()), (1, "undrained before everything was closed"));
    });
    kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(kept.response().field("connection"), Some("keep-alive"));
}

#[test]
fn a_process_that_leaves_says_so() {
    let origin = Origin::start(|_| [vec![Step::Hold], reply(200, "done")].concat());
    let mut gateway = Gateway::start_controlled(&format!(
        "grace_period: 10m\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let mut busy = Raw::connect(gateway.address());
    busy.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    gateway.signal("TERM");
    gateway.wait_log(&["SIGTERM: no new connections"]);
    let status = gateway.command_done("status");
    assert!(status.contains("state        leaving") && status.contains("in flight    1\n"), "{status}");
    for command in ["reload", "upgrade", "drain"] {
        let (code, _, err) = gateway.operate(command);
        assert_eq!((code, err.trim_end()), (1, "the process is leaving"), "{command}");
    }
    origin.release();
    assert_eq!(busy.response().text(), "done");
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn an_address_that_the_gateway_itself_is_in_the_way_of_is_said_so() {
    let gateway = Gateway::start_controlled(&saying("hi"));
    let port = gateway.address().port();
    gateway.configure_controlled(&format!("listeners: [{{address: \"0.0.0.0:{port}\"}}]\n{}", saying("hi")));
    let (code, _, err) = gateway.operate("reload");
    let expected = format!(
        "cannot listen on 0.0.0.0:{port}: this gateway listens on 127.0.0.1:{port}, which takes the same connections; \
         such a change needs a restart"
    );
    assert_eq!((code, err.trim_end()), (1, expected.as_str()));
}

/// A file that changes while a reload would be refused is reloaded when it is not.
#[test]
fn a_change_during_a_drain_is_seen_after_it() {
    let gateway = Gateway::start_controlled(&format!("watch: true\n{}", saying("one")));
    gateway.command_done("drain");
    gateway.configure_controlled(&format!("watch: true\n{}", saying("two")));
    // Long enough for the change to be looked at.
    until("it has been drained for a while", || {
        let status = gateway.command_done("status");
        status
            .lines()
            .any(|l| l.starts_with("process") && ["for 3 s", "for 4 s"].iter().any(|s| l.ends_with(s)))
    });
    gateway.command_done("undrain");
    let address = *gateway.listening().last().unwrap();
    until("the change is seen", || get(address, "/").text() == "two");
}

/// All that the kernel has let in is answered, however much it is.
#[test]
fn what_waits_in_a_queue_when_it_is_closed_is_served() {
    let mut gateway = Gateway::start_controlled(&saying("hi"));
    gateway.signal("STOP");
    let mut clients: Vec<Raw> = (0..1000).map(|_| Raw::connect(gateway.address())).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    gateway.signal("TERM");
    gateway.signal("CONT");
    for client in &mut clients {
        assert_eq!(client.response().text(), "hi");
    }
    drop(clients);
    assert_eq!(gateway.wait_exit().code(), Some(0));
}
