//! Certificates that the gateway gets by itself, from a real ACME server.

mod kit;

use kit::acme::problem;
use kit::certs::{Authority, Leaf};
use kit::tls::Client;
use kit::{until, wait_for, Acme, Gateway};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const RESPOND: &str = "routes: [{path: /, respond: {body: here}}]\n";

/// A listener with TLS by `acme`, one without that sends there, and an admin address.
fn yaml(acme: &str) -> String {
    format!(
        "listeners:\n  - address: \"127.0.0.1:0\"\n    tls: {{acme: {{{acme}}}}}\n  - address: \"127.0.0.1:0\"\n    \
         redirect_to_https: true\nadmin: {{address: '127.0.0.1:0'}}\n{RESPOND}"
    )
}

/// The server serves, and asks this gateway.
fn serve(acme: &mut Acme, gateway: &Gateway) {
    acme.serve(gateway.addresses[1].port(), gateway.addresses[0].port());
}

/// Waits until a client that believes the server gets an answer for this host.
fn until_served(client: &Client, at: SocketAddr, host: &str) {
    until(&format!("{host} is served"), || {
        client.get(at, host, "/").is_ok_and(|answer| answer.text() == "here")
    });
}

/// All files in a folder with their modes, by their paths in it.
fn files(folder: &Path) -> Vec<(String, u32)> {
    fn walk(at: &Path, folder: &Path, found: &mut Vec<(String, u32)>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let mode = path.metadata().unwrap().permissions().mode() & 0o777;
            found.push((path.strip_prefix(folder).unwrap().display().to_string(), mode));
            if path.is_dir() {
                walk(&path, folder, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

fn metric(gateway: &Gateway, name: &str) -> Option<f64> {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let text = kit::raw::exchange(gateway.admin(), request).text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn a_first_certificate_comes_by_either_challenge_and_is_kept() {
    for challenge in ["tls_alpn", "http"] {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("acme");
        let mut acme = Acme::start(&["a.test", "b.test"]);
        let config = yaml(&format!(
            "{}, challenge: {challenge}, email: ops@example.com",
            acme.yaml(&["a.test", "b.test"], &kept)
        ));
        let gateway = Gateway::start(&config);
        // Until there is one, nobody is shown another's.
        assert!(Client::of(&Authority::new("any")).get(gateway.address(), "a.test", "/").is_err());
        serve(&mut acme, &gateway);
        let client = acme.client();
        until_served(&client, gateway.address(), "a.test");
        let mut connection = client.connect(gateway.address(), "a.test").unwrap();
        assert_eq!(connection.ask("a.test", "/").unwrap().text(), "here");
        until_served(&client, gateway.address(), "b.test");
        assert_eq!(connection.ask("a.test", "/").unwrap().text(), "here", "on the connection from before");
        assert_eq!(acme.orders(), 2, "{:?}", acme.asked());
        gateway.wait_log(&["b.test: a certificate was issued"]);
        // Due at two thirds of 90 days, or a little later.
        let next =
            metric(&gateway, "portcullis_acme_next_attempt_timestamp_seconds{host=\"a.test\"}").unwrap();
        let days = (next - now()) / 86_400.0;
        assert!((59.9..63.1).contains(&days), "{days}");
        assert_eq!(metric(&gateway, "portcullis_acme_failures{host=\"a.test\"}"), Some(0.0));

        // Nobody else may read any of it, and nothing is left over.
        let all = files(folder.path());
        for (path, mode) in &all {
            let expected = if folder.path().join(path).is_dir() { 0o700 } else { 0o600 };
            assert_eq!(*mode, expected, "{path} in {all:?}");
        }
        let names: Vec<&str> = all.iter().map(|(path, _)| path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names.len(), 7, "{names:?}");
        for name in ["acme", "lock", "pending", "account.json", "a.test.pem", "b.test.pem"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }

        // The next start has it all, before the first client comes in, and asks nobody.
        drop(gateway);
        let asked = acme.asked().len();
        let gateway = Gateway::start(&config);
        for host in ["a.test", "b.test"] {
            assert_eq!(client.get(gateway.address(), host, "/").unwrap().text(), "here");
        }
        until("it has looked", || {
            metric(&gateway, "portcullis_acme_next_attempt_timestamp_seconds{host=\"b.test\"}").is_some()
        });
        assert_eq!(acme.asked().len(), asked);
    }
}

/// A gateway that has asked for a.test and got nothing, ended; its configuration, and the file that it looks for.
fn asked_in_vain(acme: &Acme, folder: &Path) -> (String, PathBuf) {
    let config = yaml(&acme.yaml(&["a.test"], folder));
    acme.fault(|_| Some("HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n".to_owned()));
    let gateway = Gateway::start(&config);
    gateway.wait_log(&["a.test: no certificate was issued: https://", "503 Service Unavailable"]);
    let note =
        wait_for("a note of it", || files(folder).into_iter().find(|(path, _)| path.ends_with(".failed")));
    let file = folder.join(note.0).with_extension("pem");
    acme.heal();
    (config, file)
}

/// Puts there what another authority once issued.
fn put(file: &Path, authority: &Authority, valid: (i64, i64)) -> kit::certs::Issued {
    let issued = authority.issue_as("old", &Leaf { names: &["a.test"], valid, ..Leaf::default() });
    kit::certs::replace(file, &format!("{}{}", issued.key_pem, issued.cert_pem));
    issued
}

#[test]
fn an_old_certificate_goes_on_until_there_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    let (config, file) = asked_in_vain(&acme, folder.path());
    let before = Authority::new("before");
    let old = put(&file, &before, (-80, 9));
    std::fs::remove_file(file.with_extension("failed")).unwrap();
    let asked = acme.asked().len();

    acme.fault(|line| line.starts_with("GET ").then(|| problem(500, "serverInternal", "we are moving", "")));
    let gateway = Gateway::start(&config);
    let mut kept = Client::of(&before).connect(gateway.address(), "a.test").unwrap();
    assert_eq!(kept.shown(), kit::tls::der(&old));
    assert_eq!(kept.ask("a.test", "/").unwrap().text(), "here");
    gateway.wait_log(&["a.test: no certificate was issued: ", "we are moving"]);
    gateway.wait_log(&["a.test: the next attempt is in ", "or after a reload"]);
    assert_eq!(metric(&gateway, "portcullis_acme_failures{host=\"a.test\"}"), Some(1.0));
    let at = |name: &str| {
        metric(&gateway, &format!("portcullis_acme_{name}_timestamp_seconds{{host=\"a.test\"}}"))
    };
    assert!((now() - at("last_failure").unwrap()).abs() < 20.0);
    assert!(at("next_attempt").unwrap() > now());
    assert_eq!(acme.asked().len(), asked + 1, "it is not asked again and again");
    assert_eq!(Client::of(&before).get(gateway.address(), "a.test", "/").unwrap().text(), "here");

    // Each of its nonces is bad once, which is the client's to put right, and nobody else hears of it.
    let mut refused = std::collections::HashSet::new();
    acme.fault(move |line| {
        let new = line.starts_with("POST ") && refused.insert(line.to_owned());
        new.then(|| problem(400, "badNonce", "another one, please", ""))
    });
    // The nonce that comes with the refusal is the front's own, so the server refuses the next one too: three in all.
    serve(&mut acme, &gateway);
    assert!(gateway.reload_as_is().contains("] reloaded "), "{:?}", gateway.log());
    until_served(&acme.client(), gateway.address(), "a.test");
    assert_eq!(kept.ask("a.test", "/").unwrap().text(), "here", "on the connection from before");
    assert_eq!(acme.orders(), 3, "{:?}", acme.asked());
    assert_eq!(metric(&gateway, "portcullis_acme_failures{host=\"a.test\"}"), Some(0.0));
    assert!(!file.with_extension("failed").exists());
}

#[test]
fn who_is_told_to_wait_waits_through_reloads_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    acme.fault(|line| {
        let order = line.contains("/order-plz");
        order.then(|| problem(429, "rateLimited", "too many for a.test", "Retry-After: 4000\r\n"))
    });
    let config = yaml(&acme.yaml(&["a.test"], folder.path()));
    let gateway = Gateway::start(&config);
    serve(&mut acme, &gateway);
    let text =
        "a.test: no certificate was issued: too many for a.test (urn:ietf:params:acme:error:rateLimited)";
    gateway.wait_log(&[text]);
    let next = metric(&gateway, "portcullis_acme_next_attempt_timestamp_seconds{host=\"a.test\"}").unwrap();
    assert!((3980.0..4001.0).contains(&(next - now())), "{}", next - now());
    let asked = acme.asked().len();
    assert!(gateway.reload_as_is().contains("] reloaded "));
    let unchanged = || metric(&gateway, "portcullis_acme_next_attempt_timestamp_seconds{host=\"a.test\"}");
    until("it has looked after the reload", || unchanged() == Some(next));
    drop(gateway);
    let gateway = Gateway::start(&config);
    gateway.wait_log(&[text]);
    assert_eq!(acme.asked().len(), asked);
}

#[test]
fn it_is_renewed_at_two_thirds_of_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    acme.validity = 15;
    let gateway = Gateway::start(&yaml(&acme.yaml(&["a.test"], folder.path())));
    serve(&mut acme, &gateway);
    let client = acme.client();
    until_served(&client, gateway.address(), "a.test");
    let mut kept = client.connect(gateway.address(), "a.test").unwrap();
    let first = kept.shown();
    until("another one is shown", || {
        client.connect(gateway.address(), "a.test").is_ok_and(|connection| connection.shown() != first)
    });
    assert_eq!(kept.ask("a.test", "/").unwrap().text(), "here", "on the connection from before");
}

#[test]
fn what_is_broken_on_disk_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    let (config, file) = asked_in_vain(&acme, folder.path());
    std::fs::remove_file(file.with_extension("failed")).unwrap();
    std::fs::write(&file, "half a certi").unwrap();
    std::fs::write(file.with_file_name("account.json"), "{\"id\":").unwrap();
    std::fs::write(file.with_file_name(".unfinished-a.test.pem"), "half").unwrap();
    std::fs::write(folder.path().join("pending/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"), "?").unwrap();
    let gateway = Gateway::start(&config);
    gateway.wait_log(&[
        "a.test.pem: there is no certificate in it (\"-----BEGIN CERTIFICATE-----\"); another certificate is ordered",
    ]);
    serve(&mut acme, &gateway);
    until_served(&acme.client(), gateway.address(), "a.test");
    gateway.wait_log(&["account.json: ", "another account is made"]);
    let left: Vec<String> = files(folder.path()).into_iter().map(|(path, _)| path).collect();
    assert!(!left.iter().any(|path| path.contains("unfinished") || path.contains("pending/")), "{left:?}");

    // What is broken later is still known here, and replaced once somebody looks.
    let (client, orders) = (acme.client(), acme.orders());
    kit::certs::replace(&file, "nothing again");
    assert!(gateway.reload_as_is().contains("] reloaded "));
    assert_eq!(client.get(gateway.address(), "a.test", "/").unwrap().text(), "here");
    until("another was ordered", || acme.orders() > orders);
    until("it is there", || std::fs::read_to_string(&file).unwrap().contains("CERTIFICATE"));

    // The server has forgotten the account: another is made at the attempt after that.
    kit::certs::replace(&file, "nothing again");
    acme.stop();
    serve(&mut acme, &gateway);
    drop(gateway);
    let gateway = Gateway::start(&config);
    gateway.wait_log(&["accountDoesNotExist"]);
    serve(&mut acme, &gateway);
    gateway.reload_as_is();
    until_served(&acme.client(), gateway.address(), "a.test");
}

#[test]
fn gateways_that_share_a_folder_order_once_and_answer_for_each_other() {
    for challenge in ["tls_alpn", "http"] {
        let folder = tempfile::tempdir().unwrap();
        let mut acme = Acme::start(&["a.test"]);
        let config = yaml(&format!("{}, challenge: {challenge}", acme.yaml(&["a.test"], folder.path())));
        let first = Gateway::start(&config);
        first.wait_log(&["a.test: a certificate is ordered"]);
        let second = Gateway::start(&config);
        serve(&mut acme, &second);
        let client = acme.client();
        until_served(&client, first.address(), "a.test");
        until_served(&client, second.address(), "a.test");
        assert_eq!(acme.orders(), 1, "{:?}", acme.asked());
        assert!(!second.log().iter().any(|line| line.contains("is ordered")), "{:?}", second.log());
    }
}

#[test]
fn who_dies_over_an_order_leaves_it_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    let config = yaml(&acme.yaml(&["a.test"], folder.path()));
    let mut dying = Gateway::start(&config);
    dying.wait_log(&["a.test: a certificate is ordered"]);
    let heir = Gateway::start(&config);
    dying.signal("KILL");
    dying.wait_exit();
    serve(&mut acme, &heir);
    until_served(&acme.client(), heir.address(), "a.test");
}

