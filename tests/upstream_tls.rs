//! TLS to upstreams: what is verified and by whom, what a failure is answered with, how often hands are shaken.

mod kit;

use kit::certs::{write, Authority, Leaf, Signed};
use kit::dns::Dns;
use kit::gateway::run;
use kit::raw::get;
use kit::secure::{server, server_of};
use kit::{until, wait_for, Gateway, Origin, Raw, Secure, Step};
use rustls::ProtocolVersion;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// The name that most certificates are made for.
const NAME: &str = "orders.internal";

/// An authority whose certificate is `ca.pem` of a folder.
struct World {
    ca: Authority,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let (ca, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
        ca.write(folder.path(), "ca.pem");
        World { ca, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// An origin that answers `hello` behind TLS with this certificate.
fn origin(leaf: &Signed) -> (Origin, Secure) {
    let origin = Origin::text("hello");
    let secure = Secure::start(origin.address, server(leaf, None));
    (origin, secure)
}

/// One upstream with one target, and everything goes there.
fn upstream(target: &str, more: &str) -> String {
    format!("upstreams:\n  app:\n    targets: [\"{target}\"]\n{more}\nroutes: [{{path: /, upstream: app}}]\n")
}

fn tls(world: &World, more: &str) -> String {
    format!("    tls: {{ca: {}, {more}}}", world.path("ca.pem"))
}

/// Checks an answer that says no more than that TLS failed, and what the log says of it.
fn refused(gateway: &Gateway, secure: &Secure, why: &[&str]) {
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (502, "upstream_tls"), "{response:?}");
    assert!(!response.text().contains("127.0.0.1") && !response.text().contains(NAME), "{response:?}");
    let target = secure.target();
    let line = gateway.wait_log(&["502 upstream_tls", "upstream app", &target]);
    for part in why {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
}

fn hello(address: SocketAddr) {
    let response = get(address, "/");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{response:?}");
}

// ---- who is believed ----

#[test]
fn a_certificate_of_ones_own_authority_is_verified() {
    let world = World::new();
    for rsa in [false, true] {
        let (origin, secure) = origin(&world.ca.sign(&Leaf { names: &[NAME], rsa, ..Leaf::default() }));
        let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
        hello(gateway.address());
        let [shaken] = &secure.shaken()[..] else { panic!("{:?}", secure.shaken()) };
        assert_eq!((shaken.sni.as_deref(), shaken.version), (Some(NAME), ProtocolVersion::TLSv1_3));
        assert_eq!(shaken.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert!(!shaken.client);
        assert_eq!(origin.first().field("host"), Some("test"), "what the client asked for");
        assert_eq!(origin.first().field("x-forwarded-proto"), Some("http"));
    }
}

#[test]
fn a_bundle_vouches_as_a_whole() {
    let world = World::new();
    let other = Authority::new("Another");
    write(world.folder.path(), "ca.pem", &format!("# two\n{}\n{}", other.pem(), world.ca.pem()));
    let (_origin, secure) = origin(&world.ca.leaf(&[NAME]));
    let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
    hello(gateway.address());
}

#[test]
fn another_name_is_refused() {
    let world = World::new();
    let (origin, secure) = origin(&world.ca.leaf(&["billing.internal"]));
    let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
    refused(&gateway, &secure, &["not valid for name \"orders.internal\"", "billing.internal"]);
    assert!(origin.received().is_empty());
}

#[test]
fn an_unknown_authority_is_refused() {
    let world = World::new();
    let (origin, secure) = origin(&Authority::new("Test CA").leaf(&[NAME]));
    let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
    refused(&gateway, &secure, &["invalid peer certificate"]);
    let by_system = Gateway::start(&upstream(&secure.target(), &format!("    tls: {{sni: {NAME}}}")));
    refused(&by_system, &secure, &["UnknownIssuer"]);
    assert!(origin.received().is_empty());
}

#[test]
fn an_expired_certificate_is_refused_and_one_of_the_future_too() {
    let world = World::new();
    for (from, until, why) in [(-9, -1, "certificate expired"), (1, 9, "certificate not valid yet")] {
        let (origin, secure) =
            origin(&world.ca.sign(&Leaf { names: &[NAME], valid: (from, until), ..Leaf::default() }));
        let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
        refused(&gateway, &secure, &[why]);
        assert!(origin.received().is_empty());
    }
}

#[test]
fn verify_false_believes_anybody_and_is_warned_of() {
    let (_origin, secure) = origin(&Authority::new("Nobody").sign(&Leaf {
        names: &["else"],
        valid: (-9, -1),
        ..Leaf::default()
    }));
    // Without `sni` an address has none to send.
    for (more, sni) in [("", None), (", sni: orders.internal", Some(NAME))] {
        let yaml = upstream(&secure.target(), &format!("    tls: {{verify: false{more}}}"));
        let gateway = Gateway::start(&yaml);
        gateway.wait_log(&["WARN", "upstream app", "`verify: false`"]);
        hello(gateway.address());
        assert_eq!(secure.shaken().last().unwrap().sni.as_deref(), sni);
        assert!(gateway.reload(&format!("{yaml}# again\n")).contains("reloaded"));
        until("warned again", || gateway.log().iter().filter(|l| l.contains("`verify: false`")).count() == 2);
    }
}

/// Neither a wrong `SSL_CERT_FILE` nor an image without authorities keeps the gateway from starting; nothing is believed then.
#[test]
fn without_authorities_of_the_system_nothing_is_believed() {
    let world = World::new();
    let (_origin, secure) = origin(&world.ca.leaf(&[NAME]));
    let empty = write(world.folder.path(), "empty.pem", "").display().to_string();
    let none = tempfile::tempdir().unwrap();
    let none = none.path().to_str().unwrap();
    for (file, folder, why) in
        [(empty.as_str(), none, "the system has none"), ("/nowhere.pem", "/nowhere", "No such file")]
    {
        let environment = [("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folder)];
        let started = |tls: &str| {
            let folder = tempfile::tempdir().unwrap();
            let yaml = format!(
                "{}access_log: {{path: off}}\n{}",
                kit::gateway::LISTEN,
                upstream(&secure.target(), tls)
            );
            let path = write(folder.path(), "portcullis.yaml", &yaml);
            let mut gateway = Gateway::command(&["run", "-c", path.to_str().unwrap()], folder, &environment);
            gateway.addresses =
                wait_for("it listens", || Some(gateway.listening()).filter(|a| !a.is_empty()));
            gateway
        };
        let gateway = started(&format!("    tls: {{sni: {NAME}}}\n    health_check: {{unhealthy_after: 1}}"));
        gateway.wait_log(&["WARN", "upstream app", "no authority can vouch for it", why]);
        gateway.wait_log(&[&secure.target(), "is unhealthy: TLS: invalid peer certificate: UnknownIssuer"]);
        let gateway = started(&format!("    tls: {{sni: {NAME}}}"));
        refused(&gateway, &secure, &["UnknownIssuer"]);
        hello(started("    tls: {verify: false}\n    health_check: {path: /}").address());
        hello(started(&tls(&world, &format!("sni: {NAME}"))).address());
    }
}

#[test]
fn the_authorities_of_the_system_are_the_default_and_resume_sessions() {
    let world = World::new();
    let (_origin, secure) = origin(&world.ca.leaf(&[NAME, "127.0.0.1"]));
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "{}access_log: {{path: off}}\nroutes: [{{path: /, upstream: \"https://{}\"}}]\n",
        kit::gateway::LISTEN,
        secure.target()
    );
    let path = write(folder.path(), "portcullis.yaml", &yaml);
    let ca = world.path("ca.pem");
    let environment = [("SSL_CERT_FILE", ca.as_str())];
    let mut gateway = Gateway::command(&["run", "-c", path.to_str().unwrap()], folder, &environment);
    gateway.addresses = wait_for("it listens", || Some(gateway.listening()).filter(|a| !a.is_empty()));
    hello(gateway.address());
    // A tunnel has a connection of its own.
    upgrade(gateway.address());
    let shaken = secure.shaken();
    assert_eq!(shaken.iter().map(|s| s.resumed).collect::<Vec<_>>(), [false, true], "{shaken:?}");
}

// ---- names ----

#[test]
fn each_named_target_proves_its_own_name() {
    let world = World::new();
    let (_origin, secure) = origin(&world.ca.leaf(&["localhost"]));
    let port = secure.address.port();
    let gateway = Gateway::start(&upstream(&format!("localhost:{port}"), &tls(&world, "verify: true")));
    hello(gateway.address());
    assert_eq!(secure.shaken()[0].sni.as_deref(), Some("localhost"));
}

#[test]
fn differently_named_targets_prove_different_names() {
    let world = World::new();
    let dns = Dns::start("127.0.0.1 one.test two.test\n");
    let names = ["one.test", "two.test"];
    let (_origins, secure): (Vec<_>, Vec<_>) =
        names.iter().map(|name| origin(&world.ca.leaf(&[name]))).unzip();
    let targets: Vec<String> =
        names.iter().zip(&secure).map(|(name, secure)| format!("{name}:{}", secure.address.port())).collect();
    let yaml = |keys: &str| {
        let upstream = upstream(&targets.join("\", \""), &tls(&world, keys));
        format!("resolver: {{servers: [\"{}\"]}}\n{upstream}", dns.address)
    };
    let check = "verify: true}\n    health_check: {path: /";
    let gateway = Gateway::start(&yaml(check));
    for _ in 0..4 {
        hello(gateway.address());
    }
    for (name, secure) in names.iter().zip(&secure) {
        assert!(secure.failed().is_empty(), "{:?}", secure.failed());
        assert!(secure.shaken().iter().all(|s| s.sni.as_deref() == Some(name)), "{:?}", secure.shaken());
    }
    // One name for all.
    assert!(gateway.reload(&yaml("sni: two.test")).contains("reloaded"));
    for _ in 0..4 {
        hello(gateway.address());
    }
    assert!(secure[0].failed().iter().all(|e| e.contains("BadCertificate")), "{:?}", secure[0].failed());
}

#[test]
fn an_address_can_be_what_is_proved() {
    let world = World::new();
    let (_origin, secure) = origin(&world.ca.leaf(&["127.0.0.1"]));
    let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, "sni: 127.0.0.1")));
    hello(gateway.address());
    assert_eq!(secure.shaken()[0].sni, None, "an address is verified, not sent (RFC 6066 §3)");
    let other = Gateway::start(&upstream(&secure.target(), &tls(&world, "sni: 127.0.0.2")));
    refused(&other, &secure, &["not valid for name \"127.0.0.2\""]);
}

// ---- client certificates ----

#[test]
fn a_client_certificate_is_shown_to_who_asks() {
    let world = World::new();
    world.ca.leaf(&["gateway"]).write(world.folder.path(), "client");
    let clients = Authority::new("Others");
    let client = format!(
        "sni: {NAME}, client: {{cert: {}, key: {}}}",
        world.path("client.pem"),
        world.path("client.key")
    );
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let origin = Origin::text("hello");
        let leaf = world.ca.leaf(&[NAME]);
        let secure = Secure::start(origin.address, server_of(&leaf, Some(&world.ca), versions));
        let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &client)));
        hello(gateway.address());
        assert!(secure.shaken()[0].client);
        // Without one, and with one that is not believed.
        let without = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
        refused(&without, &secure, &["received fatal alert"]);
        secure.change(server_of(&leaf, Some(&clients), versions));
        let other = Gateway::start(&upstream(&secure.target(), &tls(&world, &client)));
        refused(&other, &secure, &["received fatal alert"]);
        assert_eq!(origin.received().len(), 1);
    }
}

