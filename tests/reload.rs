//! Reload by SIGHUP: whole or not at all, with nothing lost and nothing left behind.

mod kit;

use kit::origin::reply;
use kit::raw::get;
use kit::{until, Gateway, Origin, Raw, Step};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// One route that answers this.
fn saying(text: &str) -> String {
    format!("routes: [{{path: /, respond: {{body: \"{text}\"}}}}]\n")
}

/// `app` over these origins, with these further keys; `routes` has what else routes hold.
fn app(origins: &[&Origin], keys: &str, routes: &str) -> String {
    let targets: Vec<String> = origins.iter().map(|o| format!("\"{}\"", o.target())).collect();
    format!(
        "upstreams:\n  app: {{targets: [{}]{keys}}}\nroutes:\n  - {{path: /, upstream: app}}\n{routes}",
        targets.join(", ")
    )
}

/// What a request on a kept connection is answered.
fn ask(client: &mut Raw, target: &str) -> (u16, String) {
    let response = client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n")).response();
    (response.status, response.text())
}

fn checks(origin: &Origin) -> usize {
    origin.received().iter().filter(|r| r.target() == "/healthz").count()
}

#[test]
fn a_new_route_appears_and_an_old_one_goes_on_a_kept_connection_too() {
    let gateway = Gateway::start("routes: [{path: /old, respond: {body: old}}]");
    let mut kept = Raw::connect(gateway.address());
    assert_eq!(ask(&mut kept, "/old"), (200, "old".to_owned()));
    let line = gateway.reload("routes: [{path: /new, respond: {body: new}}, {path: /more, respond: {}}]");
    assert!(line.contains("generation 2, routes: 2, upstreams: 0 (0 new, 0 removed), in "), "{line}");
    assert_eq!(ask(&mut kept, "/new"), (200, "new".to_owned()));
    assert_eq!(ask(&mut kept, "/old").0, 404);
    assert_eq!(get(gateway.address(), "/new").text(), "new");
}

#[test]
fn a_file_with_errors_changes_nothing_and_every_error_is_logged_as_check_prints_it() {
    let gateway = Gateway::start(&saying("good"));
    let bad = "listeners: [{address: \"127.0.0.1:0\"}]\nroutes:\n  - pth: /\n    upstream: nowhere\n  - {path: /new, respond: {status: 99}}\n";
    let line = gateway.reload(bad);
    assert!(line.contains("not reloaded: generation 1 goes on"), "{line}");
    let file = gateway.file().display().to_string();
    let (code, _, printed) = kit::gateway::run(&["check", "-c", &file], gateway.folder.path(), &[]);
    assert_eq!((code, printed.lines().count()), (1, 3), "{printed}");
    for error in printed.lines() {
        assert!(error.starts_with(&format!("{file}:")), "{error}");
        gateway.wait_log(&["ERROR", error]);
    }
    assert_eq!(get(gateway.address(), "/new").text(), "good");
    assert!(gateway.reload(&saying("better")).contains("generation 2"));
    assert_eq!(get(gateway.address(), "/").text(), "better");
}

#[test]
fn a_file_that_is_gone_changes_nothing() {
    let gateway = Gateway::start(&saying("good"));
    std::fs::remove_file(gateway.file()).unwrap();
    assert!(gateway.reload_as_is().contains("not reloaded"));
    gateway.wait_log(&["ERROR", "portcullis.yaml: No such file or directory"]);
    assert_eq!(get(gateway.address(), "/").text(), "good");
}

#[test]
fn files_that_values_name_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "first").unwrap();
    let yaml = saying(&format!("${{file:{}}}", secret.display()));
    let gateway = Gateway::start(&yaml);
    assert_eq!(get(gateway.address(), "/").text(), "first");
    std::fs::write(&secret, "second\n").unwrap();
    gateway.reload_as_is();
    assert_eq!(get(gateway.address(), "/").text(), "second");
}