#[test]
fn the_same_host_at_two_listeners_is_one_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    let tls = format!("tls: {{acme: [{{{}}}]}}", acme.yaml(&["a.test"], folder.path()));
    let gateway = Gateway::start(&format!(
        "listeners:\n  - address: \"127.0.0.1:0\"\n    {tls}\n  - address: \"127.0.0.1:0\"\n    {tls}\n{RESPOND}"
    ));
    acme.serve(1, gateway.addresses[1].port());
    let client = acme.client();
    for at in &gateway.addresses {
        until_served(&client, *at, "a.test");
    }
    assert_eq!(acme.orders(), 1);
}

/// What an `openssl` client sees that offers `acme-tls/1` and asks for a page.
fn as_authority(at: SocketAddr, host: &str) -> String {
    let script = format!(
        "printf 'GET / HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n' | timeout 10 openssl s_client -connect {at} -servername {host} \
         -alpn acme-tls/1 -ign_eof 2>&1"
    );
    let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn only_what_is_pending_is_shown_and_nothing_is_served_by_it() {
    for challenge in ["tls_alpn", "http"] {
        let folder = tempfile::tempdir().unwrap();
        let mut acme = Acme::start(&["a.test"]);
        // The server is told that all is ready only once this has been looked at.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        acme.fault(move |line| {
            if line.contains("/chalZ/") {
                let _ = wait.recv();
            }
            None
        });
        let gateway = Gateway::start(&yaml(&format!(
            "{}, challenge: {challenge}",
            acme.yaml(&["a.test"], folder.path())
        )));
        let (tls, plain) = (gateway.addresses[0], gateway.addresses[1]);
        let path = |token: &str| format!("/.well-known/acme-challenge/{token}");
        let early = as_authority(tls, "a.test");
        assert!(early.contains("no peer certificate available"), "{early}");
        serve(&mut acme, &gateway);
        until("it is said to be ready", || acme.asked().iter().any(|line| line.contains("/chalZ/")));
        let pending = files(&folder.path().join("pending"));
        let [(token, _)] = &pending[..] else { panic!("{pending:?}") };
        let answer = kit::raw::get(plain, &path(token));
        if challenge == "http" {
            assert_eq!(
                (answer.status, answer.field("content-type")),
                (200, Some("application/octet-stream"))
            );
            assert!(answer.text().starts_with(&format!("{token}.")), "{answer:?}");
            let post = format!("POST {} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", path(token));
            assert_eq!(kit::raw::exchange(plain, post).status, 308);
        } else {
            assert_eq!(answer.status, 308, "it is no proof by HTTP");
            let seen = as_authority(tls, "a.test");
            assert!(seen.contains("ALPN protocol: acme-tls/1"), "{seen}");
            assert!(!seen.contains("HTTP/1.1"), "{seen}");
        }
        for other in ["LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0", "", "../lock", "a/b", "..%2f..%2flock"] {
            let answer = kit::raw::get(plain, &path(other));
            assert!(answer.status == 308 || answer.status == 400, "{other}: {answer:?}");
        }
        let other = as_authority(tls, "b.test");
        assert!(other.contains("no peer certificate available"), "{other}");
        drop(go);
        let client = acme.client();
        until_served(&client, tls, "a.test");
        // Over, and so are the answers.
        until("nothing is pending", || files(&folder.path().join("pending")).is_empty());
        until("and nothing answered", || kit::raw::get(plain, &path(token)).status == 308);
        let late = as_authority(tls, "a.test");
        assert!(!late.contains("ALPN protocol: acme-tls/1") && !late.contains("HTTP/1.1"), "{late}");
    }
}

