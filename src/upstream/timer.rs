//! A deadline that costs nothing while it moves.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer that belongs to a connection and serves every wait of every exchange on it.
///
/// A new deadline that is later than the armed one is not armed: the timer goes off early, sees
/// that it is not time yet, and only then looks again. Registering a timer for each request would
/// cost more than the whole bookkeeping of an exchange.
pub(super) struct Timer(Pin<Box<Sleep>>);

impl Timer {
    pub(super) fn new() -> Self {
        Self(Box::pin(sleep_until(Instant::now())))
    }

    /// Ready once `due` has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        if self.0.deadline() > due {
            self.0.as_mut().reset(due);
        }
        loop {
            ready!(self.0.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_ends_at_the_last_deadline_it_was_given_sooner_or_later() {
        let mut timer = Timer::new();
        let start = Instant::now();
        let late = start + Duration::from_secs(3600);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, late))).await.is_pending());
        let soon = start + Duration::from_millis(20);
        poll_fn(|cx| timer.poll(cx, soon)).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        let later = start + Duration::from_millis(40);
        poll_fn(|cx| timer.poll(cx, later)).await;
        assert!(start.elapsed() >= Duration::from_millis(40), "an elapsed timer is armed again");
    }
}
