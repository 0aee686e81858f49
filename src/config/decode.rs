//! From the YAML tree to typed values: collects every error instead of stopping at the first, and knows which
//! keys exist because it is asked for them, so that a mistyped one gets a suggestion.

use super::yaml::{Node, Pos, Value};
use crate::error::ConfigError;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What `${…}` stands for. The I/O behind it is `load`'s.
pub trait Secrets {
    /// The environment variable, or `None` when it is not set.
    fn env(&self, name: &str) -> Option<String>;
    /// The file's text without its last line end, or why it cannot be read.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// The most errors that are kept; a hostile file could have millions, and nobody reads more.
const MAX_ERRORS: usize = 1000;
/// The longest message in characters; what a file holds is shown in messages and may be megabytes.
const MAX_MESSAGE: usize = 600;

/// What one run over a file shares: its name, its secrets, the errors so far.
pub struct Context<'a> {
    file: Arc<str>,
    secrets: &'a dyn Secrets,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
    /// Errors beyond those kept.
    more: Cell<usize>,
}

impl<'a> Context<'a> {
    /// A run without errors yet.
    pub fn new(file: &str, secrets: &'a dyn Secrets) -> Self {
        let (errors, warnings) = Default::default();
        Context { file: file.into(), secrets, errors, warnings, more: Cell::new(0) }
    }

    /// Where the configuration file is: files that it names are looked for from here.
    fn folder(&self) -> &Path {
        Path::new(&*self.file).parent().unwrap_or(Path::new(""))
    }

    /// Notes an error at a place.
    pub fn fail(&self, place: &Place, message: impl fmt::Display) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() == MAX_ERRORS {
            self.more.set(self.more.get() + 1);
            return;
        }
        let mut message = message.to_string();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        errors.push(self.error(place, message));
    }

    /// Notes what is not wrong, but perhaps not meant.
    pub fn warn(&self, place: &Place, message: impl fmt::Display) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MAX_ERRORS {
            warnings.push(self.error(place, message.to_string()));
        }
    }

    /// What was noted so, in file order.
    pub fn warnings(&self) -> Vec<ConfigError> {
        let mut warnings = self.warnings.take();
        warnings.sort();
        warnings
    }

    /// All errors in file order.
    pub fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.take();
        errors.sort();
        errors.dedup();
        if self.more.get() > 0 {
            errors.push(self.error(&Place::default(), format!("and {} more errors", self.more.get())));
        }
        errors
    }

    /// How many errors there are so far.
    pub fn count(&self) -> usize {
        self.errors.borrow().len() + self.more.get()
    }

    fn error(&self, place: &Place, message: String) -> ConfigError {
        let Place { pos, path, .. } = place;
        ConfigError {
            file: Arc::clone(&self.file),
            line: pos.line,
            column: pos.column,
            path: path.clone(),
            message,
        }
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
    /// The text as the file has it, when `${…}` in it was replaced: shown instead of the value, which may be a
    /// secret.
    pub written: Option<Rc<str>>,
}