#[test]
fn a_request_in_flight_ends_on_the_configuration_it_began_with() {
    let old = Origin::start(|_| [vec![Step::Hold], reply(200, "old")].concat());
    let new = Origin::text("new");
    let yaml = |origin: &Origin, name: &str| {
        let edits = format!("response_headers: {{set: {{x-from: {name}}}}}");
        format!("routes: [{{path: /, upstream: \"{}\", {edits}}}]", origin.url())
    };
    let gateway = Gateway::start(&yaml(&old, "old"));
    let mut slow = Raw::connect(gateway.address());
    slow.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    old.wait_count(1);
    let line = gateway.reload(&yaml(&new, "new"));
    assert!(line.contains("upstreams: 1 (1 new, 1 removed)"), "{line}");
    let response = get(gateway.address(), "/");
    assert_eq!((response.text().as_str(), response.field("x-from")), ("new", Some("new")));
    old.release();
    let response = slow.response();
    assert_eq!((response.text().as_str(), response.field("x-from")), ("old", Some("old")));
    assert_eq!(ask(&mut slow, "/").1, "new", "the next one on the same connection");
}

#[test]
fn an_unchanged_upstream_keeps_its_health_and_its_place_in_the_round() {
    let sick = Origin::start(|r| if r.target() == "/healthz" { reply(500, "") } else { reply(200, "sick") });
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let check = ", health_check: {path: /healthz, interval: 60s}";
    let gateway = Gateway::start(&app(&[&sick, &a, &b], check, ""));
    gateway.wait_log(&[&sick.target(), "is unhealthy: it answered 500"]);
    let more = "  - {path: /more, respond: {body: more}}\n";
    let mut answers = Vec::new();
    for n in 0..12 {
        let line = gateway.reload(&app(&[&sick, &a, &b], check, if n % 2 == 0 { more } else { "" }));
        assert!(line.contains("upstreams: 1 (0 new, 0 removed)"), "{line}");
        answers.push(get(gateway.address(), "/").text());
    }
    assert!(answers.contains(&"a".to_owned()) && answers.contains(&"b".to_owned()), "in turn: {answers:?}");
    assert!(!answers.contains(&"sick".to_owned()), "{answers:?}");
    for origin in [&sick, &a, &b] {
        assert_eq!(checks(origin), 1, "no check but the first");
    }
}

#[test]
fn a_new_upstream_is_checked_before_it_gets_a_request() {
    let old = Origin::text("old");
    let sick = Origin::start(|r| if r.target() == "/healthz" { reply(500, "") } else { reply(200, "sick") });
    let well = Origin::text("well");
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", old.url()));
    let check = ", health_check: {path: /healthz, interval: 60s, unhealthy_after: 5}";
    gateway.reload(&app(&[&sick, &well], check, ""));
    assert_eq!((checks(&sick), checks(&well)), (1, 1));
    assert!((0..20).all(|_| get(gateway.address(), "/").text() == "well"));
}

#[test]
fn a_sick_target_stays_sick_when_its_upstream_gets_another_target() {
    let flapping = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&flapping);
    let one = Origin::start(move |r| {
        reply(if r.target() == "/healthz" && !well.load(Ordering::SeqCst) { 500 } else { 200 }, "one")
    });
    let (two, three) = (Origin::text("two"), Origin::text("three"));
    let check = ", health_check: {path: /healthz, interval: 60s, healthy_after: 3}";
    let gateway = Gateway::start(&app(&[&one, &two], check, ""));
    gateway.wait_log(&[&one.target(), "is unhealthy"]);
    flapping.store(true, Ordering::SeqCst);
    gateway.reload(&app(&[&one, &two, &three], check, ""));
    assert_eq!((checks(&one), checks(&two), checks(&three)), (2, 2, 1));
    assert!((0..20).all(|_| get(gateway.address(), "/").text() != "one"), "one pass of three");
}

