//! Clients known by their certificates: where one must be shown, whose is accepted, what upstreams learn of it.

mod kit;

use kit::certs::{replace, Authority, Issued, Leaf};
use kit::origin::reply;
use kit::tls::Client;
use kit::{until, Gateway, Origin};

struct World {
    /// Of the gateway's certificate.
    ca: Authority,
    server: Issued,
    /// Of clients.
    clients: Authority,
    origin: Origin,
}

impl World {
    fn new() -> World {
        let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
        let server = ca.issue("server", &["open.test", "optional.test", "closed.test", "*.closed.test"]);
        World { ca, server, clients, origin: Origin::start(|request| reply(200, &request.head)) }
    }

    fn yaml(&self, client_auth: &str) -> String {
        let client_auth = client_auth.replace("CA", self.clients.file().to_str().unwrap());
        format!(
            "listeners:\n  - address: \"127.0.0.1:0\"\n    tls:\n      certificates: [{}]\n      client_auth: {client_auth}\n\
             access_log: {{path: $FOLDER/access.log}}\nroutes: [{{path: /, upstream: \"{}\"}}]\n",
            self.server.yaml(),
            self.origin.url()
        )
    }

    fn somebody(&self) -> Client {
        Client::known_by(&self.ca, &self.clients.issue("client", &["client.test", "10.1.2.3"]))
    }

    fn nobody(&self) -> Client {
        Client::of(&self.ca)
    }
}

/// The status of a GET, 0 when there is no answer.
fn status(client: &Client, gateway: &Gateway, host: &str) -> u16 {
    client.get(gateway.address(), host, "/").map_or(0, |answer| answer.status)
}

#[test]
fn a_required_certificate_must_be_of_the_authority_and_in_force() {
    let world = World::new();
    let gateway = Gateway::start(&world.yaml("{ca: CA}"));
    let issued = |leaf| Client::known_by(&world.ca, &world.clients.issue_as("x", &leaf));
    let expired = issued(Leaf { valid: (-9, -1), ..Leaf::default() });
    let early = issued(Leaf { valid: (1, 9), ..Leaf::default() });
    let stranger = Client::known_by(&world.ca, &Authority::new("clients").issue("x", &["client.test"]));
    for (client, expected, who) in [
        (world.somebody(), 200, "somebody"),
        (world.nobody(), 0, "nobody"),
        (expired, 0, "expired"),
        (early, 0, "not yet"),
        (stranger, 0, "of an authority with the same name"),
    ] {
        assert_eq!(status(&client, &gateway, "open.test"), expected, "{who}");
    }
    assert_eq!(world.origin.received().len(), 1);
    // Whoever has to answer for it finds why.
    for why in ["peer sent no certificates", "certificate expired", "BadSignature"] {
        gateway.wait_log(&["the client's certificate is refused", why]);
    }
}

#[test]
fn hosts_have_rules_of_their_own() {
    let world = World::new();
    let rules = "\n        - {hosts: [closed.test, \"*.closed.test\"], ca: CA}\n        - {hosts: [optional.test], ca: CA, mode: optional}";
    let gateway = Gateway::start(&world.yaml(rules));
    let (somebody, nobody) = (world.somebody(), world.nobody());
    let stranger = Client::known_by(&world.ca, &Authority::new("clients").issue("x", &["client.test"]));
    for (host, expected) in [
        ("open.test", [200, 200, 200]),
        ("optional.test", [200, 200, 0]),
        ("closed.test", [200, 0, 0]),
        ("a.closed.test", [200, 0, 0]),
    ] {
        let got = [&somebody, &nobody, &stranger].map(|client| status(client, &gateway, host));
        assert_eq!(got, expected, "{host}");
    }
    // The certificate covers both, and yet nobody gets from one to the other on a connection.
    let mut open = nobody.connect(gateway.address(), "open.test").unwrap();
    for host in ["closed.test", "a.closed.test", "CLOSED.TEST.", "optional.test"] {
        let answer = open.ask(host, "/").unwrap();
        assert_eq!((answer.status, answer.problem().as_str()), (421, "misdirected"), "{host}");
    }
    assert_eq!(open.ask("open.test", "/").unwrap().status, 200);
    // Nor with a ticket of another rule: a session without a certificate is none where one is required.
    assert_eq!(status(&nobody, &gateway, "open.test"), 200);
    assert_eq!(status(&nobody, &gateway, "closed.test"), 0);
}

