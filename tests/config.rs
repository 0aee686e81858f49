//! The configuration file: what is good, what every mistake is answered with, and that nothing in a file can make
//! the gateway hang, swallow memory or tell a secret.

mod kit;

use kit::gateway::{check, repository, run};
use portcullis::config::decode::Secrets;
use portcullis::config::yaml::{self, Node, Value};
use portcullis::config::{self, load::System};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

const LISTENERS: &str = "listeners: [{address: \"127.0.0.1:0\"}]\n";
const ROUTES: &str = "routes: [{path: /, upstream: \"http://a\"}]\n";

/// All errors of a text, as `check` prints them.
fn errors(yaml: &str) -> Vec<String> {
    errors_with(yaml, &System)
}

fn errors_with(yaml: &str, secrets: &dyn Secrets) -> Vec<String> {
    let errors = config::compile("p.yaml", yaml, secrets).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

/// The YAML files in conf/.
fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository("conf")).unwrap().map(|entry| entry.unwrap().path());
    // Those of Prometheus are read by its own tool in tests/metrics.rs.
    let ours = |path: &PathBuf| !path.file_name().unwrap().to_str().unwrap().starts_with("prometheus");
    let yaml = entries.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    let yaml: Vec<_> = yaml.filter(ours).collect();
    assert!(yaml.len() >= 5, "{yaml:?}");
    yaml
}

// ---- what is good ----

#[test]
fn every_example_is_good() {
    let files = kit::certs::conf();
    for path in examples() {
        let here = files.path().join(path.file_name().unwrap());
        let (code, out, err) = run(&["check", "-c", here.to_str().unwrap()], Path::new("."), &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{}", path.display());
        assert!(out.contains("good"), "{out}");
    }
}

#[test]
fn the_minimum_is_the_contracts() {
    let minimum = "\
listeners:
  - address: 127.0.0.1:8080
routes:
  - path: /service1
    upstream: http://127.0.0.1:5001
  - path: /service2
    upstream: http://127.0.0.1:5002
";
    assert_eq!(std::fs::read_to_string(repository("conf/minimal.yaml")).unwrap(), minimum);
    // And each part of it is needed.
    for missing in [minimum.replace("listeners:\n  - address: 127.0.0.1:8080\n", ""), LISTENERS.to_owned()] {
        assert!(errors(&missing)[0].contains("is missing"), "{missing}");
    }
}

/// Every key is asked for by name in src/config/read*, so what is asked for there is what exists.
#[test]
fn the_reference_names_every_key_and_no_other() {
    let mut sources = std::fs::read_to_string(repository("src/config/read.rs")).unwrap();
    for entry in std::fs::read_dir(repository("src/config/read")).unwrap() {
        sources += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    let ask = regex::Regex::new(r#"\b(?:get|need|time|count|size|pairs)\(\s*"([a-z_]+)""#).unwrap();
    let known: BTreeSet<&str> = ask.captures_iter(&sources).map(|c| c.get(1).unwrap().as_str()).collect();
    assert!(known.len() > 50, "{known:?}");

    let reference = std::fs::read_to_string(repository("conf/reference.yaml")).unwrap();
    let named =
        |key: &str| regex::Regex::new(&format!(r"(?m)(^[ #-]*|[{{,] ?){key}:")).unwrap().is_match(&reference);
    let missing: Vec<_> = known.iter().filter(|key| !named(key)).collect();
    assert!(missing.is_empty(), "conf/reference.yaml does not name {missing:?}");

    // What comments show as an alternative must exist as well: `# balance: random`.
    let alternative = regex::Regex::new(r"(?m)^ +# ([a-z_]+): ").unwrap();
    for shown in alternative.captures_iter(&reference).map(|c| c.get(1).unwrap().as_str()) {
        assert!(
            known.contains(shown) || shown == "x-tenant",
            "the reference shows {shown}, which does not exist"
        );
    }
}

/// Another reader of the same files, so that a quirk of ours would show.
#[test]
fn our_yaml_reader_agrees_with_serde_yaml() {
    for path in examples() {
        let text = std::fs::read_to_string(&path).unwrap();
        let theirs: serde_yaml::Value =
            serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(value(&yaml::parse(&text).unwrap()), theirs, "{}", path.display());
    }
}

fn value(node: &Node) -> serde_yaml::Value {
    match &node.value {
        Value::Nothing => serde_yaml::Value::Null,
        Value::Scalar { text, plain: true } => serde_yaml::from_str(text).unwrap(),
        Value::Scalar { text, plain: false } => text.as_str().into(),
        Value::List(items) => items.iter().map(|item| value(item)).collect::<Vec<_>>().into(),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, node)| (key.name.as_str().into(), value(node)));
            serde_yaml::Value::Mapping(entries.collect())
        }
    }
}

