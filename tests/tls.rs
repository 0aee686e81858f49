//! TLS at the listeners: which certificate, which version, who comes back, what is refused, and certificates that change.

mod kit;

use kit::certs::{replace, Authority, Issued, Leaf};
use kit::origin::reply;
use kit::tls::{der, Client};
use kit::{until, Gateway, Origin, Raw};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

const RESPOND: &str = "routes: [{path: /, respond: {body: here}}]\n";

/// A gateway with these certificates that answers itself.
fn gateway(certificates: &[&Issued]) -> Gateway {
    Gateway::start(&format!("{}{RESPOND}", listener(certificates, "")))
}

fn listener(certificates: &[&Issued], more: &str) -> String {
    let list: Vec<String> = certificates.iter().map(|issued| issued.yaml()).collect();
    let list = list.join(", ");
    format!("listeners:\n  - address: \"127.0.0.1:0\"\n    tls: {{certificates: [{list}]{more}}}\n")
}

fn shown(client: &Client, address: SocketAddr, name: &str) -> Vec<u8> {
    client.connect(address, name).unwrap().shown()
}

/// A client that looks at no name.
fn careless(authority: &Authority) -> Client {
    #[derive(Debug)]
    struct Anybody(std::sync::Arc<rustls::client::WebPkiServerVerifier>);
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls12_signature(message, cert, signed)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls13_signature(message, cert, signed)
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
        .unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let real =
        rustls::client::WebPkiServerVerifier::builder_with_provider(std::sync::Arc::new(roots), provider);
    let anybody = std::sync::Arc::new(Anybody(real.build().unwrap()));
    Client::of(authority).change(|config| config.dangerous().set_certificate_verifier(anybody))
}

#[test]
fn each_name_gets_its_certificate() {
    let ca = Authority::new("ca");
    let first = ca.issue("first", &["first.test"]);
    let exact = ca.issue("exact", &["a.wild.test", "other.test"]);
    let wild = ca.issue("wild", &["*.wild.test"]);
    let rsa = ca.issue_as("rsa", &Leaf { names: &["both.test"], rsa: true, ..Leaf::default() });
    let ecdsa = ca.issue("ecdsa", &["both.test"]);
    let gateway = gateway(&[&first, &rsa, &exact, &wild, &ecdsa]);
    let (client, at) = (Client::of(&ca), gateway.address());
    for (name, expected) in [
        ("first.test", &first),
        ("a.wild.test", &exact),
        ("A.Wild.TEST", &exact),
        ("b.wild.test", &wild),
        ("other.test", &exact),
        ("both.test", &ecdsa),
    ] {
        assert_eq!(shown(&client, at, name), der(expected), "{name}");
    }
    assert_eq!(shown(&careless(&ca), at, "unknown.test"), der(&first), "the first is the default");
    assert_eq!(shown(&careless(&ca), at, "x.y.wild.test"), der(&first), "a wildcard is one label");
    assert_eq!(shown(&careless(&ca), at, "127.0.0.1"), der(&first), "no name at all");

    // Who knows RSA alone gets that, as old clients do.
    let rsa_alone =
        "openssl s_client -connect ADDRESS -servername both.test -sigalgs RSA-PSS+SHA256:RSA+SHA256";
    let out = openssl(&rsa_alone.replace("ADDRESS", &at.to_string()));
    assert!(out.contains("Peer signature type: RSA"), "{out}");
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let both = gateway(&[&cert]);
    let new = Gateway::start(&format!("{}{RESPOND}", listener(&[&cert], ", min_version: \"1.3\"")));
    let old = Client::with(&ca, None, &[&rustls::version::TLS12]);
    let log = "access_log: {path: $FOLDER/access.log}\n";
    let logged = Gateway::start(&format!("{}{log}{RESPOND}", listener(&[&cert], "")));
    for gateway in [&both, &new, &logged] {
        assert_eq!(Client::of(&ca).get(gateway.address(), "a.test", "/").unwrap().text(), "here");
    }
    assert_eq!(old.get(logged.address(), "a.test", "/").unwrap().text(), "here");
    assert!(old.get(new.address(), "a.test", "/").is_err());
    let lines = logged.access_lines(2);
    let versions: Vec<_> = lines.iter().map(|line| line["tls"].as_str().unwrap()).collect();
    assert_eq!(versions, ["TLSv1.3", "TLSv1.2"]);
    for version in ["-tls1", "-tls1_1"] {
        let out = openssl(&format!(
            "openssl s_client -connect {} {version} -cipher ALL:@SECLEVEL=0",
            both.address()
        ));
        assert!(out.contains("no peer certificate available"), "{version}: {out}");
    }
    // Neither CBC nor RSA key exchange, which are broken in their ways.
    for cipher in ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA256"] {
        let at = both.address();
        let out = openssl(&format!("openssl s_client -connect {at} -tls1_2 -cipher {cipher}:@SECLEVEL=0"));
        assert!(out.contains("no peer certificate available"), "{cipher}: {out}");
    }
}