// ---- connections ----

#[test]
fn kept_connections_are_used_again() {
    let world = World::new();
    let (origin, secure) = origin(&world.ca.leaf(&[NAME]));
    let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
    let mut client = Raw::connect(gateway.address());
    for _ in 0..20 {
        assert_eq!(client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    }
    assert_eq!((origin.received().len(), secure.shaken().len()), (20, 1));
}

/// Two upstreams that differ only in whose word they take do not share connections.
#[test]
fn connections_are_not_shared_with_who_believes_others() {
    let world = World::new();
    let (_origin, secure) = origin(&world.ca.leaf(&[NAME]));
    Authority::new("Other").write(world.folder.path(), "other.pem");
    let one = |name: &str, tls: &str| {
        format!("  {name}: {{targets: [\"{}\"], tls: {{sni: {NAME}, {tls}}}}}\n", secure.target())
    };
    let gateway = Gateway::start(&format!(
        "upstreams:\n{}{}{}routes:\n  - {{path: /good, upstream: good}}\n  - {{path: /bad, upstream: bad}}\n  - {{path: /any, upstream: any}}\n",
        one("good", &format!("ca: {}", world.path("ca.pem"))),
        one("bad", &format!("ca: {}", world.path("other.pem"))),
        one("any", "verify: false"),
    ));
    for path in ["/good", "/any"] {
        assert_eq!(get(gateway.address(), path).status, 200);
    }
    assert_eq!(get(gateway.address(), "/bad").problem(), "upstream_tls");
    assert_eq!(secure.shaken().len(), 2);
}

#[test]
fn another_target_is_tried_after_a_failed_handshake() {
    let world = World::new();
    let (_bad_origin, bad) = origin(&Authority::new("Other").leaf(&[NAME]));
    let (_origin, good) = origin(&world.ca.leaf(&[NAME]));
    let targets = format!("{}\", \"{}", bad.target(), good.target());
    let gateway = Gateway::start(&upstream(&targets, &tls(&world, &format!("sni: {NAME}"))));
    for _ in 0..4 {
        // No byte of it was sent, so it may be any.
        let mut client = Raw::connect(gateway.address());
        client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(client.response().status, 200);
    }
    assert!(!bad.failed().is_empty());
}

#[test]
fn who_speaks_no_tls_or_nothing_at_all_is_named() {
    let world = World::new();
    let (clear, address) = kit::origin::silent();
    std::thread::spawn(move || {
        let (mut socket, _) = clear.accept().unwrap();
        let _ = std::io::Read::read(&mut socket, &mut [0; 4096]);
        let _ =
            std::io::Write::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let gateway = Gateway::start(&upstream(&address.to_string(), &tls(&world, &format!("sni: {NAME}"))));
    assert_eq!(get(gateway.address(), "/").problem(), "upstream_tls");
    gateway.wait_log(&["502 upstream_tls", &address.to_string(), "corrupt message"]);
    let (_socket, silent) = kit::origin::silent();
    let more = format!("{}\n    timeouts: {{connect: 200ms}}", tls(&world, &format!("sni: {NAME}")));
    let gateway = Gateway::start(&upstream(&silent.to_string(), &more));
    assert_eq!(get(gateway.address(), "/").problem(), "upstream_timeout");
}

/// Asks for a WebSocket and has its bytes echoed.
fn upgrade(address: SocketAddr) {
    let mut client = Raw::connect(address);
    client.send("GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert!(matches!(client.response().status, 101 | 200));
}

#[test]
fn tunnels_go_over_tls() {
    let world = World::new();
    let origin = Origin::start(|_| {
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst";
        vec![Step::Send(switch.into()), Step::Hold]
    });
    let secure = Secure::start(origin.address, server(&world.ca.leaf(&[NAME]), None));
    let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &format!("sni: {NAME}"))));
    for _ in 0..100 {
        let mut client = Raw::connect(gateway.address());
        client.send("GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        assert_eq!(client.response().status, 101);
        client.wait_text("first");
    }
    assert_eq!(secure.shaken().len(), 100);
}

// ---- reload ----

#[test]
fn a_changed_file_is_another_upstream() {
    let world = World::new();
    let (_origin, secure) = origin(&world.ca.leaf(&[NAME]));
    world.ca.leaf(&["gateway"]).write(world.folder.path(), "client");
    let more = format!(
        "sni: {NAME}, client: {{cert: {}, key: {}}}",
        world.path("client.pem"),
        world.path("client.key")
    );
    let gateway = Gateway::start(&upstream(&secure.target(), &tls(&world, &more)));
    hello(gateway.address());
    assert!(gateway.reload_as_is().contains("(0 new, 0 removed)"));
    hello(gateway.address());
    assert_eq!(secure.shaken().len(), 1, "nothing has changed, nor have connections");
    let next = Authority::new("Next CA");
    next.write(world.folder.path(), "ca.pem");
    assert!(gateway.reload_as_is().contains("(1 new, 1 removed)"));
    refused(&gateway, &secure, &["invalid peer certificate"]);
    secure.change(server(&next.leaf(&[NAME]), None));
    hello(gateway.address());
    assert_eq!(secure.shaken().len(), 2);
    next.leaf(&["gateway"]).write(world.folder.path(), "client");
    assert!(gateway.reload_as_is().contains("(1 new, 1 removed)"));
    hello(gateway.address());
    assert_eq!(secure.shaken().len(), 3);
    write(world.folder.path(), "client.key", "nonsense");
    assert!(gateway.reload_as_is().contains("not reloaded"));
    gateway.wait_log(&["upstreams.app.tls.client.key", "client.key: there is no private key in it"]);
    hello(gateway.address());
}

// ---- health checks ----

#[test]
fn health_checks_speak_tls_with_the_same_settings() {
    let world = World::new();
    world.ca.leaf(&["gateway"]).write(world.folder.path(), "client");
    let client = format!(
        "sni: {NAME}, client: {{cert: {}, key: {}}}",
        world.path("client.pem"),
        world.path("client.key")
    );
    let origin = Origin::text("hello");
    let good = server(&world.ca.leaf(&[NAME]), Some(&world.ca));
    let secure = Secure::start(origin.address, good.clone());
    for check in
        ["{path: /healthz, interval: 300ms, unhealthy_after: 1}", "{interval: 300ms, unhealthy_after: 1}"]
    {
        let yaml =
            upstream(&secure.target(), &format!("{}\n    health_check: {check}", tls(&world, &client)));
        let gateway = Gateway::start(&yaml);
        hello(gateway.address());
        assert!(secure.shaken().iter().all(|s| s.client && s.sni.as_deref() == Some(NAME)));
        secure.change(server(&world.ca.leaf(&["else.internal"]), None));
        gateway.wait_log(&[
            &secure.target(),
            "is unhealthy: TLS: invalid peer certificate",
            "not valid for name",
        ]);
        secure.change(good.clone());
        gateway.wait_log(&[&secure.target(), "is healthy again"]);
    }
    assert!(origin.received().iter().any(|r| r.line() == "GET /healthz HTTP/1.1"));
}

// ---- the configuration ----

/// What `check` says, with files beside the configuration.
#[test]
fn files_are_looked_at_by_check() {
    let world = World::new();
    let folder = world.folder.path();
    let (one, two) = (world.ca.leaf(&["a"]), world.ca.leaf(&["b"]));
    std::fs::create_dir(folder.join("conf")).unwrap();
    one.write(folder, "one");
    two.write(folder, "two");
    write(folder, "broken.pem", &one.cert.replacen("MII", "M!I", 1));
    write(folder, "encrypted.key", &one.key.replace("PRIVATE", "ENCRYPTED PRIVATE"));
    std::fs::write(folder.join("binary.pem"), [0x30, 0x82, 0xff, 0xfe]).unwrap();
    let check = |tls: &str| {
        let yaml = format!(
            "{}{}",
            kit::gateway::LISTEN,
            upstream("orders.internal:443", &format!("    tls: {tls}"))
        );
        write(&folder.join("conf"), "p.yaml", &yaml);
        // From another folder than the file's.
        let (code, _, err) = run(&["check", "-c", "conf/p.yaml"], folder, &[("CERTS", "../")]);
        let lines: Vec<String> =
            err.lines().map(|l| l.trim_start_matches("conf/p.yaml:5:").to_owned()).collect();
        assert_eq!(code, i32::from(!lines.is_empty()), "{err}");
        lines.join("\n")
    };
    for good in [
        "{ca: ../ca.pem, client: {cert: ../one.pem, key: ../one.key}}",
        "{ca: \"${CERTS}ca.pem\"}",
        "true",
        "{}",
    ] {
        assert_eq!(check(good), "", "{good}");
    }
    let wrong = [
        ("{ca: ca.pem}", "15: upstreams.app.tls.ca: conf/ca.pem cannot be read: No such file or directory"),
        ("{ca: ../one.key}", "15: upstreams.app.tls.ca: conf/../one.key: expected nothing but certificates, found \"PRIVATE KEY\""),
        ("{ca: ../broken.pem}", "15: upstreams.app.tls.ca: conf/../broken.pem: not PEM: "),
        ("{ca: ../binary.pem}", "15: upstreams.app.tls.ca: conf/../binary.pem cannot be read: stream did not contain valid UTF-8"),
        ("{client: {cert: ../one.pem, key: ../two.key}}", "43: upstreams.app.tls.client.key: conf/../two.key, with conf/../one.pem: the key does not belong to the certificate"),
        ("{client: {cert: ../one.pem, key: ../encrypted.key}}", "43: upstreams.app.tls.client.key: conf/../encrypted.key: the key is encrypted"),
        ("{client: {cert: ../one.pem}}", "19: upstreams.app.tls.client: the key \"key\" is missing"),
    ];
    for (tls, expected) in wrong {
        let found = check(tls);
        assert!(found.starts_with(expected), "{tls}:\n{found}\nis not\n{expected}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

// ---- an implementation that is not ours ----

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn openssl_is_spoken_to() {
    let world = World::new();
    world.ca.leaf(&["gateway"]).write(world.folder.path(), "client");
    let client = format!(
        "sni: {NAME}, client: {{cert: {}, key: {}}}",
        world.path("client.pem"),
        world.path("client.key")
    );
    for (rsa, version) in [(true, "-tls1_2"), (false, "-tls1_3"), (false, "-tls1_1")] {
        world.ca.sign(&Leaf { names: &[NAME], rsa, ..Leaf::default() }).write(world.folder.path(), "openssl");
        let (socket, address) = kit::origin::refusing();
        drop(socket); // its port is free now
        let mut arguments = vec![
            "s_server",
            "-accept",
            "",
            "-cert",
            "openssl.pem",
            "-key",
            "openssl.key",
            "-CAfile",
            "ca.pem",
            "-Verify",
            "1",
            "-verify_return_error",
            "-www",
            "-quiet",
            version,
        ];
        let address = address.to_string();
        arguments[2] = &address;
        let mut server = Command::new("openssl");
        server.args(arguments).current_dir(world.folder.path());
        let _server =
            Server(server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("openssl listens", || std::net::TcpStream::connect(&address).is_ok());
        let gateway = Gateway::start(&upstream(&address, &tls(&world, &client)));
        let response = get(gateway.address(), "/");
        if version == "-tls1_1" {
            assert_eq!((response.status, response.problem().as_str()), (502, "upstream_tls"));
            continue;
        }
        assert_eq!(response.status, 200, "{response:?}\n{:?}", gateway.log());
        assert!(response.text().contains("s_server"), "{}", response.text());
    }
}
