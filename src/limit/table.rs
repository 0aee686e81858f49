//! What is counted on this machine: buckets by key, in bounded memory whatever keys a client invents.
//!
//! A bucket that is at rest (it owes nothing) says no more than one that is not there, so those go first: whoever needs
//! room looks at a few buckets in turn. When there is none at rest among them and the table is full, the new
//! key is not let through uncounted, and nobody else's bucket is given up for it: all keys of a limit that find no room share
//! one bucket of that limit, as if they were one client, until there is room. An attacker with more keys than the table has
//! room for is so held to the rate of a single one; who comes anew meanwhile may be refused with it, who is known is not.
//!
//! Keys are 128 bits made with a random key of this process: nobody can choose two that meet. A hit allocates nothing. It
//! knows no store and no request.

use super::gcra::{Debt, Quota, Tat};
use hashbrown::hash_table::{Entry, HashTable};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks that keep threads out of each other's way.
const SHARDS: usize = 64;
/// How many buckets a new one looks at for one at rest when the table is full, and when it is not.
const LOOK: [usize; 2] = [16, 2];
/// How many other shards it looks into when its own has none.
const ELSEWHERE: usize = 4;

/// How many limits stand beside each other without an allocation.
pub(super) const FEW: usize = 4;

/// A bucket's name in the table.
pub type Key = u128;

/// What is asked of one bucket.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Whose bucket.
    pub key: Key,
    /// Of which limit: the one that strangers share when there is no room.
    pub limit: u64,
    /// How much may pass.
    pub quota: &'a Quota,
    /// How much is to pass.
    pub cost: u64,
}

/// Whether all of them had it, and what each owes now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// All had it, and it is taken; else nothing is.
    pub allowed: bool,
    /// In the order of the asks: what is owed, with this cost if it is taken.
    pub debts: SmallVec<[Debt; FEW]>,
}

/// The buckets.
pub struct Table {
    shards: [Mutex<Shard>; SHARDS],
    /// The buckets of strangers, by limit; as many as there are limits.
    strangers: Mutex<FxHashMap<u64, Tat>>,
    hashers: [RandomState; 2],
    used: AtomicUsize,
    most: AtomicUsize,
    crowded: AtomicU64,
    /// Which shard is looked into next for others.
    turn: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    index: HashTable<u32>,
    slots: Vec<Slot>,
    hand: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    key: Key,
    tat: Tat,
}

/// Makes a key of what is put into it.
pub struct Maker(std::hash::DefaultHasher, std::hash::DefaultHasher);

impl Maker {
    /// Adds a part; parts of different length never run into each other.
    pub fn put(&mut self, bytes: &[u8]) {
        for hasher in [&mut self.0, &mut self.1] {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        }
    }

    /// The key.
    pub fn key(&self) -> Key {
        (u128::from(self.0.finish()) << 64) | u128::from(self.1.finish())
    }
}

