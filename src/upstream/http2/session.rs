//! Connections that many exchanges share.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep, timeout};

use super::{MAX_STREAMS, handshake};
use crate::telemetry::metrics::Level;
use crate::upstream::cap::Slot;
use crate::upstream::connect::Stream;
use crate::upstream::server::{MAX_AGE, Server};

/// How often a connection under way has to show that it is there, and how soon. Servers take
/// more than one PING in five minutes for an attack (gRPC does), and the kernel notices before that
/// when it is the network that is gone.
const PING_EVERY: Duration = Duration::from_secs(330);
const PING_WAIT: Duration = Duration::from_secs(20);

/// How often somebody looks whether connections that were in use have ended. When one is not in use
/// any more, it is looked at anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The connections of one worker to one server.
#[derive(Default)]
pub(in super::super) struct Sessions {
    all: RefCell<Vec<Rc<Session>>>,
    /// One is being made, which those who come meanwhile wait for.
    is_opening: Cell<bool>,
    opened: Notify,
}

/// One connection.
pub(in super::super) struct Session {
    /// `None` when it takes no further exchanges: it ends with those that are under way.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Exchanges under way.
    open: Cell<usize>,
    /// Exchanges that were begun, and answered.
    begun: Cell<u64>,
    answered: Cell<u64>,
    /// When it was made, and until when it is kept without an exchange.
    born: Instant,
    until: Cell<Instant>,
    /// Where it leads, if the server has a name, and what DNS said then.
    address: Option<SocketAddr>,
    generation: Cell<u64>,
    idle_level: Level,
}

impl Sessions {
    /// A place for one more exchange; `None` when there is no connection that has room.
    pub(in super::super) fn lease(&self, server: &Rc<Server>, now: Instant, idle: Duration) -> Option<Lease> {
        let mut all = self.all.borrow_mut();
        all.retain(|session| {
            if now >= session.born + MAX_AGE || !server.leads_here(session.address, &session.generation) {
                session.retire();
            }
            session.is_open()
        });
        // The first that has room, so that those that are not needed grow old and go.
        let session = all.iter().find(|session| session.has_room())?;
        Some(Lease::new(session, server, idle))
    }

    /// A new connection, and the first place on it.
    ///
    /// # Errors
    /// When the server does not take it.
    pub(in super::super) async fn start(
        &self,
        server: &Rc<Server>,
        stream: Stream,
        (address, slot, idle): (Option<SocketAddr>, Slot, Duration),
    ) -> Result<Lease, h2::Error> {
        let (sender, mut connection) = handshake(stream).await?;
        let pings = connection.ping_pong();
        let now = Instant::now();
        let session = Rc::new(Session {
            sender: RefCell::new(Some(sender)),
            open: Cell::new(0),
            begun: Cell::new(0),
            answered: Cell::new(0),
            born: now,
            until: Cell::new(now),
            address,
            generation: Cell::new(0),
            idle_level: server.idle_level().clone(),
        });
        session.idle_level.inc();
        let lease = Lease::new(&session, server, idle);
        tokio::task::spawn_local(drive(connection, pings, Rc::downgrade(&session), slot));
        self.all.borrow_mut().push(session);
        server.watch_idle();
        Ok(lease)
    }

    /// Begins to make a connection; `None` while somebody else does.
    pub(in super::super) fn opening(server: &Rc<Server>) -> Option<Opening> {
        (!server.sessions().is_opening.replace(true)).then(|| Opening(Rc::clone(server)))
    }

    /// Waits until nobody makes a connection any more, whatever came of it.
    pub(in super::super) fn opened(&self) -> Notified<'_> {
        self.opened.notified()
    }

    /// Whether an exchange would find room.
    pub(in super::super) fn has_room(&self) -> bool {
        self.all.borrow().iter().any(|session| session.has_room())
    }

    /// Ends connections that are not in use: so many as are needed elsewhere, and those whose time is
    /// over. When to look again; `None` when there is no connection.
    pub(in super::super) fn sweep(&self, now: Instant, mut needed: usize) -> Option<Instant> {
        let mut all = self.all.borrow_mut();
        for session in all.iter().filter(|session| session.open.get() == 0) {
            if needed > 0 || session.until.get() <= now {
                needed = needed.saturating_sub(1);
                session.retire();
            }
        }
        all.retain(|session| session.is_open());
        let next = |session: &Rc<Session>| if session.open.get() == 0 { session.until.get() } else { now + LOOK_AGAIN };
        all.iter().map(next).min()
    }
}

