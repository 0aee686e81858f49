//! From the YAML tree to typed values: collects every error instead of stopping at the first, and knows which
//! keys exist because it is asked for them, so that a mistyped one gets a suggestion.

use super::yaml::{Node, Pos, Value};
use crate::error::ConfigError;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// What `${…}` stands for. The I/O behind it is `load`'s.
pub trait Secrets {
    /// The environment variable, or `None` when it is not set.
    fn env(&self, name: &str) -> Option<String>;
    /// The file's text without its last line end, or why it cannot be read.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// What one run over a file shares: its name, its secrets, the errors so far.
pub struct Context<'a> {
    file: Arc<str>,
    secrets: &'a dyn Secrets,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> Context<'a> {
    /// A run without errors yet.
    pub fn new(file: &str, secrets: &'a dyn Secrets) -> Self {
        Context { file: file.into(), secrets, errors: RefCell::default() }
    }

    /// Notes an error at a place.
    pub fn fail(&self, place: &Place, message: impl fmt::Display) {
        self.errors.borrow_mut().push(ConfigError {
            file: Arc::clone(&self.file),
            line: place.pos.line,
            column: place.pos.column,
            path: place.path.clone(),
            message: message.to_string(),
        });
    }

    /// All errors in file order.
    pub fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort();
        errors.dedup();
        errors
    }

    /// Whether nothing has gone wrong so far.
    pub fn is_clean(&self) -> bool {
        self.errors.borrow().is_empty()
    }
}

/// Where something stands, for the operator: line and column, and the path of keys.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Line and column.
    pub pos: Pos,
    /// Such as `routes[2].upstream`.
    pub path: String,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct At<T> {
    /// Where.
    pub place: Place,
    /// What.
    pub value: T,
}

/// A node to be read, together with its path and the run it belongs to.
pub struct Item<'c, 'a> {
    node: Rc<Node>,
    path: String,
    cx: &'c Context<'a>,
}

impl<'c, 'a> Item<'c, 'a> {
    /// The whole file.
    pub fn root(node: Rc<Node>, cx: &'c Context<'a>) -> Self {
        Item { node, path: String::new(), cx }
    }

    /// Where this item stands.
    pub fn place(&self) -> Place {
        Place { pos: self.node.pos, path: self.path.clone() }
    }

    /// Notes an error here.
    pub fn fail(&self, message: impl fmt::Display) {
        self.cx.fail(&self.place(), message);
    }

