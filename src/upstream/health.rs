//! When a server is in use: a pure state machine over what probes and requests saw of it.
//!
//! Two judges look at a server. Requests are quick and forgetful: a failed connect, or five
//! exchanges in a row without an answer, put it out for 1 s, then 2 s, up to 30 s; after that one
//! request tries it. Probes, where there are any, are slow and stubborn: what they put out stays
//! out until they see it well again.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause of a server that failed requests, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Exchanges in a row that a server may leave without an answer.
const PATIENCE: u32 = 5;

/// How many probes in a row change what is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thresholds {
    /// Good ones until it is back in use.
    pub(super) up: u32,
    /// Bad ones until it is out of use.
    pub(super) down: u32,
}

/// What somebody saw of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A probe got a good answer.
    ProbePassed,
    /// A probe got none, or a bad one.
    ProbeFailed,
    /// A request was answered, with whatever status.
    Answered,
    /// No connection could be made for a request.
    NotConnected,
    /// A request got no answer on a fresh connection, or none in time.
    NotAnswered,
}

/// What is thought of one server. The default is a server in use of which nothing was seen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Probes found it bad, and have not found it good since.
    condemned: bool,
    /// Probes in a row that were good, and that were bad.
    passes: u32,
    misses: u32,
    /// Exchanges in a row without an answer.
    unanswered: u32,
    /// Pauses in a row.
    pauses: u32,
    /// The end of the pause, after which a request tries it.
    paused_until: Option<Instant>,
    /// A request is trying it.
    on_trial: bool,
}

impl State {
    /// Whether it is out of use, for whatever reason.
    pub(super) fn is_out(&self) -> bool {
        self.condemned || self.paused_until.is_some()
    }

    /// Whether probes put it out of use: then it is not even a last resort.
    pub(super) fn is_condemned(&self) -> bool {
        self.condemned
    }

    /// The end of its pause, if it has one.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Whether an answer would change anything.
    pub(super) fn awaits_answer(&self) -> bool {
        self.unanswered > 0 || self.pauses > 0 || self.paused_until.is_some()
    }

    /// What is thought of it after an event.
    #[must_use]
    pub(super) fn after(mut self, event: Event, thresholds: Thresholds, now: Instant) -> Self {
        match event {
            Event::ProbePassed => {
                (self.passes, self.misses) = (self.passes.saturating_add(1), 0);
                if self.is_out() && self.passes >= thresholds.up {
                    return Self { passes: self.passes, ..Self::default() };
                }
            }
            Event::ProbeFailed => {
                (self.passes, self.misses) = (0, self.misses.saturating_add(1));
                self.condemned |= self.misses >= thresholds.down;
            }
            Event::Answered => {
                (self.unanswered, self.pauses) = (0, 0);
                (self.paused_until, self.on_trial) = (None, false);
            }
            Event::NotConnected => self = self.failed(now),
            Event::NotAnswered => {
                self.unanswered = self.unanswered.saturating_add(1);
                if self.unanswered >= PATIENCE || self.on_trial {
                    self = self.failed(now);
                }
            }
        }
        self
    }

    /// The state in which one request tries it; `None` when its pause is not over. Others wait for
    /// what comes of that, for as long as the pause was.
    pub(super) fn tried(mut self, now: Instant) -> Option<Self> {
        if self.condemned || self.paused_until.is_none_or(|until| until > now) {
            return None;
        }
        self.paused_until = Some(now + pause(self.pauses.saturating_sub(1)));
        self.on_trial = true;
        Some(self)
    }

    /// A pause begins, longer than the one before. What fails during a pause was sent before it
    /// and says nothing new; a whole worker's requests may fail at once.
    fn failed(mut self, now: Instant) -> Self {
        if self.on_trial || self.paused_until.is_none_or(|until| until <= now) {
            self.paused_until = Some(now + pause(self.pauses));
            self.pauses = self.pauses.saturating_add(1);
            (self.on_trial, self.unanswered) = (false, 0);
        }
        self
    }
}

