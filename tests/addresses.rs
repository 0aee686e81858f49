//! `allow` and `deny`: from where requests may come, by lists in the configuration and in files.

mod kit;

use kit::certs::replace;
use kit::raw::exchange;
use kit::{until, wait_for, Gateway, Origin, Raw, Response};
use std::os::unix::net::UnixStream;

/// Clients are whom the test names: it is a trusted proxy.
fn in_front_of(origin: &Origin, keys: &str) -> Gateway {
    Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\nroutes: [{{path: /, upstream: \"{}\", {keys}}}]\n",
        origin.url()
    ))
}

fn ask_as(gateway: &Gateway, client: &str) -> Response {
    let request = format!("GET / HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: {client}\r\n\r\n");
    exchange(gateway.address(), request)
}

fn denied(response: &Response) -> bool {
    assert!(matches!(response.status, 200 | 403), "{response:?}");
    response.status == 403 && {
        assert_eq!(response.problem(), "address_denied");
        true
    }
}

#[test]
fn only_those_of_allow_and_none_of_deny_come_in() {
    let origin = Origin::text("in");
    let gateway = in_front_of(
        &origin,
        "allow: [10.0.0.0/8, \"::ffff:192.0.2.0/120\", \"2001:db8::/32\"], deny: [10.66.0.0/16, \"2001:db8:66::/48\"]",
    );
    let inside = ["10.1.2.3", "192.0.2.255", "::ffff:10.0.0.1", "2001:db8::1", "[2001:db8::2]:443"];
    let outside =
        ["10.66.0.1", "::ffff:10.66.0.1", "2001:db8:66::1", "11.0.0.1", "192.0.3.0", "::1", "2001:db9::"];
    for client in inside {
        assert!(!denied(&ask_as(&gateway, client)), "{client}");
    }
    let reached = origin.received().len();
    for client in outside {
        let response = ask_as(&gateway, client);
        assert!(denied(&response), "{client}");
        assert!(!response.text().contains(client), "{}", response.text());
    }
    assert_eq!(
        (reached, origin.received().len()),
        (inside.len(), inside.len()),
        "nothing else went upstream"
    );
}

#[test]
fn no_kind_of_request_is_let_past() {
    let origin = Origin::text("in");
    let gateway = in_front_of(&origin, "deny: [192.0.2.0/24]");
    let field = "Host: t\r\nX-Forwarded-For: 192.0.2.1\r\n";
    for request in [
        format!("HEAD / HTTP/1.1\r\n{field}\r\n"),
        format!("OPTIONS / HTTP/1.1\r\n{field}Origin: https://a\r\nAccess-Control-Request-Method: GET\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{field}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{field}Content-Length: 2\r\n\r\nhi"),
        format!("GET /a/../b HTTP/1.1\r\n{field}\r\n"),
        // What a client says of itself comes first in the list, what the proxy saw last.
        "GET / HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 10.0.0.1, 192.0.2.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\n\r\n"
            .to_owned(),
    ] {
        let method = request.split(' ').next().unwrap();
        let response = Raw::connect(gateway.address()).send(&request).response_to(method);
        assert_eq!(response.status, 403, "{request}");
    }
    assert_eq!(origin.connections(), 0);
    gateway.wait_log(&["-> 403 address_denied"]);
}

#[test]
fn who_is_no_trusted_proxy_is_the_client_itself() {
    let origin = Origin::text("in");
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{path: /in, upstream: \"{0}\", allow: [127.0.0.0/8]}}\n  - {{path: /out, upstream: \"{0}\", allow: [10.0.0.0/8]}}\n",
        origin.url()
    ));
    for (path, status) in [("/in", 200), ("/out", 403)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n");
        assert_eq!(exchange(gateway.address(), request).status, status, "{path}");
    }
}

#[test]
fn a_routes_own_list_replaces_the_default() {
    let origin = Origin::text("in");
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\ndefaults: {{allow: [10.0.0.0/8], deny: [10.66.0.0/16]}}\nroutes:\n  \
         - {{path: /, upstream: \"{0}\"}}\n  - {{path: /any, upstream: \"{0}\", allow: [0.0.0.0/0, \"::/0\"], deny: []}}\n  \
         - {{path: /own, respond: {{body: own}}, deny: [10.1.0.0/16]}}\n",
        origin.url()
    ));
    let status = |path: &str, client: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: {client}\r\n\r\n");
        exchange(gateway.address(), request).status
    };
    for (path, client, expected) in [
        ("/", "10.0.0.1", 200),
        ("/", "10.66.0.1", 403),
        ("/", "11.0.0.1", 403),
        ("/any", "10.66.0.1", 200),
        ("/any", "11.0.0.1", 200),
        ("/any", "2001:db8::1", 200),
        ("/own", "10.66.0.1", 200),
        ("/own", "10.1.0.1", 403),
        ("/own", "11.0.0.1", 403),
    ] {
        assert_eq!(status(path, client), expected, "{path} {client}");
    }
}

