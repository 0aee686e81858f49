//! The latest refusals and the latest changes of the process, for whoever looks at it now. It forgets.

use super::exchange::unix_millis;
use super::status::{Event, Refusal};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// How many of each are kept.
const KEPT: usize = 50;
/// How many refusals of one second are noted: more would only push each other out.
const A_SECOND: u64 = 20;
/// How much of a path is kept, in bytes.
const PATH: usize = 200;
/// How much of what an event came to.
const TEXT: usize = 2_000;
/// How many events a successor is told.
const HANDED_OVER: usize = 20;

/// What happened lately.
#[derive(Debug, Default)]
pub struct Journal {
    refusals: Mutex<VecDeque<Refusal>>,
    /// The second (upper 48 bits) and how many refusals it had.
    this_second: AtomicU64,
    events: Mutex<VecDeque<Event>>,
}

impl Journal {
    /// Whether a refusal that comes now should be noted.
    pub fn wants_refusal(&self) -> bool {
        let second = unix_millis() / 1_000;
        let before = self.this_second.load(Relaxed);
        if before >> 16 != second {
            self.this_second.store(second << 16 | 1, Relaxed);
            return true;
        }
        before & 0xffff < A_SECOND && {
            self.this_second.fetch_add(1, Relaxed);
            true
        }
    }

    /// Notes a refusal.
    pub fn refusal(&self, mut refusal: Refusal) {
        cut(&mut refusal.path, PATH);
        put(&self.refusals, refusal);
    }

    /// Notes what was done to the process, or refused.
    pub fn event(&self, kind: &str, ok: bool, mut text: String) {
        cut(&mut text, TEXT);
        put(&self.events, Event { time_ms: unix_millis(), kind: kind.to_owned(), ok, text });
    }

    /// Takes over what a predecessor has noted, newest first.
    pub fn inherit(&self, events: Vec<Event>) {
        let mut own = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(events);
        own.truncate(KEPT);
    }

    /// What a successor is told: few enough for one message, whatever they say.
    pub fn to_hand_over(&self) -> Vec<Event> {
        let mut events = self.events();
        events.truncate(HANDED_OVER);
        events
    }

    /// The latest refusals, newest first.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The latest changes, newest first.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

fn put<T>(list: &Mutex<VecDeque<T>>, entry: T) {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.truncate(KEPT - 1);
    list.push_front(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest() {
        let journal = Journal::default();
        (0..60).for_each(|n| journal.event("reload", true, n.to_string()));
        let events = journal.events();
        assert_eq!((events.len(), events[0].text.as_str(), events[49].text.as_str()), (50, "59", "10"));
        journal.refusal(Refusal { path: "é".repeat(200), ..Refusal::default() });
        journal.event("reload", false, "x".repeat(1 << 20));
        assert!(journal.events()[0].text.len() < 2_100);
        let path = &journal.refusals()[0].path;
        assert!(path.len() < 210 && path.ends_with("é…"), "{path}");
    }

    #[test]
    fn a_flood_is_noted_in_part() {
        let journal = Journal::default();
        let noted = (0..100_000).filter(|_| journal.wants_refusal()).count();
        assert!((20..=80).contains(&noted), "{noted}");
    }
}
