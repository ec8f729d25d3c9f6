//! One request of an HTTP/2 connection, as a task of its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::io::Pulse;
use crate::server::body::Leftover;
use crate::server::connection::LINGER;

/// What a client was offered of one answer. Only the body knows when it gave something out, and only
/// the task around it can give up while nobody asks the body for more.
#[derive(Debug, Default)]
pub(super) struct Offer {
    /// Pieces given out so far.
    given: Cell<u64>,
    /// The last one has not been taken.
    waits: Cell<bool>,
    /// What the request's body still has, once nobody wants it.
    rest: Leftover,
}

impl Offer {
    /// Where the rest of the request's body goes.
    pub(super) fn rest(&self) -> Leftover {
        Rc::clone(&self.rest)
    }
}

/// An answer on its way to the client. When it is gone, its request is over.
#[derive(Debug)]
pub(super) struct Answer<B> {
    /// Nothing for HEAD: hyper leaves that to others in HTTP/2.
    body: Option<B>,
    offer: Rc<Offer>,
    _exchange: Exchange,
}

impl<B> Answer<B> {
    pub(super) fn new(body: Option<B>, offer: Rc<Offer>, exchange: Exchange) -> Self {
        Self { body, offer, _exchange: exchange }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.offer.waits.set(false);
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            self.offer.waits.set(true);
            self.offer.given.set(self.offer.given.get() + 1);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Counts a request of the connection for as long as it lives.
#[derive(Debug)]
pub(super) struct Exchange(Rc<Pulse>);

impl Exchange {
    pub(super) fn begin(pulse: Rc<Pulse>) -> Self {
        pulse.begin();
        Self(pulse)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Runs the requests of one connection, and ends with it what is left of them.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    running: Rc<RefCell<JoinSet<()>>>,
    /// The offer of the request that hyper is about to hand over as a task.
    next: Rc<RefCell<Option<Rc<Offer>>>>,
    /// How long a client may leave what it was offered.
    stall: Duration,
}

impl Tasks {
    pub(super) fn new(stall: Duration) -> Self {
        Self { running: Rc::default(), next: Rc::default(), stall }
    }

    /// The offer of a request that begins. hyper calls the service, and with what that returns at
    /// once the executor, so that the two belong together.
    pub(super) fn begin(&self) -> Rc<Offer> {
        let offer = Rc::new(Offer::default());
        *self.next.borrow_mut() = Some(Rc::clone(&offer));
        offer
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let offer = self.next.borrow_mut().take().unwrap_or_default();
        let mut running = self.running.borrow_mut();
        while running.try_join_next().is_some() {}
        let stall = self.stall;
        running.spawn_local(async move {
            until_stalled(task, &offer, stall).await;
            let rest = offer.rest.take();
            if let Some(rest) = rest {
                // It was answered before the end of its body, with a 401 or 413 for instance. A client
                // whose stream is reset at once may lose the answer: it gets to send on for a while.
                let read = timeout(LINGER, drain(rest)).await;
                tracing::debug!(read = read.is_ok(), "answered before the end of the request");
            }
        });
    }
}

/// Runs a request to its end, or until its client has left a piece of the answer for so long. Then
/// the request is dropped, which resets its stream (`CANCEL`) and gives everything back.
async fn until_stalled(task: impl Future<Output = ()>, offer: &Offer, stall: Duration) {
    let mut task = pin!(task);
    let mut seen = 0;
    // Most answers are taken at once and never need it.
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if task.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !offer.waits.get() {
            return Poll::Pending;
        }
        let given = offer.given.get();
        if seen != given {
            seen = given;
            // A limit too large to be a point in time is no limit.
            let Some(at) = Instant::now().checked_add(stall) else { return Poll::Pending };
            match &mut alarm {
                Some(alarm) => alarm.as_mut().reset(at),
                None => alarm = Some(Box::pin(sleep_until(at))),
            }
        }
        alarm.as_mut().map_or(Poll::Pending, |alarm| alarm.as_mut().poll(cx))
    })
    .await;
}

/// Reads what the client still sends, up to its end.
async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}
