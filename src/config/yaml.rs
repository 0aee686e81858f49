//! YAML text to a tree in which every key and value knows its line and column.
//!
//! It refuses what no configuration needs and an attacker might send: more than [`MAX_BYTES`], nesting deeper
//! than [`MAX_DEPTH`], more than [`MAX_NODES`] nodes after aliases are followed (an alias bomb), several
//! documents, tags, keys that are not plain text, and a key given twice.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::rc::Rc;

/// The largest file that is read.
pub const MAX_BYTES: usize = 16 << 20;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 32;
/// The most nodes, an alias counted as all it stands for, a long text as several.
pub const MAX_NODES: usize = 1_000_000;
/// The longest key in bytes; keys are repeated in the paths of everything below them.
pub const MAX_KEY: usize = 1000;
/// How much text counts as one node, so that few aliases cannot stand for gigabytes.
const NODE_BYTES: usize = 64;

/// A place in the file: line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pos {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A value and its place. Aliases share their node.
#[derive(Debug)]
pub struct Node {
    /// Where it begins.
    pub pos: Pos,
    /// What it is.
    pub value: Value,
    /// Nodes in this subtree, aliases followed.
    size: usize,
}

/// What a node holds. Scalars stay text: what a text means is known only where it is used.
#[derive(Debug)]
pub enum Value {
    /// Nothing was written (`key:`), or a plain `null` or `~`.
    Nothing,
    /// A scalar; `plain` when it was written without quotes.
    Scalar {
        /// The text, escapes resolved.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Rc<Node>>),
    /// A mapping, in file order.
    Map(Entries),
}

/// The keys and values of a mapping, in file order.
pub type Entries = Vec<(Key, Rc<Node>)>;

/// A key of a mapping and its place.
#[derive(Debug)]
pub struct Key {
    /// Where it begins.
    pub pos: Pos,
    /// Its text.
    pub name: String,
}

/// A place and what is wrong there.
pub type Wrong = (Pos, String);

/// Reads one document.
///
/// # Errors
/// The place and the reason of the first thing that is not acceptable YAML; what follows cannot be trusted.
pub fn parse(text: &str) -> Result<Rc<Node>, Wrong> {
    let mut builder = Builder { anchors: HashMap::new(), nodes: 0 };
    let mut parser = Parser::new_from_str(text);
    let mut root = None;
    let mut last = Pos { line: 1, column: 1 };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| refusal(&e))?;
        last = pos(&span);
        match event {
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            Event::DocumentStart(_) if root.is_some() => {
                return Err((last, "a second document; write everything into one".to_owned()))
            }
            Event::DocumentStart(_) => {}
            Event::StreamEnd => break,
            event => root = Some(builder.node(&mut parser, event, span, 0)?),
        }
    }
    root.ok_or((last, "the file is empty; conf/minimal.yaml shows the least that it needs".to_owned()))
}

/// What the parser says, with the way out where its words are for those who wrote the standard.
fn refusal(e: &saphyr_parser::ScanError) -> (Pos, String) {
    let message = match e.info() {
        "recursion limit exceeded" => too_deep(),
        info if info.starts_with("mapping values are not allowed") => {
            "not YAML: a second \": \" here; a text that holds one needs quotes, a key its own line"
                .to_owned()
        }
        info => format!("not YAML: {info}"),
    };
    (at(e.marker()), message)
}

fn too_deep() -> String {
    format!("nested deeper than {MAX_DEPTH} levels")
}

fn at(marker: &saphyr_parser::Marker) -> Pos {
    Pos { line: marker.line(), column: marker.col() + 1 }
}

fn pos(span: &Span) -> Pos {
    at(&span.start)
}

struct Builder {
    anchors: HashMap<usize, Rc<Node>>,
    nodes: usize,
}

type Input<'a> = Parser<'a, saphyr_parser::StrInput<'a>>;

