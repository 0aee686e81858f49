//! Targets that are Unix sockets.

mod kit;

use kit::certs::Authority;
use kit::raw::get;
use kit::relay::Socket;
use kit::secure::server;
use kit::{Gateway, Origin, Raw, Secure, Step};

fn upstream(targets: &[String], more: &str) -> String {
    format!(
        "upstreams:\n  app:\n    targets: [\"{}\"]\n{more}\nroutes: [{{path: /, upstream: app}}]\n",
        targets.join("\", \"")
    )
}

#[test]
fn a_socket_serves_and_its_connections_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::text("hello");
    let socket = Socket::start(&folder.path().join("app.sock"), origin.address);
    let yaml = upstream(
        &[socket.target()],
        "access_log: {path: $FOLDER/access.log}\ncontrol: {socket: $FOLDER/c.sock}",
    );
    let gateway = Gateway::start(&yaml);
    let mut client = Raw::connect(gateway.address());
    for _ in 0..10 {
        let response = client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
    assert_eq!((origin.received().len(), socket.connections()), (10, 1));
    assert_eq!(origin.first().field("host"), Some("t"));
    for line in gateway.access_lines(10) {
        assert_eq!(line["target"].as_str(), Some(socket.target().as_str()));
    }
    assert!(gateway.command_done("status").contains(&socket.target()));
}

#[test]
fn a_socket_that_is_not_there_is_no_connection_and_others_are_tried() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("unix:{}", folder.path().join("nobody.sock").display());
    let gateway = Gateway::start(&upstream(std::slice::from_ref(&nobody), ""));
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (502, "connect"));
    assert!(!response.text().contains("nobody.sock"));
    gateway.wait_log(&["502 connect", &nobody]);
    let origin = Origin::text("hello");
    let gateway = Gateway::start(&upstream(&[nobody, origin.target()], ""));
    for _ in 0..4 {
        assert_eq!(get(gateway.address(), "/").text(), "hello");
    }
}

#[test]
fn sockets_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (path, origin) = (folder.path().join("app.sock"), Origin::text("hello"));
    for check in ["{path: /, interval: 100ms, unhealthy_after: 1}", "{interval: 100ms, unhealthy_after: 1}"] {
        let socket = Socket::start(&path, origin.address);
        let gateway = Gateway::start(&upstream(&[socket.target()], &format!("    health_check: {check}")));
        assert_eq!(get(gateway.address(), "/").text(), "hello");
        std::fs::remove_file(&path).unwrap();
        gateway.wait_log(&[&socket.target(), "is unhealthy"]);
        let _socket = Socket::start(&path, origin.address);
        gateway.wait_log(&[&socket.target(), "is healthy again"]);
    }
}

#[test]
fn tunnels_and_tls_go_over_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(|_| {
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst";
        vec![Step::Send(switch.into()), Step::Hold]
    });
    let authority = Authority::new("Test CA");
    let ca = authority.write(folder.path(), "ca.pem");
    let secure = Secure::start(origin.address, server(&authority.leaf(&["app.internal"]), None));
    let tls = format!("    tls: {{sni: app.internal, ca: {}}}", ca.display());
    for (to, tls) in [(origin.address, ""), (secure.address, tls.as_str())] {
        let socket = Socket::start(&folder.path().join("app.sock"), to);
        let gateway = Gateway::start(&upstream(&[socket.target()], tls));
        let mut client = Raw::connect(gateway.address());
        client.send("GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        assert_eq!(client.response().status, 101);
        client.wait_text("first");
    }
    assert_eq!(secure.shaken()[0].sni.as_deref(), Some("app.internal"));
}
