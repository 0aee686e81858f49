//! Every crate that is linked has a licence that `deny.toml` allows.

use std::path::Path;
use std::process::Command;

/// The quoted strings of `allow = [...]` in deny.toml.
fn allowed(deny: &str) -> Vec<String> {
    let list = deny.split_once("\nallow = [").unwrap().1.split_once(']').unwrap().0;
    list.lines().filter_map(|l| Some(l.trim().strip_prefix('"')?.split_once('"')?.0.to_owned())).collect()
}

/// Whether an SPDX expression can be met: OR needs one, AND needs all; `/` is an old way to write OR.
fn acceptable(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // No crate here mixes AND with OR but as (A OR B) AND C: every part between ANDs needs one allowed choice.
    expression.split(" AND ").all(|part| part.split(" OR ").any(|id| allowed.iter().any(|a| a == id.trim())))
}

#[test]
fn every_linked_crate_has_a_permissive_licence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed = allowed(&std::fs::read_to_string(root.join("deny.toml")).unwrap());
    assert!(allowed.len() > 5, "{allowed:?}");
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_yaml::Value = serde_yaml::from_slice(&output.stdout).unwrap(); // YAML reads JSON
    let packages = metadata["packages"].as_sequence().unwrap();
    assert!(packages.len() > 100);
    let bad: Vec<String> = packages
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(|l| acceptable(l, &allowed)))
        .map(|p| format!("{} {:?}", p["name"].as_str().unwrap(), p["license"]))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn expressions_are_read_strictly() {
    let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned()];
    assert!(
        acceptable("MIT OR GPL-3.0", &allowed)
            && acceptable("(MIT OR Zlib) AND Apache-2.0", &allowed)
            && acceptable("MIT/Apache-2.0", &allowed)
    );
    assert!(
        !acceptable("GPL-3.0", &allowed)
            && !acceptable("MIT AND GPL-3.0", &allowed)
            && !acceptable("", &allowed)
    );
}
