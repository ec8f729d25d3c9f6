//! The keys of one user pool, kept fresh in the background (cognito-api.md §6.6, §9.3).
//!
//! One task per pool (`owner`) makes all fetches. Requests read a snapshot; a request that does not
//! find its key there may ask the owner for a fetch and wait for it, never longer than its own
//! deadline, and its going away never touches the fetch.
//!
//! What a request without its key learns:
//!
//! 1. The next fetch that ends decides. It failed: *unavailable*. It brought the key: the key. It
//!    did not bring the key: *unknown*, unless it had begun before the request came: such an answer
//!    may be older than the token, so the request waits for one more.
//! 2. A fetch that requests ask for needs a token from a bucket of two, refilled once per `cooldown`;
//!    background fetches take one as well, if there is one. So strangers with random `kid`s cause one
//!    fetch per `cooldown` in the long run, and never more than two at once. Each of those refreshes
//!    the set for everybody, which is why a flood cannot hide a real rotation for longer than one
//!    refill. No `kid` that a stranger made up is remembered.
//! 3. The deadline comes first (the bucket is empty, or the endpoint slow): *unknown* if a fetch
//!    succeeded within the last `cooldown`, because a set that young is all there is to know;
//!    otherwise *unavailable*.
//!
//! A set whose last confirmation is older than `stale` has no keys at all: it does not fail open.

mod disk;
mod document;
mod fetch;
mod owner;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::DecodingKey;
use serde::Serialize;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::document::{Document, PublicKey};
use self::owner::{Owner, Progress};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::telemetry::metrics::Metrics;

/// A handle on the keys of one pool. Clones share them; when the last one is dropped, the
/// background task ends.
#[derive(Clone)]
pub struct KeySet {
    handle: Arc<Handle>,
}

/// What the handles share. The owner task has none of it, so that dropping the last one closes
/// `wanted`, which the owner sees.
struct Handle {
    keys: Arc<Keys>,
    clock: Clock,
    cooldown: Duration,
    /// The number of the fetch that somebody wants to have begun.
    wanted: watch::Sender<u64>,
    progress: watch::Receiver<Progress>,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The pool has no key of that name.
    Unknown,
    /// Nobody can tell at present.
    Unavailable,
}

impl KeySet {
    /// Starts to keep the keys of `pool`: one task on `runtime` fetches now, again and again until
    /// the first success, then every `refresh`. `http` must not follow redirects.
    pub fn start(
        pool: Arc<config::Pool>,
        http: reqwest::Client,
        clock: Clock,
        metrics: Arc<Metrics>,
        runtime: &runtime::Handle,
    ) -> Self {
        let url = pool.jwks.clone();
        let fetch = move || {
            let (http, url) = (http.clone(), url.clone());
            async move { fetch::fetch(&http, &url).await }
        };
        let (set, owner) = Self::new(pool, clock, metrics);
        runtime.spawn(owner.run(fetch));
        set
    }

    /// A set without keys, and the owner that will bring some once it runs.
    fn new(pool: Arc<config::Pool>, clock: Clock, metrics: Arc<Metrics>) -> (Self, Owner) {
        let keys = Arc::new(Keys { snapshot: ArcSwap::default(), stale: pool.keys.stale });
        let (wanted, wanted_by_requests) = watch::channel(0);
        let (progress_of_owner, progress) = watch::channel(Progress::default());
        let cooldown = pool.keys.cooldown;
        let handle = Handle { keys: keys.clone(), clock: clock.clone(), cooldown, wanted, progress };
        let owner = Owner::new(pool, keys, clock, metrics, wanted_by_requests, progress_of_owner);
        (Self { handle: Arc::new(handle) }, owner)
    }

    /// Whether tokens can be verified: there is a set, and it is not stale.
    pub fn is_ready(&self) -> bool {
        self.handle.keys.is_fresh(self.handle.clock.now())
    }