impl Table {
    /// An empty one with room for so many buckets.
    pub fn new(most: usize) -> Table {
        Table {
            shards: std::array::from_fn(|_| Mutex::default()),
            strangers: Mutex::default(),
            hashers: [RandomState::new(), RandomState::new()],
            used: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            crowded: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// Changes how many buckets there may be. Those that are there stay until they are at rest.
    pub fn resize(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// A key of a limit, to be put together.
    pub fn maker(&self, limit: u64) -> Maker {
        let [mut one, mut two] = [self.hashers[0].build_hasher(), self.hashers[1].build_hasher()];
        one.write_u64(limit);
        two.write_u64(limit);
        Maker(one, two)
    }

    /// Buckets that are there, those at rest included that nobody has looked at since.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How often a key found no room.
    pub fn crowded(&self) -> u64 {
        self.crowded.load(Relaxed)
    }

    /// Takes from all of them, or from none. Their keys are different.
    pub fn take(&self, asks: &[Ask<'_>], now: u64) -> Taken {
        let mut held = self.hold(asks);
        let mut taken = Taken { allowed: true, debts: SmallVec::new() };
        let mut homes: SmallVec<[Home; FEW]> = SmallVec::new();
        let mut strangers = None;
        for ask in asks {
            let shard = held.of(ask.key);
            let (home, tat) = match shard.get(ask.key) {
                Some(tat) => (Home::Old, tat),
                None if self.has_room(shard, asks, now) => (Home::New, Tat::default()),
                None => {
                    let strangers = strangers.get_or_insert_with(|| lock(&self.strangers));
                    self.crowded.fetch_add(1, Relaxed);
                    (Home::Shared, strangers.get(&ask.limit).copied().unwrap_or_default())
                }
            };
            // More than that is owed only to a limit that was another before: a raised one is raised at once.
            let debt = ask.quota.debt(tat, now).min(ask.quota.full());
            taken.allowed &= ask.quota.allows(debt, ask.cost);
            taken.debts.push(debt);
            homes.push(home);
        }
        for ((ask, home), debt) in asks.iter().zip(&homes).zip(&mut taken.debts) {
            if !taken.allowed {
                if *home == Home::New {
                    self.used.fetch_sub(1, Relaxed);
                }
                continue;
            }
            *debt += ask.quota.price(ask.cost);
            let tat = ask.quota.tat(*debt, now);
            match home {
                Home::Old | Home::New => held.of(ask.key).put(ask.key, tat),
                Home::Shared => {
                    if let Some(strangers) = &mut strangers {
                        strangers.insert(ask.limit, tat);
                    }
                }
            }
        }
        taken
    }

    /// Gives back what was taken, because something else refused.
    pub fn give(&self, asks: &[Ask<'_>], now: u64) {
        let mut held = self.hold(asks);
        for ask in asks {
            let back =
                |tat| ask.quota.tat(ask.quota.debt(tat, now).saturating_sub(ask.quota.price(ask.cost)), now);
            if let Some(slot) = held.of(ask.key).find(ask.key) {
                slot.tat = back(slot.tat);
            } else if let Some(tat) = lock(&self.strangers).get_mut(&ask.limit) {
                *tat = back(*tat);
            }
        }
    }

    /// Takes what was allowed elsewhere, as far as there is that much.
    pub fn charge(&self, asks: &[Ask<'_>], now: u64) {
        for ask in asks {
            let mut shard = lock(&self.shards[shard_of(ask.key)]);
            let debt = |tat| (ask.quota.debt(tat, now) + ask.quota.price(ask.cost)).min(ask.quota.full());
            if let Some(slot) = shard.find(ask.key) {
                slot.tat = ask.quota.tat(debt(slot.tat), now);
            } else if self.has_room(&mut shard, &[], now) {
                shard.put(ask.key, ask.quota.tat(debt(Tat::default()), now));
            }
        }
    }

    /// Notes what is owed elsewhere, where that is more than what is owed here, and if there is room for it.
    pub fn raise(&self, key: Key, quota: &Quota, debt: Debt, now: u64) {
        let tat = quota.tat(debt, now);
        let mut shard = lock(&self.shards[shard_of(key)]);
        if let Some(slot) = shard.find(key) {
            slot.tat = slot.tat.max(tat);
        } else if debt > 0 && self.has_room(&mut shard, &[], now) {
            shard.put(key, tat);
        }
    }

    /// The shards of these keys, each once and always in the same order, so that no two wait for each other.
    fn hold(&self, asks: &[Ask<'_>]) -> Held<'_> {
        let mut wanted: SmallVec<[usize; FEW]> = asks.iter().map(|ask| shard_of(ask.key)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        Held(wanted.into_iter().map(|at| (at, lock(&self.shards[at]))).collect())
    }

    /// Whether there is room for one more, which is the caller's then.
    fn has_room(&self, shard: &mut Shard, asks: &[Ask<'_>], now: u64) -> bool {
        let reserve = || {
            let more = |used: usize| (used < self.most.load(Relaxed)).then_some(used + 1);
            self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
        };
        let roomy = reserve();
        let freed = shard.sweep(LOOK[usize::from(roomy)], asks, now);
        self.used.fetch_sub(freed, Relaxed);
        roomy || (freed > 0 && reserve()) || (self.free_elsewhere(now) && reserve())
    }

    /// Looks into some other shards, in turn, those that nobody is at.
    fn free_elsewhere(&self, now: u64) -> bool {
        for _ in 0..ELSEWHERE {
            let at = self.turn.fetch_add(1, Relaxed) % SHARDS;
            if let Ok(mut shard) = self.shards[at].try_lock() {
                let freed = shard.sweep(LOOK[0], &[], now);
                self.used.fetch_sub(freed, Relaxed);
                if freed > 0 {
                    return true;
                }
            }
        }
        false
    }
}

/// Where the bucket of an ask is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    Old,
    New,
    Shared,
}

struct Held<'a>(SmallVec<[(usize, MutexGuard<'a, Shard>); FEW]>);

impl Held<'_> {
    fn of(&mut self, key: Key) -> &mut Shard {
        let at = shard_of(key);
        let held = self.0.iter_mut().find(|(held, _)| *held == at);
        &mut held.expect("the shards of all keys are held").1
    }
}

impl Shard {
    fn find(&mut self, key: Key) -> Option<&mut Slot> {
        let Shard { index, slots, .. } = self;
        let at = *index.find(short(key), |at| slots[*at as usize].key == key)?;
        Some(&mut slots[at as usize])
    }

    fn get(&mut self, key: Key) -> Option<Tat> {
        self.find(key).map(|slot| slot.tat)
    }

    /// The bucket's moment; it is made if it is not there.
    fn put(&mut self, key: Key, tat: Tat) {
        let Shard { index, slots, .. } = self;
        let entry =
            index.entry(short(key), |at| slots[*at as usize].key == key, |at| short(slots[*at as usize].key));
        match entry {
            Entry::Occupied(at) => slots[*at.get() as usize].tat = tat,
            Entry::Vacant(vacant) => {
                vacant.insert(slots.len() as u32); // the configuration's largest table is far below
                slots.push(Slot { key, tat });
            }
        }
    }

    /// Looks at so many buckets in turn and removes those at rest, but for those that are asked for; how many it removed.
    fn sweep(&mut self, look: usize, asks: &[Ask<'_>], now: u64) -> usize {
        let mut removed = 0;
        for _ in 0..look.min(self.slots.len()) {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            match self.slots.get(self.hand) {
                Some(slot) if slot.tat.ns < now && asks.iter().all(|ask| ask.key != slot.key) => {
                    self.remove(self.hand);
                    removed += 1;
                }
                Some(_) => self.hand += 1,
                None => break,
            }
        }
        removed
    }

    fn remove(&mut self, at: usize) {
        let Shard { index, slots, .. } = self;
        let key = slots[at].key;
        if let Ok(entry) = index.find_entry(short(key), |other| *other as usize == at) {
            entry.remove();
        }
        slots.swap_remove(at);
        if let Some(moved) = slots.get(at) {
            let was = slots.len() as u32;
            if let Some(place) = index.find_mut(short(moved.key), |other| *other == was) {
                *place = at as u32;
            }
        }
    }
}

fn shard_of(key: Key) -> usize {
    (key >> 64) as usize % SHARDS
}

/// What the index of a shard hashes by: it is random already.
fn short(key: Key) -> u64 {
    key as u64
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SECOND: u64 = 1_000_000_000;

    fn quota(count: u32, seconds: u64, burst: u64) -> Quota {
        Quota::new(count, seconds, burst).unwrap()
    }

    fn key(table: &Table, limit: u64, of: u64) -> Key {
        let mut maker = table.maker(limit);
        maker.put(&of.to_be_bytes());
        maker.key()
    }

    #[test]
    fn all_or_nothing() {
        let table = Table::new(1_000);
        let (wide, narrow) = (quota(100, 1, 100), quota(2, 86_400, 2));
        let ask = |limit, quota| Ask { key: key(&table, limit, 7), limit, quota, cost: 1 };
        let asks = [ask(1, &wide), ask(2, &narrow)];
        let passed = (0..10).filter(|_| table.take(&asks, SECOND).allowed).count();
        assert_eq!(passed, 2);
        let refused = table.take(&asks, SECOND);
        assert_eq!(refused.debts[0], wide.price(2), "what the one refused is not taken from the other");
        assert_eq!(table.used(), 2);
        table.give(&asks, SECOND);
        assert!(table.take(&asks, SECOND).allowed && !table.take(&asks, SECOND).allowed);
    }

    #[test]
    fn it_agrees_with_a_plain_map() {
        let table = Table::new(100_000);
        let quotas = [quota(10, 1, 5), quota(7, 60, 7), quota(1_000, 1, 1)];
        let mut plain: HashMap<(usize, u64), Tat> = HashMap::new();
        let mut random = fastrand::Rng::with_seed(7);
        let mut now = SECOND;
        for _ in 0..200_000 {
            now += random.u64(0..5_000_000);
            let (which, who, cost) =
                (random.usize(0..3), random.u64(0..500), random.u64(1..3).min(quotas[2].burst()));
            let quota = &quotas[which];
            let ask = Ask { key: key(&table, which as u64, who), limit: which as u64, quota, cost };
            let tat = plain.entry((which, who)).or_default();
            let debt = quota.debt(*tat, now);
            let allowed = quota.allows(debt, cost);
            if allowed {
                *tat = quota.tat(debt + quota.price(cost), now);
            }
            assert_eq!(table.take(&[ask], now).allowed, allowed);
        }
        assert!(table.used() <= 1_500);
        assert_eq!(table.crowded(), 0);
    }

    #[test]
    fn a_million_keys_stay_within_bounds_and_gain_nothing() {
        const MOST: usize = 5_000;
        let table = Table::new(MOST);
        let quota = quota(10_000, 86_400, 100);
        let known: Vec<Key> = (0..100).map(|who| key(&table, 1, who)).collect();
        let ask = |key| Ask { key, limit: 1, quota: &quota, cost: 1 };
        let mut now = SECOND;
        known.iter().for_each(|key| assert!((0..100).all(|_| table.take(&[ask(*key)], now).allowed)));
        let mut passed = 0;
        for stranger in 0..1_000_000 {
            now += 1_000; // a million a second
            passed += usize::from(table.take(&[ask(key(&table, 1, 1_000_000 + stranger))], now).allowed);
            assert!(table.used() <= MOST);
        }
        // Those that had room, and one bucket's worth for all others. (A second is an eighth of a unit.)
        assert!(passed <= MOST - known.len() + 101, "{passed}");
        assert!(table.crowded() > 990_000);
        // Who had used theirs up before has not got it back.
        let regained = known.iter().filter(|key| table.take(&[ask(**key)], now).allowed).count();
        assert_eq!(regained, 0);
        // At rest they make room.
        let crowded = table.crowded();
        now += 86_400 * SECOND;
        assert!((0..100).all(|who| table.take(&[ask(key(&table, 2, who))], now).allowed));
        assert!((0..MOST as u64 * 3 / 4).all(|who| table.take(&[ask(key(&table, 3, who))], now).allowed));
        assert!(table.used() <= MOST);
        assert_eq!(table.crowded(), crowded, "nobody had to share");
    }

    #[test]
    fn those_at_rest_are_swept_though_there_is_room() {
        let table = Table::new(1_000_000);
        let quota = quota(100, 1, 1);
        let mut now = SECOND;
        for who in 0..100_000 {
            now += SECOND;
            assert!(
                table
                    .take(&[Ask { key: key(&table, 1, who), limit: 1, quota: &quota, cost: 1 }], now)
                    .allowed
            );
        }
        assert!(table.used() < 10 * SHARDS, "{}", table.used());
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let table = Table::new(1_000);
        let (one, two) = (quota(1, 1, 3_000), quota(1, 1, 5_000));
        let passed: usize = std::thread::scope(|scope| {
            let work = |turned: bool| {
                let (table, one, two) = (&table, &one, &two);
                move || {
                    let ask = |limit, quota| Ask { key: key(table, limit, 7), limit, quota, cost: 1 };
                    let mut asks = [ask(1, one), ask(2, two)];
                    if turned {
                        asks.reverse(); // in the other order, which must not lock for ever
                    }
                    (0..2_000).filter(|_| table.take(&asks, SECOND).allowed).count()
                }
            };
            let threads: Vec<_> = (0..4).map(|n| scope.spawn(work(n % 2 == 0))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 3_000);
    }

    #[test]
    fn keys_are_of_this_process_alone_and_parts_do_not_run_together() {
        let (one, other) = (Table::new(1), Table::new(1));
        assert_ne!(key(&one, 1, 1), key(&other, 1, 1));
        assert_ne!(key(&one, 1, 1), key(&one, 2, 1));
        let of = |parts: &[&[u8]]| {
            let mut maker = one.maker(1);
            parts.iter().for_each(|part| maker.put(part));
            maker.key()
        };
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_eq!(of(&[b"ab"]), of(&[b"ab"]));
    }

    #[test]
    fn what_others_owe_is_noted() {
        let table = Table::new(10);
        let quota = quota(10, 1, 10);
        let ask = Ask { key: key(&table, 1, 1), limit: 1, quota: &quota, cost: 1 };
        assert!(table.take(&[ask], SECOND).allowed);
        table.raise(ask.key, &quota, quota.price(10), SECOND);
        assert!(!table.take(&[ask], SECOND).allowed);
        table.raise(ask.key, &quota, quota.price(1), SECOND);
        assert!(!table.take(&[ask], SECOND).allowed, "it is never lowered");
        // A bucket that was at rest here, and may be gone, is one that others have taken from.
        let unknown = Ask { key: key(&table, 1, 2), ..ask };
        table.raise(unknown.key, &quota, quota.price(10), SECOND);
        assert!(!table.take(&[unknown], SECOND).allowed);
        table.raise(key(&table, 1, 3), &quota, 0, SECOND);
        assert_eq!(table.used(), 2);
    }

    #[test]
    fn what_was_allowed_elsewhere_is_charged_but_never_more_than_there_is() {
        let table = Table::new(10);
        let quota = quota(10, 1, 10);
        let ask = Ask { key: key(&table, 1, 1), limit: 1, quota: &quota, cost: 1 };
        (0..7).for_each(|_| table.charge(&[ask], SECOND));
        assert_eq!((0..9).filter(|_| table.take(&[ask], SECOND).allowed).count(), 3);
        (0..50).for_each(|_| table.charge(&[ask], SECOND));
        assert!(table.take(&[ask], SECOND + SECOND / 10).allowed);
    }
}