#[test]
fn requests_over_tls_are_requests() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let origin = Origin::start(|request| reply(200, &format!("{}\r\n|{}", request.head, request.body.len())));
    let gateway = Gateway::start(&format!(
        "{}routes: [{{path: /, upstream: \"{}\"}}]\n",
        listener(&[&cert], ", hsts: 180d"),
        origin.url()
    ));
    let mut tls = Client::of(&ca).connect(gateway.address(), "a.test").unwrap();
    for _ in 0..3 {
        let answer = tls.ask("a.test", "/x?y").unwrap();
        let text = answer.text().to_lowercase();
        for part in
            ["x-forwarded-proto: https\r\n", "proto=https;host=a.test", "x-forwarded-host: a.test\r\n"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains(&format!("x-forwarded-port: {}\r\n", gateway.address().port())), "{text}");
        assert_eq!(answer.field("strict-transport-security"), Some("max-age=15552000"));
    }
    // Larger than all buffers, both ways.
    let body = vec![b'x'; 3 << 20];
    tls.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len()))
        .send(&body);
    assert!(tls.response().text().ends_with(&format!("|{}", body.len())));
    // Refusals are promises too.
    tls.send("GET /..%2f HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let refused = tls.response();
    assert_eq!((refused.status, refused.field("strict-transport-security")), (400, Some("max-age=15552000")));
}

#[test]
fn bytes_that_wait_inside_tls_are_seen() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let gateway = gateway(&[&cert]);
    let mut tls = Client::of(&ca).connect(gateway.address(), "a.test").unwrap();
    // Many requests in one record: those behind the first wait inside TLS, where no socket tells of them.
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    tls.send(request.repeat(100));
    for _ in 0..100 {
        assert_eq!(tls.response().text(), "here");
    }
    // And after the connection was parked.
    std::thread::sleep(std::time::Duration::from_millis(1500)); // longer than PARK_AFTER, which is what this is about
    tls.send(request.repeat(3));
    for _ in 0..3 {
        assert_eq!(tls.response().text(), "here");
    }
}

#[test]
fn the_end_of_a_connection_is_said() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let gateway = gateway(&[&cert]);
    let mut tls = Client::of(&ca).connect(gateway.address(), "a.test").unwrap();
    tls.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(tls.response().text(), "here");
    let mut rest = Vec::new();
    // rustls calls an end without close_notify UnexpectedEof.
    std::io::Read::read_to_end(&mut tls.socket, &mut rest).expect("close_notify");
    assert!(rest.is_empty());
}

#[test]
fn a_host_that_the_certificate_does_not_cover_is_misdirected() {
    let ca = Authority::new("ca");
    let (a, b) = (ca.issue("a", &["a.test", "*.a.test"]), ca.issue("b", &["b.test"]));
    let gateway = gateway(&[&a, &b]);
    let at = gateway.address();
    let mut tls = Client::of(&ca).connect(at, "a.test").unwrap();
    for (host, status) in [
        ("a.test", 200),
        ("A.TEST:8443", 200),
        ("x.a.test", 200), // what HTTP/2 clients do of their own accord (RFC 9113 §9.1.1)
        ("b.test", 421),
        ("x.y.a.test", 421),
        ("127.0.0.1", 421),
        ("a.test.", 200),
    ] {
        let answer = tls.ask(host, "/").unwrap();
        assert_eq!(answer.status, status, "{host}: {answer:?}");
        if status == 421 {
            assert_eq!(answer.problem(), "misdirected");
        }
    }
    // Who connects by address names nobody (RFC 6066 §3), and may ask for the address.
    let mut tls = careless(&ca).connect(at, "127.0.0.1").unwrap();
    assert_eq!(tls.ask(&at.to_string(), "/").unwrap().status, 200);
    assert_eq!(tls.ask("a.test", "/").unwrap().status, 200, "the default certificate covers it");
    assert_eq!(tls.ask("b.test", "/").unwrap().status, 421);
}

