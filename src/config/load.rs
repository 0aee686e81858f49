//! All the I/O of configuration: finding the file, reading it, what `${…}` stands for.

use super::decode::Secrets;
use super::{yaml, Compiled};
use crate::base::trouble::plain;
use crate::error::ConfigError;
use crate::gateway::Gateway;
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

/// The file to use: the one named, else `$PORTCULLIS_CONFIG` (empty is as good as not set), else the first of the
/// usual places that exists.
///
/// # Errors
/// Where it was looked for, when it is nowhere.
pub fn find(named: Option<PathBuf>) -> Result<PathBuf, LoadError> {
    const USUAL: [&str; 2] = ["conf/portcullis.yaml", "/etc/portcullis/portcullis.yaml"];
    let variable = || std::env::var_os("PORTCULLIS_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
    let usual = || USUAL.iter().map(PathBuf::from).find(|path| path.exists());
    named.or_else(variable).or_else(usual).ok_or_else(|| {
        LoadError::Unreadable(format!(
            "no configuration: there is no {} and no {}; name one with -c FILE or $PORTCULLIS_CONFIG",
            USUAL[0], USUAL[1]
        ))
    })
}

/// Where the gateway of this file takes commands, if the file says so; whatever else is wrong with it.
pub fn control_socket(path: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(path).ok()?;
    super::socket_of(&text, &System)
}

/// Reads and compiles a file.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<Compiled, LoadError> {
    load_over(path, None)
}

/// The same for a process that runs with these upstreams already: those that stay as they are keep their state. The
/// files that `${file:…}` names are read again; the environment is the process's own and cannot have changed.
///
/// # Errors
/// See [`LoadError`].
pub fn load_over(path: &Path, before: Option<&Gateway>) -> Result<Compiled, LoadError> {
    let name = path.display().to_string();
    let refuse = |(line, column), message| {
        let error = ConfigError { file: name.as_str().into(), line, column, path: String::new(), message };
        LoadError::Invalid(vec![error])
    };
    let file = File::open(path).map_err(|e| LoadError::Unreadable(format!("{name}: {}", plain(&e))))?;
    let mut bytes = Vec::new();
    // Not the whole of a device or a giant: one byte over the limit is enough to know.
    let read = file.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| LoadError::Unreadable(format!("{name}: {}", plain(&e))))?;
    if bytes.len() > yaml::MAX_BYTES {
        return Err(refuse((0, 0), format!("larger than {} MiB", yaml::MAX_BYTES >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        refuse((line, column), "not UTF-8; save the file in that encoding".to_owned())
    })?;
    let compiled = super::compile_over(&name, &text, &System, before).map_err(LoadError::Invalid)?;
    compiled.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    Ok(compiled)
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