impl Place {
    /// What a message may show of the value that stands here.
    pub fn show(&self, value: impl fmt::Display) -> String {
        self.written.as_ref().map_or_else(|| value.to_string(), ToString::to_string)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct At<T> {
    /// Where.
    pub place: Place,
    /// What.
    pub value: T,
}

impl<T: fmt::Display> At<T> {
    /// What a message may show of the value.
    pub fn shown(&self) -> String {
        self.place.show(&self.value)
    }
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
        Place { pos: self.node.pos, path: self.path.clone(), written: None }
    }

    /// Notes an error here.
    pub fn fail(&self, message: impl fmt::Display) {
        self.cx.fail(&self.place(), message);
    }

    /// How many errors the run has so far.
    pub fn errors(&self) -> usize {
        self.cx.count()
    }

    /// Whether a mapping was written.
    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether exactly this was written.
    pub fn is(&self, written: &str) -> bool {
        matches!(&self.node.value, Value::Scalar { text, .. } if text == written)
    }

    /// Whether a sequence was written.
    pub fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// The fields of a mapping; `what` names it in the error otherwise.
    pub fn fields(&self, what: &str) -> Option<Fields<'_, 'c, 'a>> {
        if let Value::Map(_) = self.node.value {
            return Some(Fields { item: self, asked: RefCell::default(), missing: RefCell::default() });
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
            let place = Place { pos: key.pos, path: path.clone(), written: None };
            let name = At { place, value: key.name.clone() };
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
            Ok(value) => {
                let written = replaced.as_ref().map(|_| Rc::from(text.as_str()));
                Some(At { place: Place { written, ..self.place() }, value })
            }
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

    /// A relative path begins at the folder of the configuration file.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.cx.folder().join(path)
    }

    /// What a file of ours has, if there is one.
    pub fn kept(&self, path: &Path) -> Option<String> {
        self.cx.secrets.file(&path.to_string_lossy()).ok()
    }

    /// An environment variable that is set and not empty.
    pub fn environment(&self, name: &str) -> Option<String> {
        self.cx.secrets.env(name).filter(|value| !value.is_empty())
    }

    /// A file that is named here, relative to the folder of the configuration file: its path and its text.
    pub fn file(&self, what: &str) -> Option<At<(PathBuf, String)>> {
        let named = |text: &str| match text {
            "" => Err(format!("expected {what}, found nothing")),
            path => Ok(self.beside(path)),
        };
        let At { place, value: path } = self.parse(what, named)?;
        match self.cx.secrets.file(&path.to_string_lossy()) {
            Ok(text) => Some(At { place, value: (path, text) }),
            Err(e) => {
                self.fail(format!("{} cannot be read: {e}", place.show(path.display())));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn number(&self, what: &str, low: u64, high: u64) -> Option<At<u64>> {
        self.parse(what, |text| {
            let number = text.parse().ok().filter(|number| (low..=high).contains(number));
            number.ok_or_else(|| format!("expected {what} between {low} and {high}, found {text:?}"))
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
        // Quoted when it could be taken for more than one key, or would play tricks on a terminal.
        let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_/*".contains(c));
        let key = if plain { key.to_owned() } else { format!("{key:?}") };
        match self.path.as_str() {
            "" => key,
            path => format!("{path}.{key}"),
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

/// The fields of one mapping. Each key asked for is a known key; [`Fields::close`] refuses the others and tells
/// what is missing.
pub struct Fields<'i, 'c, 'a> {
    item: &'i Item<'c, 'a>,
    asked: RefCell<Vec<&'static str>>,
    missing: RefCell<Vec<&'static str>>,
}

impl<'c, 'a> Fields<'_, 'c, 'a> {
    /// The field, when it is written.
    pub fn get(&self, name: &'static str) -> Option<Item<'c, 'a>> {
        self.asked.borrow_mut().push(name);
        let Value::Map(entries) = &self.item.node.value else { return None };
        let (_, node) = entries.iter().find(|(key, _)| key.name == name)?;
        Some(Item { node: Rc::clone(node), path: self.item.join(name), cx: self.item.cx })
    }

    /// The field; [`Fields::close`] tells when it is missing.
    pub fn need(&self, name: &'static str) -> Option<Item<'c, 'a>> {
        let found = self.get(name);
        if found.is_none() {
            self.missing.borrow_mut().push(name);
        }
        found
    }

    /// Refuses every key that was not asked for, and tells which needed ones are missing: a mistyped one is one
    /// error, not two.
    pub fn close(self) {
        let Value::Map(entries) = &self.item.node.value else { return };
        let (asked, mut missing) = (self.asked.into_inner(), self.missing.into_inner());
        for (key, _) in entries {
            if asked.contains(&key.name.as_str()) {
                continue;
            }
            let place = Place { pos: key.pos, path: self.item.join(&key.name), written: None };
            let near = nearest(&key.name, asked.iter().copied());
            missing.retain(|name| near != Some(name));
            let advice = match near {
                Some(near) => format!(" (did you mean {near:?}?)"),
                None => format!("; known here: {}", asked.join(", ")),
            };
            self.item.cx.fail(&place, format!("unknown key{advice}"));
        }
        for name in missing {
            self.item.fail(format!("the key {name:?} is missing"));
        }
    }
}

/// ` (did you mean "orders"?)` when a known name is near enough, else nothing.
pub fn suggest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    nearest(name, known).map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default()
}

fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let length = name.chars().count();
    let far = (length / 3).max(1);
    // The distance is at least the difference in length; to compute it costs the product of the lengths.
    let near = known.filter(|k| k.chars().count().abs_diff(length) <= far);
    let best = near.map(|k| (strsim::damerau_levenshtein(name, k), k)).min();
    best.filter(|(distance, _)| *distance <= far).map(|(_, best)| best)
}