#[test]
fn upstreams_learn_of_the_certificate_and_of_no_other() {
    let world = World::new();
    let gateway = Gateway::start(&world.yaml("{ca: CA, mode: optional}"));
    let own = world.clients.issue("client", &["client.test"]);
    let der = kit::tls::der(&own);
    let field = |client: &Client| {
        let mut tls = client.connect(gateway.address(), "open.test").unwrap();
        let spoofed = "Client-Cert: :AAAA:\r\nClient_Cert: :BBBB:\r\nclient-cert-chain: :CCCC:\r\n";
        tls.send(format!("GET / HTTP/1.1\r\nHost: open.test\r\n{spoofed}\r\n"));
        assert_eq!(tls.response().status, 200);
        let received = world.origin.last();
        assert!(received.field("client-cert-chain").is_none() && received.field("client_cert").is_none());
        (received.field("client-cert").map(str::to_owned), tls.resumed())
    };
    let somebody = Client::known_by(&world.ca, &own);
    use base64::Engine;
    let expected = format!(":{}:", base64::engine::general_purpose::STANDARD.encode(&der));
    assert_eq!(field(&somebody), (Some(expected.clone()), false));
    assert_eq!(
        field(&somebody),
        (Some(expected), false),
        "who is asked for a certificate is asked each time"
    );
    assert_eq!(field(&world.nobody()), (None, false));
}

#[test]
fn revoked_certificates_are_refused_also_on_connections_and_tickets_from_before() {
    let world = World::new();
    let crl = world.clients.revoke("list", &[7], 30);
    let gateway = Gateway::start(&world.yaml(&format!("{{ca: CA, crl: {}}}", crl.display())));
    let issue = |serial| {
        let leaf = Leaf { names: &["client.test"], serial, ..Leaf::default() };
        Client::known_by(&world.ca, &world.clients.issue_as(&format!("client{serial}"), &leaf))
    };
    let (good, revoked) = (issue(8), issue(7));
    assert_eq!(status(&good, &gateway, "open.test"), 200);
    assert_eq!(status(&revoked, &gateway, "open.test"), 0);
    let mut kept = good.connect(gateway.address(), "open.test").unwrap();
    assert_eq!(kept.ask("open.test", "/").unwrap().status, 200);

    world.clients.revoke("list", &[7, 8], 30);
    until("the list is taken up", || status(&good, &gateway, "open.test") == 0);
    let answer = kept.ask("open.test", "/").unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (421, "misdirected"), "the rule has changed");
    assert_eq!(status(&issue(9), &gateway, "open.test"), 200);
    // A list that is out of date speaks for nobody.
    world.clients.revoke("list", &[7], -1);
    until("the old list is taken up", || status(&issue(9), &gateway, "open.test") == 0);
    // One that is broken changes nothing.
    world.clients.revoke("list", &[7], 30);
    until("a good one again", || status(&issue(9), &gateway, "open.test") == 200);
    replace(&crl, "nothing");
    gateway.wait_log(&["list.crl: no revocation list"]);
    assert_eq!(status(&issue(9), &gateway, "open.test"), 200);
    assert_eq!(status(&issue(7), &gateway, "open.test"), 0);
}