#[test]
fn clients_come_back_without_a_handshake_also_to_the_next_process() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let yaml = format!("{}{RESPOND}", listener(&[&cert], ""));
    for versions in [[&rustls::version::TLS13], [&rustls::version::TLS12]] {
        let gateway = Gateway::start_controlled(&yaml);
        let client = Client::with(&ca, None, &versions);
        let resumes = || {
            let mut tls = client.connect(gateway.address(), "a.test").unwrap();
            assert_eq!(tls.ask("a.test", "/").unwrap().text(), "here");
            tls.resumed()
        };
        assert!(!resumes());
        assert!(resumes());
        assert!(gateway.reload_as_is().contains("] reloaded "), "{:?}", gateway.log());
        assert!(resumes(), "after a reload");
        gateway.command_done("upgrade");
        assert!(resumes(), "after an upgrade");
    }
}

#[test]
fn who_speaks_no_tls_is_told_so_or_left() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let more = "limits: {header_timeout: 300ms}\nadmin: {address: '127.0.0.1:0'}\naccess_log: {path: $FOLDER/access.log}\n";
    let gateway = Gateway::start(&format!("{}{more}{RESPOND}", listener(&[&cert], "")));
    let at = gateway.address();
    let plain = kit::raw::get(at, "/secret");
    assert_eq!((plain.status, plain.problem().as_str()), (400, "plain_http_to_tls"));
    assert_eq!(gateway.access_lines(1)[0]["error"], "plain_http_to_tls");
    for nonsense in [&b""[..], b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x00\x02", b"\x00\x00"] {
        assert!(Raw::connect(at).send(nonsense).closed(), "{nonsense:?}");
    }
    assert_eq!(Client::of(&ca).get(at, "a.test", "/").unwrap().text(), "here");
    let metrics = looked_at(&gateway, "/metrics");
    assert!(metrics.contains("portcullis_tls_handshakes_total{result=\"full\"} 1\n"), "{metrics}");
    assert!(metrics.contains("portcullis_tls_handshakes_total{result=\"failed\"} 6\n"), "{metrics}");
}

#[test]
fn a_changed_certificate_is_taken_up_without_touching_connections() {
    let ca = Authority::new("ca");
    let old = ca.issue("a", &["a.test"]);
    let gateway = gateway(&[&old]);
    let (client, at) = (Client::of(&ca), gateway.address());
    let mut kept = client.connect(at, "a.test").unwrap();
    assert_eq!(kept.ask("a.test", "/").unwrap().text(), "here");
    let new = ca.issue("a", &["a.test"]);
    assert_ne!(der(&old), der(&new));
    until("the new one is shown", || shown(&client, at, "a.test") == der(&new));
    assert_eq!(kept.ask("a.test", "/").unwrap().text(), "here", "on the connection from before");
    assert_eq!(gateway.log().iter().filter(|line| line.contains("taken up anew")).count(), 1);

    // A key that is another's: the old pair stays, and the log says which file is wrong.
    let other = Authority::new("other").issue("b", &["b.test"]);
    replace(&new.key, &other.key_pem);
    gateway.wait_log(&["a.key: the key does not belong to the certificate"]);
    gateway.wait_log(&["the certificates stay as they were"]);
    assert_eq!(shown(&client, at, "a.test"), der(&new));
    std::fs::remove_file(&new.cert).unwrap();
    gateway.wait_log(&["a.pem: No such file or directory"]);
    assert_eq!(shown(&client, at, "a.test"), der(&new));
    let last = ca.issue("a", &["a.test"]);
    until("both are there again", || shown(&client, at, "a.test") == der(&last));
}

#[test]
fn a_reload_reads_certificates_and_is_refused_whole() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let yaml = format!("{}{RESPOND}", listener(&[&cert], ""));
    let gateway = Gateway::start(&yaml);
    let (client, at) = (Client::of(&ca), gateway.address());
    let good = std::fs::read_to_string(&cert.cert).unwrap();
    std::fs::write(&cert.cert, "no certificate").unwrap();
    assert!(gateway.reload_as_is().contains("not reloaded"), "{:?}", gateway.log());
    gateway.wait_log(&["portcullis.yaml:3:", "listeners[0].tls.certificates[0].cert", "no certificate"]);
    assert_eq!(shown(&client, at, "a.test"), der(&cert));
    std::fs::write(&cert.cert, good).unwrap();
    let new = ca.issue("new", &["new.test"]);
    assert!(gateway.reload(&format!("{}{RESPOND}", listener(&[&new], ""))).contains("] reloaded "));
    assert_eq!(shown(&client, at, "new.test"), der(&new));
    // And back to none at all: the same socket speaks HTTP.
    assert!(gateway.reload(RESPOND).contains("] reloaded "));
    assert_eq!(kit::raw::get(at, "/").text(), "here");
}