// ---- what is wrong ----

#[test]
fn every_mistake_is_named_with_its_place() {
    let (mut cases, mut failures) = (0, String::new());
    for case in include_str!("wrong.txt").split("\n\n").skip(1) {
        if case.starts_with("==") || case.trim().is_empty() {
            continue;
        }
        let (expected, yaml): (Vec<&str>, Vec<&str>) = case.lines().partition(|line| line.starts_with("#> "));
        let expected: Vec<String> = expected.iter().map(|line| format!("p.yaml:{}", &line[3..])).collect();
        assert!(!expected.is_empty(), "no error is expected of\n{case}");
        let mut text = yaml.join("\n") + "\n";
        if !text.contains("listeners:") {
            text.insert_str(0, LISTENERS);
        }
        if !text.contains("routes:") {
            text += ROUTES;
        }
        let found = errors(&text);
        if found != expected {
            let _ = write!(failures, "\n{text}expected {expected:#?}\nfound {found:#?}\n");
        }
        cases += 1;
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(cases > 150, "only {cases} cases were read");
}

/// Keys of the contract that a later issue builds: refused, because a key that is ignored is worse.
#[test]
fn what_is_not_built_yet_is_unknown() {
    for key in ["cache_store", "discovery"] {
        let found = errors(&format!("{LISTENERS}{key}: {{}}\n{ROUTES}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("p.yaml:2:1: {key}: unknown key; known here: ")), "{found:?}");
    }
    for key in ["outlier_ejection", "slow_start"] {
        let found = errors(&format!(
            "{LISTENERS}upstreams:\n  a:\n    targets: [\"h:1\"]\n    {key}: {{}}\n{ROUTES}"
        ));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("p.yaml:5:5: upstreams.a.{key}: unknown key")), "{found:?}");
    }
    let policies = "cache compress mirror";
    for key in policies.split(' ') {
        let yaml = format!("{LISTENERS}routes:\n  - path: /\n    upstream: http://a\n    {key}: {{}}\ndefaults: {{{key}: {{}}}}\n");
        let found = errors(&yaml);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with(&format!("p.yaml:5:5: routes[0].{key}: unknown key; ")), "{found:?}");
        assert!(found[1].starts_with(&format!("p.yaml:6:12: defaults.{key}: unknown key; ")), "{found:?}");
    }
}

