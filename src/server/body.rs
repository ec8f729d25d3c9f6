//! The bodies of one exchange, watched: a request body that is counted, bounded and may stall, and
//! an answer whose end makes the connection idle again.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::io::Meter;
use super::upgrade::{Connect, Upgrade};
use crate::http::BodyError;

/// A client's request body.
#[derive(Debug)]
pub struct RequestBody {
    /// There until it is left.
    inner: Option<Incoming>,
    wait: Wait,
    received: u64,
    limit: u64,
    counter: Option<Arc<AtomicU64>>,
}

impl RequestBody {
    /// A body of HTTP/1: the connection has one at a time, and watches it.
    pub(crate) fn new(inner: Incoming, meter: Rc<Meter>) -> Self {
        Self::with(inner, Wait::Metered(meter))
    }

    /// A body among others on its connection. It may stall for so long; if it is left before its end,
    /// the rest of it goes to `rest`.
    pub(crate) fn with_timer(inner: Incoming, stall: Duration, rest: Leftover) -> Self {
        Self::with(inner, Wait::Timed(Box::new(Timer { stall, alarm: None, since: None, rest, connect: None })))
    }

    /// The same for an extended CONNECT, which has no body: its stream can become one of bytes.
    pub(super) fn connecting(inner: Incoming, connect: Connect) -> Self {
        let timer =
            Timer { connect: Some(connect), stall: Duration::ZERO, alarm: None, since: None, rest: Rc::default() };
        Self::with(inner, Wait::Timed(Box::new(timer)))
    }

    /// Whether the request is an extended CONNECT for a WebSocket (RFC 8441).
    pub fn is_connect(&self) -> bool {
        matches!(&self.wait, Wait::Timed(timer) if timer.connect.is_some())
    }

    /// The connection itself, for an answer that switches protocols. `None` where there is none: a
    /// stream of HTTP/2 that nobody asked to become one.
    pub fn upgrade(&mut self) -> Option<Upgrade> {
        match &mut self.wait {
            Wait::Metered(meter) => Some(Upgrade::of_connection(meter)),
            Wait::Timed(timer) => timer.connect.take().map(Upgrade::of_stream),
        }
    }

    fn with(inner: Incoming, wait: Wait) -> Self {
        Self { inner: Some(inner), wait, received: 0, limit: u64::MAX, counter: None }
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
        if self.wait.is_over() {
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = match Pin::new(inner).poll_frame(cx) {
            Poll::Pending => return self.wait.poll(cx).map(|()| Some(Err(BodyError::Stalled))),
            Poll::Ready(frame) => frame,
        };
        self.wait.end();
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
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.wait.end();
        if let Wait::Timed(timer) = &self.wait {
            *timer.rest.borrow_mut() = self.inner.take().filter(|inner| !inner.is_end_stream());
        }
    }
}

/// A body that was left before its end.
pub(crate) type Leftover = Rc<RefCell<Option<Incoming>>>;

/// How long a body has been waited for.
#[derive(Debug)]
enum Wait {
    /// The watchdog of the connection counts.
    Metered(Rc<Meter>),
    /// The body counts itself.
    Timed(Box<Timer>),
}

/// A body's own clock. Most bodies are there when they are asked for and never need the alarm.
#[derive(Debug)]
struct Timer {
    stall: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    since: Option<Instant>,
    rest: Leftover,
    connect: Option<Connect>,
}

impl Wait {
    /// The body stood still for too long.
    fn is_over(&self) -> bool {
        match self {
            Self::Metered(meter) => meter.is_stalled(),
            Self::Timed(_) => false,
        }
    }

    /// Somebody waits. Ready when that has lasted too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Metered(meter) => {
                meter.body_awaited(cx.waker());
                Poll::Pending
            }
            Self::Timed(timer) => {
                let Timer { stall, alarm, since, .. } = &mut **timer;
                // A limit too large to be a point in time is no limit.
                let Some(at) = since.get_or_insert_with(Instant::now).checked_add(*stall) else { return Poll::Pending };
                let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
                if alarm.deadline() != at {
                    alarm.as_mut().reset(at);
                }
                alarm.as_mut().poll(cx)
            }
        }
    }

    /// A piece of the body came, or nobody waits any more.
    fn end(&mut self) {
        match self {
            Self::Metered(meter) => meter.body_arrived(),
            Self::Timed(timer) => timer.since = None,
        }
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
