//! The store of a single process.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::quality::RandomState;

use super::Kind;
use crate::clock::Timestamp;
use crate::telemetry::metrics::{self, Level, Metrics};

/// Revocations in this process's memory: gone when it ends, unknown to other replicas.
///
/// A revocation is never evicted. Their number is bounded by the tokens that can be revoked: each
/// one takes a verified token, and is forgotten when that token has expired anyway.
#[derive(Debug)]
pub struct Memory {
    origins: Table,
    tokens: Table,
    changes: AtomicU64,
}

impl Memory {
    /// An empty store, which counts what it holds in `portcullis_revocations`.
    pub fn new(metrics: &Metrics) -> Self {
        let table = |kind: Kind| {
            let gauge = metrics.revocations.get_or_create_owned(&metrics::Kind::new(kind.as_str()));
            Table { len: AtomicUsize::new(0), entries: RwLock::default(), gauge }
        };
        Self { origins: table(Kind::OriginJti), tokens: table(Kind::Jti), changes: AtomicU64::new(0) }
    }

    /// Refuses everything with this id before `until`, which is when the last token that it names
    /// has expired, leeway included. Revoking again can make the time longer, never shorter.
    pub fn revoke(&self, kind: Kind, id: &str, until: Timestamp, now: Timestamp) {
        self.table(kind).revoke(id, until, now);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Another number after each revocation, so that whoever has to notice one need not look for it
    /// all the time.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether a token with these claims is refused. A reader's lock and a look-up, or a single
    /// load while nothing is revoked.
    pub fn is_revoked(&self, jti: Option<&str>, origin_jti: Option<&str>, now: Timestamp) -> bool {
        origin_jti.is_some_and(|id| self.origins.contains(id, now))
            || jti.is_some_and(|id| self.tokens.contains(id, now))
    }

    /// Forgets what has expired. [`Memory::revoke`] does so a little at a time; this is for the
    /// gauge, which nobody would lower while nobody signs out.
    pub fn sweep(&self, now: Timestamp) {
        self.origins.sweep(now);
        self.tokens.sweep(now);
    }

    fn table(&self, kind: Kind) -> &Table {
        match kind {
            Kind::OriginJti => &self.origins,
            Kind::Jti => &self.tokens,
        }
    }
}

/// The ids of one kind.
#[derive(Debug)]
struct Table {
    /// The number of ids, so that an empty table costs no lock.
    len: AtomicUsize,
    entries: RwLock<Entries>,
    gauge: Level,
}

#[derive(Debug, Default)]
struct Entries {
    until: HashMap<Arc<str>, Timestamp, RandomState>,
    /// When which id may be forgotten, soonest on top. An id that was revoked again stands here
    /// more than once, and only the entry that agrees with the map counts.
    queue: BinaryHeap<Reverse<(Timestamp, Arc<str>)>>,
}

/// How many expired ids one new one takes with it: more than one, so that the table shrinks, and
/// few, so that no request waits for a long sweep.
const SWEPT_PER_REVOCATION: usize = 4;

impl Table {
    fn contains(&self, id: &str, now: Timestamp) -> bool {
        // Acquire pairs with the store in `publish`: whoever was told that a sign-out worked sees it.
        self.len.load(Ordering::Acquire) > 0
            && self
                .entries
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .until
                .get(id)
                .is_some_and(|until| now < *until)
    }

    fn revoke(&self, id: &str, until: Timestamp, now: Timestamp) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.forget(now, SWEPT_PER_REVOCATION);
        if now < until {
            entries.insert(id.into(), until);
        }
        self.publish(&entries);
    }

    fn sweep(&self, now: Timestamp) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.forget(now, usize::MAX);
        self.publish(&entries);
    }

    fn publish(&self, entries: &Entries) {
        let len = entries.until.len();
        self.len.store(len, Ordering::Release);
        self.gauge.set(i64::try_from(len).unwrap_or(i64::MAX));
    }
}

impl Entries {
    fn insert(&mut self, id: Arc<str>, until: Timestamp) {
        match self.until.entry(id.clone()) {
            // The same token can be signed out a thousand times: the queue must not grow with it.
            Entry::Occupied(entry) if *entry.get() >= until => return,
            Entry::Occupied(mut entry) => {
                entry.insert(until);
            }
            Entry::Vacant(entry) => {
                entry.insert(until);
            }
        }
        self.queue.push(Reverse((until, id)));
    }