/// Through the binary: exit code, the stream, and the file named as the user named it.
#[test]
fn all_errors_are_told_at_once_in_the_order_of_the_file() {
    let (code, lines) = check(
        "\
routes:
  - path: orders
    upstream: oders
    timeout: 5
  - name: twice
    path: {regex: (}
    upstream: orders
  - name: twice
    path: /b
    methods: [get]
    upstream: orders
  - path: /c
    upstream: orders
  - path: /c
    upstream: orders
upstreams:
  orders:
    targets: [10.0.0.1:80, 10.0.0.1:80, nonsense]
    ballance: random
listeners:
  - address: localhost:80
trusted_proxies: [10.0.0.1/8]
",
    );
    assert_eq!(code, 1);
    let expected = [
        r#"p.yaml:2:11: routes[0].path: expected a path that begins with /, found "orders""#,
        r#"p.yaml:3:15: routes[0].upstream: no upstream is named "oders" (did you mean "orders"?)"#,
        r#"p.yaml:4:14: routes[0].timeout: expected a duration like 250ms, 5s, 2m, 1h or 1d, found "5": write its unit, 5s?"#,
        "p.yaml:6:19: routes[1].path.regex: not a regular expression: unclosed group",
        r#"p.yaml:8:11: routes[2].name: a second route named "twice"; the first is on line 5"#,
        "p.yaml:10:15: routes[2].methods[0]: methods are case-sensitive (RFC 9110 §9.1); write GET",
        "p.yaml:14:11: routes[4].path: this route can never win: routes[3] on line 12 takes its requests first",
        "p.yaml:18:28: upstreams.orders.targets[1]: the target 10.0.0.1:80 stands twice, first on line 18; use `weight` to give it a larger share",
        r#"p.yaml:18:41: upstreams.orders.targets[2]: expected host:port, such as 10.0.0.11:8080, [::1]:8080 or orders.internal:8080, found "nonsense""#,
        r#"p.yaml:19:5: upstreams.orders.ballance: unknown key (did you mean "balance"?)"#,
        r#"p.yaml:21:14: listeners[0].address: expected ip:port, [v6]:port or unix:/path, found "localhost:80": write 127.0.0.1:80"#,
        "p.yaml:22:19: trusted_proxies[0]: 10.0.0.1/8 has bits set behind its prefix; write 10.0.0.0/8",
    ];
    assert_eq!(lines, expected);
}

/// One mistake is one error: what could not be read is not compared with the rest as if it stood there empty.
#[test]
fn errors_have_no_echo() {
    for yaml in [
        "routes:\n  - {path: a, upstream: \"http://a\"}\n  - {upstream: \"http://a\"}\n",
        "routes:\n  - {hosts: [a b], upstream: \"http://a\"}\n  - {upstream: \"http://a\"}\n",
        "routes:\n  - {upstream: \"http://a\"}\n  - {methds: [GET], upstream: \"http://a\"}\n",
        "upstreams: {a: 5}\nroutes: [{upstream: a}]\n",
        "upstreams: {a: {targets: [h]}}\nroutes: [{upstream: a}]\n",
        "routes: [{upstream: [{to: \"http://a\", weight: none}]}]\n",
        "routes: [{path: {regex: (}, upstream: \"http://a\", rewrite: {strip_prefix: true}}]\n",
    ] {
        let found = errors(&format!("{LISTENERS}{yaml}"));
        assert_eq!(found.len(), 1, "{yaml}{found:#?}");
    }
}

#[test]
fn what_is_not_yaml_is_refused_with_its_place() {
    let empty = "the file is empty; conf/minimal.yaml shows the least that it needs";
    for (yaml, expected) in [
        ("", &format!("1:1: {empty}")[..]),
        ("# nothing\n", &format!("2:1: {empty}")),
        ("---\n", "2:1: expected a mapping with `listeners` and `routes`, found nothing"),
        ("- a\n", "1:1: expected a mapping with `listeners` and `routes`, found a list"),
        ("hello\n", "1:1: expected a mapping with `listeners` and `routes`, found \"hello\""),
        ("routes: [\n", "2:1: not YAML: while parsing a node, did not find expected node content"),
        (
            "a: b: c\n",
            "1:5: not YAML: a second \": \" here; a text that holds one needs quotes, a key its own line",
        ),
        ("a: 'b\n", "1:4: not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: *b\n", "1:4: not YAML: while parsing node, found unknown anchor"),
        ("a: &a [*a]\n", "1:8: an alias that points to itself or to nothing"),
        ("threads: 1\nthreads: 2\n", "2:1: the key \"threads\" stands twice; first on line 1"),
        ("threads: !!int 1\n", "1:10: tags (!name) have no meaning here; remove it"),
        ("? [a]\n: b\n", "1:3: a key must be plain text"),
        ("a: 1\n---\nb: 1\n", "2:1: a second document; write everything into one"),
        (
            "a: &a {b: 1}\nc: {<<: *a}\n",
            "2:5: merge keys (<<) are not part of YAML 1.2; use `defaults` or an alias for the whole value",
        ),
        ("threads: 1\0\n", "1:11: not YAML: found unprintable character"),
    ] {
        assert_eq!(errors(yaml), [format!("p.yaml:{expected}")], "{yaml:?}");
    }
}

/// A byte order mark, Windows line ends, a document's marks, aliases: other people's editors make such files.
#[test]
fn unusual_spellings_are_understood() {
    for yaml in [
        format!("\u{feff}{LISTENERS}{ROUTES}"),
        format!("{LISTENERS}{ROUTES}").replace('\n', "\r\n"),
        format!("%YAML 1.2\n---\n{LISTENERS}{ROUTES}...\n"),
        format!("{LISTENERS}routes:\n  - {{path: /a, upstream: &u \"http://a\"}}\n  - {{path: /b, upstream: *u}}\n"),
        format!("{{\"listeners\": [{{\"address\": \"127.0.0.1:0\"}}], {} }}", "\"routes\": [{\"upstream\": \"http://a\"}]"),
    ] {
        assert_eq!(errors(&yaml), [""; 0], "{yaml}");
    }
}

/// A name in an error must not move the cursor or colour the terminal of who reads it.
#[test]
fn errors_hold_no_control_characters() {
    for key in [r#""\e[2Jx""#, r#""a\nb""#, r#""a\rb""#, r#""\u202ex""#] {
        for yaml in [
            format!("{LISTENERS}{ROUTES}{key}: 1\n"),
            format!("{LISTENERS}{ROUTES}upstreams: {{{key}: {{targets: [\"h:1\"]}}}}\n"),
            format!("{LISTENERS}routes: [{{upstream: {key}}}]\n"),
            format!("{LISTENERS}routes: [{{headers: {{{key}: 1}}, upstream: \"http://a\"}}]\n"),
            format!("{LISTENERS}routes: [{{path: {{regex: {key}}}, hosts: [{key}], methods: [{key}], upstream: \"http://a\"}}]\n"),
        ] {
            let found = errors(&yaml);
            assert!(!found.is_empty(), "{yaml}");
            let tricky = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!found.iter().any(|line| line.contains(tricky)), "{found:?}");
        }
    }
}

