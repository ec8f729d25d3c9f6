//! A panic ends its own request and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// A request panicked. The panic hook has logged where.
#[derive(Debug)]
pub(super) struct Panicked;

/// Runs a future and catches its panic.
///
/// What the future borrowed may be left in the middle of a change: the caller keeps none of it but
/// the record, whose fields are all valid by themselves.
pub(super) async fn caught<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Result<T, Panicked> {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_panic_becomes_a_value() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(caught(pin!(async { panic!("in a test") }))).map(|(): ()| ()).is_err());
        assert_eq!(runtime.block_on(caught(pin!(async { 7 }))).ok(), Some(7));
    }
}