    /// Whether a mapping was written.
    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether a sequence was written.
    pub fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// The fields of a mapping; `what` names it in the error otherwise.
    pub fn fields(&self, what: &str) -> Option<Fields<'_, 'c, 'a>> {
        if let Value::Map(_) = self.node.value {
            return Some(Fields { item: self, asked: RefCell::default() });
        }
        self.fail(format!("expected {what}, found {}", self.found()));
        None
    }

    /// The entries of a mapping whose keys are the user's own names.
    pub fn entries(&self, what: &str) -> Vec<(At<String>, Item<'c, 'a>)> {
        let Value::Map(entries) = &self.node.value else {
            self.fail(format!("expected {what}, found {}", self.found()));
            return Vec::new();
        };
        let entry = |(key, node): &(super::yaml::Key, Rc<Node>)| {
            let path = self.join(&key.name);
            let name = At { place: Place { pos: key.pos, path: path.clone() }, value: key.name.clone() };
            (name, Item { node: Rc::clone(node), path, cx: self.cx })
        };
        entries.iter().map(entry).collect()
    }

    /// The items of a sequence; `what` names it in the error otherwise.
    pub fn items(&self, what: &str) -> Vec<Item<'c, 'a>> {
        let Value::List(items) = &self.node.value else {
            self.fail(format!("expected {what}, found {}", self.found()));
            return Vec::new();
        };
        let item = |(i, node): (usize, &Rc<Node>)| Item {
            node: Rc::clone(node),
            path: format!("{}[{i}]", self.path),
            cx: self.cx,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// A text, `${…}` replaced.
    pub fn text(&self, what: &str) -> Option<At<String>> {
        self.parse(what, |text| Ok(text.to_owned()))
    }

    /// A scalar that `parse` understands; what it says of another is shown to the user, except where the text
    /// came out of `${…}`: that may be a secret.
    pub fn parse<T>(&self, what: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<At<T>> {
        let Value::Scalar { text, .. } = &self.node.value else {
            self.fail(format!("expected {what}, found {}", self.found()));
            return None;
        };
        let replaced = match self.replace(text) {
            Ok(replaced) => replaced,
            Err(message) => {
                self.fail(message);
                return None;
            }
        };
        match parse(replaced.as_deref().unwrap_or(text)) {
            Ok(value) => Some(At { place: self.place(), value }),
            Err(message) if replaced.is_none() => {
                self.fail(message);
                None
            }
            Err(_) => {
                self.fail(format!(
                    "expected {what}; what {text:?} stands for is not one (not shown, it may be a secret)"
                ));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn number(&self, what: &str, low: u64, high: u64) -> Option<At<u64>> {
        self.parse(what, |text| {
            let number: u64 = text.parse().map_err(|_| format!("expected {what}, found {text:?}"))?;
            if (low..=high).contains(&number) {
                return Ok(number);
            }
            Err(format!("expected {what} between {low} and {high}, found {number}"))
        })
    }

    /// `true` or `false`.
    pub fn flag(&self) -> Option<At<bool>> {
        self.parse("true or false", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("expected true or false, found {other:?}")),
        })
    }

    fn join(&self, key: &str) -> String {
        match (self.path.is_empty(), key.contains(['.', ' ', '[', ':'])) {
            (true, _) => key.to_owned(),
            (false, false) => format!("{}.{key}", self.path),
            (false, true) => format!("{}.{key:?}", self.path),
        }
    }

    fn found(&self) -> String {
        match &self.node.value {
            Value::Nothing => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping (key: value)".to_owned(),
        }
    }

    /// The text with each `${NAME}` and `${file:PATH}` replaced and `$${` made `${`; `None` when there is none.
    fn replace(&self, text: &str) -> Result<Option<String>, String> {
        if !text.contains("${") {
            return Ok(None);
        }
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(start) = rest.find("${") {
            if rest[..start].ends_with('$') {
                out.push_str(&rest[..start]);
                out.push('{');
                rest = &rest[start + 2..];
                continue;
            }
            out.push_str(&rest[..start]);
            let Some(end) = rest[start..].find('}') else {
                return Err(format!(
                    "{text:?}: ${{ without its }} (write $${{ for the characters themselves)"
                ));
            };
            let name = &rest[start + 2..start + end];
            match name.strip_prefix("file:") {
                Some(path) => {
                    out.push_str(&self.cx.secrets.file(path).map_err(|e| format!("${{{name}}}: {e}"))?)
                }
                None => out.push_str(&self.cx.secrets.env(name).ok_or_else(|| {
                    format!("the environment variable {name} is not set (for a file write ${{file:/path}})")
                })?),
            }
            rest = &rest[start + end + 1..];
        }
        out.push_str(rest);
        Ok(Some(out))
    }
}

/// The fields of one mapping. Each key asked for is a known key; [`Fields::close`] refuses the others.
pub struct Fields<'i, 'c, 'a> {
    item: &'i Item<'c, 'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'c, 'a> Fields<'_, 'c, 'a> {
    /// The field, when it is written.
    pub fn get(&self, name: &'static str) -> Option<Item<'c, 'a>> {
        self.asked.borrow_mut().push(name);
        let Value::Map(entries) = &self.item.node.value else { return None };
        let (_, node) = entries.iter().find(|(key, _)| key.name == name)?;
        Some(Item { node: Rc::clone(node), path: self.item.join(name), cx: self.item.cx })
    }

    /// The field, or an error that it is missing.
    pub fn need(&self, name: &'static str) -> Option<Item<'c, 'a>> {
        let found = self.get(name);
        if found.is_none() {
            self.item.fail(format!("the key {name:?} is missing"));
        }
        found
    }

    /// Refuses every key that was not asked for.
    pub fn close(self) {
        let Value::Map(entries) = &self.item.node.value else { return };
        let asked = self.asked.into_inner();
        for (key, _) in entries {
            if asked.contains(&key.name.as_str()) {
                continue;
            }
            let place = Place { pos: key.pos, path: self.item.join(&key.name) };
            let advice = suggest(&key.name, asked.iter().copied());
            let advice =
                if advice.is_empty() { format!("; known here: {}", asked.join(", ")) } else { advice };
            self.item.cx.fail(&place, format!("unknown key{advice}"));
        }
    }
}

/// ` (did you mean "orders"?)` when a known name is near enough, else nothing.
pub fn suggest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let near = known.map(|k| (strsim::damerau_levenshtein(name, k), k)).min();
    match near {
        Some((distance, best)) if distance <= (name.chars().count() / 3).max(1) => {
            format!(" (did you mean {best:?}?)")
        }
        _ => String::new(),
    }
}