    /// Waits until [`is_ready`](Self::is_ready).
    pub async fn ready(&self) {
        let mut progress = self.handle.progress.clone();
        loop {
            progress.mark_unchanged();
            if self.is_ready() {
                return;
            }
            if progress.changed().await.is_err() {
                // The owner's runtime is gone: the process ends.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What operators want to know.
    pub fn status(&self) -> Status {
        let now = self.handle.clock.now();
        let snapshot = self.handle.keys.snapshot.load();
        let age = |since: Timestamp| now.since(since).as_secs();
        Status {
            ready: self.is_ready(),
            keys: snapshot
                .keys
                .iter()
                .map(|key| KeyStatus { kid: key.public.kid.clone(), age_seconds: age(key.first_seen) })
                .collect(),
            age_seconds: snapshot.confirmed.map(|confirmed| age(confirmed.at)),
            source: snapshot.confirmed.map(|confirmed| confirmed.source),
            last_error: self.handle.progress.borrow().error.as_deref().map(str::to_owned),
        }
    }

    /// The key named `kid`, waiting for a fetch if it has to, for at most `wait`.
    ///
    /// # Errors
    /// As the rules at the top of this module say.
    pub(super) async fn find(&self, kid: &str, now: Timestamp, wait: Duration) -> Result<Arc<Key>, NoKey> {
        match self.handle.keys.find(kid, now) {
            Some(key) => Ok(key),
            None => self.find_after_fetch(kid, now, wait).await,
        }
    }

    /// What a cached decision needs to see whether its key still counts.
    pub(super) fn keys(&self) -> &Arc<Keys> {
        &self.handle.keys
    }

    async fn find_after_fetch(&self, kid: &str, now: Timestamp, wait: Duration) -> Result<Arc<Key>, NoKey> {
        let deadline = Instant::now() + wait;
        let mut progress = self.handle.progress.clone();
        let (begun_before, mut ended) = {
            let seen = progress.borrow();
            (seen.started, seen.finished)
        };
        loop {
            let (started, finished, failed) = {
                let seen = progress.borrow_and_update();
                (seen.started, seen.finished, seen.error.is_some())
            };
            // The owner swaps the snapshot before it reports progress: this look-up sees whatever
            // the fetch brought.
            if let Some(key) = self.handle.keys.find(kid, now) {
                return Ok(key);
            }
            if finished > ended {
                if failed {
                    return Err(NoKey::Unavailable);
                }
                if finished > begun_before {
                    return Err(NoKey::Unknown);
                }
                ended = finished;
            }
            if started == finished {
                self.want(started + 1);
            }
            match timeout_at(deadline, progress.changed()).await {
                Ok(Ok(())) => {}
                // The deadline, or a runtime that is shutting down.
                Err(_) | Ok(Err(_)) => return Err(self.undecided()),
            }
        }
    }

    /// Asks for a fetch of at least this number. Asking twice for the same one is asking once.
    fn want(&self, number: u64) {
        self.handle.wanted.send_if_modified(|wanted| {
            let more = number > *wanted;
            *wanted = number.max(*wanted);
            more
        });
    }

    /// Rule 3.
    fn undecided(&self) -> NoKey {
        let fetched = self.handle.keys.snapshot.load().confirmed.and_then(|confirmed| confirmed.fetched);
        match fetched {
            Some(fetched) if fetched.elapsed() <= self.handle.cooldown => NoKey::Unknown,
            _ => NoKey::Unavailable,
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}

/// The state of a key set. Its JSON form is what the admin listener shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Tokens can be verified.
    pub ready: bool,
    /// The keys in use.
    pub keys: Vec<KeyStatus>,
    /// Seconds since the set was last confirmed by the endpoint. `None`: never.
    pub age_seconds: Option<u64>,
    /// Where the set came from. `None`: there is none yet.
    pub source: Option<Source>,
    /// Why the last fetch failed. `None`: it did not.
    pub last_error: Option<String>,
}

/// One key of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyStatus {
    /// Its name.
    pub kid: String,
    /// Seconds since it was first seen.
    pub age_seconds: u64,
}

/// Where a key set came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The pool's endpoint.
    Network,
    /// The copy on disk.
    Disk,
}

/// A key that verifies RS256.
pub(super) struct Key {
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

    /// For the signature check, made once per key.
    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// Whether the pool has withdrawn it.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.public.kid).finish_non_exhaustive()
    }
}

/// The part of a key set that is only read, except by its owner.
#[derive(Debug)]
pub(super) struct Keys {
    snapshot: ArcSwap<Snapshot>,
    stale: Duration,
}

/// The newest good set.
#[derive(Debug, Default)]
struct Snapshot {
    /// At most 32: a walk is as fast as a map.
    keys: Vec<Arc<Key>>,
    confirmed: Option<Confirmed>,
}

/// When and by whom a set was last said to be the newest.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    at: Timestamp,
    source: Source,
    /// The same moment on the clock that never jumps, for sets from the network.
    fetched: Option<Instant>,
}

/// How a new set differs from the one before.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    added: Vec<String>,
    retired: Vec<String>,
}

impl Keys {
    /// Whether the set may still be used.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.snapshot.load().is_fresh(now, self.stale)
    }

    fn find(&self, kid: &str, now: Timestamp) -> Option<Arc<Key>> {
        let snapshot = self.snapshot.load();
        if !snapshot.is_fresh(now, self.stale) {
            return None;
        }
        snapshot.keys.iter().find(|key| key.public.kid == kid).cloned()
    }

    /// Puts a new set in place. A key that did not change stays the same `Arc`; one that is gone is
    /// marked, so that cached decisions fall with it. Only the owner calls this.
    fn replace(&self, document: Document, confirmed: Confirmed) -> Change {
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

#[cfg(test)]
impl KeySet {
    /// The set that `document` holds, confirmed at `now`, without a task behind it.
    pub(super) fn fixed(pool: Arc<config::Pool>, document: &str, now: Timestamp) -> Self {
        let (set, _owner) = Self::new(pool, Clock::manual(now), Arc::new(Metrics::new()));
        let document = document::parse(document.as_bytes()).unwrap();
        let fetched = Some(Instant::now());
        set.handle.keys.replace(document, Confirmed { at: now, source: Source::Network, fetched });
        set
    }

    /// Puts another document in place, as a refresh would.
    pub(super) fn refresh_fixed(&self, document: &str, now: Timestamp) {
        let document = document::parse(document.as_bytes()).unwrap();
        let fetched = Some(Instant::now());
        self.handle.keys.replace(document, Confirmed { at: now, source: Source::Network, fetched });
    }
}

#[cfg(test)]
mod tests;
