//! The bodies of one exchange, watched: a request body that is counted, bounded and may stall, and
//! an answer whose end makes the connection idle again.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
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
    received: Option<Rc<Cell<u64>>>,
    limit: u64,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, meter: Rc<Meter>) -> Self {
        let received = (!inner.is_end_stream()).then(Rc::default);
        Self { inner, meter, received, limit: u64::MAX }
    }

    /// From here on at most `limit` bytes may come in all.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// A counter of the bytes that have come; `None` when there is no body.
    pub fn received(&self) -> Option<Rc<Cell<u64>>> {
        self.received.clone()
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
        if let (Ok(frame), Some(received)) = (&frame, &self.received)
            && let Some(data) = frame.data_ref()
        {
            received.set(received.get().saturating_add(data.len() as u64));
            if received.get() > self.limit {
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
