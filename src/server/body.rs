//! The bodies of one exchange, watched: a request body that is counted, bounded and may stall, and
//! an answer whose end makes the connection idle again.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::io::Meter;
use crate::http::BodyError;

/// A client's request body.
#[derive(Debug)]
pub struct RequestBody {
    inner: Incoming,
    meter: Rc<Meter>,
    received: u64,
    limit: u64,
    counter: Option<Arc<AtomicU64>>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, meter: Rc<Meter>) -> Self {
        Self { inner, meter, received: 0, limit: u64::MAX, counter: None }
    }

    /// From here on at most `limit` bytes may come in all.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// From here on `counter` says how many bytes have come.
    pub fn count_into(&mut self, counter: Arc<AtomicU64>) {
        self.counter = Some(counter);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.meter.is_stalled() {
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        }
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => {
                self.meter.body_awaited(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        self.meter.body_arrived();
        let Some(frame) = frame else { return Poll::Ready(None) };
        // Whatever hyper has against the body, it is the client who sent it.
        let frame = frame.map_err(|_broken| BodyError::Client);
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            self.received = self.received.saturating_add(data.len() as u64);
            if let Some(counter) = &self.counter {
                counter.store(self.received, Ordering::Relaxed);
            }
            if self.received > self.limit {
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            }
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.meter.body_arrived();
    }
}

/// An answer on its way to the client; when it is gone, the connection is idle.
#[derive(Debug)]
pub(crate) struct Answer<B> {
    inner: B,
    _exchange: Exchange,
}

impl<B> Answer<B> {
    pub(crate) fn new(inner: B, exchange: Exchange) -> Self {
        Self { inner, _exchange: exchange }
    }
}

/// Marks the connection busy for as long as it lives.
#[derive(Debug)]
pub(crate) struct Exchange(Rc<Meter>);

impl Exchange {
    pub(crate) fn begin(meter: Rc<Meter>) -> Self {
        meter.begin();
        Self(meter)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