fn pause(before: u32) -> Duration {
    PAUSE.0.saturating_mul(1 << before.min(8)).min(PAUSE.1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { up: 2, down: 3 };

    fn seen(state: State, events: &[Event], now: Instant) -> State {
        events.iter().fold(state, |state, event| state.after(*event, THRESHOLDS, now))
    }

    #[test]
    fn probes_change_their_mind_only_after_so_many_in_a_row() {
        use Event::{ProbeFailed, ProbePassed};
        let now = Instant::now();
        let state = seen(State::default(), &[ProbeFailed, ProbeFailed, ProbePassed, ProbeFailed, ProbeFailed], now);
        assert!(!state.is_out());
        let state = seen(state, &[ProbeFailed], now);
        assert!(state.is_condemned());
        let state = seen(state, &[ProbePassed, ProbeFailed, ProbePassed], now);
        assert!(state.is_out());
        assert!(seen(state, &[Event::Answered], now).is_out(), "an answer is not what the probe asks for");
        assert!(!seen(state, &[ProbePassed], now).is_out());
    }

    #[test]
    fn a_server_that_refuses_pauses_longer_each_time_and_is_tried_by_one() {
        let start = Instant::now();
        let (mut state, mut now) = (State::default(), start);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            state = seen(state, &[Event::NotConnected; 40], now);
            assert_eq!(state.paused_until(), Some(now + Duration::from_secs(seconds)), "many at once are one failure");
            assert_eq!(state.tried(now + Duration::from_millis(seconds * 1000 - 1)), None);
            now += Duration::from_secs(seconds);
            state = state.tried(now).unwrap();
            assert_eq!(state.tried(now), None, "one at a time");
        }
        let back = seen(state, &[Event::Answered], now);
        assert_eq!(back, State::default(), "it is forgiven");
    }

    #[test]
    fn a_trial_that_comes_to_nothing_is_followed_by_another() {
        let now = Instant::now();
        let state = seen(State::default(), &[Event::NotConnected], now);
        let tried = state.tried(now + Duration::from_secs(1)).unwrap();
        assert!(tried.tried(now + Duration::from_secs(2)).is_some(), "the client of the first one left");
    }

    #[test]
    fn five_without_an_answer_are_enough_unless_one_comes_between() {
        let now = Instant::now();
        let state = seen(State::default(), &[Event::NotAnswered; 4], now);
        assert!(!state.is_out() && state.awaits_answer());
        assert!(seen(state, &[Event::NotAnswered], now).is_out());
        let state = seen(state, &[Event::Answered, Event::NotAnswered], now);
        assert!(!state.is_out());
    }

    #[test]
    fn good_probes_end_a_pause() {
        let now = Instant::now();
        let state = seen(State::default(), &[Event::NotConnected, Event::ProbePassed], now);
        assert!(state.is_out());
        assert!(!seen(state, &[Event::ProbePassed], now).is_out());
    }

    fn event() -> impl Strategy<Value = Event> {
        use Event::{Answered, NotAnswered, NotConnected, ProbeFailed, ProbePassed};
        prop::sample::select(vec![ProbePassed, ProbeFailed, Answered, NotConnected, NotAnswered])
    }

    proptest! {
        #[test]
        fn whatever_happened_good_signs_bring_a_server_back(
            events in prop::collection::vec((event(), 0u64..40), 0..60),
        ) {
            let (mut state, mut now) = (State::default(), Instant::now());
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let before = state;
                state = state.after(event, THRESHOLDS, now);
                if !before.is_out() && state.is_out() {
                    prop_assert!(!matches!(event, Event::ProbePassed | Event::Answered), "good signs put nobody out");
                }
                if before.is_condemned() && !state.is_condemned() {
                    prop_assert_eq!(event, Event::ProbePassed);
                }
                if let Some(until) = state.paused_until() {
                    prop_assert!(until <= now + PAUSE.1, "no pause is longer than the longest");
                }
                state = state.tried(now).unwrap_or(state);
            }
            let good = [Event::Answered, Event::ProbePassed, Event::ProbePassed];
            prop_assert!(!seen(state, &good, now).is_out());
        }
    }
}
