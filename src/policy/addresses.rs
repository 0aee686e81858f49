//! `allow` and `deny`: from where requests may come.
//!
//! By the believed address of the client, so that what a client says of itself decides nothing. Of a client without one (on
//! a Unix socket, or one that a balancer does not name) nothing is known: it is not among those that `allow` lets in, nor
//! among those that `deny` keeps out.

use crate::base::addresses::{list, AddressSet};
use crate::base::identity::Identity;
use crate::base::trouble::plain;
use crate::error::Reject;
use arc_swap::ArcSwap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Who may come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// These and nobody else, if there is such a list.
    pub allow: Option<List>,
    /// Not these, whatever the other list says.
    pub deny: Option<List>,
}

impl Addresses {
    /// Whether a client may.
    ///
    /// # Errors
    /// [`Reject::AddressDenied`].
    pub fn admit(&self, client: Option<IpAddr>) -> Result<(), Reject> {
        let among = |list: &List| client.is_some_and(|client| list.contains(client));
        let allowed = self.allow.as_ref().is_none_or(among);
        let denied = self.deny.as_ref().is_some_and(among);
        if denied || !allowed {
            return Err(Reject::AddressDenied);
        }
        Ok(())
    }
}

/// Addresses from the configuration and from files.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// Those of the configuration.
    pub fixed: Arc<AddressSet>,
    /// Those of files, one after the other.
    pub files: Vec<Arc<ListFile>>,
}

impl List {
    fn contains(&self, address: IpAddr) -> bool {
        self.fixed.contains(address) || self.files.iter().any(|file| file.set.load().contains(address))
    }
}

/// A file is the same only where it is followed as one.
impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.fixed == other.fixed
            && self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl Eq for List {}

/// A file of networks that is followed while the configuration stays as it is.
pub struct ListFile {
    /// Where it is.
    pub path: PathBuf,
    set: ArcSwap<AddressSet>,
    seen: Mutex<Seen>,
}

/// What was seen of the file.
#[derive(Debug, Default)]
struct Seen {
    /// When what it has was taken up, or found wrong; none: it has not been looked at yet.
    used: Option<Option<Identity>>,
    /// At the last look, if it was something else.
    last: Option<Option<Identity>>,
}

/// The most that such a file may have; 10,000 networks have less than half of it.
const MOST: u64 = 1 << 20;
/// How many wrong lines are told.
const TOLD: usize = 5;

impl ListFile {
    /// One that was read.
    pub fn new(path: PathBuf, set: AddressSet) -> Self {
        ListFile { path, set: ArcSwap::from_pointee(set), seen: Mutex::default() }
    }

    /// Looks whether the file has changed, and takes up what it has now; says how many networks that are. A change is
    /// looked at a second time first, since whoever writes may not be done. Blocks.
    ///
    /// # Errors
    /// What is wrong with it, with the lines; what was read before stays in use.
    pub fn look(&self) -> Result<Option<usize>, Vec<String>> {
        let now = Identity::of(&self.path);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.used == Some(now) {
                seen.last = None;
                return Ok(None);
            }
            if seen.used.is_some() && seen.last != Some(now) {
                seen.last = Some(now);
                return Ok(None);
            }
            // Also when it is wrong: it is looked at again when it changes again.
            *seen = Seen { used: Some(now), last: None };
        }
        let shown = self.path.display();
        let text = read(&self.path).map_err(|e| vec![format!("{shown}: {e}")])?;
        let set = list(&text).map_err(|wrong| wrong_lines(&shown.to_string(), &wrong))?;
        if **self.set.load() == set {
            return Ok(None);
        }
        let networks = set.networks();
        self.set.store(Arc::new(set));
        Ok(Some(networks))
    }
}

impl fmt::Debug for ListFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListFile").field(&self.path).finish()
    }
}

/// What is said of the wrong lines of a file: the first of them, each with its place.
pub fn wrong_lines(file: &str, wrong: &[(usize, String)]) -> Vec<String> {
    let mut told: Vec<String> =
        wrong.iter().take(TOLD).map(|(line, why)| format!("{file}:{line}: {why}")).collect();
    let more = wrong.len().saturating_sub(TOLD);
    if let Some(last) = told.last_mut().filter(|_| more > 0) {
        last.push_str(&format!(" (and {more} more wrong lines)"));
    }
    told
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| plain(&e))?;
    file.take(MOST + 1).read_to_string(&mut text).map_err(|e| plain(&e))?;
    if text.len() as u64 > MOST {
        return Err("larger than 1 MiB".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addresses::network;

    fn list_of(networks: &[&str]) -> Option<List> {
        let networks: Vec<_> = networks.iter().map(|n| network(n).unwrap()).collect();
        Some(List { fixed: Arc::new(AddressSet::new(&networks)), files: Vec::new() })
    }

    fn admits(addresses: &Addresses, client: &str) -> bool {
        let admitted = addresses.admit(client.parse().ok());
        assert!(matches!(admitted, Ok(()) | Err(Reject::AddressDenied)));
        admitted.is_ok()
    }

    #[test]
    fn deny_wins_and_allow_is_for_nobody_else() {
        let both = Addresses { allow: list_of(&["10.0.0.0/8"]), deny: list_of(&["10.1.0.0/16"]) };
        assert!(admits(&both, "10.2.0.1") && !admits(&both, "10.1.0.1") && !admits(&both, "11.0.0.1"));
        let deny = Addresses { allow: None, ..both.clone() };
        assert!(!admits(&deny, "10.1.0.1") && admits(&deny, "11.0.0.1") && admits(&deny, "::1"));
        let nobody = Addresses { allow: Some(List::default()), deny: None };
        assert!(!admits(&nobody, "10.0.0.1"), "a list that a file has emptied");
        // Without an address.
        assert!(!admits(&both, "") && admits(&deny, ""));
    }

    #[test]
    fn a_file_is_followed_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        let write = |text: &str| {
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
        };
        write("10.0.0.0/8\n");
        let file = Arc::new(ListFile::new(path.clone(), list("10.0.0.0/8").unwrap()));
        let addresses =
            Addresses { allow: Some(List { files: vec![Arc::clone(&file)], ..List::default() }), deny: None };
        let mut told = Vec::new();
        let mut look = |file: &ListFile| match file.look() {
            Ok(networks) => networks,
            Err(wrong) => {
                told.extend(wrong);
                None
            }
        };
        assert_eq!(look(&file), None);
        write("10.0.0.0/8\n192.0.2.1 # more\n");
        assert_eq!((look(&file), look(&file), look(&file)), (None, Some(2), None));
        assert!(admits(&addresses, "192.0.2.1"));
        write("192.0.2.1\n10.0.0.1/8\nx\n");
        (0..4).for_each(|_| assert_eq!(look(&file), None));
        assert!(admits(&addresses, "10.0.0.1"), "the old list stays");
        std::fs::remove_file(&path).unwrap();
        (0..4).for_each(|_| assert_eq!(look(&file), None));
        assert!(admits(&addresses, "10.0.0.1") && !admits(&addresses, "11.0.0.1"));
        write("");
        assert_eq!((look(&file), look(&file)), (None, Some(0)));
        assert!(!admits(&addresses, "10.0.0.1"));
        assert_eq!(told.len(), 3, "each said once: {told:?}");
        assert!(told[0].contains("list.txt:2: ") && told[1].contains("list.txt:3: "), "{told:?}");
        assert!(told[2].contains("list.txt: No such file"), "{told:?}");
    }
}