impl Builder {
    fn node<'a>(
        &mut self,
        parser: &mut Input<'a>,
        event: Event<'a>,
        span: Span,
        depth: usize,
    ) -> Result<Rc<Node>, Wrong> {
        let here = pos(&span);
        if depth > MAX_DEPTH {
            return Err((here, too_deep()));
        }
        let (anchor, value, size) = match event {
            Event::Alias(id) => {
                let target = self.anchors.get(&id).cloned();
                let target =
                    target.ok_or((here, "an alias that points to itself or to nothing".to_owned()))?;
                self.count(target.size, here)?;
                return Ok(target);
            }
            Event::Scalar(text, style, anchor, None) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let nothing = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value =
                    if nothing { Value::Nothing } else { Value::Scalar { text: text.into_owned(), plain } };
                let size = match &value {
                    Value::Scalar { text, .. } => 1 + text.len() / NODE_BYTES,
                    _ => 1,
                };
                self.count(size - 1, here)?;
                (anchor, value, size)
            }
            Event::SequenceStart(anchor, None) => {
                let (items, size) = self.list(parser, depth)?;
                (anchor, Value::List(items), size)
            }
            Event::MappingStart(anchor, None) => {
                let (entries, size) = self.map(parser, depth)?;
                (anchor, Value::Map(entries), size)
            }
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                return Err((here, "tags (!name) have no meaning here; remove it".to_owned()))
            }
            _ => return Err((here, "unexpected end of the document".to_owned())),
        };
        self.count(1, here)?;
        let node = Rc::new(Node { pos: here, value, size });
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn list<'a>(&mut self, parser: &mut Input<'a>, depth: usize) -> Result<(Vec<Rc<Node>>, usize), Wrong> {
        let (mut items, mut size) = (Vec::new(), 1);
        loop {
            let (event, span) = next(parser)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok((items, size));
            }
            let item = self.node(parser, event, span, depth + 1)?;
            size += item.size;
            items.push(item);
        }
    }

    fn map<'a>(&mut self, parser: &mut Input<'a>, depth: usize) -> Result<(Entries, usize), Wrong> {
        let (mut entries, mut size) = (Entries::new(), 1);
        let mut seen: HashMap<String, Pos> = HashMap::new();
        loop {
            let (event, span) = next(parser)?;
            let here = pos(&span);
            let name = match event {
                Event::MappingEnd => return Ok((entries, size)),
                Event::Scalar(name, _, 0, None) => name.into_owned(),
                _ => return Err((here, "a key must be plain text".to_owned())),
            };
            if name.len() > MAX_KEY {
                return Err((here, format!("a key of more than {MAX_KEY} bytes")));
            }
            if name == "<<" {
                return Err((here, "merge keys (<<) are not part of YAML 1.2; use `defaults` or an alias for the whole value".to_owned()));
            }
            if let Some(first) = seen.insert(name.clone(), here) {
                return Err((here, format!("the key {name:?} stands twice; first on line {}", first.line)));
            }
            let (event, span) = next(parser)?;
            let node = self.node(parser, event, span, depth + 1)?;
            size += node.size;
            entries.push((Key { pos: here, name }, node));
        }
    }

    fn count(&mut self, nodes: usize, here: Pos) -> Result<(), Wrong> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err((here, format!("more than {MAX_NODES} values, aliases followed")));
        }
        Ok(())
    }
}

fn next<'a>(parser: &mut Input<'a>) -> Result<(Event<'a>, Span), Wrong> {
    match parser.next_event() {
        Some(Ok(found)) => Ok(found),
        Some(Err(e)) => Err(refusal(&e)),
        None => Err((Pos::default(), "the file ends in the middle of a value".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (Pos, String) {
        parse(text).unwrap_err()
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let root = parse("a: 1\nb:\n  - x\n  - y: 'z'\n").unwrap();
        let Value::Map(entries) = &root.value else { panic!("{root:?}") };
        assert_eq!((entries[1].0.pos.line, entries[1].0.pos.column), (2, 1));
        let Value::List(items) = &entries[1].1.value else { panic!() };
        assert_eq!((items[0].pos.line, items[0].pos.column), (3, 5));
        let Value::Map(inner) = &items[1].value else { panic!() };
        assert!(matches!(&inner[0].1.value, Value::Scalar { text, plain: false } if text == "z"));
    }

    #[test]
    fn hostile_files_are_errors() {
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 0..10u8 {
            let (from, to) = ((b'a' + i) as char, (b'b' + i) as char);
            bomb += &format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(","));
        }
        assert!(error(&bomb).1.contains("aliases followed"));
        assert!(error(&"[".repeat(100_000)).1.contains("nested deeper"));
        assert!(error(&"- ".repeat(100_000)).1.contains("nested deeper"));
        let long = "x".repeat(1 << 20);
        assert!(error(&format!("a: &a {long}\nb: [{}]", "*a,".repeat(100))).1.contains("aliases followed"));
        assert!(error(&format!("a: 1\n{long}: 1")).1.contains("key"));
        assert!(error("a: &a [*a]").1.contains("alias"));
        assert!(error("a: 1\n---\nb: 2").1.contains("second document"));
        assert!(error("a: !!python/object x").1.contains("tags"));
        assert!(error("? [a]\n: b").1.contains("plain text"));
        assert!(error("").1.contains("empty"));
        assert!(error("a: [1").1.contains("YAML"));
        assert_eq!(error("a: 1\nb: 2\na: 3").0, Pos { line: 3, column: 1 });
    }

    #[test]
    fn an_alias_repeats_its_value() {
        let root = parse("a: &x {k: v}\nb: *x").unwrap();
        let Value::Map(entries) = &root.value else { panic!() };
        assert!(Rc::ptr_eq(&entries[0].1, &entries[1].1));
    }
}
