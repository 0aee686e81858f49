//! The unit files of `systemd/` under a real systemd, in a private world that `with-systemd.sh` makes: a scenario each.
//!
//! The script is not part of the repository: it is looked for beside it, or where `WITH_SYSTEMD` says. Where it cannot run
//! (it needs root, systemd, overlayfs and cgroup2), every scenario is skipped with a line that says so. In the world this
//! same test binary runs again and plays the scenario, so that it may use the kit.

mod kit;

use kit::gateway::successor_script;
use kit::raw::get;
use kit::traffic::{self, Mix};
use kit::{until, wait_for, Raw};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIG: &str = "/etc/portcullis/portcullis.yaml";
const BINARY: &str = "/usr/bin/portcullis";

fn script() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/with-systemd.sh");
    let path = std::env::var_os("WITH_SYSTEMD").map_or(beside, PathBuf::from);
    path.exists().then_some(path)
}

/// Runs a scenario of this file in a world of its own; the outcome is the scenario's.
fn in_a_world(scenario: &str, play: fn()) {
    if std::env::var_os("IN_THE_WORLD").is_some() {
        return play();
    }
    let Some(script) = script() else {
        eprintln!("SKIPPED {scenario}: there is no with-systemd.sh; set WITH_SYSTEMD");
        return;
    };
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let world = |arguments: &[&str]| {
        let mut command = Command::new("bash");
        command.arg(&script).args(["-u", units.to_str().unwrap()]).args(arguments);
        command.output().unwrap()
    };
    if !world(&["-n", "--", "true"]).status.success() {
        eprintln!("SKIPPED {scenario}: with-systemd.sh cannot make a world here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let played =
        world(&["--", "env", "IN_THE_WORLD=1", "RUST_BACKTRACE=0", this, scenario, "--exact", "--nocapture"]);
    let (out, err) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

fn systemctl(arguments: &[&str]) -> (bool, String) {
    let done = Command::new("systemctl").args(arguments).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn done(arguments: &[&str]) {
    let (good, text) = systemctl(arguments);
    assert!(good, "systemctl {arguments:?}: {text}\n{}", journal());
}

fn property(name: &str) -> String {
    systemctl(&["show", "-P", name, "portcullis.service"]).1.trim().to_owned()
}

fn main_pid() -> u32 {
    property("MainPID").parse().unwrap()
}

fn journal() -> String {
    let lines =
        Command::new("journalctl").args(["-u", "portcullis", "--no-pager", "-o", "cat"]).output().unwrap();
    String::from_utf8_lossy(&lines.stdout).into_owned()
}

fn wait_journal(parts: &[&str]) {
    until(&format!("a journal line with {parts:?}"), || {
        journal().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    });
}

/// Processes of the service.
fn processes() -> usize {
    let group = Path::new("/sys/fs/cgroup/system.slice/portcullis.service/cgroup.procs");
    std::fs::read_to_string(group).map_or(0, |pids| pids.lines().count())
}

fn configure(yaml: &str) {
    let new = format!("{CONFIG}.new");
    std::fs::write(&new, yaml).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::rename(new, CONFIG).unwrap();
}

fn install(write: impl FnOnce(&Path)) {
    let new = Path::new("/usr/bin/portcullis.new");
    write(new);
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, BINARY).unwrap();
}

fn install_binary() {
    install(|path| {
        std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), path).unwrap();
    });
}

fn port80() -> SocketAddr {
    "127.0.0.1:80".parse().unwrap()
}

fn saying(text: &str, more: &str) -> String {
    format!("listeners: [{{address: \"127.0.0.1:80\"}}]\n{more}routes: [{{path: /, respond: {{body: {text}}}}}]\n")
}

fn says() -> String {
    get(port80(), "/").text()
}

/// Installed and started, on a port that only root or the capability may bind.
fn started(more: &str) {
    std::fs::create_dir_all("/etc/portcullis").unwrap();
    install_binary();
    configure(&saying("one", more));
    done(&["start", "portcullis"]);
    assert_eq!(says(), "one");
}

fn under_traffic(work: impl FnOnce()) {
    traffic::under_traffic(port80(), Mix::Plain, |_| work());
}

#[test]
fn it_starts_reloads_and_stops() {
    in_a_world("it_starts_reloads_and_stops", || {
        started("");
        assert_eq!(property("ActiveState"), "active");
        assert_eq!(property("NFileDescriptorStore"), "1");
        let status = std::fs::read_to_string(format!("/proc/{}/status", main_pid())).unwrap();
        let user = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap().split_whitespace().next();
        assert_ne!(user, Some("0"), "it is not root");
        under_traffic(|| {
            let pid = main_pid();
            configure(&saying("two", ""));
            done(&["reload", "portcullis"]);
            assert_eq!((says().as_str(), main_pid()), ("two", pid));
            assert!(property("StatusText").contains("generation 2"));
            configure("listeners: nonsense\n");
            let (good, _) = systemctl(&["reload", "portcullis"]);
            assert!(!good, "a refused reload is a failed one");
            wait_journal(&["portcullis.yaml:1:12: listeners: expected a list"]);
            assert_eq!(
                (says().as_str(), main_pid(), property("ActiveState").as_str()),
                ("two", pid, "active")
            );
        });
        // Listeners that come are kept by the manager, and those that go are not.
        let two = "listeners: [{address: \"127.0.0.1:80\"}, {address: \"127.0.0.1:81\"}]\n";
        configure(&saying("two", "").replace("listeners: [{address: \"127.0.0.1:80\"}]\n", two));
        done(&["reload", "portcullis"]);
        until("both are kept", || property("NFileDescriptorStore") == "2");
        configure(&saying("two", ""));
        done(&["reload", "portcullis"]);
        until("one is kept", || property("NFileDescriptorStore") == "1");
        assert!(TcpStream::connect("127.0.0.1:81").is_err(), "it is closed");
        done(&["stop", "portcullis"]);
        assert_eq!((property("Result").as_str(), processes()), ("success", 0));
        assert!(TcpStream::connect(port80()).is_err(), "a stopped service listens no more");
    });
}

#[test]
fn a_new_binary_takes_over_and_a_bad_one_does_not() {
    in_a_world("a_new_binary_takes_over_and_a_bad_one_does_not", || {
        const WINDOW: &str = "upgrade: {rollback_window: 1s, timeout: 2s}\n";
        started(WINDOW);
        let first = main_pid();
        under_traffic(|| {
            let fails = |count: usize, what: &str| {
                // By signal, because a reload would run the bad binary itself.
                done(&["kill", "-s", "USR2", "--kill-who=main", "portcullis"]);
                until(what, || journal().matches("not upgraded: process").count() == count);
                assert_eq!((main_pid(), property("ActiveState").as_str()), (first, "active"), "{what}");
            };
            std::fs::remove_file(BINARY).unwrap();
            fails(1, "no binary");
            let bad = [
                ("no program", "nothing".to_owned()),
                ("it ends", "#!/bin/sh\nexit 1\n".to_owned()),
                ("it hangs", "#!/bin/sh\nexec sleep 60\n".to_owned()),
                ("it crashes with the sockets", successor_script("hello; sockets; kill -SEGV $$")),
                ("it hangs with the sockets", successor_script("hello; sockets; exec sleep 60")),
                (
                    "it crashes when it may go",
                    successor_script("hello; sockets; echo '\"Ready\"' >&0; read -r go; kill -KILL $$"),
                ),
            ];
            for (count, (what, text)) in bad.into_iter().enumerate() {
                install(|path| std::fs::write(path, text).unwrap());
                fails(count + 2, what);
            }
            // A good binary and a bad file.
            install_binary();
            configure("listeners: nonsense\n");
            assert!(!systemctl(&["reload", "portcullis"]).0);
            wait_journal(&["portcullis.yaml:1:12: listeners: expected a list"]);
            assert_eq!((main_pid(), property("ActiveState").as_str()), (first, "active"));
            until("nothing is left of them", || processes() == 1);
            configure(&saying("one", WINDOW));
            done(&["reload", "portcullis"]);
            let second = main_pid();
            assert_ne!(second, first);
            until("the old process leaves", || processes() == 1);
            assert_eq!((property("ActiveState").as_str(), property("NRestarts").as_str()), ("active", "0"));
            // The manager is the new one's parent, or it would not see its end.
            let stat = std::fs::read_to_string(format!("/proc/{second}/stat")).unwrap();
            assert_eq!(stat.rsplit(") ").next().unwrap().split(' ').nth(1), Some("1"), "{stat}");
        });
        done(&["stop", "portcullis"]);
        assert_eq!((property("Result").as_str(), processes()), ("success", 0));
    });
}

#[test]
fn a_killed_process_is_replaced_and_clients_wait_for_it() {
    in_a_world("a_killed_process_is_replaced_and_clients_wait_for_it", || {
        started("");
        for _ in 0..3 {
            let pid = main_pid();
            done(&["kill", "-s", "KILL", "--kill-who=main", "portcullis"]);
            until("it is gone", || !Path::new(&format!("/proc/{pid}")).exists());
            assert_eq!(says(), "one", "a connection made meanwhile waits in the socket's queue");
            let again = wait_for("a new process", || Some(main_pid()).filter(|&new| new != pid && new != 0));
            assert_ne!(again, pid);
            until("it is the service", || property("ActiveState") == "active");
        }
        assert_eq!(property("NRestarts"), "3");
    });
}

#[test]
fn whoever_dies_in_the_window_the_old_one_takes_over_again() {
    in_a_world("whoever_dies_in_the_window_the_old_one_takes_over_again", || {
        std::fs::create_dir_all("/run/systemd/system/portcullis.service.d").unwrap();
        std::fs::write("/run/systemd/system/portcullis.service.d/slow.conf", "[Service]\nRestartSec=1s\n")
            .unwrap();
        done(&["daemon-reload"]);
        started("upgrade: {rollback_window: 6s}\n");
        let first = main_pid();
        done(&["kill", "-s", "USR2", "--kill-who=main", "portcullis"]);
        until("the old one has heard", || journal().contains("upgraded: process"));
        let signal = |name: &str, pid: u32| {
            assert!(Command::new("kill")
                .args([&format!("-{name}"), &pid.to_string()])
                .status()
                .unwrap()
                .success());
        };
        let mut dead = vec![0, first];
        for round in 1..=3 {
            let one = wait_for("another main process", || Some(main_pid()).filter(|pid| !dead.contains(pid)));
            until("it is the service", || property("ActiveState") == "active");
            until("the old one stays", || journal().matches("serving in place of process").count() == round);
            dead.push(one);
            // The manager sees the death first, and is going to start the next one, which is no better.
            signal("STOP", first);
            signal("KILL", one);
            until("the manager has seen it", || property("ActiveState") != "active");
            signal("CONT", first);
            until("the old one takes over", || journal().matches("takes over again from").count() == round);
            assert_eq!(says(), "one");
        }
        under_traffic(|| {
            until("one process is the service", || {
                property("ActiveState") == "active" && processes() == 1 && !dead.contains(&main_pid())
            });
        });
        done(&["stop", "portcullis"]);
        assert_eq!(processes(), 0);
    });
}

/// Two processes would serve, and one of them be known to nobody.
#[test]
fn killed_while_the_new_one_starts_there_is_one_process_in_the_end() {
    in_a_world("killed_while_the_new_one_starts_there_is_one_process_in_the_end", || {
        started("");
        let first = main_pid();
        let (_silent, slow) = kit::origin::silent();
        let check = "health_check: {path: /, interval: 2s, timeout: 2s}";
        configure(&saying("two", &format!("upstreams: {{a: {{targets: [\"{slow}\"], {check}}}}}\n")));
        done(&["kill", "-s", "USR2", "--kill-who=main", "portcullis"]);
        until("the new one has the sockets", || journal().matches("routes: 1, from").count() == 2);
        done(&["kill", "-s", "KILL", "--kill-who=main", "portcullis"]);
        assert_eq!(says(), "two");
        until("one process is the service", || {
            property("ActiveState") == "active" && processes() == 1 && ![0, first].contains(&main_pid())
        });
        wait_journal(&["not started: process", "is gone before it said go"]);
    });
}

/// What is stored for the service is the old one's until it is gone: it may have to serve with it again.
#[test]
fn what_is_stored_follows_when_the_old_one_is_gone() {
    in_a_world("what_is_stored_follows_when_the_old_one_is_gone", || {
        started("upgrade: {rollback_window: 1m}\n");
        let first = main_pid();
        let two = "listeners: [{address: \"127.0.0.1:81\"}, {address: \"127.0.0.1:80\"}]\n";
        let one = "listeners: [{address: \"127.0.0.1:80\"}]\n";
        configure(&saying("one", "upgrade: {rollback_window: 1m}\n").replace(one, two));
        done(&["kill", "-s", "USR2", "--kill-who=main", "portcullis"]);
        until("the new one is the service", || ![0, first].contains(&main_pid()));
        until("the old one has heard", || journal().contains("upgraded: process"));
        assert!(TcpStream::connect("127.0.0.1:81").is_ok());
        assert_eq!(property("NFileDescriptorStore"), "1");
        assert!(Command::new("kill").args(["-TERM", &first.to_string()]).status().unwrap().success());
        until("both are stored", || property("NFileDescriptorStore") == "2");
    });
}

#[test]
fn a_restart_under_load_refuses_nobody() {
    in_a_world("a_restart_under_load_refuses_nobody", || {
        started("");
        under_traffic(|| {
            for _ in 0..3 {
                let pid = main_pid();
                done(&["restart", "portcullis"]);
                assert_ne!(main_pid(), pid);
            }
        });
    });
}

#[test]
fn a_process_that_hangs_is_replaced() {
    in_a_world("a_process_that_hangs_is_replaced", || {
        std::fs::create_dir_all("/run/systemd/system/portcullis.service.d").unwrap();
        std::fs::write("/run/systemd/system/portcullis.service.d/short.conf", "[Service]\nWatchdogSec=1s\n")
            .unwrap();
        done(&["daemon-reload"]);
        started("limits: {connections: 1}\n");
        let pid = main_pid();
        // A gateway that has no room for anybody else lives.
        let full = wait_for("the only place", || {
            let mut client = Raw::connect(port80());
            client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
            (client.response().status == 200).then_some(client)
        });
        for _ in 0..6 {
            let told = property("WatchdogTimestampMonotonic");
            until("it is told to live", || property("WatchdogTimestampMonotonic") != told);
        }
        assert_eq!((main_pid(), get(port80(), "/").status), (pid, 503));
        drop(full);
        done(&["kill", "-s", "STOP", "--kill-who=main", "portcullis"]);
        until("another serves", || ![0, pid].contains(&main_pid()) && property("ActiveState") == "active");
        assert_eq!(says(), "one");
    });
}

#[test]
fn it_starts_at_boot_after_the_network() {
    in_a_world("it_starts_at_boot_after_the_network", || {
        std::fs::create_dir_all("/etc/portcullis").unwrap();
        install_binary();
        // Not port 80: whatever web server this machine has starts with the target too.
        configure(&saying("one", "").replace(":80", ":8090"));
        done(&["enable", "portcullis"]);
        done(&["start", "multi-user.target"]);
        assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], 8090)), "/").text(), "one");
        let reached = |unit: &str| {
            let text = systemctl(&["show", "-P", "ActiveEnterTimestampMonotonic", unit]).1;
            text.trim().parse::<u64>().unwrap()
        };
        let (network, gateway, all) =
            (reached("network-online.target"), reached("portcullis"), reached("multi-user.target"));
        assert!(0 < network && network <= gateway && gateway <= all, "{network} {gateway} {all}");
    });
}

