//! A client's socket: every byte passes the framing tracker, and the clock of the connection is
//! kept by what moves.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::framing::{HeadLimits, Refusal, Tracker};
use super::upgrade::Upgraded;

/// Bytes of several pieces that are written as one: for so few, the copy costs less than what the
/// system does for a list of pieces.
const GATHERED: usize = 1024;

/// How long each state of a connection may last.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a request.
    pub idle: Duration,
    /// From the first byte of a request to the end of its head.
    pub request_head: Duration,
    /// While a body stands still, in either direction.
    pub body_stall: Duration,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waiting for a request, since then.
    Idle(Instant),
    /// Receiving a head, since then.
    Head(Instant),
    /// A request is being answered.
    Busy,
}

/// A deadline that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// No request came.
    Idle,
    /// A head did not end.
    Head,
    /// The client sends no more of a body that it promised.
    RequestBody,
    /// The client takes no more of its answer.
    Write,
}

/// The state of one connection, shared by its socket, its bodies and its watchdog.
#[derive(Debug)]
pub(crate) struct Meter {
    phase: Cell<Phase>,
    /// Since when the socket has taken no byte that was offered.
    write_blocked: Cell<Option<Instant>>,
    /// Since when somebody waits for a byte of the request body, and who.
    body_wait: Cell<Option<Instant>>,
    /// Whoever waits for the body.
    body_waker: RefCell<Option<Waker>>,
    /// The reader that may not be told of a refusal before the answer ahead of it is out.
    held_reader: RefCell<Option<Waker>>,
    stalled: Cell<bool>,
    refusal: Cell<Option<Refusal>>,
    /// The present answer is the last thing that is HTTP here.
    switched: Cell<bool>,
    /// Who gets the connection then.
    switch: RefCell<Option<oneshot::Sender<Upgraded>>>,
}

impl Meter {
    fn new() -> Self {
        Self {
            phase: Cell::new(Phase::Idle(Instant::now())),
            write_blocked: Cell::new(None),
            body_wait: Cell::new(None),
            body_waker: RefCell::new(None),
            held_reader: RefCell::new(None),
            stalled: Cell::new(false),
            refusal: Cell::new(None),
            switched: Cell::new(false),
            switch: RefCell::new(None),
        }
    }

    /// A request has arrived.
    pub(crate) fn begin(&self) {
        self.phase.set(Phase::Busy);
    }

    /// Its answer has left, or never will.
    pub(crate) fn end(&self) {
        self.phase.set(Phase::Idle(Instant::now()));
        self.body_arrived();
        wake(&self.held_reader);
    }

    /// Somebody waits for the request body.
    pub(crate) fn body_awaited(&self, waker: &Waker) {
        if self.body_wait.get().is_none() {
            self.body_wait.set(Some(Instant::now()));
        }
        remember(&self.body_waker, waker);
    }

    /// A piece of it came, or nobody waits any more.
    pub(crate) fn body_arrived(&self) {
        self.body_wait.set(None);
    }

    /// The request body stood still for too long.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    /// Ends the wait for the request body: whoever waits is told that it stalled.
    pub(crate) fn give_up_on_body(&self) {
        self.stalled.set(true);
        self.body_wait.set(None);
        wake(&self.body_waker);
    }

    /// Why the connection must end, once the tracker has said so.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal.get()
    }

    /// The present answer switches to another protocol. From here on nothing is read as HTTP.
    pub(super) fn switch(&self, to: oneshot::Sender<Upgraded>) {
        self.switched.set(true);
        *self.switch.borrow_mut() = Some(to);
    }

    /// Whether an answer has switched to another protocol.
    pub(super) fn has_switched(&self) -> bool {
        self.switched.get()
    }

    /// Who gets the connection, unless something of the answer is still to be written.
    pub(super) fn take_switch(&self) -> Option<oneshot::Sender<Upgraded>> {
        self.switch.borrow_mut().take().filter(|_| self.write_blocked.get().is_none())
    }

    /// The next moment at which something has lasted too long, and what.
    pub(crate) fn deadline(&self, patience: &Patience) -> Option<(Instant, Expired)> {
        let (start, limit, what) = match (self.write_blocked.get(), self.phase.get()) {
            (Some(since), _) => (since, patience.body_stall, Expired::Write),
            (None, Phase::Idle(since)) => (since, patience.idle, Expired::Idle),
            (None, Phase::Head(since)) => (since, patience.request_head, Expired::Head),
            (None, Phase::Busy) => (self.body_wait.get()?, patience.body_stall, Expired::RequestBody),
        };
        // A limit too large to be a point in time is no limit.
        start.checked_add(limit).map(|at| (at, what))
    }
}