// ---- secrets ----

/// An environment of one variable, `SECRET`.
struct Fake(&'static str);

impl Secrets for Fake {
    fn env(&self, name: &str) -> Option<String> {
        (name == "SECRET").then(|| self.0.to_owned())
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Ok(self.0.to_owned())
    }
}

#[test]
fn secrets_come_from_the_environment_and_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let check = |value: &str, environment: &[(&str, &str)]| {
        let yaml = format!(
            "{LISTENERS}routes:\n  - upstream: http://a\n    request_headers: {{set: {{authorization: \"{value}\"}}}}\n"
        );
        std::fs::write(folder.path().join("p.yaml"), yaml).unwrap();
        let (code, _, err) = run(&["check", "-c", "p.yaml"], folder.path(), environment);
        (code, err)
    };
    let good = (0, String::new());
    let bad =
        |message: &str| (1, format!("p.yaml:4:44: routes[0].request_headers.set.authorization: {message}\n"));
    let set: &[(&str, &str)] = &[("TOKEN", "t0ken")];
    assert_eq!(check("Bearer ${TOKEN}", set), good);
    assert_eq!(
        check("Bearer ${TOKEN}", &[]),
        bad("the environment variable TOKEN is not set (for a file write ${file:/path})")
    );
    assert_eq!(check("$${TOKEN}", &[]), good, "an escape asks for no variable");
    assert_eq!(
        check("${TOKEN", set),
        bad(r#""${TOKEN": ${ without its } (write $${ for the characters themselves)"#)
    );

    let from_file = format!("Bearer ${{file:{}}}", secret.display());
    assert_eq!(
        check(&from_file, set),
        bad(&format!("${{file:{}}}: No such file or directory", secret.display()))
    );
    std::fs::write(&secret, "t0ken\r\n").unwrap();
    assert_eq!(check(&from_file, set), good, "the line end is no part of it");
    std::fs::write(&secret, "t0ken\nsecond line\n").unwrap();
    let not_one = |written: &str| {
        bad(&format!(
            "expected a header value; what {written:?} stands for is not one (not shown, it may be a secret)"
        ))
    };
    assert_eq!(check(&from_file, set), not_one(&from_file));
    std::fs::write(&secret, [0xff, 0xfe]).unwrap();
    let (code, err) = check(&from_file, set);
    assert!(code == 1 && err.contains("UTF-8"), "{err}");
    let (code, err) = check("${file:/dev/zero}", set);
    assert!(code == 1 && err.contains("larger than 1 MiB"), "{err}");
    let (code, err) = check("${file:/}", set);
    assert!(code == 1 && err.contains("Is a directory"), "{err}");
}

#[test]
fn what_is_replaced_reaches_the_wire() {
    let origin = kit::Origin::text("x");
    let folder = tempfile::tempdir().unwrap();
    let (yaml, secret) = (folder.path().join("p.yaml"), folder.path().join("secret"));
    std::fs::write(&secret, "two\n").unwrap();
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\nroutes:\n  - upstream: \"${{ORIGIN}}\"\n    request_headers:\n      \
         set: {{x-a: \"${{ONE}}-${{file:{}}}\", x-b: \"$${{ONE}} $5 $\"}}\n",
        secret.display()
    );
    std::fs::write(&yaml, text).unwrap();
    let environment = [("ORIGIN", origin.url()), ("ONE", "one".to_owned())];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let gateway = kit::Gateway::command(&["run", "-c", yaml.to_str().unwrap()], folder, &environment);
    let listening = gateway.wait_log(&["] listening on "]);
    let address = listening.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(kit::raw::get(address, "/").status, 200);
    let received = origin.first();
    assert_eq!(received.field("x-a"), Some("one-two"));
    assert_eq!(received.field("x-b"), Some("${ONE} $5 $"));
}