#[test]
fn checks_of_what_is_gone_end_and_nothing_piles_up() {
    let (changing, removed, kept) = (Origin::text("x"), Origin::text("x"), Origin::text("x"));
    let check = "health_check: {path: /healthz, interval: 40ms}";
    let yaml = |timeout: usize, with_removed: bool| {
        let upstream = |name: &str, origin: &Origin, more: &str| {
            format!("  {name}: {{targets: [\"{}\"], {check}{more}}}\n", origin.target())
        };
        let mut text = "upstreams:\n".to_owned() + &upstream("kept", &kept, "");
        text += &upstream("changing", &changing, &format!(", timeouts: {{read: {timeout}s}}"));
        if with_removed {
            text += &upstream("removed", &removed, "");
        }
        text + "routes: [{path: /, upstream: [{to: kept}, {to: changing}]}]\n"
    };
    let gateway = Gateway::start(&yaml(30, true));
    for n in 0..100 {
        gateway.reload(&yaml(31 + n, n % 2 == 1));
    }
    assert!(gateway.reload(&yaml(30, false)).contains("generation 102"));
    until("the last check of what is gone is over", || {
        let (removed_before, kept_before) = (checks(&removed), checks(&kept));
        until("two checks", || checks(&kept) >= kept_before + 2);
        checks(&removed) == removed_before
    });
    let (changing_before, removed_before, kept_before) = (checks(&changing), checks(&removed), checks(&kept));
    until("twenty checks", || checks(&kept) >= kept_before + 20);
    assert_eq!(checks(&removed), removed_before);
    let during = checks(&changing) - changing_before;
    assert!((10..=40).contains(&during), "{during} checks instead of about 20: one task is left, not 100");
}

