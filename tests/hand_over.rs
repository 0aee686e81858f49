//! A new process takes over from a running one without a request lost, or does not and the old one goes on.
//!
//! A successor that fails is a shell script in the binary's place, which speaks as far as its scenario goes.

mod kit;

use kit::gateway::{is_alive, run, running, successor_script, wait_closed};
use kit::origin::reply;
use kit::raw::get;
use kit::relay::relay;
use kit::traffic::{self, wait_for_more, Mix};
use kit::{until, wait_for, Gateway, Origin, Raw, Step};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn saying(text: &str) -> String {
    format!("routes: [{{path: /, respond: {{body: {text}}}}}]\n")
}

/// The old process leaves as soon as it can.
const NO_WINDOW: &str = "upgrade: {rollback_window: 0s}\n";

fn copy_binary(to: &Path) {
    std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), to).unwrap();
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap().success());
}

/// A copy of the binary that can be replaced.
struct Installed(tempfile::TempDir);

impl Installed {
    fn new() -> Installed {
        let installed = Installed(tempfile::tempdir().unwrap());
        installed.put(copy_binary);
        installed
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("portcullis")
    }

    /// Everything that was started from it.
    fn processes(&self) -> Vec<u32> {
        running(&self.path())
    }

    fn put(&self, write: impl FnOnce(&Path)) {
        let new = self.0.path().join("new");
        write(&new);
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    /// [`successor_script`] in its place.
    fn script(&self, then: &str) {
        let text = successor_script(then);
        self.put(|path| std::fs::write(path, text).unwrap());
    }
}

/// Ten, and ten times as many reloads, unless the soak asks for more.
fn upgrades() -> usize {
    std::env::var("PORTCULLIS_UPGRADES").map_or(10, |count| count.parse().unwrap())
}

/// Upgrades and reloads under clients of every kind, so far away; none may be failed, and nothing may be left behind.
fn lose_nothing(round_trip: Duration, window: &str) {
    let (origin, websocket) = (traffic::origin(), traffic::websocket_origin());
    let yaml = format!(
        "{window}routes:\n  - {{path: /, upstream: \"{}\"}}\n  - {{path: /ws, upstream: \"http://{websocket}\"}}\n",
        origin.url()
    );
    let mut gateway = Gateway::start_controlled(&yaml);
    let mut pids = vec![gateway.pid()];
    let mut sizes = Vec::new();
    let address =
        if round_trip.is_zero() { gateway.address() } else { relay(gateway.address(), round_trip / 2) };
    traffic::under_traffic(address, Mix::All, |answered| {
        for round in 0..upgrades() {
            for reload in 0..10 {
                gateway.configure_controlled(&format!("{yaml}grace_period: {}s\n", 30 + reload % 3));
                gateway.command_done("reload");
            }
            let said = gateway.command_done("upgrade");
            let pid = gateway.serving_pid();
            let both = format!("process {pid} serves in place of process {}", pids[round]);
            assert!(said.contains(&both) && !pids.contains(&pid), "{said}");
            wait_for_more(answered);
            until("the old process leaves", || {
                if round == 0 {
                    !gateway.is_running()
                } else {
                    !is_alive(pids[round])
                }
            });
            sizes.push((kit::gateway::rss_kib(pid), descriptors(pid)));
            pids.push(pid);
        }
        println!(
            "{} requests answered, KiB and descriptors after each upgrade: {sizes:?}",
            answered.load(Ordering::Relaxed)
        );
    });
    assert_eq!(gateway.wait_exit().code(), Some(0));
    let generation = format!("generation   {}", upgrades() * 11 + 1);
    assert!(gateway.command_done("status").contains(&generation), "it counts on");
    let wrong = |l: &String| l.contains("ERROR portcullis") || l.contains("panic") || l.contains("cut off");
    let errors: Vec<String> = gateway.log().into_iter().filter(wrong).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let ((first, few), (last, many)) = (sizes[0], sizes[sizes.len() - 1]);
    assert!(last < first + (8 << 10) && many < few + 25, "memory or descriptors grow: {sizes:?}");
    assert_eq!(running(&gateway.file()), [pids[pids.len() - 1]], "nothing is left behind");
    kill("TERM", *pids.last().unwrap());
    until("the last process leaves", || running(&gateway.file()).is_empty());
}

#[test]
fn upgrades_and_reloads_lose_nothing() {
    lose_nothing(Duration::ZERO, NO_WINDOW);
}

#[test]
fn upgrades_and_reloads_lose_nothing_twenty_milliseconds_away() {
    lose_nothing(Duration::from_millis(20), "upgrade: {rollback_window: 1s}\n");
}

#[test]
fn sigusr2_upgrades_and_what_is_in_flight_ends_where_it_began() {
    let origin = Origin::start(|_| [vec![Step::Hold], reply(200, "done")].concat());
    let mut gateway = Gateway::start_controlled(&format!(
        "{NO_WINDOW}routes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let mut busy = Raw::connect(gateway.address());
    busy.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    let mut kept = Raw::connect(gateway.address());
    gateway.signal("USR2");
    gateway.wait_log(&["upgraded: process ", "requests 1, connections 2"]);
    assert!(kept.closed(), "without a window a connection that only waits is closed");
    assert!(gateway.is_running(), "a request is in flight");
    origin.release();
    let answer = busy.response();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("done", Some("close")));
    assert_eq!(gateway.wait_exit().code(), Some(0));
    origin.release();
    assert_eq!(get(gateway.address(), "/").text(), "done");
}

#[test]
fn in_the_window_kept_connections_are_still_answered_once() {
    let mut gateway =
        Gateway::start_controlled(&format!("upgrade: {{rollback_window: 10m}}\n{}", saying("hi")));
    let mut kept = Raw::connect(gateway.address());
    kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(kept.response().field("connection"), Some("keep-alive"));
    gateway.command_done("upgrade");
    let successor = gateway.serving_pid();
    let status = gateway.command_done("status");
    assert!(status.contains(&format!("predecessor  process {} is still here", gateway.pid())), "{status}");
    kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(kept.response().field("connection"), Some("close"));
    // SIGTERM to the old one in the window ends the old one alone.
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert_eq!(get(gateway.address(), "/").text(), "hi");
    until("it is known to be gone", || !gateway.command_done("status").contains("predecessor"));
    kill("TERM", successor);
    wait_closed(gateway.address());
}

#[test]
fn sigterm_to_the_new_one_in_the_window_ends_both() {
    let mut gateway =
        Gateway::start_controlled(&format!("upgrade: {{rollback_window: 10m}}\n{}", saying("hi")));
    gateway.command_done("upgrade");
    let successor = gateway.serving_pid();
    kill("TERM", successor);
    assert_eq!(gateway.wait_exit().code(), Some(0));
    gateway.wait_log(&["its successor was told to stop"]);
    until("the new one ends as well", || !is_alive(successor));
    wait_closed(gateway.address());
}

#[test]
fn when_the_new_one_is_killed_the_old_one_takes_over_again() {
    let mut gateway =
        Gateway::start_controlled(&format!("upgrade: {{rollback_window: 10m}}\n{}", saying("hi")));
    let address = gateway.address();
    for _ in 0..2 {
        gateway.command_done("upgrade");
        let successor = gateway.serving_pid();
        kill("KILL", successor);
        gateway.wait_log(&["takes over again from", &successor.to_string(), "it is gone"]);
        let mut kept = Raw::connect(address);
        for _ in 0..2 {
            kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
            let answer = kept.response();
            assert_eq!((answer.text().as_str(), answer.field("connection")), ("hi", Some("keep-alive")));
        }
        assert_eq!(gateway.serving_pid(), gateway.pid());
    }
    gateway.configure_controlled(&saying("new"));
    gateway.command_done("reload");
    assert_eq!(get(address, "/").text(), "new");
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn when_the_new_one_fails_its_clients_the_old_one_takes_over_again() {
    let origin = Origin::text("hi");
    let window = "upgrade: {rollback_window: 10m}\n";
    let gateway =
        Gateway::start_controlled(&format!("{window}routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let address = gateway.address();
    for _ in 0..100 {
        assert_eq!(get(address, "/").status, 200);
    }
    let (_held, nowhere) = kit::origin::refusing();
    gateway.configure_controlled(&format!("{window}routes: [{{path: /, upstream: \"http://{nowhere}\"}}]"));
    gateway.command_done("upgrade");
    let successor = gateway.serving_pid();
    let mut failed = 0;
    until("the old one takes over again", || {
        failed += usize::from(get(address, "/").status == 502);
        gateway.log().iter().any(|l| l.contains("takes over again from"))
    });
    assert!(failed >= 20, "{failed}");
    gateway.wait_log(&["takes over again from", "with a 5xx of the gateway's own: ", "%, and 0% before"]);
    until("the new one ends", || !is_alive(successor));
    for _ in 0..20 {
        assert_eq!(get(address, "/").text(), "hi");
    }
    assert_eq!(gateway.serving_pid(), gateway.pid());
}

/// Each failing successor leaves the old process as it was, and is told to who asked.
#[test]
fn a_successor_that_fails_changes_nothing() {
    let installed = Installed::new();
    let gateway =
        Gateway::start_binary(&installed.path(), &format!("upgrade: {{timeout: 1s}}\n{}", saying("hi")));
    let address = gateway.address();
    let mut kept = Raw::connect(address);
    let mut fails = |what: &str, reason: &str| {
        let (code, _, err) = gateway.operate("upgrade");
        assert_eq!(code, 1, "{what}");
        assert!(err.contains(reason), "{what}: {err}");
        gateway.wait_log(&["ERROR", &format!("not upgraded: process {} goes on", gateway.pid())]);
        kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(kept.response().field("connection"), Some("keep-alive"), "{what}");
        assert_eq!(gateway.serving_pid(), gateway.pid(), "{what}");
    };
    traffic::under_traffic(address, Mix::Plain, |_| {
        std::fs::remove_file(installed.path()).unwrap();
        fails("no binary", "cannot be started: No such file");
        installed.put(|path| std::fs::write(path, "\x7fELF nonsense").unwrap());
        fails("no program", "cannot be started:");
        installed.put(|path| std::fs::write(path, "#!/bin/sh\nexit 7\n").unwrap());
        fails("it ends at once", "ended at once: exit status: 7");
        installed.script("exit 0");
        fails("it ends before its first word", "the successor ended; its log says why");
        installed.script("echo 'good morning' >&0; sleep 60");
        fails("another language", "the successor cannot be understood");
        installed.script("hello 2; read -r line");
        fails("another protocol", "hand over differently (1, 2): restart");
        installed.script("hello; exit 0");
        fails("it ends after its first word", "the successor");
        installed.script("hello; sockets; echo '{\"Refused\":{\"reasons\":[\"no certificate\"]}}' >&0");
        fails("it refuses", "no certificate");
        installed.script("hello; sockets; kill -SEGV $$");
        fails("it crashes with the sockets", "the successor ended; its log says why");
        installed.script("hello; sockets; sleep 60");
        fails("it hangs with the sockets", "the successor said nothing within");
        installed.script("hello; sockets; echo '\"Ready\"' >&0; read -r go; kill -KILL $$");
        fails("it crashes when it may go", "the successor ended; its log says why");
        installed.script("hello; sockets; echo '\"Serving\"' >&0; read -r go");
        fails("it is hasty", "the successor said Serving instead of Ready");
    });
    until("no process is left behind", || installed.processes() == [gateway.pid()]);
    // The real one again.
    installed.put(copy_binary);
    gateway.command_done("upgrade");
    assert_ne!(gateway.serving_pid(), gateway.pid());
}

#[test]
fn a_bad_configuration_is_told_to_who_asked_and_the_old_one_goes_on() {
    let gateway = Gateway::start_controlled(&saying("old"));
    gateway.configure_controlled("routes: [{path: /, respnd: {}}]\n");
    let (code, _, err) = gateway.operate("upgrade");
    assert_eq!(code, 1);
    assert!(err.contains("portcullis.yaml:3:20: routes[0].respnd: unknown key"), "{err}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    gateway.configure_controlled(&format!("listeners: [{{address: \"{at}\"}}]\n{}", saying("new")));
    let (code, _, err) = gateway.operate("upgrade");
    assert_eq!((code, err.trim_end()), (1, &*format!("cannot listen on {at}: another process does already")));
    assert_eq!(get(gateway.address(), "/").text(), "old");
    assert_eq!(gateway.serving_pid(), gateway.pid());
}

#[test]
fn sigterm_while_the_new_one_starts_ends_both() {
    let installed = Installed::new();
    let mut gateway = Gateway::start_binary(&installed.path(), &saying("hi"));
    installed.script("hello; sockets; echo here >&2; sleep 600");
    gateway.signal("USR2");
    gateway.wait_log(&["here"]);
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    until("nothing is left", || installed.processes().is_empty());
}

#[test]
fn what_needs_a_new_process_gets_one() {
    let installed = Installed::new();
    let gateway =
        Gateway::start_binary(&installed.path(), &format!("threads: 2\n{NO_WINDOW}{}", saying("old")));
    let pid = gateway.pid();
    // Nothing but the routes: a reload.
    gateway.configure_controlled(&format!("threads: 2\n{NO_WINDOW}{}", saying("routes")));
    assert!(gateway.command_done("reload-or-upgrade").contains("reloaded"));
    assert_eq!((gateway.serving_pid(), get(gateway.address(), "/").text().as_str()), (pid, "routes"));
    // Threads: a new process.
    gateway.configure_controlled(&format!("threads: 3\n{NO_WINDOW}{}", saying("threads")));
    let said = gateway.command_done("reload-or-upgrade");
    assert!(
        said.contains("threads: a change needs a new process") && said.contains("serves in place of"),
        "{said}"
    );
    let second = gateway.serving_pid();
    assert_ne!(second, pid);
    until("the new one answers", || get(gateway.address(), "/").text() == "threads");
    // The same binary by another file: a new process.
    installed.put(copy_binary);
    let said = gateway.command_done("reload-or-upgrade");
    assert!(said.contains("the binary has changed"), "{said}");
    assert_ne!(gateway.serving_pid(), second);
}

#[test]
fn listeners_change_with_an_upgrade() {
    let gateway = Gateway::start_controlled(&format!("{NO_WINDOW}{}", saying("old")));
    let first = gateway.address();
    let both = "listeners: [{address: \"[::1]:0\"}, {address: \"127.0.0.1:0\"}]\n";
    gateway.configure_controlled(&format!("{both}{NO_WINDOW}{}", saying("new")));
    gateway.command_done("upgrade");
    until("the socket is the same", || get(first, "/").text() == "new");
    let status = gateway.command_done("status");
    assert!(status.contains("listeners    [::1]:") && status.contains(&first.to_string()), "{status}");
    gateway.configure_controlled(&format!(
        "listeners: [{{address: \"[::1]:0\"}}]\n{NO_WINDOW}{}",
        saying("new")
    ));
    gateway.command_done("upgrade");
    wait_closed(first);
}

/// By a supervisor that starts processes itself.
#[test]
fn run_upgrade_takes_the_sockets_of_the_running_gateway() {
    let mut gateway = Gateway::start_controlled(&format!("{NO_WINDOW}{}", saying("old")));
    let address = gateway.address();
    gateway.configure_controlled(&format!("{NO_WINDOW}{}", saying("new")));
    let file = gateway.file().display().to_string();
    let mut second = Gateway::command(&["run", "--upgrade", "-c", &file], tempfile::tempdir().unwrap(), &[]);
    second.wait_log(&["serving in place of process", &gateway.pid().to_string()]);
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert_eq!(get(address, "/").text(), "new");
    assert_eq!(gateway.serving_pid(), second.pid());
    second.signal("TERM");
    assert_eq!(second.wait_exit().code(), Some(0));

    // Nobody to take over from.
    let (code, _, err) = run(&["run", "--upgrade", "-c", &file], gateway.folder.path(), &[]);
    assert_eq!(code, 3);
    assert!(err.contains("no gateway takes commands at"), "{err}");
}

#[test]
fn the_demo_cannot_be_upgraded_and_says_so() {
    let mut gateway =
        Gateway::command(&["demo", "--listen", "127.0.0.1:0"], tempfile::tempdir().unwrap(), &[]);
    gateway.wait_log(&["listening on"]);
    gateway.signal("USR2");
    gateway.wait_log(&["Upgrade refused: the configuration came from no file"]);
    assert!(gateway.is_running());
}

/// A socket pair of the gateway with itself is no upstream's business and in no log.
#[test]
fn the_gateway_proves_itself_before_it_takes_over() {
    let origin = Origin::text("hi");
    let gateway = Gateway::start_controlled(&format!(
        "{NO_WINDOW}routes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    gateway.command_done("upgrade");
    assert!(origin.received().is_empty());
    let log = gateway.log();
    assert!(!log.iter().any(|l| l.contains("404")), "{log:#?}");
    assert!(log.iter().any(|l| l.contains("it answers itself")), "{log:#?}");
    let status = gateway.command_done("status");
    assert!(status.contains("answered     0,"), "nor is it counted: {status}");
}

/// A request that began before the upgrade and outlasts the window gets the whole grace period after it.
#[test]
fn what_outlasts_the_window_is_not_cut_off() {
    let origin = Origin::start(|_| [vec![Step::Hold], reply(200, "done")].concat());
    let mut gateway = Gateway::start_controlled(&format!(
        "grace_period: 1s\nupgrade: {{rollback_window: 1s}}\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let mut busy = Raw::connect(gateway.address());
    busy.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    gateway.command_done("upgrade");
    gateway.wait_log(&["its successor serves", "at most 1s"]);
    origin.release();
    assert_eq!(busy.response().text(), "done");
    drop(busy);
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(!gateway.log().iter().any(|l| l.contains("cut off")), "{:#?}", gateway.log());
}

/// Whoever asks to be relieved serves until the other one says that it does.
#[test]
fn a_new_one_that_nobody_relieves_serves_on() {
    let origin = Origin::start(|_| [vec![Step::Hold], reply(200, "done")].concat());
    let keys = "grace_period: 10m\nupgrade: {rollback_window: 10m}\n";
    let mut gateway =
        Gateway::start_controlled(&format!("{keys}routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let address = gateway.address();
    let mut busy = Raw::connect(address);
    busy.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    let (_held, nowhere) = kit::origin::refusing();
    gateway.configure_controlled(&format!("{keys}routes: [{{path: /, upstream: \"http://{nowhere}\"}}]"));
    gateway.command_done("upgrade");
    let successor = gateway.serving_pid();
    gateway.signal("TERM");
    gateway.wait_log(&["SIGTERM: no new connections; requests in flight: 1"]);
    until("the new one asks to be relieved", || {
        get(address, "/");
        gateway.log().iter().any(|l| l.contains("is asked to take over again"))
    });
    // The old one leaves, and has no ear for it.
    origin.release();
    assert_eq!(busy.response().text(), "done");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    gateway.wait_log(&["the process before this one is gone", &format!("process {successor} goes on")]);
    assert_eq!(get(address, "/").status, 502);
    assert!(is_alive(successor) && gateway.serving_pid() == successor);
}

/// Without a service manager nobody else would.
#[test]
fn when_the_old_one_dies_before_it_says_go_the_new_one_serves() {
    let (_silent, slow) = kit::origin::silent();
    let mut gateway = Gateway::start_controlled(&saying("old"));
    let address = gateway.address();
    gateway.configure_controlled(&format!(
        "upstreams: {{a: {{targets: [\"{slow}\"], health_check: {{path: /, interval: 1s, timeout: 1s}}}}}}\n{}",
        saying("new")
    ));
    gateway.signal("USR2");
    until("the new one has the sockets", || {
        gateway.log().iter().filter(|l| l.contains("routes: 1, from")).count() == 2
    });
    gateway.signal("KILL");
    gateway.wait_exit();
    let left = wait_for("the new one", || running(&gateway.file()).first().copied());
    assert_eq!(get(address, "/").text(), "new", "the connection waits in the socket's queue");
    gateway.wait_log(&["is gone before it said go"]);
    kill("TERM", left);
    until("it ends", || running(&gateway.file()).is_empty());
}

/// However the two meet.
#[test]
fn sigterm_at_any_moment_of_an_upgrade_leaves_nothing_behind() {
    for millis in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 25, 30] {
        let mut gateway = Gateway::start_controlled(&format!("{NO_WINDOW}{}", saying("hi")));
        gateway.signal("USR2");
        std::thread::sleep(Duration::from_millis(millis));
        if gateway.is_running() {
            gateway.signal("TERM");
        }
        gateway.wait_exit();
        let log = gateway.log();
        if log.iter().any(|l| l.contains("upgraded: process")) {
            // It had been replaced by then; the signal was for a process that was leaving anyway.
            let successor = gateway.serving_pid();
            kill("TERM", successor);
        }
        until(&format!("nothing is left, {millis} ms"), || running(&gateway.file()).is_empty());
    }
}

/// What a reload is about to bind is handed over too.
#[test]
fn a_reload_that_is_under_way_ends_before_an_upgrade_begins() {
    let (_silent, slow) = kit::origin::silent();
    let gateway = Gateway::start_controlled(&format!("{NO_WINDOW}{}", saying("old")));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = taken.local_addr().unwrap();
    drop(taken);
    gateway.configure_controlled(&format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}, {{address: \"{second}\"}}]\n{NO_WINDOW}\
         upstreams: {{a: {{targets: [\"{slow}\"], health_check: {{path: /, interval: 1s, timeout: 1s}}}}}}\n{}",
        saying("new")
    ));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| gateway.operate("reload"));
        until("the new address is bound", || std::net::TcpListener::bind(second).is_err());
        let said = gateway.command_done("upgrade");
        assert!(said.contains("serves in place of"), "{said}");
        assert_eq!(reload.join().unwrap().0, 0);
    });
    assert_eq!(get(second, "/").text(), "new");
    assert_eq!(get(gateway.address(), "/").text(), "new");
}