/// In the place of every value of the reference, and of some more, with values that are wrong there in many ways.
#[test]
fn no_error_shows_what_a_secret_stands_for() {
    let reference = std::fs::read_to_string(repository("conf/reference.yaml")).unwrap();
    let mut texts = Vec::new();
    with_secrets(&reference, &yaml::parse(&reference).unwrap(), &mut texts);
    assert!(texts.len() > 60, "{}", texts.len());
    let s = "\"${SECRET}\"";
    let more = [
        format!("listeners: [{{address: {s}}}, {{address: {s}}}]\n{ROUTES}"),
        format!("{LISTENERS}upstreams: {{a: {{targets: [{s}, {s}]}}}}\n{ROUTES}"),
        format!("{LISTENERS}upstreams: {{a: {{balance: {s}, targets: [\"h:1\"]}}}}\n{ROUTES}"),
        format!("{LISTENERS}upstreams: {{a: {{balance: {{consistent_hash: {s}}}, targets: [\"h:1\"]}}}}\n{ROUTES}"),
        format!("{LISTENERS}upstreams: {{a: {{balance: {{consistent_hash: {{header: {s}}}}}, targets: [\"h:1\"]}}}}\n{ROUTES}"),
        format!("{LISTENERS}routes: [{{name: {s}, upstream: {s}}}, {{name: {s}, upstream: {s}}}]\n"),
        format!("{LISTENERS}routes: [{{upstream: [{{to: {s}, weight: {s}}}]}}]\n"),
        format!("{LISTENERS}routes: [{{path: {{exact: {s}}}, upstream: \"http://a\"}}]\n"),
        format!("{LISTENERS}routes: [{{path: {{regex: {s}}}, upstream: \"http://a\"}}]\n"),
        format!("{LISTENERS}routes: [{{headers: {{x: {{regex: {s}}}}}, query: {{x: {{present: {s}}}}}, upstream: \"http://a\"}}]\n"),
        format!("{LISTENERS}routes: [{{rewrite: {{prefix: {s}}}, upstream: \"http://a\"}}]\n"),
        format!("{LISTENERS}routes: [{{rewrite: {{path: {s}}}, upstream: \"http://a\"}}]\n"),
        format!("{LISTENERS}routes: [{{redirect: {s}}}]\n"),
        format!("{LISTENERS}routes: [{{upstream: \"http://a\", allow: [{{file: {s}}}], deny: [{{file: x}}, {s}, {s}]}}]\n"),
        format!("{LISTENERS}routes: [{{upstream: \"http://a\", cors: {{origins: [{s}, {s}], methods: [{s}, {s}], headers: [{s}, {s}]}}}}]\n"),
        format!("{LISTENERS}routes: {s}\n"),
        s.to_owned(),
    ];
    texts.extend(more);
    let values = [
        "s3cret",
        "s3cret:80",
        "s3cret:0",
        "http://s3cret/x",
        "https://s3cret",
        "ftp://s3cret",
        "/s3cret//x",
        "/s3cret",
        "s3cret(",
        "s3cret\r\n",
        " s3cret",
        "{s3cret}",
        "unix:s3cret",
        "12345678901234567",
        "",
    ];
    let mut seen = 0;
    for text in &texts {
        for value in values {
            for line in errors_with(text, &Fake(value)) {
                assert!(!line.contains("s3cret") && !line.contains("12345678901234567"), "{line}");
                seen += 1;
            }
        }
    }
    assert!(seen > 500, "only {seen} errors were made");
}

