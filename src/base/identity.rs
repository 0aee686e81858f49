//! Which file stands behind a path.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file, links followed, and its content as far as that can be told without reading it. Another one in its place and one
/// that was written to are different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Of its rights too: what could not be read may be readable since.
    changed: (i64, i64),
}

impl Identity {
    /// Of what is there now; `None` when nothing is.
    pub fn of(path: &Path) -> Option<Identity> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Identity {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}
