//! The keys of one user pool, kept fresh in the background.
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
//!    succeeded within the last `cooldown` (before the fetch under way began, if there is one), because
//!    a set that young is all there is to know; otherwise *unavailable*.
//!
//! A set whose last confirmation is older than `stale` has no keys at all: it does not fail open.

mod disk;
mod document;
mod fetch;
mod keys;
mod owner;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub(super) use self::keys::{Key, Keys};
use self::owner::{Owner, Progress};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::telemetry::metrics::Metrics;

/// A timer of the owner may fire this late without a healthy endpoint looking like a failing one.
const LATE_TIMER: Duration = Duration::from_millis(100);

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
        let keys = Keys::new(pool.keys.stale);
        Self::launch(pool, keys, http, clock, metrics, runtime)
    }

    /// Keeps the keys of the same endpoint under other settings, those of `pool`. It begins with the
    /// keys of this set, which goes on for those who still have it.
    #[must_use]
    pub fn continued(
        &self,
        pool: Arc<config::Pool>,
        http: reqwest::Client,
        metrics: Arc<Metrics>,
        runtime: &runtime::Handle,
    ) -> Self {
        let keys = Keys::after(&self.handle.keys, pool.keys.stale);
        Self::launch(pool, keys, http, self.handle.clock.clone(), metrics, runtime)
    }

    fn launch(
        pool: Arc<config::Pool>,
        keys: Keys,
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
        let (set, owner) = Self::new(pool, keys, clock, metrics);
        runtime.spawn(owner.run(fetch));
        set
    }

    /// A set with these keys, and the owner that will bring others once it runs.
    fn new(pool: Arc<config::Pool>, keys: Keys, clock: Clock, metrics: Arc<Metrics>) -> (Self, Owner) {
        let keys = Arc::new(keys);
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
        let snapshot = self.handle.keys.snapshot();
        let age = |since: Timestamp| now.since(since).as_secs();
        Status {
            ready: self.is_ready(),
            keys: snapshot
                .keys
                .iter()
                .map(|key| KeyStatus { kid: key.kid().to_owned(), age_seconds: age(key.first_seen()) })
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
            if wait.is_zero() {
                return Err(self.undecided());
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

    /// Rule 3. What counts is how old the set was when the fetch under way began: as long as requests
    /// keep the bucket empty, that is never more than `cooldown`.
    fn undecided(&self) -> NoKey {
        let fetched = self.handle.keys.snapshot().confirmed.and_then(|confirmed| confirmed.fetched);
        let seen = self.handle.progress.borrow().under_way.unwrap_or_else(Instant::now);
        match fetched {
            Some(fetched) if seen.duration_since(fetched) <= self.handle.cooldown + LATE_TIMER => NoKey::Unknown,
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

/// A door for the fuzz target of this parser: the form of a document is nobody else's business.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// `kid`, `n` and `e` of each key in a document, unless it is refused.
    pub fn keys(document: &[u8]) -> Option<Vec<(String, Vec<u8>, Vec<u8>)>> {
        let document = super::document::parse(document).ok()?;
        Some(document.keys.into_iter().map(|key| (key.kid, key.n, key.e)).collect())
    }
}

#[cfg(test)]
impl KeySet {
    /// The set that `document` holds, confirmed at `now`, without a task behind it.
    pub(super) fn fixed(pool: Arc<config::Pool>, document: &str, now: Timestamp) -> Self {
        let keys = Keys::new(pool.keys.stale);
        let (set, _owner) = Self::new(pool, keys, Clock::manual(now), Arc::new(Metrics::new()));
        set.refresh_fixed(document, now);
        set
    }

    /// Puts another document in place, as a refresh would.
    pub(crate) fn refresh_fixed(&self, document: &str, now: Timestamp) {
        let document = document::parse(document.as_bytes()).unwrap();
        let fetched = Some(Instant::now());
        self.handle.keys.replace(document, keys::Confirmed { at: now, source: Source::Network, fetched });
    }
}

#[cfg(test)]
mod tests;