/// The text once for each of its values, with `${SECRET}` in the value's place.
fn with_secrets(text: &str, node: &Node, found: &mut Vec<String>) {
    match &node.value {
        Value::Nothing => {}
        Value::List(items) => items.iter().for_each(|item| with_secrets(text, item, found)),
        Value::Map(entries) => entries.iter().for_each(|(_, node)| with_secrets(text, node, found)),
        Value::Scalar { text: value, plain } => {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let line = &mut lines[node.pos.line - 1];
            let begin = node.pos.column - 1;
            let end =
                if *plain { begin + value.len() } else { line[begin + 1..].find('"').unwrap() + begin + 2 };
            line.replace_range(begin..end, "\"${SECRET}\"");
            found.push(lines.join("\n") + "\n");
        }
    }
}

// ---- files that mean harm ----

#[test]
fn hostile_files_end_quickly_with_a_place() {
    let mut aliases = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (from, to) in ('a'..'k').zip('b'..='k') {
        let _ = writeln!(aliases, "{to}: &{to} [{}]", vec![format!("*{from}"); 10].join(","));
    }
    let long = "x".repeat(1 << 20);
    let cases: &[(&str, String, &str)] = &[
        ("brackets", "[".repeat(15 << 20), "nested deeper than 32 levels"),
        ("braces", "{".repeat(15 << 20), "nested deeper than 32 levels"),
        ("dashes", "- ".repeat(7 << 20), "nested deeper than 32 levels"),
        ("deep keys", "a: {".repeat(1 << 20), "nested deeper than 32 levels"),
        ("questions", "? ".repeat(7 << 20), "a key must be plain text"),
        ("aliases", aliases, "more than 1000000 values, aliases followed"),
        (
            "aliases of a long text",
            format!("a: &a {long}\nb: [{}]", "*a,".repeat(1 << 16)),
            "aliases followed",
        ),
        ("values", format!("a: [{}]", "1,".repeat(2 << 20)), "more than 1000000 values"),
        ("an open quote", format!("a: \"{}", long.repeat(15)), "unexpected end of stream"),
        ("a long key", format!("a: 1\n{}: 1\n", "x".repeat(1001)), "a key of more than 1000 bytes"),
        ("a long word", long.repeat(15), "expected a mapping"),
        ("empty lines", "\n".repeat(15 << 20), "the file is empty"),
        ("a long pattern", format!("routes: [{{path: {{regex: {long}}}}}]"), "more than 10000 bytes"),
        (
            "a greedy pattern",
            "routes: [{path: {regex: \"(a{1000}){1000}\"}}]".to_owned(),
            "compiles to more than",
        ),
    ];
    std::thread::scope(|scope| {
        for (name, text, message) in cases {
            scope.spawn(move || {
                let start = Instant::now();
                let (code, lines) = check(text);
                println!("{name}: {:?}", start.elapsed());
                let all = lines.join("\n");
                assert!(all.len() < 10_000, "{name}: {} bytes of errors", all.len());
                assert!(code == 1 && all.contains(message), "{name}: {code}\n{all}");
                assert!(lines.iter().all(|l| l.starts_with("p.yaml:")), "{name}: {all}");
                assert!(lines[0].as_bytes()[7].is_ascii_digit(), "{name} has no place: {all}");
            });
        }
    });
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// A good file with a few places overwritten: it is good or it has errors, and each of them has a place.
    #[test]
    fn a_damaged_file_never_panics(
        damages in proptest::collection::vec((0.0..1.0, "[-a-z0-9:{}\\[\\]&*!|>'\"%@`,#?/. \n\t$]{0,6}", 0_usize..8), 1..6),
    ) {
        let mut text = std::fs::read_to_string(repository("conf/reference.yaml")).unwrap();
        for (at, instead, length) in damages {
            let begin = (at * text.len() as f64) as usize;
            text.replace_range(begin..(begin + length).min(text.len()), &instead);
        }
        for line in errors_with(&text, &Fake("x")) {
            let place = line.strip_prefix("p.yaml:").unwrap();
            proptest::prop_assert!(place.starts_with(|c: char| c.is_ascii_digit()), "{}", line);
        }
    }
}

