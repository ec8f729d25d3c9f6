//! A client's HTTP/2 socket: every byte passes the frame tracker, and what the watchdog has to know
//! of the connection is noted as it happens.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Flood, Tracker};
use crate::server::connection::LINGER;
use crate::server::io::Patience;

/// What has lasted too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// No request came, or the last one is over and none may follow.
    Idle,
    /// The preface or a header block did not end.
    Head,
    /// The client takes no byte.
    Write,
    /// The client does not close its end.
    Close,
}

/// The state of one connection, shared by its socket, its requests and its watchdog.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Requests that are being answered.
    open: Cell<usize>,
    /// Since when there is none.
    idle: Cell<Instant>,
    /// Since when the preface or a header block is on its way.
    head: Cell<Option<Instant>>,
    /// Since when the socket has taken no byte that was offered.
    write: Cell<Option<Instant>>,
    /// Since when we are done and wait for the client's end.
    close: Cell<Option<Instant>>,
    /// Since when no further request is taken.
    finish: Cell<Option<Instant>>,
    flood: Cell<Option<Flood>>,
    watchdog: RefCell<Option<Waker>>,
}

impl Pulse {
    fn new(now: Instant) -> Self {
        Self {
            open: Cell::new(0),
            idle: Cell::new(now),
            head: Cell::new(Some(now)),
            write: Cell::new(None),
            close: Cell::new(None),
            finish: Cell::new(None),
            flood: Cell::new(None),
            watchdog: RefCell::new(None),
        }
    }

    /// A request has arrived.
    pub(super) fn begin(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// Its answer has been handed over, or never will be.
    pub(super) fn end(&self) {
        let open = self.open.get().saturating_sub(1);
        self.open.set(open);
        if open == 0 {
            self.idle.set(Instant::now());
            // Taken out first: whoever is woken may come back here.
            let watchdog = self.watchdog.borrow_mut().take();
            if let Some(watchdog) = watchdog {
                watchdog.wake();
            }
        }
    }

    /// Whom to wake when the connection becomes idle.
    pub(super) fn watched_by(&self, waker: &Waker) {
        let mut watchdog = self.watchdog.borrow_mut();
        if !watchdog.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *watchdog = Some(waker.clone());
        }
    }

    /// No further request is taken.
    pub(super) fn finish(&self) {
        self.finish.set(Some(Instant::now()));
    }

    /// What the client did too much of, if it did.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// The next moment at which something has lasted too long, and what.
    pub(super) fn deadline(&self, patience: &Patience) -> Option<(Instant, Expired)> {
        let idle = (self.open.get() == 0).then(|| match self.finish.get() {
            // Whoever was asked to go gets to read what is still on its way.
            Some(finish) => (finish.max(self.idle.get()), LINGER),
            None => (self.idle.get(), patience.idle),
        });
        let due = |start: Option<(Instant, Duration)>, what| {
            // A limit too large to be a point in time is no limit.
            start.and_then(|(since, limit)| since.checked_add(limit)).map(|at| (at, what))
        };
        [
            due(self.close.get().map(|since| (since, LINGER)), Expired::Close),
            due(self.write.get().map(|since| (since, patience.body_stall)), Expired::Write),
            due(self.head.get().map(|since| (since, patience.request_head)), Expired::Head),
            due(idle, Expired::Idle),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}

/// A client's socket under watch.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    tracker: Tracker,
    pulse: Rc<Pulse>,
    /// Our end is closed.
    shut: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> Self {
        let now = Instant::now();
        Self { stream, tracker: Tracker::new(now), pulse: Rc::new(Pulse::new(now)), shut: false }
    }

    pub(super) fn pulse(&self) -> Rc<Pulse> {
        Rc::clone(&self.pulse)
    }

    /// Notes whether the socket takes bytes.
    fn note_write(&mut self, outcome: &Poll<io::Result<usize>>) {
        match outcome {
            Poll::Pending if self.pulse.write.get().is_none() => self.pulse.write.set(Some(Instant::now())),
            Poll::Ready(Ok(bytes)) => {
                self.tracker.sent(*bytes);
                self.pulse.write.set(None);
            }
            _ => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if let Err(flood) = self.tracker.feed(new, &Instant::now) {
            self.pulse.flood.set(Some(flood));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "flooded")));
        }
        match (self.tracker.in_head(), self.pulse.head.get()) {
            (true, None) => self.pulse.head.set(Some(Instant::now())),
            (false, Some(_)) => self.pulse.head.set(None),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes bytes that the socket does not: then it is this that waits.
        let outcome = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.note_write(&outcome);
        outcome.map_ok(drop)
    }

    /// Closes our end and reads on up to the client's: with unread bytes the close would become a
    /// reset, and the GOAWAY that says why could be lost with it (RFC 9113 §5.4.1).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.shut = true;
        }
        if self.pulse.close.get().is_none() {
            self.pulse.close.set(Some(Instant::now()));
        }
        let mut rest = [0; 4096];
        loop {
            let mut rest = ReadBuf::new(&mut rest);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
