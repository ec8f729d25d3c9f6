//! Values that belong to whole tokens, bounded by bytes.
//!
//! Nothing here knows of expiry or keys: whoever reads a value asks it whether it still holds
//! ([`Verified::still_good`](super::Verified::still_good)). The key is the token itself, never a
//! shortened form of it, so that two tokens cannot share an entry.

use std::fmt;

use foldhash::quality::RandomState;
use quick_cache::sync::DefaultLifecycle;
use quick_cache::{Weighter, sync};

/// The smallest weight of an entry: what the table itself needs for one.
const OVERHEAD: u64 = 128;

/// A usual token with its claims, to size the table.
const USUAL_WEIGHT: u64 = 4096;

/// A cache keyed by the token. Hashing is seeded at random, so that strangers cannot aim at one bucket.
pub struct Cache<V: Clone> {
    entries: sync::Cache<Box<[u8]>, Weighed<V>, ByWeight, RandomState>,
}

impl<V: Clone> Cache<V> {
    /// An empty cache that holds about `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        let items = usize::try_from(max_bytes / USUAL_WEIGHT).unwrap_or(usize::MAX).max(1);
        let entries =
            sync::Cache::with(items, max_bytes, ByWeight, RandomState::default(), DefaultLifecycle::default());
        Self { entries }
    }

    /// The value that was inserted for exactly this token, unless it has been evicted.
    pub fn get(&self, token: &[u8]) -> Option<V> {
        self.entries.get(token).map(|weighed| weighed.value)
    }

    /// Keeps a value for a token. Its weight is the token's length and `extra_weight`, both in bytes;
    /// an entry that is too heavy for the cache is not kept.
    pub fn insert(&self, token: &[u8], value: V, extra_weight: usize) {
        let weight = OVERHEAD + token.len() as u64 + extra_weight as u64;
        self.entries.insert(Box::from(token), Weighed { value, weight });
    }
}

impl<V: Clone> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Weighed<V> {
    value: V,
    weight: u64,
}

#[derive(Clone)]
struct ByWeight;

impl<V> Weighter<Box<[u8]>, Weighed<V>> for ByWeight {
    fn weight(&self, _token: &Box<[u8]>, weighed: &Weighed<V>) -> u64 {
        weighed.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_the_whole_token() {
        let cache = Cache::new(1 << 20);
        cache.insert(b"header.payload.signature", 1, 100);
        cache.insert(b"header.payload.signaturf", 2, 100);
        assert_eq!(cache.get(b"header.payload.signature"), Some(1));
        assert_eq!(cache.get(b"header.payload.signaturf"), Some(2));
        assert_eq!(cache.get(b"header.payload.signatur"), None);
        cache.insert(b"header.payload.signature", 3, 100);
        assert_eq!(cache.get(b"header.payload.signature"), Some(3), "the newer value counts");
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let cache = Cache::new(256 * 1024);
        for n in 0..10_000 {
            cache.insert(format!("{n:0>1000}").as_bytes(), n, 3000);
        }
        assert!(cache.entries.weight() <= cache.entries.capacity());
        assert!(cache.entries.len() <= 256 / 4 + 1, "{}", cache.entries.len());
        assert!(cache.entries.len() > 20, "{}", cache.entries.len());
        cache.insert(b"heavy", 1, 1 << 20);
        assert_eq!(cache.get(b"heavy"), None);
        assert!(!format!("{cache:?}").contains("000"), "tokens are not printed");
    }
}