#[test]
fn a_flood_of_errors_is_cut() {
    let yaml = format!("{LISTENERS}routes: [{}]\n", "{x: 1},".repeat(100_000));
    let (code, lines) = check(&yaml);
    assert_eq!((code, lines.len()), (1, 1001));
    assert_eq!(lines.last().unwrap(), "p.yaml: and 199000 more errors");
    let long = "x".repeat(1 << 20);
    let found = errors(&format!("{LISTENERS}{ROUTES}grace_period: {long}\n"));
    assert!(found.len() == 1 && found[0].len() < 1000 && found[0].ends_with('…'), "{}", found[0].len());
}

#[test]
fn what_is_no_text_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let (code, _, err) = run(&["check", "-c", name], folder.path(), &[]);
        (code, err)
    };
    let giant = vec![b'#'; 17 << 20];
    assert_eq!(check("giant", &giant), (1, "giant: larger than 16 MiB\n".to_owned()));
    let mut most = format!("{LISTENERS}{ROUTES}").into_bytes();
    most.resize(16 << 20, b'#');
    assert_eq!(check("most", &most).0, 0, "16 MiB are not too many");
    let latin = b"a: 1\nb: caf\xe9\n";
    assert_eq!(
        check("latin", latin),
        (1, "latin:2:7: not UTF-8; save the file in that encoding\n".to_owned())
    );
    let wide: Vec<u8> = "a: 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(check("wide", &wide), (1, "wide:1:2: not YAML: found unprintable character\n".to_owned()));

    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let unreadable = |name: &str| {
        let (code, out, err) = run(&["check", "-c", name], folder.path(), &[]);
        assert_eq!(out, "");
        (code, err)
    };
    assert_eq!(unreadable("folder"), (3, "folder: Is a directory\n".to_owned()));
    assert_eq!(unreadable("nothing"), (3, "nothing: No such file or directory\n".to_owned()));
    assert_eq!(unreadable("/dev/zero"), (1, "/dev/zero: larger than 16 MiB\n".to_owned()));
    assert!(unreadable("/dev/null").1.contains("the file is empty"));
}

// ---- many routes ----

fn ten_thousand(route: impl Fn(usize) -> String) -> String {
    let mut yaml = format!("{LISTENERS}upstreams: {{a: {{targets: [\"h:1\"]}}}}\nroutes:\n");
    for i in 0..10_000 {
        let _ = writeln!(yaml, "  - {{{}, upstream: a}}", route(i));
    }
    yaml
}

#[test]
fn ten_thousand_routes_are_checked() {
    let kinds: [(&str, &dyn Fn(usize) -> String); 4] = [
        ("prefixes", &|i| format!("path: /service{i}")),
        ("hosts", &|i| format!("hosts: [h{i}.test, \"*.h{i}.test\"]")),
        ("headers of one path", &|i| format!("path: /a, headers: {{x-tenant: t{i}}}")),
        ("patterns", &|i| format!("path: {{regex: ^/v{i}/}}")),
    ];
    for (name, route) in kinds {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.yaml"), ten_thousand(route)).unwrap();
        let start = Instant::now();
        let (code, out, err) = run(&["check", "-c", "p.yaml"], folder.path(), &[]);
        println!("10,000 {name}: {:?}", start.elapsed());
        assert_eq!((code, err.as_str(), out.as_str()), (0, "", "p.yaml: good, 10000 routes\n"), "{name}");
    }
    // The worst to suggest for: as many names, none of them right.
    let mut yaml = format!("{LISTENERS}routes:\n");
    (0..2_000).for_each(|i| yaml += &format!("  - {{path: /{i}, upstream: service-{i}-x}}\n"));
    yaml += "upstreams:\n";
    (0..2_000).for_each(|i| yaml += &format!("  service-{i}-y: {{targets: [\"h:1\"]}}\n"));
    let start = Instant::now();
    let (code, lines) = check(&yaml);
    println!("2,000 unknown upstreams: {:?}", start.elapsed());
    assert_eq!((code, lines.len()), (1, 1001));
}
