//! What all workers and the probes know together of one server.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::health::{Event, State, Thresholds};
use crate::telemetry::metrics::Level;

/// How long a server that was out of use gets less than its share, so that cold caches and pools
/// are not met by all requests at once.
const SLOW_START: Duration = Duration::from_secs(10);

/// The parts of a weight; a share that grows does so in these steps.
const PARTS: u32 = 10;

/// The state of one server. Requests read a few atomics of it; the lock is for the rare change.
#[derive(Debug)]
pub(super) struct Standing {
    upstream: Arc<str>,
    server: Arc<str>,
    healthy: Level,
    /// The one truth, of which the atomics below are copies.
    state: Mutex<Known>,
    /// It is neither out of use nor in its slow start: nothing else needs to be looked at.
    is_plain: AtomicBool,
    /// An answer would change the state.
    awaits_answer: AtomicBool,
    /// The thresholds of the configuration, for whoever sees an event.
    up: AtomicU32,
    down: AtomicU32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    state: State,
    /// Since when it is back in use, while that is not long ago.
    back_since: Option<Instant>,
}

impl Standing {
    pub(super) fn new(upstream: &Arc<str>, server: &Arc<str>, healthy: Level) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            server: Arc::clone(server),
            healthy,
            state: Mutex::default(),
            is_plain: AtomicBool::new(true),
            awaits_answer: AtomicBool::new(false),
            up: AtomicU32::new(1),
            down: AtomicU32::new(1),
        }
    }

    /// From now on probes are counted so.
    pub(super) fn judge_by(&self, Thresholds { up, down }: Thresholds) {
        self.up.store(up, Ordering::Relaxed);
        self.down.store(down, Ordering::Relaxed);
    }

    /// The share of new requests for a server of this weight; 0 while it is out of use.
    pub(super) fn share(&self, weight: u32, now: Instant) -> u32 {
        let whole = weight.saturating_mul(PARTS);
        if self.is_plain.load(Ordering::Relaxed) {
            return whole;
        }
        let mut known = self.lock();
        if known.state.is_condemned() || known.state.paused_until().is_some_and(|until| until > now) {
            return 0;
        }
        let Some(since) = known.back_since else { return whole };
        let back = now.saturating_duration_since(since);
        if back >= SLOW_START {
            known.back_since = None;
            self.publish(&known);
            return whole;
        }
        let grown = u128::from(whole) * back.as_millis() / SLOW_START.as_millis();
        u32::try_from(grown).unwrap_or(whole).max(1)
    }

    /// The share when no server is in use: none only for one that probes found bad.
    pub(super) fn last_resort(&self, weight: u32) -> u32 {
        if !self.is_plain.load(Ordering::Relaxed) && self.lock().state.is_condemned() { 0 } else { weight }
    }

    /// Whether a request may be sent to a server that was picked by its share. Where its pause
    /// ended, only the first who asks may.
    pub(super) fn admits(&self, now: Instant) -> bool {
        if self.is_plain.load(Ordering::Relaxed) {
            return true;
        }
        let mut known = self.lock();
        if !known.state.is_out() {
            return true;
        }
        let Some(tried) = known.state.tried(now) else { return false };
        known.state = tried;
        true
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        if self.awaits_answer.load(Ordering::Relaxed) {
            self.saw(Event::Answered, Instant::now());
        }
    }

    /// Takes note of what was seen; says in the log, once, when that changes whether it is in use.
    pub(super) fn saw(&self, event: Event, now: Instant) {
        let thresholds = Thresholds { up: self.up.load(Ordering::Relaxed), down: self.down.load(Ordering::Relaxed) };
        let mut known = self.lock();
        let was_out = known.state.is_out();
        known.state = known.state.after(event, thresholds, now);
        let is_out = known.state.is_out();
        if was_out != is_out {
            known.back_since = (!is_out).then_some(now);
            self.healthy.set(i64::from(!is_out));
        }
        self.publish(&known);
        drop(known);
        let (upstream, server) = (&*self.upstream, &*self.server);
        match (was_out, is_out) {
            (false, true) => tracing::warn!(upstream, server, because = ?event, "a server is out of use"),
            (true, false) => tracing::info!(upstream, server, because = ?event, "a server is back in use"),
            _ => {}
        }
    }

    /// Sets the gauge to what is known: another owner of the same gauge may have left it otherwise.
    pub(super) fn publish_health(&self) {
        self.healthy.set(i64::from(self.trouble().is_none()));
    }

    /// Why it is not in use; `None` when it is.
    pub(super) fn trouble(&self) -> Option<&'static str> {
        let state = self.lock().state;
        match (state.is_condemned(), state.is_out()) {
            (true, _) => Some("probes fail"),
            (false, true) => Some("requests fail"),
            (false, false) => None,
        }
    }

    fn publish(&self, known: &Known) {
        self.is_plain.store(!known.state.is_out() && known.back_since.is_none(), Ordering::Relaxed);
        self.awaits_answer.store(known.state.awaits_answer(), Ordering::Relaxed);
    }

    /// A panic while it is held leaves a state that is as good as any.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        Standing::new(&Arc::from("app"), &Arc::from("a:1"), Level::default())
    }

    #[test]
    fn a_server_that_is_back_gets_its_share_step_by_step() {
        let (standing, now) = (standing(), Instant::now());
        assert_eq!(standing.share(3, now), 30);
        standing.saw(Event::NotConnected, now);
        assert_eq!((standing.share(3, now), standing.healthy.get()), (0, 0));
        assert_eq!(standing.last_resort(3), 3, "requests alone never put the last one out");
        let later = now + Duration::from_secs(1);
        assert!(standing.share(3, later) > 0);
        assert!(standing.admits(later));
        assert!(!standing.admits(later), "one request tries it");
        assert_eq!(standing.share(3, later), 0);
        standing.saw(Event::Answered, later);
        assert_eq!(standing.healthy.get(), 1);
        assert_eq!(standing.share(3, later), 1);
        assert_eq!(standing.share(3, later + SLOW_START / 2), 15);
        assert_eq!(standing.share(3, later + SLOW_START), 30);
        assert!(standing.is_plain.load(Ordering::Relaxed), "requests do not take the lock for ever");
    }

    #[test]
    fn what_probes_found_bad_is_no_last_resort() {
        let (standing, now) = (standing(), Instant::now());
        standing.judge_by(Thresholds { up: 1, down: 2 });
        standing.saw(Event::ProbeFailed, now);
        assert_eq!((standing.last_resort(1), standing.trouble()), (1, None));
        standing.saw(Event::ProbeFailed, now);
        assert_eq!((standing.last_resort(1), standing.trouble()), (0, Some("probes fail")));
        standing.saw(Event::ProbePassed, now);
        assert_eq!((standing.last_resort(1), standing.trouble()), (1, None));
    }
}