fn remember(slot: &RefCell<Option<Waker>>, waker: &Waker) {
    let mut slot = slot.borrow_mut();
    if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}

fn wake(slot: &RefCell<Option<Waker>>) {
    // Taken out first: whoever is woken may come back here.
    let waker = slot.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A client's socket under guard.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    tracker: Tracker,
    meter: Rc<Meter>,
    /// The body that is being read is not what it should be: its reader must see that at once.
    broken_body: bool,
    /// The answer before a refused request has had its chance to be written.
    flushed: bool,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, limits: HeadLimits) -> Self {
        Self { stream, tracker: Tracker::new(limits), meter: Rc::new(Meter::new()), broken_body: false, flushed: false }
    }

    pub(crate) fn meter(&self) -> Rc<Meter> {
        Rc::clone(&self.meter)
    }

    /// Whether the client is in the middle of a body.
    pub(crate) fn in_body(&self) -> bool {
        self.tracker.in_body()
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// The read that meets a refusal. A pipelined request that is refused must not spoil the answer
    /// before it: that one is finished and flushed first.
    fn poll_refused(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if !self.broken_body {
            // hyper does not come back by itself after a read that was not ready.
            if self.meter.phase.get() == Phase::Busy || self.meter.write_blocked.get().is_some() {
                remember(&self.meter.held_reader, cx.waker());
                return Poll::Pending;
            }
            if !self.flushed {
                // hyper may hold bytes that it flushes only after this read.
                self.flushed = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "refused")))
    }

    /// Runs new bytes past the tracker; returns how many of them may be read.
    fn inspect(&mut self, bytes: &[u8]) -> usize {
        if let Phase::Idle(_) = self.meter.phase.get()
            && !bytes.is_empty()
        {
            self.meter.phase.set(Phase::Head(Instant::now()));
        }
        match self.tracker.feed(bytes) {
            Ok(()) => bytes.len(),
            Err((good, refusal)) => {
                if self.tracker.in_body() {
                    self.broken_body = true;
                } else {
                    self.meter.refusal.set(Some(refusal));
                }
                good
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.meter.has_switched() {
            // What comes now is not hyper's, which is about to end.
            return Poll::Pending;
        }
        if self.broken_body || self.meter.refusal().is_some() {
            return self.poll_refused(cx);
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        let new = buf.filled().get(before..).unwrap_or_default();
        let good = self.inspect(new);
        if good == 0 && !new.is_empty() {
            buf.set_filled(before);
            return self.poll_refused(cx);
        }
        buf.set_filled(before + good);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Notes whether the socket takes bytes.
    fn note_write<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match (&outcome, self.meter.write_blocked.get()) {
            (Poll::Pending, None) => self.meter.write_blocked.set(Some(Instant::now())),
            (Poll::Ready(_), Some(_)) => {
                self.meter.write_blocked.set(None);
                wake(&self.meter.held_reader);
            }
            _ => {}
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        let stream = Pin::new(&mut self.stream);
        let outcome = if length <= GATHERED {
            let mut gathered = Vec::with_capacity(length);
            bufs.iter().for_each(|buf| gathered.extend_from_slice(buf));
            stream.poll_write(cx, &gathered)
        } else {
            stream.poll_write_vectored(cx, bufs)
        };
        self.note_write(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes bytes that the socket does not: then it is this that waits.
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_write(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.meter.refusal().is_some() {
            // hyper is done, but the refusal still has to be written.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