#[test]
fn the_end_of_a_certificate_is_foretold() {
    let ca = Authority::new("ca");
    let soon = ca.issue_as("soon", &Leaf { names: &["soon.test"], valid: (-80, 9), ..Leaf::default() });
    let over = ca.issue_as("over", &Leaf { names: &["over.test"], valid: (-90, -1), ..Leaf::default() });
    let more = "admin: {address: '127.0.0.1:0'}\n";
    let gateway = Gateway::start(&format!("{}{more}{RESPOND}", listener(&[&soon, &over], "")));
    gateway.wait_log(&["soon.pem: the certificate ends in "]);
    gateway.wait_log(&["over.pem: the certificate has expired"]);
    let metrics = looked_at(&gateway, "/metrics");
    let series = format!(
        "portcullis_certificate_expiry_timestamp_seconds{{certificate=\"{}\"}} ",
        soon.cert.display()
    );
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap();
    let left = line.parse::<f64>().unwrap() - now();
    assert!((8.9..9.1).contains(&(left / 86_400.0)), "{line}");
    let status: serde_json::Value = serde_json::from_str(&looked_at(&gateway, "/status")).unwrap();
    let names: Vec<_> = status["certificates"].as_array().unwrap().iter().map(|c| &c["names"][0]).collect();
    assert_eq!(names, ["over.test", "soon.test"]);
}

#[test]
fn plain_listeners_send_to_https() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let gateway = Gateway::start(&format!(
        "{}  - {{address: \"127.0.0.1:0\", redirect_to_https: true}}\n  - {{address: \"127.0.0.1:0\", redirect_to_https: 8443}}\n{RESPOND}",
        listener(&[&cert], "")
    ));
    for (listener, location) in [(1, "https://a.test/x/y?z=1"), (2, "https://a.test:8443/x/y?z=1")] {
        let request = "POST //x/./y?z=1 HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 2\r\n\r\nhi";
        let answer = kit::raw::exchange(gateway.addresses[listener], request);
        assert_eq!((answer.status, answer.field("location")), (308, Some(location)));
        assert!(
            answer.field("x-request-id").is_some() && answer.field("strict-transport-security").is_none()
        );
        let nowhere = kit::raw::exchange(gateway.addresses[listener], "GET / HTTP/1.0\r\n\r\n");
        assert_eq!(nowhere.status, 404, "{nowhere:?}");
    }
}

#[test]
fn http_2_is_agreed_on_by_alpn() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let origin = Origin::start(|request| reply(200, &request.head));
    let routes = format!("routes: [{{path: /, upstream: \"{}\"}}]\n", origin.url());
    let start = |protocols: &str| {
        let listener = listener(&[&cert], ", hsts: 180d") + protocols;
        Gateway::start(&format!("{listener}access_log: {{path: $FOLDER/access.log}}\n{routes}"))
    };
    let (both, h2, http1) = (start(""), start("    protocols: [h2]\n"), start("    protocols: [http1]\n"));
    for (gateway, ask, version) in [
        (&both, "--http2", "2"),
        (&both, "--http1.1", "1.1"),
        (&both, "--no-alpn", "1.1"),
        (&h2, "--http2", "2"),
        (&http1, "--http2", "1.1"),
    ] {
        let out = curl(&ca, gateway, &[ask, "-D", "-", "-w", "|%{http_version}|%{http_code}"]);
        assert!(out.ends_with(&format!("|{version}|200")), "{ask}: {out}");
        let out = out.to_lowercase();
        for part in ["strict-transport-security: max-age=15552000\r\n", "x-forwarded-proto: https\r\n"] {
            assert!(out.contains(part), "{ask}: {part} in {out}");
        }
        let misdirected = curl(&ca, gateway, &[ask, "-H", "Host: other.test", "-w", "|%{http_code}"]);
        assert!(misdirected.contains("urn:portcullis:problem:misdirected"), "{ask}: {misdirected}");
        assert!(misdirected.ends_with("|421"), "{ask}: {misdirected}");
    }
    let lines = both.access_lines(6);
    assert!(lines.iter().all(|line| line["tls"] == "TLSv1.3"), "{lines:#?}");
    // Nothing in common is said, as it should be (RFC 7301 §3.2).
    let offers =
        |protocol: &[u8]| Client::of(&ca).change(|config| config.alpn_protocols = vec![protocol.to_vec()]);
    assert!(offers(b"http/1.1").connect(h2.address(), "a.test").is_err());
    assert!(offers(b"h2").connect(http1.address(), "a.test").is_err());
    let mut silent = Client::of(&ca).connect(h2.address(), "a.test").unwrap();
    assert_eq!(silent.ask("a.test", "/").unwrap().status, 505, "no ALPN, and not HTTP/2 either");
}