#[test]
fn the_socket_unit_and_the_instances_work() {
    in_a_world("the_socket_unit_and_the_instances_work", || {
        std::fs::create_dir_all("/etc/portcullis").unwrap();
        install_binary();
        configure(&saying("one", "").replace("127.0.0.1", "0.0.0.0"));
        done(&["start", "portcullis.socket"]);
        assert_eq!(property("ActiveState"), "inactive");
        assert_eq!(says(), "one", "the first connection starts it");
        until("it is active", || property("ActiveState") == "active");
        done(&["reload", "portcullis"]);
        // The manager listens whatever the gateway does, so nothing is bound anew and clients wait meanwhile.
        let operate = |command: &str| {
            let given = Command::new(BINARY)
                .args([command, "--socket", "/run/portcullis/control.sock"])
                .output()
                .unwrap();
            assert!(given.status.success(), "{command}: {}", String::from_utf8_lossy(&given.stderr));
        };
        operate("drain");
        let mut waiting = Raw::connect(port80());
        waiting.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        operate("undrain");
        assert_eq!(waiting.response().text(), "one");
        let (here, elsewhere) = ("0.0.0.0:80", "0.0.0.0:82");
        let both = saying("one", "").replace("127.0.0.1:80", here);
        for address in [elsewhere, here, elsewhere, here] {
            configure(&both.replace(here, address));
            done(&["reload", "portcullis"]);
        }
        assert_eq!(says(), "one");
        // A new process has it from the old one, in use or not.
        configure(&both.replace(here, elsewhere));
        done(&["reload", "portcullis"]);
        let old = main_pid();
        operate("upgrade");
        until("it is replaced", || ![0, old].contains(&main_pid()));
        configure(&both);
        done(&["reload", "portcullis"]);
        assert_eq!(says(), "one");
        done(&["stop", "portcullis.socket", "portcullis.service"]);

        for (name, port) in [("a", 8001), ("b", 8002)] {
            let yaml = saying(name, "").replace(":80", &format!(":{port}"));
            std::fs::write(format!("/etc/portcullis/{name}.yaml"), yaml).unwrap();
            done(&["start", &format!("portcullis@{name}")]);
        }
        for (name, port) in [("a", 8001), ("b", 8002)] {
            done(&["reload", &format!("portcullis@{name}")]);
            assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], port)), "/").text(), name);
        }
    });
}