#[test]
fn a_reload_adds_a_host_and_takes_one_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test", "b.test"]);
    let config = |hosts: &[&str]| yaml(&acme.yaml(hosts, folder.path()));
    let (one, both, other) = (config(&["a.test"]), config(&["a.test", "b.test"]), config(&["b.test"]));
    let gateway = Gateway::start(&one);
    serve(&mut acme, &gateway);
    let client = acme.client();
    until_served(&client, gateway.address(), "a.test");
    let mut kept = client.connect(gateway.address(), "a.test").unwrap();
    assert!(gateway.reload(&both).contains("] reloaded "));
    assert_eq!(client.get(gateway.address(), "a.test", "/").unwrap().text(), "here", "at every moment");
    until_served(&client, gateway.address(), "b.test");
    assert_eq!(acme.orders(), 2);
    assert_eq!(kept.ask("a.test", "/").unwrap().text(), "here");
    assert!(gateway.reload(&other).contains("] reloaded "));
    assert_eq!(client.get(gateway.address(), "b.test", "/").unwrap().text(), "here");
    // A client that comes back by its ticket shows no more than that: the host is not served there any more.
    assert_eq!(client.get(gateway.address(), "a.test", "/").unwrap().status, 421);
    assert!(acme.client().get(gateway.address(), "a.test", "/").is_err());
    assert_eq!(metric(&gateway, "portcullis_acme_failures{host=\"a.test\"}"), None);
    assert_eq!(acme.orders(), 2);
}

