//! A file that holds certificates or keys, and what can be wrong with it.

use crate::base::trouble::plain;
use aws_lc_rs::digest;
use std::fmt;
use std::path::{Path, PathBuf};

/// A file's text. It may hold a key: it is never shown.
#[derive(Clone)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    text: String,
}

/// The most that such a file may have; a bundle of all public authorities has a quarter of a megabyte.
const MOST: u64 = 1 << 20;

impl Source {
    /// A file that was read.
    pub fn new(path: PathBuf, text: String) -> Self {
        Source { path, text }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Flaw> {
        let flaw = |why: String| Flaw { path: path.to_owned(), why };
        let length = std::fs::metadata(path).map_err(|e| flaw(plain(&e)))?.len();
        if length > MOST {
            return Err(flaw("larger than 1 MiB".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|e| flaw(plain(&e)))?;
        Ok(Source::new(path.to_owned(), text))
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Says that something is wrong with it.
    pub(super) fn flaw(&self, why: impl fmt::Display) -> Flaw {
        Flaw { path: self.path.clone(), why: why.to_string() }
    }

    /// Tells this content from any other.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        sha256(self.text.trim_ascii().as_bytes())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.path).finish()
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Which.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
