//! The README is run: its shell lines on free ports, its YAML against the files in `conf/`.

mod kit;

use kit::gateway::repository;
use kit::{wait_for, Gateway};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

fn readme() -> String {
    std::fs::read_to_string(repository("README.md")).unwrap()
}

/// The contents of the fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The files of `conf/` in a folder of their own, with free ports in place of the fixed ones.
struct Walk {
    folder: tempfile::TempDir,
    ports: Vec<(&'static str, String)>,
    gateways: Vec<Gateway>,
}

impl Walk {
    fn new() -> Walk {
        let held: Vec<TcpListener> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |l: &TcpListener| l.local_addr().unwrap().port().to_string();
        let ports = ["8080", "5001", "5002", "8081", "9901", "8443", "8082", "8083"]
            .into_iter()
            .zip(held.iter().map(port))
            .collect();
        let walk = Walk { folder: tempfile::tempdir().unwrap(), ports, gateways: Vec::new() };
        std::fs::create_dir(walk.folder.path().join("conf")).unwrap();
        for entry in std::fs::read_dir(repository("conf")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue; // whoever has walked here before has a certificate there
            }
            let text = walk.moved(&std::fs::read_to_string(&path).unwrap());
            std::fs::write(walk.folder.path().join("conf").join(path.file_name().unwrap()), text).unwrap();
        }
        walk
    }

    fn moved(&self, text: &str) -> String {
        // A socket of its own too, lest another walk meets this one's.
        let text = text.replace("/tmp/", &format!("{}/", self.folder.path().display()));
        self.ports.iter().fold(text, |text, (from, to)| text.replace(&format!(":{from}"), &format!(":{to}")))
    }

    /// Runs one line; what stands behind `#` must be in what it prints.
    fn run(&mut self, line: &str) {
        let (command, expected) = line.split_once(" # ").unwrap_or((line, ""));
        let command = self.moved(command.trim());
        if let Some(background) = command.strip_suffix('&') {
            let file = background
                .trim()
                .strip_prefix("portcullis run -c ")
                .expect("only servers go to the background");
            self.serve(&self.folder.path().join(file));
            return;
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-c", &command])
            .env("PATH", path)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let printed =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!expected.is_empty(), "{line}: say behind # what it prints");
        assert!(printed.contains(expected.trim()), "{line}\nprinted\n{printed}");
    }

    fn serve(&mut self, file: &Path) {
        let gateway =
            Gateway::command(&["run", "-c", file.to_str().unwrap()], tempfile::tempdir().unwrap(), &[]);
        let listeners = std::fs::read_to_string(file).unwrap().matches("- address:").count();
        wait_for(&format!("{} listens: {:?}", file.display(), gateway.log()), || {
            (gateway.log().iter().filter(|l| l.contains("listening on")).count() >= listeners).then_some(())
        });
        self.gateways.push(gateway);
    }
}

#[test]
fn the_five_minute_walk_can_be_walked() {
    let mut walk = Walk::new();
    let lines: Vec<String> =
        blocks(&readme(), "sh").iter().flat_map(|b| b.lines()).map(str::to_owned).collect();
    assert!(lines.len() >= 7, "{lines:?}");
    for line in &lines {
        walk.run(line);
    }
}

#[test]
fn mistakes_are_told_as_the_readme_shows() {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["check", "-c", "conf/broken.example"])
        .current_dir(repository(""))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    let shown: Vec<String> = readme()
        .lines()
        .filter_map(|l| Some(l.strip_prefix("    ")?.to_owned()))
        .filter(|l| l.starts_with("conf/broken"))
        .collect();
    assert_eq!(printed.lines().collect::<Vec<_>>(), shown);
}

#[test]
fn every_yaml_block_is_a_file_in_conf() {
    let files: Vec<String> = std::fs::read_dir(repository("conf"))
        .unwrap()
        .map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap())
        .collect();
    let blocks = blocks(&readme(), "yaml");
    assert!(!blocks.is_empty());
    for block in blocks {
        assert!(files.iter().any(|file| file.contains(&block)), "in no file of conf/:\n{block}");
    }
}

#[test]
fn every_file_that_is_linked_exists_and_the_length_is_bearable() {
    let text = readme();
    for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(repository(link).exists(), "{link}");
    }
    assert!(text.lines().count() <= 250);
}
