//! Where the gateway listens: several addresses, IPv6, Unix sockets.

mod kit;

use kit::raw::get;
use kit::{until, Gateway, Origin};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

fn over_unix(path: &Path, request: &str) -> String {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn every_listener_serves_the_same_routes() {
    let gateway = Gateway::start(
        "listeners:\n  - address: \"127.0.0.1:0\"\n  - address: \"127.0.0.1:0\"\nroutes: [{path: /, respond: {body: hi}}]\n",
    );
    assert_eq!(gateway.addresses.len(), 2);
    for address in &gateway.addresses {
        assert_eq!(get(*address, "/").text(), "hi");
    }
}

#[test]
fn a_unix_socket_is_served_and_its_clients_have_no_address() {
    let origin = Origin::text("x");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let yaml = format!(
        "listeners:\n  - address: unix:{}\nroutes: [{{path: /, upstream: \"{}\"}}]\n",
        path.display(),
        origin.url()
    );
    // What a dead process left behind is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let gateway = Gateway::start(&yaml);
    gateway.wait_log(&["listening on unix:"]);
    let answer = over_unix(
        &path,
        "GET /a HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let received = origin.first();
    assert_eq!(received.field("x-forwarded-for"), None, "what a client says of itself is dropped");
    assert_eq!(received.field("forwarded"), Some("for=unknown;proto=http;host=t"));
    assert_eq!(received.field("x-forwarded-port"), None);

    // A socket that answers belongs to somebody.
    let mut second = Gateway::spawn(&yaml);
    assert_eq!(second.wait_exit().code(), Some(3));
    second.wait_log(&["cannot listen on unix:", "another process does already"]);
    assert!(over_unix(&path, "GET /b HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .starts_with("HTTP/1.1 200"));
}

#[test]
fn a_file_in_the_way_of_a_unix_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let mut gateway = Gateway::spawn(&format!(
        "listeners: [{{address: \"unix:{}\"}}]\nroutes: [{{path: /, respond: {{}}}}]\n",
        path.display()
    ));
    assert_eq!(gateway.wait_exit().code(), Some(3));
    gateway.wait_log(&["cannot listen on unix:"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn an_ipv6_listener_serves_and_hosts_may_be_ipv6_literals() {
    let gateway = Gateway::start(
        "listeners: [{address: \"[::1]:0\"}]\nroutes: [{path: /, hosts: [\"[::1]\"], respond: {body: six}}]\n",
    );
    let address = gateway.addresses[0];
    until("it serves", || get(address, "/").status == 404);
    let response =
        kit::raw::exchange(address, format!("GET / HTTP/1.1\r\nHost: [0:0::1]:{}\r\n\r\n", address.port()));
    assert_eq!(response.text(), "six");
}

#[test]
fn there_is_a_worker_for_each_processor_unless_told() {
    let workers = |key: &str| {
        let gateway = Gateway::start(&format!("{key}routes: [{{path: /, respond: {{body: hi}}}}]"));
        let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
        let name =
            |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.flatten().map(name).filter(|name| name == "listeners\n").count()
    };
    // What the process may use: affinity and the quota of its control group count (std's documentation).
    assert_eq!(workers(""), std::thread::available_parallelism().unwrap().get());
    assert_eq!(workers("threads: 3\n"), 3);
}