/// What curl prints of `https://a.test/`.
fn curl(authority: &Authority, gateway: &Gateway, more: &[&str]) -> String {
    let port = gateway.address().port();
    let out = Command::new("curl")
        .args(["-sS", "--cacert", authority.file().to_str().unwrap()])
        .args(["--resolve", &format!("a.test:{port}:127.0.0.1"), &format!("https://a.test:{port}/")])
        .args(more)
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn a_curl_is_served() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let gateway = gateway(&[&cert]);
    assert_eq!(curl(&ca, &gateway, &["-w", "|%{http_code}|%{ssl_verify_result}"]), "here|200|0");
}

/// What the admin address says.
fn looked_at(gateway: &Gateway, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    kit::raw::exchange(gateway.admin(), request).text()
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// What an `openssl` command says, with nothing to read.
fn openssl(line: &str) -> String {
    let mut words = line.split(' ');
    let out =
        Command::new(words.next().unwrap()).args(words).stdin(std::process::Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Ten, unless somebody asks for more: `PORTCULLIS_REPLACEMENTS=1000 cargo test --release --test tls under_load`.
fn replacements() -> usize {
    std::env::var("PORTCULLIS_REPLACEMENTS").map_or(10, |count| count.parse().unwrap())
}

/// New connections that look at the certificate, resumed ones and kept ones go on while certificates change, by the file and
/// by reloads; none fails, and nothing is left behind.
#[test]
fn certificates_are_replaced_under_load_and_nothing_fails() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let gateway = gateway(&[&cert]);
    let (at, over, count) = (gateway.address(), AtomicBool::new(false), AtomicUsize::new(0));
    let (full, resumed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let answered = |tls: &mut kit::tls::Tls| {
        assert_eq!(tls.ask("a.test", "/").unwrap().text(), "here");
        count.fetch_add(1, Relaxed);
    };
    let mut sizes = Vec::new();
    std::thread::scope(|scope| {
        for kind in 0..4 {
            let (ca, answered, over, full, resumed) = (&ca, &answered, &over, &full, &resumed);
            scope.spawn(move || {
                let client = Client::of(ca);
                let mut kept = client.connect(at, "a.test").unwrap();
                let mut served = 0;
                while !over.load(Relaxed) {
                    // One that keeps its connection, as long as it may; one that comes back; two that come anew.
                    let fresh = Client::of(ca);
                    let mut tls = match kind {
                        0 if served < 9_000 => {
                            served += 1;
                            answered(&mut kept);
                            continue;
                        }
                        0 | 1 => client.connect(at, "a.test").unwrap(),
                        _ => fresh.connect(at, "a.test").unwrap(),
                    };
                    answered(&mut tls);
                    if tls.resumed() { resumed } else { full }.fetch_add(1, Relaxed);
                }
            });
        }
        for round in 0..replacements() {
            let new = der(&ca.issue("a", &["a.test"]));
            if round % 10 != 0 {
                assert!(gateway.reload_as_is().contains("] reloaded "), "{:?}", gateway.log().last());
            }
            until("the new one is shown", || shown(&Client::of(&ca), at, "a.test") == new);
            sizes.push(gateway.rss_kib());
        }
        over.store(true, Relaxed);
    });
    let (full, resumed, count) = (full.load(Relaxed), resumed.load(Relaxed), count.load(Relaxed));
    let quarter = sizes.len() / 4;
    let median = |of: &[u64]| {
        let mut of = of.to_vec();
        of.sort_unstable();
        of[of.len() / 2]
    };
    let (first, last) = (median(&sizes[..=quarter]), median(&sizes[3 * quarter..]));
    println!("{} replacements: {count} requests, {full} full and {resumed} resumed handshakes, {first} and {last} KiB", sizes.len());
    assert!(full > 10 && resumed > 10 && count > 30, "{full} {resumed} {count}");
    assert!(last < first + 8 * 1024, "{first} KiB in the first quarter, {last} in the last");
}