#[test]
fn an_upgrade_in_the_middle_of_an_order_loses_nothing() {
    for challenge in ["tls_alpn", "http"] {
        let folder = tempfile::tempdir().unwrap();
        let mut acme = Acme::start(&["a.test"]);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        acme.fault(move |line| {
            if line.contains("/chalZ/") {
                let _ = wait.recv();
            }
            None
        });
        let gateway = Gateway::start_controlled(&yaml(&format!(
            "{}, challenge: {challenge}",
            acme.yaml(&["a.test"], folder.path())
        )));
        serve(&mut acme, &gateway);
        until("it is said to be ready", || acme.asked().iter().any(|line| line.contains("/chalZ/")));
        gateway.command_done("upgrade");
        drop(go); // the authority comes to the new process, and asks for what the old one has ordered
        let client = acme.client();
        until_served(&client, gateway.address(), "a.test");
        assert_eq!(acme.orders(), 1, "{:?}", acme.asked());
    }
}

#[test]
fn an_account_is_bound_to_another_where_that_is_asked_for() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    acme.external = Some(("kid-1", KEY));
    let plain = acme.yaml(&["a.test"], folder.path());
    let gateway = Gateway::start(&yaml(&plain));
    serve(&mut acme, &gateway);
    gateway.wait_log(&["a.test: no certificate was issued: ", "externalAccountRequired"]);
    let bound = format!("{plain}, external_account: {{kid: kid-1, hmac_key: {KEY}}}");
    assert!(gateway.reload(&yaml(&bound)).contains("] reloaded "));
    until_served(&acme.client(), gateway.address(), "a.test");
}