/// A Unix socket's client has no address, nor has one for whom a balancer speaks without saying for whom.
#[test]
fn without_an_address_nobody_is_on_any_list() {
    let origin = Origin::text("in");
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", proxy_protocol: true}}, {{address: \"unix:$FOLDER/http.sock\"}}]\n\
         trusted_proxies: [127.0.0.1]\nroutes:\n  - {{path: /allow, upstream: \"{0}\", allow: [0.0.0.0/0, \"::/0\"]}}\n  \
         - {{path: /deny, upstream: \"{0}\", deny: [0.0.0.0/0, \"::/0\"]}}\n",
        origin.url()
    ));
    let socket = gateway.folder.path().join("http.sock");
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n");
    for (path, status) in [("/allow", 403), ("/deny", 200)] {
        let client = UnixStream::connect(&socket).unwrap();
        assert_eq!(Raw::over(client).send(request(path)).response().status, status, "{path} by the socket");
        let unknown = format!("PROXY UNKNOWN\r\n{}", request(path));
        assert_eq!(exchange(gateway.address(), unknown).status, status, "{path} for nobody");
        let named = format!("PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n{}", request(path));
        assert_eq!(exchange(gateway.address(), named).status, 603 - status, "{path} for somebody");
    }
}

#[test]
fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let origin = Origin::text("in");
    let folder = tempfile::tempdir().unwrap();
    let (office, bad) = (folder.path().join("office.txt"), folder.path().join("bad.txt"));
    replace(&office, "# the office\n10.0.0.0/8\n");
    replace(&bad, "");
    let keys =
        format!("allow: [192.0.2.1, {{file: {}}}], deny: [{{file: {}}}]", office.display(), bad.display());
    let gateway = in_front_of(&origin, &keys);
    // One connection all along: a list holds for the next request, whoever sends it.
    let mut kept = Raw::connect(gateway.address());
    let mut let_in = |client: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: {client}\r\n\r\n");
        !denied(&kept.send(request).response())
    };
    assert!(let_in("10.0.0.1") && let_in("192.0.2.1") && !let_in("11.0.0.1"));

    replace(&office, "11.0.0.0/8 # moved\n");
    gateway.wait_log(&["office.txt: taken up anew, 1 networks"]);
    assert!(!let_in("10.0.0.1") && let_in("192.0.2.1") && let_in("11.0.0.1"));
    replace(&bad, "11.66.0.0/16\n192.0.2.1\n");
    until("both are out", || !let_in("11.66.0.1") && !let_in("192.0.2.1"));
    assert!(let_in("11.0.0.1"));

    replace(&bad, "10.0.0.0/8\n10.0.0.1/8\nall of them\n");
    gateway.wait_log(&["ERROR", "bad.txt:2: 10.0.0.1/8 has bits set behind its prefix; write 10.0.0.0/8"]);
    let line = gateway.wait_log(&["ERROR", "bad.txt:3: "]);
    assert!(!line.contains("all of them"), "it might have been another file: {line}");
    gateway.wait_log(&["bad.txt: the list stays as it was"]);
    std::fs::remove_file(&office).unwrap();
    gateway.wait_log(&["ERROR", "office.txt: No such file or directory"]);
    gateway.wait_log(&["office.txt: the list stays as it was"]);
    assert!(let_in("11.0.0.1") && !let_in("11.66.0.1") && !let_in("192.0.2.1"));

    // A reload reads them as a start does: what is wrong there changes nothing either.
    let refused = gateway.reload_as_is();
    assert!(refused.contains("not reloaded"), "{refused}");
    assert!(let_in("11.0.0.1") && !let_in("11.66.0.1"));
    replace(&bad, "11.77.0.0/16\n");
    replace(&office, "");
    until("nobody is in", || !let_in("11.0.0.1"));
    assert!(!let_in("192.0.2.2") && let_in("192.0.2.1"), "an empty list lets nobody in");
    let reloaded = gateway.reload_as_is();
    assert!(reloaded.contains("] reloaded "), "{reloaded}");
    replace(&office, "10.0.0.0/8\n");
    until("the new snapshot's lists are followed", || let_in("10.0.0.1"));
}

#[test]
fn a_file_that_is_missing_or_wrong_is_a_wrong_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    let yaml = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\nroutes: [{{upstream: \"http://a\", allow: [{{file: {}}}]}}]\n",
        list.display()
    );
    let (code, lines) = kit::gateway::check(&yaml);
    assert!(
        code == 1 && lines[0].ends_with("list.txt cannot be read: No such file or directory"),
        "{lines:?}"
    );
    std::fs::write(&list, "10.0.0.0/8\n10.0.0.0/x\n").unwrap();
    let (code, lines) = kit::gateway::check(&yaml);
    assert!(code == 1 && lines[0].contains("list.txt:2: expected a network"), "{lines:?}");
    std::fs::write(&list, "10.0.0.0/8\r\n\r\n::1 # us\r\n").unwrap();
    assert_eq!(kit::gateway::check(&yaml).0, 0);
}

/// Relative to the configuration's folder, wherever the process runs; and as long as a blocklist may be.
#[test]
fn ten_thousand_networks_are_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let networks: String = (0..10_000).map(|n| format!("10.{}.{}.0/25\n", n / 250, n % 250)).collect();
    std::fs::write(folder.path().join("list.txt"), networks).unwrap();
    let path = folder.path().join("p.yaml");
    std::fs::write(
        &path,
        "listeners: [{address: \"127.0.0.1:0\"}]\ntrusted_proxies: [127.0.0.1]\naccess_log: {path: off}\n\
         routes: [{path: /, respond: {body: in}, deny: [{file: list.txt}]}]\n",
    )
    .unwrap();
    let mut gateway = Gateway::command(&["run", "-c", path.to_str().unwrap()], folder, &[]);
    gateway.addresses = wait_for("it listens", || {
        let found = gateway.listening();
        (!found.is_empty()).then_some(found)
    });
    for (client, out) in
        [("10.0.0.127", true), ("10.0.0.128", false), ("10.39.249.1", true), ("10.40.0.1", false)]
    {
        assert_eq!(denied(&ask_as(&gateway, client)), out, "{client}");
    }
}
