//! The one task that fetches the keys of a pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::document::{self, Document};
use super::fetch::FetchError;
use super::keys::{Confirmed, Keys};
use super::{Source, disk};
use crate::clock::{Clock, Timestamp};
use crate::config::Pool;
use crate::secret;
use crate::telemetry::metrics::{self, Metrics};

/// The first wait after a failure while there has been no success yet.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest wait while there has been no success yet.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// How often the age of the set is written to its metric.
const AGE_STEP: Duration = Duration::from_secs(5);

/// What the owner tells those who wait.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Fetches begun so far: the number of the newest one.
    pub(super) started: u64,
    /// Fetches ended so far; one less while one is under way.
    pub(super) finished: u64,
    /// When the one under way began. `None`: there is none.
    pub(super) under_way: Option<Instant>,
    /// Why the last one that ended failed, if it did.
    pub(super) error: Option<Arc<str>>,
}

/// The owner of one key set.
pub(super) struct Owner {
    pool: Arc<Pool>,
    keys: Arc<Keys>,
    clock: Clock,
    metrics: Arc<Metrics>,
    wanted: watch::Receiver<u64>,
    progress: watch::Sender<Progress>,
    bucket: Bucket,
    /// Fetches begun so far.
    started: u64,
    /// Failures since the last success.
    failures: u32,
    /// A fetch has succeeded since the start.
    succeeded: bool,
}

/// Every handle is gone: nobody will ever look again.
struct Abandoned;

impl Owner {
    pub(super) fn new(
        pool: Arc<Pool>,
        keys: Arc<Keys>,
        clock: Clock,
        metrics: Arc<Metrics>,
        wanted: watch::Receiver<u64>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        let bucket = Bucket::full(pool.keys.cooldown, Instant::now());
        Self { pool, keys, clock, metrics, wanted, progress, bucket, started: 0, failures: 0, succeeded: false }
    }

    /// Fetches until every handle is gone.
    pub(super) async fn run<F>(mut self, fetch: impl Fn() -> F)
    where
        F: Future<Output = Result<Bytes, FetchError>>,
    {
        self.load_copy().await;
        loop {
            if let Err(Abandoned) = self.attempt(fetch()).await {
                return;
            }
            let pause = self.pause();
            if let Err(Abandoned) = self.until_due(Instant::now() + pause).await {
                return;
            }
        }
    }

    /// Uses the copy on disk until the first fetch succeeds.
    async fn load_copy(&mut self) {
        let Some(path) = &self.pool.keys.cache else { return };
        if self.keys.snapshot().confirmed.is_some() {
            // It began with the keys of another set, which are newer.
            return;
        }
        let now = self.clock.now();
        match disk::read(path, &self.pool, now).await {
            Ok(None) => {}
            Ok(Some((_, at))) if now.since(at) > self.pool.keys.stale => {
                tracing::info!(pool = %self.pool.name, "the copy of the key set on disk is too old to be used");
            }
            Ok(Some((document, at))) => {
                self.put(document, Confirmed { at, source: Source::Disk, fetched: None });
                // Whoever waits looks again.
                self.progress.send_modify(|_| {});
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(pool = %self.pool.name, path = %path.display(), error, "the copy of the key set on disk is ignored");
            }
        }
    }

    /// One fetch, from its beginning to the report of how it ended.
    async fn attempt(&mut self, fetch: impl Future<Output = Result<Bytes, FetchError>>) -> Result<(), Abandoned> {
        let now = Instant::now();
        self.bucket.take(now);
        self.started += 1;
        self.progress.send_modify(|progress| {
            progress.started = self.started;
            progress.under_way = Some(now);
        });
        let fetched = select! {
            fetched = fetch => fetched,
            Abandoned = abandoned(&mut self.wanted) => return Err(Abandoned),
        };
        let parsed = fetched
            .and_then(|bytes| document::parse(&bytes).map(|document| (bytes, document)).map_err(FetchError::Document));
        let outcome = parsed.as_ref().map_or_else(FetchError::outcome, |_| "ok");
        let pool = self.pool.name.clone();
        self.metrics.jwks_fetch.get_or_create(&metrics::PoolOutcome::new(pool, outcome)).inc();
        match parsed {
            Ok((bytes, document)) => {
                let now = self.clock.now();
                self.put(document, Confirmed { at: now, source: Source::Network, fetched: Some(Instant::now()) });
                self.report(None);
                self.save_copy(&bytes, now).await;
            }
            Err(error) => self.report(Some(chain(&error))),
        }
        Ok(())
    }

    /// Puts a new set in place and says what is new about it.
    fn put(&self, document: Document, confirmed: Confirmed) {
        let skipped = document.skipped.clone();
        let count = document.keys.len();
        let change = self.keys.replace(document, confirmed);
        if !change.added.is_empty() || !change.retired.is_empty() {
            let (added, retired, source) = (&change.added, &change.retired, confirmed.source);
            tracing::info!(pool = %self.pool.name, ?added, ?retired, ?source, "the key set changed");
            for reason in &skipped {
                tracing::warn!(pool = %self.pool.name, reason, "an entry of the key set is not used");
            }
        }
        let label = metrics::Pool::new(self.pool.name.clone());
        self.metrics.jwks_keys.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        self.show_age();
    }

