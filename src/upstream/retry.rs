//! How many requests may be tried again: a server that dies must not be stormed, nor the ones that
//! take over its work.

use std::time::Duration;

use tokio::time::Instant;

/// What counts as recent: this window and the one before it.
const WINDOW: Duration = Duration::from_secs(5);

/// One retry for so many recent requests.
const REQUESTS_PER_RETRY: u32 = 5;

/// Recent retries that are always allowed, so that an upstream with little to do has some.
const FLOOR: u32 = 10;

/// The requests and retries of one worker to one upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    ends: Instant,
    current: Counts,
    before: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u32,
    retries: u32,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { ends: now + WINDOW, current: Counts::default(), before: Counts::default() }
    }

    /// A request begins.
    pub(super) fn count(&mut self, now: Instant) {
        self.turn(now);
        self.current.requests = self.current.requests.saturating_add(1);
    }

    /// Whether one may be tried again; if so, that is counted.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.turn(now);
        let requests = self.current.requests.saturating_add(self.before.requests);
        let retries = self.current.retries.saturating_add(self.before.retries);
        let allowed = retries < FLOOR.max(requests / REQUESTS_PER_RETRY);
        self.current.retries = self.current.retries.saturating_add(u32::from(allowed));
        allowed
    }

    /// Begins a new window when the time of this one is over.
    fn turn(&mut self, now: Instant) {
        if now < self.ends {
            return;
        }
        // After a silence of a whole window nothing is recent.
        let is_recent = now < self.ends + WINDOW;
        let before = if is_recent { self.current } else { Counts::default() };
        *self = Self { before, ..Self::new(now) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(budget: &mut Budget, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(budget.take(now))).sum()
    }

    #[test]
    fn a_fifth_of_recent_requests_may_be_tried_again() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        (0..1000).for_each(|_| budget.count(now));
        assert_eq!(taken(&mut budget, now, 1000), 200);
        assert_eq!(taken(&mut budget, now + WINDOW, 1000), 0, "they are recent still");
        assert_eq!(taken(&mut budget, now + WINDOW * 2, 1000), FLOOR, "and now forgotten, with the requests");
        assert_eq!(taken(&mut Budget::new(now), now, 1000), FLOOR);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_a_fifth_and_the_floor(
            steps in prop::collection::vec((0u64..3000, 0u32..200, 0u32..200), 1..40),
        ) {
            let mut now = Instant::now();
            let mut budget = Budget::new(now);
            let (mut requests, mut retries) = (0u32, 0u32);
            for (pause, new, tries) in steps {
                now += Duration::from_millis(pause);
                (0..new).for_each(|_| budget.count(now));
                requests += new;
                let before = budget;
                let allowed = taken(&mut budget, now, tries);
                retries += allowed;
                let recent = before.current.requests + before.before.requests;
                prop_assert!(allowed <= FLOOR.max(recent / REQUESTS_PER_RETRY));
            }
            // Each pair of windows has its floor; the requests count in two of them.
            let windows = 40 * 3 / 5 + 2;
            prop_assert!(retries <= 2 * requests / REQUESTS_PER_RETRY + windows * FLOOR, "{retries} of {requests}");
        }
    }
}