    fn forget(&mut self, now: Timestamp, at_most: usize) {
        for _ in 0..at_most {
            let Some(soonest) = self.queue.peek_mut().filter(|entry| entry.0.0 <= now) else { return };
            let Reverse((until, id)) = PeekMut::pop(soonest);
            if self.until.get(&id) == Some(&until) {
                self.until.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_seconds(1000);

    fn later(seconds: u64) -> Timestamp {
        START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_revocation_holds_until_its_time_for_its_own_kind() {
        let store = Memory::new(&Metrics::new());
        store.revoke(Kind::OriginJti, "a", later(10), START);
        assert!(store.is_revoked(None, Some("a"), START));
        assert!(store.is_revoked(Some("other"), Some("a"), later(9)));
        assert!(!store.is_revoked(Some("a"), None, START), "a jti is no origin_jti");
        assert!(!store.is_revoked(None, None, START));
        assert!(!store.is_revoked(None, Some("a"), later(10)));
    }

    #[test]
    fn a_second_revocation_never_shortens_the_first() {
        let store = Memory::new(&Metrics::new());
        store.revoke(Kind::Jti, "a", later(10), START);
        store.revoke(Kind::Jti, "a", later(5), START);
        store.revoke(Kind::Jti, "a", START, START);
        assert!(store.is_revoked(Some("a"), None, later(9)));
        store.revoke(Kind::Jti, "a", later(20), START);
        store.sweep(later(15));
        assert!(store.is_revoked(Some("a"), None, later(19)), "the shorter entry's end is not its end");
    }

    #[test]
    fn the_gauge_counts_what_is_in_force() {
        let metrics = Metrics::new();
        let store = Memory::new(&metrics);
        for id in 0..100 {
            store.revoke(Kind::Jti, &id.to_string(), later(10), START);
        }
        assert!(metrics.text().contains("portcullis_revocations{kind=\"jti\"} 100"), "{}", metrics.text());
        store.sweep(later(10));
        assert!(metrics.text().contains("portcullis_revocations{kind=\"jti\"} 0"), "{}", metrics.text());
        assert!(metrics.text().contains("portcullis_revocations{kind=\"origin_jti\"} 0"), "{}", metrics.text());
    }

    #[test]
    fn signing_out_again_and_again_takes_no_memory() {
        let store = Memory::new(&Metrics::new());
        for _ in 0..1000 {
            store.revoke(Kind::Jti, "a", later(10), START);
        }
        let entries = store.tokens.entries.read().unwrap();
        assert_eq!((entries.until.len(), entries.queue.len()), (1, 1));
    }

    #[test]
    fn steady_revocations_keep_the_table_small_without_a_sweep() {
        let store = Memory::new(&Metrics::new());
        for second in 0..1000 {
            store.revoke(Kind::Jti, &second.to_string(), later(second + 10), later(second));
        }
        let len = store.tokens.len.load(Ordering::Relaxed);
        assert!(len <= 11, "{len}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Revoke(u8, u64),
        Pass(u64),
        Sweep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..8u8, 0..40u64).prop_map(|(id, seconds)| Step::Revoke(id, seconds)),
            2 => (0..15u64).prop_map(Step::Pass),
            1 => Just(Step::Sweep),
        ]
    }

    proptest! {
        #[test]
        fn it_answers_like_a_list_of_all_revocations(steps in prop::collection::vec(step(), 0..80)) {
            let (store, mut model, mut now) = (Memory::new(&Metrics::new()), Vec::new(), START);
            for step in steps {
                match step {
                    Step::Revoke(id, seconds) => {
                        let until = now.after(Duration::from_secs(seconds));
                        store.revoke(Kind::OriginJti, &id.to_string(), until, now);
                        model.push((id, until));
                    }
                    Step::Pass(seconds) => now = now.after(Duration::from_secs(seconds)),
                    Step::Sweep => store.sweep(now),
                }
                for id in 0..8 {
                    let expected = model.iter().any(|(revoked, until)| *revoked == id && now < *until);
                    prop_assert_eq!(store.is_revoked(None, Some(&id.to_string()), now), expected, "{}", id);
                }
            }
        }
    }
}