    /// Ends the fetch under way, for those who wait and for the log, which hears of changes only.
    fn report(&mut self, error: Option<String>) {
        match &error {
            None if self.failures > 0 => {
                tracing::info!(pool = %self.pool.name, failures = self.failures, "the key set can be fetched again");
            }
            None => tracing::debug!(pool = %self.pool.name, "the key set was fetched"),
            Some(error) if self.failures == 0 => {
                tracing::warn!(pool = %self.pool.name, error, "the key set cannot be fetched");
            }
            Some(error) => tracing::debug!(pool = %self.pool.name, error, "the key set still cannot be fetched"),
        }
        self.failures = if error.is_some() { self.failures.saturating_add(1) } else { 0 };
        self.succeeded |= error.is_none();
        self.progress.send_modify(|progress| {
            progress.finished = self.started;
            progress.under_way = None;
            progress.error = error.map(Arc::from);
        });
    }

    async fn save_copy(&self, document: &[u8], now: Timestamp) {
        let Some(path) = &self.pool.keys.cache else { return };
        // The parser has seen that it is UTF-8.
        let document = String::from_utf8_lossy(document);
        if let Err(error) = disk::write(path, &self.pool, &document, now).await {
            let error = chain(&error);
            tracing::warn!(pool = %self.pool.name, path = %path.display(), error, "the key set cannot be copied to disk");
        }
    }

    /// How long to wait, unless somebody asks, until the next fetch.
    fn pause(&self) -> Duration {
        let refresh = self.pool.keys.refresh;
        let Some(doublings) = self.failures.checked_sub(1) else {
            return jittered(refresh, 0.9, 1.1);
        };
        let (first, longest) =
            if self.succeeded { (self.pool.keys.cooldown, refresh) } else { (FIRST_BACKOFF, LONGEST_BACKOFF) };
        let grown = first.saturating_mul(2_u32.saturating_pow(doublings)).min(longest).min(refresh);
        jittered(grown, 0.75, 1.25)
    }

    /// Sleeps until `due`, or until a request wants a fetch and the bucket allows one.
    async fn until_due(&mut self, due: Instant) -> Result<(), Abandoned> {
        loop {
            select! {
                () = sleep_until(due) => return Ok(()),
                allowed = self.wanted_and_allowed() => return allowed,
                () = sleep(AGE_STEP) => self.show_age(),
            }
        }
    }

    /// Ends when somebody wants a fetch that has not begun and the bucket has a token for it. Can be
    /// dropped and called again without losing anything.
    async fn wanted_and_allowed(&mut self) -> Result<(), Abandoned> {
        while *self.wanted.borrow_and_update() <= self.started {
            self.wanted.changed().await.map_err(|_| Abandoned)?;
        }
        let allowed = self.bucket.next(Instant::now());
        select! {
            () = sleep_until(allowed) => Ok(()),
            Abandoned = abandoned(&mut self.wanted) => Err(Abandoned),
        }
    }

    fn show_age(&self) {
        let confirmed = self.keys.snapshot().confirmed;
        if let Some(confirmed) = confirmed {
            let age = self.clock.now().since(confirmed.at).as_secs();
            let label = metrics::Pool::new(self.pool.name.clone());
            self.metrics.jwks_age_seconds.get_or_create(&label).set(i64::try_from(age).unwrap_or(i64::MAX));
        }
    }
}

/// Ends when every handle is gone.
async fn abandoned(wanted: &mut watch::Receiver<u64>) -> Abandoned {
    while wanted.changed().await.is_ok() {}
    Abandoned
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// `duration` times a random factor, so that replicas do not fetch in step.
fn jittered(duration: Duration, least: f64, most: f64) -> Duration {
    let fraction = f64::from(u16::from_le_bytes(secret::random())) / f64::from(u16::MAX);
    duration.mul_f64(least + (most - least) * fraction)
}

/// Two tokens, one more per period.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// When the last token was added, or when the bucket was last seen full.
    counted: Instant,
    period: Duration,
}

impl Bucket {
    const CAPACITY: u32 = 2;

    fn full(period: Duration, now: Instant) -> Self {
        Self { tokens: Self::CAPACITY, counted: now, period: period.max(Duration::from_millis(1)) }
    }

    /// Takes a token if there is one.
    fn take(&mut self, now: Instant) {
        self.refill(now);
        self.tokens = self.tokens.saturating_sub(1);
    }

    /// When there is a token: now, or at the next refill.
    fn next(&mut self, now: Instant) -> Instant {
        self.refill(now);
        if self.tokens > 0 { now } else { self.counted + self.period }
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < Self::CAPACITY && now >= self.counted + self.period {
            self.tokens += 1;
            self.counted += self.period;
        }
        if self.tokens == Self::CAPACITY {
            self.counted = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_bucket_gives_two_and_then_one_per_period() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut bucket = Bucket::full(Duration::from_secs(10), start);
        assert_eq!(bucket.next(at(100)), at(100));
        bucket.take(at(100));
        assert_eq!(bucket.next(at(100)), at(100), "a second one");
        bucket.take(at(100));
        assert_eq!(bucket.next(at(101)), at(110));
        bucket.take(at(105));
        assert_eq!(bucket.next(at(105)), at(110), "an empty bucket owes nothing");
        bucket.take(at(110));
        assert_eq!(bucket.next(at(110)), at(120), "no token is lost, none is won");
        assert_eq!(bucket.next(at(1000)), at(1000));
        bucket.take(at(1000));
        bucket.take(at(1000));
        assert_eq!(bucket.next(at(1000)), at(1010), "at most two were saved");
    }

    #[test]
    fn jitter_stays_in_its_bounds() {
        for _ in 0..1000 {
            let jittered = jittered(Duration::from_secs(600), 0.9, 1.1);
            assert!((540.0..=660.0).contains(&jittered.as_secs_f64()), "{jittered:?}");
        }
    }
}