#[test]
fn who_cannot_prove_it_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    let gateway = Gateway::start(&yaml(&acme.yaml(&["a.test"], folder.path())));
    acme.serve(1, 1); // where nobody listens
    gateway.wait_log(&["a.test: no certificate was issued: ", "ailed to connect", "acme:error:"]);
    let next = metric(&gateway, "portcullis_acme_next_attempt_timestamp_seconds{host=\"a.test\"}").unwrap();
    assert!((270.0..301.0).contains(&(next - now())), "{}", next - now());
    let request = "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let status = kit::raw::exchange(gateway.admin(), request).text();
    assert!(status.contains("\"kind\":\"acme\"") || status.contains("\"kind\": \"acme\""), "{status}");
}

#[test]
fn a_folder_that_cannot_be_is_said_and_everything_else_goes_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let acme = Acme::start(&["a.test"]);
    let gateway = Gateway::start(&yaml(&acme.yaml(&["a.test"], &file.path().join("acme"))));
    gateway.wait_log(&["a.test: no certificate was issued: ", "/acme: Not a directory"]);
    assert_eq!(kit::raw::get(gateway.addresses[1], "/").status, 308);
    assert_eq!(acme.asked().len(), 0);
}

#[test]
fn what_is_due_at_once_is_not_ordered_at_once_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::start(&["a.test"]);
    acme.validity = 1;
    let gateway = Gateway::start(&yaml(&acme.yaml(&["a.test"], folder.path())));
    serve(&mut acme, &gateway);
    gateway.wait_log(&["a.test: no certificate was issued: what came is due again already"]);
    gateway.wait_log(&["certificates taken up anew"]); // it serves, for what that is worth
    let next = metric(&gateway, "portcullis_acme_next_attempt_timestamp_seconds{host=\"a.test\"}").unwrap();
    assert!(next - now() > 200.0, "{}", next - now());
    assert_eq!(acme.orders(), 1);
}