#[test]
fn fifty_reloads_under_load_cost_no_request() {
    let origins = [Origin::text("a"), Origin::text("b")];
    let check = ", health_check: {path: /healthz, interval: 100ms}";
    let all = [&origins[0], &origins[1]];
    let gateway = Gateway::start(&app(&all, check, ""));
    let (address, stop, done) = (gateway.address(), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                let mut kept = Raw::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let status = if n < 4 { ask(&mut kept, "/x").0 } else { get(address, "/x").status };
                    assert_eq!(status, 200);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for n in 0..50 {
            let before = done.load(Ordering::SeqCst);
            let more = format!("  - {{path: /more, upstream: \"{}\"}}\n", all[n % 2].url());
            let line = match n % 5 {
                0 => gateway.reload(&app(&all, check, &more)), // an inline upstream comes
                1 => gateway.reload(&app(&all[..1], check, "")), // a target goes, as does the upstream
                2 => gateway.reload("routes: []\n"),
                3 => gateway.reload(&app(&all, ", balance: random", "")),
                _ => gateway.reload(&app(&all, check, "")),
            };
            assert_eq!(line.contains("not reloaded"), n % 5 == 2, "{line}");
            until("load goes on", || done.load(Ordering::SeqCst) > before + 20);
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(gateway.reload_as_is().contains("generation 42"));
}

#[test]
fn of_a_storm_of_signals_none_is_lost_and_the_last_word_wins() {
    let mut gateway = Gateway::start(&saying("0"));
    for n in 1..=200 {
        gateway.configure(&saying(&n.to_string()));
        gateway.signal("HUP");
    }
    until("the last one serves", || get(gateway.address(), "/").text() == "200");
    assert!(gateway.is_running());
    assert!(!gateway.log().iter().any(|l| l.contains("not reloaded")));
}

#[test]
fn what_needs_a_new_process_is_refused_by_name_and_nothing_of_the_file_is_taken() {
    let gateway = Gateway::start(&format!("threads: 2\n{}", saying("as it was")));
    let yaml = "threads: 3\ncontrol: {socket: /nowhere}\n";
    assert!(gateway.reload(&format!("{yaml}{}", saying("new"))).contains("generation 1 goes on"));
    gateway.wait_log(&[
        "ERROR",
        "portcullis.yaml: threads: a change needs a new process",
        "it is 2 now and would be 3",
    ]);
    gateway.wait_log(&[
        "ERROR",
        "control.socket: a change needs a new process",
        "left out now and would be /nowhere",
    ]);
    assert_eq!(get(gateway.address(), "/").text(), "as it was");
    assert!(gateway.reload(&saying("the same")).contains("generation 2"), "threads left out stay");
    assert_eq!(get(gateway.address(), "/").text(), "the same");
}

#[test]
fn limits_and_the_grace_period_change() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let routes =
        format!("routes: [{{path: /, respond: {{}}}}, {{path: /slow, upstream: \"{}\"}}]", origin.url());
    let mut gateway = Gateway::start(&format!("grace_period: 10m\n{routes}"));
    let mut kept = Raw::connect(gateway.address());
    let long = format!("/?{}", "x".repeat(200));
    assert_eq!(ask(&mut kept, &long).0, 200);
    gateway.reload(&format!("grace_period: 300ms\nlimits: {{max_target: 100B, connections: 2}}\n{routes}"));
    assert_eq!(ask(&mut kept, "/").0, 200);
    assert_eq!(ask(&mut kept, &long).0, 414);
    assert!(kept.closed());
    let mut slow = Raw::connect(gateway.address());
    slow.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    until("two are the most", || {
        let _second = Raw::connect(gateway.address());
        get(gateway.address(), "/").status == 503
    });
    gateway.signal("TERM");
    gateway.wait_log(&["requests in flight: 1,", "at most 300ms"]);
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn while_the_process_leaves_nothing_is_reloaded() {
    let origin = Origin::start(|_| [vec![Step::Hold], reply(200, "done")].concat());
    let yaml = format!("grace_period: 10m\nroutes: [{{path: /, upstream: \"{}\"}}]", origin.url());
    let mut gateway = Gateway::start(&yaml);
    let mut client = Raw::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    gateway.signal("TERM");
    gateway.wait_log(&["SIGTERM: no new connections"]);
    gateway.signal("HUP");
    gateway.wait_log(&["SIGHUP: the process is leaving; nothing is reloaded"]);
    origin.release();
    assert_eq!(client.response().text(), "done");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(!gateway.log().iter().any(|l| l.contains("] reloaded ")));
}

/// Neither killed nor lost: the first log line comes long before anybody waits for signals.
#[test]
fn a_signal_during_the_start_is_a_reload_after_it() {
    let (folder, held) = (tempfile::tempdir().unwrap(), Origin::start(|_| vec![Step::Hold]));
    let file = folder.path().join("portcullis.yaml");
    let check = ", health_check: {path: /, interval: 5s, timeout: 1s}";
    let yaml = format!("{}{}", kit::gateway::LISTEN, app(&[&held], check, ""));
    std::fs::write(&file, &yaml).unwrap();
    let gateway = Gateway::command(&["run", "-c", file.to_str().unwrap()], folder, &[]);
    gateway.wait_log(&["routes: 1, from"]);
    std::fs::write(&file, yaml + "  - {path: /more, respond: {}}\n").unwrap();
    gateway.signal("HUP");
    gateway.wait_log(&["] reloaded ", "generation 2, routes: 2"]);
}

#[test]
fn the_demo_has_no_file_to_reload() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::command(&["demo", "--listen", "127.0.0.1:0"], folder, &[]);
    gateway.wait_log(&["] listening on "]);
    gateway.signal("HUP");
    gateway.wait_log(&["nothing to reload"]);
    assert!(gateway.is_running());
}

#[test]
fn a_changed_file_is_reloaded_when_it_is_followed() {
    let gateway = Gateway::start(&format!("watch: true\n{}", saying("one")));
    let says = |text: &str| until(text, || get(gateway.address(), "/").text() == text);
    says("one");
    // By rename, as most editors do it.
    gateway.configure(&format!("watch: true\n{}", saying("two")));
    says("two");
    // Written over.
    let whole = std::fs::read_to_string(gateway.file()).unwrap().replace("two", "three");
    std::fs::write(gateway.file(), &whole).unwrap();
    says("three");
    // As Kubernetes does it: a link on the way is swapped.
    let folder = gateway.folder.path();
    for (name, text) in [("a", "four"), ("b", "five")] {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("portcullis.yaml"), whole.replace("three", text)).unwrap();
    }
    std::os::unix::fs::symlink("a", folder.join("data")).unwrap();
    std::os::unix::fs::symlink("data/portcullis.yaml", folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), gateway.file()).unwrap();
    says("four");
    std::os::unix::fs::symlink("b", folder.join("next")).unwrap();
    std::fs::rename(folder.join("next"), folder.join("data")).unwrap();
    says("five");
    // A bad one changes nothing, and the next good one is seen.
    std::fs::write(folder.join("b/portcullis.yaml"), "routes: 5\n").unwrap();
    gateway.wait_log(&["not reloaded: generation 5 goes on"]);
    says("five");
    std::fs::write(
        folder.join("b/portcullis.yaml"),
        whole.replace("three", "six").replace("watch: true\n", ""),
    )
    .unwrap();
    says("six");
    // Not followed any more.
    let before = gateway.log().len();
    gateway.configure(&saying("seven"));
    assert!(gateway.reload_as_is().contains("generation 7"));
    assert!(!gateway.log_from(before).iter().any(|l| l.contains("has changed")));
    says("seven");
}