#[test]
fn a_bad_start_says_why_and_is_a_failure() {
    in_a_world("a_bad_start_says_why_and_is_a_failure", || {
        std::fs::create_dir_all("/etc/portcullis").unwrap();
        install_binary();
        configure("listeners: 5\n");
        assert!(!systemctl(&["start", "portcullis"]).0);
        wait_journal(&["portcullis.yaml:1:12: listeners: expected a list"]);
        let taken = std::net::TcpListener::bind(port80()).unwrap();
        configure(&saying("one", ""));
        let _ = systemctl(&["reset-failed", "portcullis"]);
        assert!(!systemctl(&["start", "portcullis"]).0);
        wait_journal(&["cannot listen on 127.0.0.1:80: another process does already"]);
        drop(taken);
        until("it starts once the address is free", || says_if_there() == Some("one".to_owned()));
    });
}

fn says_if_there() -> Option<String> {
    TcpStream::connect(port80()).ok()?;
    Some(says())
}

/// 1.8 or better, of 10; without a world, since nothing has to run.
#[test]
fn the_units_are_hardened() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("SKIPPED the_units_are_hardened: there is no systemd-analyze");
        return;
    };
    assert!(version.status.success());
    for unit in ["portcullis.service", "portcullis@.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
        let folder = tempfile::tempdir().unwrap();
        // An instance, since a template cannot be judged.
        let copy = folder.path().join(unit.replace('@', "@x"));
        std::fs::copy(path, &copy).unwrap();
        let arguments = ["security", "--offline=true", "--threshold=18", "--no-pager"];
        let judged = Command::new("systemd-analyze").args(arguments).arg(&copy).output().unwrap();
        let text = [judged.stdout, judged.stderr].concat();
        assert!(judged.status.success(), "{unit}: {}", String::from_utf8_lossy(&text));
    }
}
