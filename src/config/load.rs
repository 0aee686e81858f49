//! All the I/O of configuration: finding the file, reading it, what `${…}` stands for.

use super::decode::Secrets;
use super::{yaml, Compiled};
use crate::error::ConfigError;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Unreadable(String),
    /// It can, and this is wrong with it.
    Invalid(Vec<ConfigError>),
}

/// The file to use: the one named, else `$PORTCULLIS_CONFIG`, else the first of the usual places that exists.
pub fn find(named: Option<PathBuf>) -> PathBuf {
    const USUAL: [&str; 2] = ["conf/portcullis.yaml", "/etc/portcullis/portcullis.yaml"];
    named.or_else(|| std::env::var_os("PORTCULLIS_CONFIG").map(PathBuf::from)).unwrap_or_else(|| {
        let found = USUAL.iter().map(Path::new).find(|path| path.exists());
        found.unwrap_or(Path::new(USUAL[1])).to_owned()
    })
}

/// Reads and compiles a file.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<Compiled, LoadError> {
    let name = path.display().to_string();
    let whole = |message: String| {
        let error =
            ConfigError { file: name.as_str().into(), line: 0, column: 0, path: String::new(), message };
        LoadError::Invalid(vec![error])
    };
    let file = File::open(path).map_err(|e| LoadError::Unreadable(format!("{name}: {}", plain(&e))))?;
    let mut bytes = Vec::new();
    // Not the whole of a device or a giant: one byte over the limit is enough to know.
    let read = file.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| LoadError::Unreadable(format!("{name}: {}", plain(&e))))?;
    if bytes.len() > yaml::MAX_BYTES {
        return Err(whole(format!("larger than {} MiB", yaml::MAX_BYTES >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        whole(format!("not UTF-8, first on line {line}"))
    })?;
    super::compile(&name, &text, &System).map_err(LoadError::Invalid)
}

/// The environment and the file system.
pub struct System;

impl Secrets for System {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        const MOST: u64 = 1 << 20;
        let file = File::open(path).map_err(|e| plain(&e))?;
        let mut text = String::new();
        file.take(MOST + 1).read_to_string(&mut text).map_err(|e| plain(&e))?;
        if text.len() as u64 > MOST {
            return Err("larger than 1 MiB".to_owned());
        }
        // Editors end a file with a line end that is no part of the secret.
        let end = text.trim_end_matches(['\n', '\r']).len();
        text.truncate(end);
        Ok(text)
    }
}

/// `No such file or directory`, without the number behind it.
fn plain(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