/// A connection is being made, until this is dropped.
pub(in super::super) struct Opening(Rc<Server>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.sessions().is_opening.set(false);
        self.0.sessions().opened.notify_waiters();
        self.0.call_all();
    }
}

impl Session {
    fn is_open(&self) -> bool {
        self.sender.borrow().is_some()
    }

    /// Whether the server takes one more stream.
    fn has_room(&self) -> bool {
        let mut sender = self.sender.borrow_mut();
        let Some(ready) = &mut *sender else { return false };
        let most = ready.current_max_send_streams().min(MAX_STREAMS);
        // Nobody waits for this one: another connection will do.
        match ready.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => self.open.get() < most,
            Poll::Pending => false,
            Poll::Ready(Err(_going)) => {
                drop(sender);
                self.retire();
                false
            }
        }
    }

    /// Takes no further exchange, and closes when there is none left.
    fn retire(&self) {
        let was_open = self.sender.take().is_some();
        if was_open && self.open.get() == 0 {
            self.idle_level.dec();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.retire();
    }
}

/// Keeps a connection going until it ends. The slot is given back when its socket is closed.
async fn drive(connection: Connection<Stream, Bytes>, pings: Option<PingPong>, session: Weak<Session>, _slot: Slot) {
    let ended = tokio::select! {
        biased;
        ended = connection => ended,
        () = silence(pings, &session) => Err(h2::Reason::CANCEL.into()),
    };
    tracing::debug!(error = ?ended.err(), "an HTTP/2 connection to a server is over");
    if let Some(session) = session.upgrade() {
        session.retire();
    }
}

/// Returns when the other side does not answer any more.
async fn silence(pings: Option<PingPong>, session: &Weak<Session>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        // Without a stream a PING is no business of a client (gRPC), and it is closed soon.
        let is_used = session.upgrade().is_some_and(|session| session.open.get() > 0);
        if is_used && !matches!(timeout(PING_WAIT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// A place on a connection, for one exchange.
pub(in super::super) struct Lease {
    session: Rc<Session>,
    server: Rc<Server>,
    idle: Duration,
    /// Answers that the connection had brought by then.
    answered: u64,
    /// It has served another exchange before.
    pub(in super::super) is_used: bool,
}

impl Lease {
    fn new(session: &Rc<Session>, server: &Rc<Server>, idle: Duration) -> Self {
        if session.open.replace(session.open.get() + 1) == 0 {
            session.idle_level.dec();
        }
        let is_used = session.begun.replace(session.begun.get() + 1) > 0;
        let answered = session.answered.get();
        Self { session: Rc::clone(session), server: Rc::clone(server), idle, answered, is_used }
    }

    /// Sends the head of a request.
    ///
    /// # Errors
    /// When nothing was sent because the connection takes no more streams, or the head is none.
    pub(super) fn send(
        &self,
        head: Request<()>,
        is_end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        match &mut *self.session.sender.borrow_mut() {
            Some(sender) => sender.send_request(head, is_end),
            None => Err(h2::Reason::REFUSED_STREAM.into()),
        }
    }

    /// An answer has begun.
    pub(super) fn answered(&self) {
        self.session.answered.set(self.session.answered.get() + 1);
    }

    /// The answer did not come in time. When no other one did either, it is the connection's fault.
    pub(super) fn timed_out(&self) {
        if self.session.answered.get() == self.answered {
            self.session.retire();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let open = self.session.open.get().saturating_sub(1);
        self.session.open.set(open);
        if !self.session.is_open() {
            return;
        }
        if open == 0 {
            self.session.idle_level.inc();
            self.session.until.set(Instant::now() + self.idle);
        }
        if self.server.stream_is_free() {
            self.session.retire();
        } else if open == 0 {
            self.server.is_idle();
        }
    }
}