#[test]
fn a_reload_that_asks_for_certificates_holds_for_connections_from_before() {
    let world = World::new();
    let gateway = Gateway::start(&world.yaml("{ca: CA, mode: optional}"));
    let nobody = world.nobody();
    let mut kept = nobody.connect(gateway.address(), "open.test").unwrap();
    assert_eq!(kept.ask("open.test", "/").unwrap().status, 200);
    assert!(gateway.reload(&world.yaml("{ca: CA}")).contains("] reloaded "));
    assert_eq!(kept.ask("open.test", "/").unwrap().status, 421);
    assert_eq!(status(&nobody, &gateway, "open.test"), 0, "and no ticket helps");
    assert_eq!(status(&world.somebody(), &gateway, "open.test"), 200);
    assert!(gateway.reload(&world.yaml("{ca: CA, mode: optional}")).contains("] reloaded "));
    assert_eq!(kept.ask("open.test", "/").unwrap().status, 200, "the rule that it was made under is back");
}

#[test]
fn a_certificate_that_ends_does_not_live_on_in_a_session() {
    let world = World::new();
    let gateway = Gateway::start(&world.yaml("{ca: CA}"));
    let leaf = |seconds| Leaf { names: &["client.test"], valid: (-1, 0), seconds, ..Leaf::default() };
    let client = Client::known_by(&world.ca, &world.clients.issue_as("short", &leaf(3)));
    assert_eq!(status(&client, &gateway, "open.test"), 200);
    until("it has ended", || status(&client, &gateway, "open.test") == 0);
    // And who has another one by then is let in, with the same sessions.
    let renewed = world.clients.issue_as("renewed", &leaf(3600));
    let key = kit::tls::key(&renewed);
    let again = client.change(|config| config.client_auth_cert_resolver = key);
    assert_eq!(status(&again, &gateway, "open.test"), 200);
}

#[test]
fn what_comes_before_tls_says_nothing_of_certificates() {
    let world = World::new();
    let gateway =
        Gateway::start(&(world.yaml("{ca: CA, mode: optional}") + "trusted_proxies: [127.0.0.1]\n"));
    let mut tls = world.nobody().connect(gateway.address(), "open.test").unwrap();
    tls.send("GET / HTTP/1.1\r\nHost: open.test\r\nClient-Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\n\r\n");
    assert_eq!(tls.response().status, 200);
    let received = world.origin.last();
    assert!(received.field("client-cert").is_none() && received.field("client-cert-chain").is_none());
}

#[test]
fn a_revocation_list_waits_for_no_other_file() {
    let world = World::new();
    let crl = world.clients.revoke("list", &[], 30);
    let gateway = Gateway::start(&world.yaml(&format!("{{ca: CA, crl: {}}}", crl.display())));
    let leaf = Leaf { names: &["client.test"], serial: 8, ..Leaf::default() };
    let client = Client::known_by(&world.ca, &world.clients.issue_as("client", &leaf));
    assert_eq!(status(&client, &gateway, "open.test"), 200);
    replace(&world.server.key, "broken");
    gateway.wait_log(&["server.key: there is no private key in it"]);
    world.clients.revoke("list", &[8], 30);
    until("the list is taken up", || status(&client, &gateway, "open.test") == 0);
}

#[test]
fn who_came_in_before_there_was_tls_is_sent_away() {
    let world = World::new();
    let plain = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\nroutes: [{{path: /, upstream: \"{}\"}}]\n",
        world.origin.url()
    );
    let gateway = Gateway::start(&plain);
    let mut kept = kit::Raw::connect(gateway.address());
    let request = "GET / HTTP/1.1\r\nHost: open.test\r\n\r\n";
    assert_eq!(kept.send(request).response().status, 200);
    assert!(gateway.reload(&world.yaml("{ca: CA}")).contains("] reloaded "));
    assert_eq!(kept.send(request).response().status, 421);
    let mut kept = world.somebody().connect(gateway.address(), "open.test").unwrap();
    assert_eq!(kept.ask("open.test", "/").unwrap().status, 200);
    assert!(gateway.reload(&plain).contains("] reloaded "));
    assert_eq!(kept.ask("open.test", "/").unwrap().status, 421);
}
