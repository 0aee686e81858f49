//! Arrows between rooms point one way: reads every `crate::room` in `src/` and fails on any arrow that the house does
//! not have.

use std::path::{Path, PathBuf};

/// A room, and the rooms it may use.
const HOUSE: [(&str, &[&str]); 16] = [
    ("base", &[]),
    ("tls", &["base"]),
    ("wire", &["base", "tls"]),
    ("error", &["base", "wire"]),
    ("observe", &["base"]),
    ("limit", &["base"]),
    ("router", &["base", "error"]),
    ("auth", &["base", "tls", "wire", "error"]),
    ("policy", &["base", "wire", "error", "limit", "auth"]),
    ("upstream", &["base", "tls", "wire", "error", "observe"]),
    (
        "gateway",
        &["base", "tls", "wire", "error", "observe", "limit", "router", "auth", "policy", "upstream"],
    ),
    (
        "config",
        &[
            "base", "tls", "wire", "error", "observe", "limit", "router", "auth", "policy", "upstream",
            "gateway",
        ],
    ),
    (
        "proxy",
        &["base", "tls", "wire", "error", "observe", "router", "auth", "policy", "upstream", "gateway"],
    ),
    ("admin", &["base", "tls", "observe", "limit", "auth", "upstream", "gateway"]),
    (
        "server",
        &[
            "base", "tls", "wire", "error", "observe", "limit", "router", "auth", "policy", "upstream",
            "gateway", "config", "proxy", "admin",
        ],
    ),
    (
        "cli",
        &[
            "base", "tls", "wire", "error", "observe", "router", "auth", "policy", "upstream", "gateway",
            "config", "proxy", "admin", "server",
        ],
    ),
];

/// The room of a file: `src/router/host.rs` and `src/error.rs` are in `router` and `error`.
fn room(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a source text names, with their lines; `use crate::{a, b}` too.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (at, _) in line.match_indices("crate::") {
            // `$crate::` or `my_crate::` are other words
            if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            assert!(
                !rest.starts_with('{'),
                "line {}: write one `use crate::room` a line, this test reads those",
                number + 1
            );
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push((number + 1, name));
        }
    }
    found
}

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut sources, mut wrong, mut arrows) = (Vec::new(), Vec::new(), 0);
    files(&src, &mut sources);
    for path in &sources {
        let from = room(path, &src);
        if from == "lib" || from == "main" {
            continue;
        }
        let Some((_, allowed)) = HOUSE.iter().find(|(name, _)| *name == from) else {
            panic!("{} is in no room of the house", path.display());
        };
        for (line, to) in uses(&std::fs::read_to_string(path).unwrap()) {
            arrows += 1;
            if to != from && !allowed.contains(&to.as_str()) {
                wrong.push(format!(
                    "{}:{line}: {from} must not use {to}",
                    path.strip_prefix(&src).unwrap().display()
                ));
            }
        }
    }
    assert!(arrows > 50, "only {arrows} arrows found: this test no longer reads the sources");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_sees_a_forbidden_arrow() {
    let found = uses("// crate::server\nuse crate::router::Router;\nlet x = crate::base::y();\n");
    assert_eq!(found, [(2, "router".to_owned()), (3, "base".to_owned())]);
}

#[test]
fn files_stay_readable() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    files(&src, &mut sources);
    for path in sources {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().take_while(|l| *l != "#[cfg(test)]").count();
        assert!(lines <= 600, "{} has {lines} lines before its tests; split it", path.display());
    }
}
