//! The keys as requests see them: an immutable snapshot that the owner replaces.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use jsonwebtoken::DecodingKey;
use tokio::time::Instant;

use super::Source;
use super::document::{Document, PublicKey};
use crate::clock::Timestamp;

/// A key that verifies RS256.
pub(in crate::token) struct Key {
    public: PublicKey,
    decoding: DecodingKey,
    first_seen: Timestamp,
    /// The newest set no longer has it.
    retired: AtomicBool,
}

impl Key {
    fn new(public: PublicKey, first_seen: Timestamp) -> Self {
        let decoding = DecodingKey::from_rsa_raw_components(&public.n, &public.e);
        Self { public, decoding, first_seen, retired: AtomicBool::new(false) }
    }

    pub(super) fn kid(&self) -> &str {
        &self.public.kid
    }

    pub(super) fn first_seen(&self) -> Timestamp {
        self.first_seen
    }

    /// For the signature check, made once per key.
    pub(in crate::token) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// Whether the pool has withdrawn it.
    pub(in crate::token) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.public.kid).finish_non_exhaustive()
    }
}

/// The newest good set, for everybody to read; only the owner replaces it.
#[derive(Debug)]
pub(in crate::token) struct Keys {
    snapshot: ArcSwap<Snapshot>,
    stale: Duration,
}

/// One good set.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// At most 32: a walk is as fast as a map.
    pub(super) keys: Vec<Arc<Key>>,
    pub(super) confirmed: Option<Confirmed>,
}

/// When and by whom a set was last said to be the newest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirmed {
    pub(super) at: Timestamp,
    pub(super) source: Source,
    /// The same moment on the clock that never jumps, for sets from the network.
    pub(super) fetched: Option<Instant>,
}

/// How a new set differs from the one before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: Vec<String>,
    pub(super) retired: Vec<String>,
}

impl Keys {
    /// No set yet.
    pub(super) fn new(stale: Duration) -> Self {
        Self { snapshot: ArcSwap::default(), stale }
    }

    /// The present set of `before`. Its keys stay the same, so that cached decisions hold.
    pub(super) fn after(before: &Self, stale: Duration) -> Self {
        Self { snapshot: ArcSwap::new(before.snapshot.load_full()), stale }
    }

    /// The newest good set, stale or not.
    pub(super) fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Whether the set may still be used.
    pub(in crate::token) fn is_fresh(&self, now: Timestamp) -> bool {
        self.snapshot.load().is_fresh(now, self.stale)
    }

    /// The key of that name, in a set that may still be used.
    pub(super) fn find(&self, kid: &str, now: Timestamp) -> Option<Arc<Key>> {
        let snapshot = self.snapshot.load();
        if !snapshot.is_fresh(now, self.stale) {
            return None;
        }
        snapshot.keys.iter().find(|key| key.public.kid == kid).cloned()
    }

    /// Puts a new set in place. A key that did not change stays the same `Arc`; one that is gone is
    /// marked, so that cached decisions fall with it. Only the owner calls this.
    pub(super) fn replace(&self, document: Document, confirmed: Confirmed) -> Change {
        let before = self.snapshot.load_full();
        let mut added = Vec::new();
        let keys: Vec<Arc<Key>> = document
            .keys
            .into_iter()
            .map(|public| match before.keys.iter().find(|key| key.public == public) {
                Some(key) => key.clone(),
                None => {
                    added.push(public.kid.clone());
                    Arc::new(Key::new(public, confirmed.at))
                }
            })
            .collect();
        let gone: Vec<&Arc<Key>> =
            before.keys.iter().filter(|old| !keys.iter().any(|key| Arc::ptr_eq(key, old))).collect();
        self.snapshot.store(Arc::new(Snapshot { keys, confirmed: Some(confirmed) }));
        for key in &gone {
            key.retired.store(true, Ordering::Release);
        }
        Change { added, retired: gone.iter().map(|key| key.public.kid.clone()).collect() }
    }
}

impl Snapshot {
    fn is_fresh(&self, now: Timestamp, stale: Duration) -> bool {
        self.confirmed.is_some_and(|confirmed| now.since(confirmed.at) <= stale)
    }
}
