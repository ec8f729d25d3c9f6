//! What one worker knows of one server: its connections, in use and not.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Backend;
use super::balance;
use super::cap::{Member, Slot};
use super::http1::Connection;
use super::http2::Sessions;
use super::resolve::Resolved;
use super::timer::Timer;
use super::waiting::Seat;
use crate::config;
use crate::telemetry::metrics::Level;

/// Unused connections to one server that one worker keeps; the oldest gives way.
const MAX_IDLE: usize = 512;

/// After this long a kept connection is looked at before it is used. Within a busy moment there is
/// hardly time for a server to have second thoughts, and that is when a system call costs most.
const RESTED: Duration = Duration::from_millis(1);

/// How long a connection is used at most: what is behind an address changes without a word, such as
/// a load balancer's set of servers.
pub(super) const MAX_AGE: Duration = Duration::from_secs(3600);

/// A connection that was not used for this long gives back the memory that it reads into.
const UNUSED: Duration = Duration::from_secs(1);

/// What one worker knows of one server.
pub(super) struct Server {
    upstream: Arc<str>,
    endpoint: config::Endpoint,
    tls: config::UpstreamTls,
    protocol: config::Protocol,
    /// What its name means.
    resolved: Option<Arc<Resolved>>,
    number: u64,
    outstanding: Cell<u32>,
    turn: Cell<i64>,
    /// Most recently used last, each with the end of its time. The last one is taken first, so
    /// that a burst's surplus grows old and goes.
    idle: RefCell<VecDeque<Kept>>,
    /// Wakes the task that watches the idle connections, while there is one.
    reaper: RefCell<Option<Waker>>,
    reaper_starts: Cell<bool>,
    /// Connections that speak HTTP/2.
    sessions: Sessions,
    /// The server was seen to speak HTTP/1.1 where it could have chosen: each exchange makes its own connection.
    speaks_http1: Cell<bool>,
    member: Arc<Member>,
    seats: RefCell<VecDeque<Rc<Seat>>>,
    idle_level: Level,
    active_level: Level,
    waiting_level: Level,
}

impl Server {
    pub(super) fn new(upstream: &config::Upstream, backend: &Backend) -> Self {
        Self {
            upstream: Arc::clone(&upstream.name),
            endpoint: backend.endpoint.clone(),
            tls: upstream.tls.clone(),
            protocol: upstream.protocol,
            resolved: backend.resolved.clone(),
            number: balance::number_of(backend.endpoint.url().as_bytes()),
            outstanding: Cell::new(0),
            turn: Cell::new(0),
            idle: RefCell::default(),
            reaper: RefCell::default(),
            reaper_starts: Cell::new(false),
            sessions: Sessions::default(),
            speaks_http1: Cell::new(false),
            member: backend.cap.join(),
            seats: RefCell::default(),
            idle_level: backend.idle.clone(),
            active_level: backend.active.clone(),
            waiting_level: backend.waiting.clone(),
        }
    }

    /// What `balance = "hash"` knows it by.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What `balance = "round_robin"` owes it.
    pub(super) fn turn(&self) -> &Cell<i64> {
        &self.turn
    }

    /// Exchanges of this worker with it, also those that wait.
    pub(super) fn outstanding(&self) -> u32 {
        self.outstanding.get()
    }

    /// This worker, as one of those that share the connections that the server may have.
    pub(super) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Its connections that speak HTTP/2.
    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Whether it was seen to speak HTTP/1.1 where it could have chosen HTTP/2.
    pub(super) fn speaks_http1(&self) -> &Cell<bool> {
        &self.speaks_http1
    }

    /// The gauge of connections without an exchange.
    pub(super) fn idle_level(&self) -> &Level {
        &self.idle_level
    }

    /// Requests of this worker that wait for a connection.
    pub(super) fn seats(&self) -> &RefCell<VecDeque<Rc<Seat>>> {
        &self.seats
    }

    /// Requests begin to wait, or have done so. They count as outstanding all the while, but not as active.
    pub(super) fn waits(&self, change: i64) {
        self.waiting_level.inc_by(change);
        self.active_level.dec_by(change);
    }

    /// Whether a request would have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.member.is_full() && self.idle.borrow().is_empty() && !self.sessions.has_room()
    }

    /// A stream has become free. Says whether its connection is to go, so that another worker may have
    /// one; otherwise somebody who waits here has a look.
    pub(super) fn stream_is_free(&self) -> bool {
        if self.member.waiting() == 0 {
            return false;
        }
        if self.member.passes_on() {
            return true;
        }
        let seat = self.seats.borrow_mut().pop_front();
        if let Some(seat) = seat {
            seat.call();
        }
        false
    }

    /// Closes a connection that a request has no use for which needs a new one.
    pub(super) fn make_room(&self) {
        let closed = self.idle.borrow_mut().pop_front();
        if closed.is_some() {
            self.idle_level.dec();
        }
    }

    /// Everybody who waits here has a look.
    pub(super) fn call_all(&self) {
        let seats = self.seats.take();
        seats.iter().for_each(|seat| seat.call());
    }

    /// Something is not in use any more: whoever watches that has a look.
    pub(super) fn is_idle(&self) {
        if let Some(reaper) = &*self.reaper.borrow() {
            reaper.wake_by_ref();
        }
    }

    /// From now on somebody watches what is not in use.
    pub(super) fn watch_idle(self: &Rc<Self>) {
        if self.reaper.borrow().is_none() && !self.reaper_starts.replace(true) {
            tokio::task::spawn_local(reap(Rc::downgrade(self)));
        }
    }

    /// Whether connections to it are good for `backend` of this upstream.
    pub(super) fn is(&self, upstream: &config::Upstream, backend: &Backend) -> bool {
        self.upstream == upstream.name
            && self.endpoint.url() == backend.endpoint.url()
            && (&self.tls, self.protocol) == (&upstream.tls, upstream.protocol)
            // Another one belongs to an upstream of that name that was gone for a while.
            && self.member.is_of(&backend.cap)
    }

    /// An unused connection that is neither expired nor closed, and on which nothing came: it would be
    /// read as the next answer. `sure`: what goes over it cannot be sent again, so that one more
    /// system call is worth it.
    pub(super) fn take_idle(&self, now: Instant, sure: bool) -> Option<Box<Link>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let Kept { mut link, since, until } = idle.pop_back()?;
            self.idle_level.dec();
            let sure = sure || now.saturating_duration_since(since) >= RESTED;
            // Nobody needs to be woken by it before the next exchange says so.
            if until > now && !link.is_dead(sure) && self.leads_here(link.address, &link.generation) {
                link.is_used = true;
                return Some(link);
            }
        }
    }

    /// Whether a connection leads to an address that is the server's: it may not be any more when what
    /// DNS says has changed since what was `seen` at the last look.
    pub(super) fn leads_here(&self, address: Option<SocketAddr>, seen: &Cell<u64>) -> bool {
        let (Some(resolved), Some(address)) = (&self.resolved, address) else { return true };
        let generation = resolved.generation();
        seen.replace(generation) == generation || resolved.contains(address)
    }

    /// Drops what is expired, closed, or says something unasked; the time at which there is more to
    /// be done. `cx` is woken when another one closes.
    fn sweep(&self, now: Instant, cx: &mut Context<'_>) -> Option<Instant> {
        self.member.watched_by(cx.waker());
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        // Who waits elsewhere cannot use what is kept here. Who waits here has been told.
        let needed = if self.member.waiting() > 0 && self.member.passes_on() { self.member.waiting() } else { 0 };
        idle.drain(..needed.min(before));
        idle.retain(|kept| kept.until > now && kept.link.connection.is_quiet(cx, false));
        self.idle_level.dec_by(i64::try_from(before - idle.len()).unwrap_or_default());
        let next = idle.iter_mut().map(|kept| match kept.since + UNUSED {
            soon if soon > now => soon.min(kept.until),
            _past => {
                kept.link.connection.rest();
                kept.until
            }
        });
        let next = next.min();
        next.into_iter().chain(self.sessions.sweep(now, needed.saturating_sub(before))).min()
    }

    /// Keeps a connection for another request, for at most `idle`, unless bytes came that nobody
    /// asked for, or its end.
    fn keep(self: &Rc<Self>, mut link: Box<Link>, idle: Duration) {
        let now = Instant::now();
        if !self.leads_here(link.address, &link.generation) || now >= link.born + MAX_AGE {
            return;
        }
        let reaper = self.reaper.borrow();
        let waker = reaper.as_ref().unwrap_or(Waker::noop());
        if !link.connection.is_quiet(&mut Context::from_waker(waker), false) {
            return;
        }
        if self.member.waiting() > 0 {
            if self.member.passes_on() {
                return;
            }
            let seat = self.seats.borrow_mut().pop_front();
            if let Some(seat) = seat {
                link.is_used = true;
                return seat.take_over(link);
            }
        }
        let mut kept = self.idle.borrow_mut();
        if kept.len() >= MAX_IDLE {
            kept.pop_front();
            self.idle_level.dec();
        }
        kept.push_back(Kept { link, since: now, until: now + idle });
        self.idle_level.inc();
        drop(reaper);
        self.watch_idle();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.idle_level.dec_by(i64::try_from(self.idle.get_mut().len()).unwrap_or_default());
    }
}

/// Closes connections when their time is over, or the server has closed them. Ends when there are
/// none; the next one that is kept starts it again.
async fn reap(server: RcWeak<Server>) {
    let mut timer = Timer::new();
    poll_fn(|cx| {
        let Some(server) = server.upgrade() else { return Poll::Ready(()) };
        server.reaper_starts.set(false);
        loop {
            let Some(next) = server.sweep(Instant::now(), cx) else {
                server.reaper.take();
                return Poll::Ready(());
            };
            server.reaper.borrow_mut().get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
            ready!(timer.poll(cx, next));
        }
    })
    .await;
}

/// A connection that is not in use.
struct Kept {
    link: Box<Link>,
    since: Instant,
    until: Instant,
}

/// One connection. Dropping it closes it, whatever it is in the middle of.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) timer: Timer,
    /// Memory for the next request's head.
    pub(super) buffer: Vec<u8>,
    /// Sends the rest of a request whose answer has begun already.
    pub(super) upload: Option<JoinHandle<()>>,
    /// It has served a request before, so that the server may be about to close it.
    pub(super) is_used: bool,
    /// When it was made.
    pub(super) born: Instant,
    /// Where it leads, if the server has a name.
    pub(super) address: Option<SocketAddr>,
    /// Of what DNS says, the one that has this address.
    pub(super) generation: Cell<u64>,
    /// The right to be there.
    _slot: Slot,
}

impl Link {
    pub(super) fn new(connection: Connection, address: Option<SocketAddr>, slot: Slot) -> Self {
        Self {
            connection,
            timer: Timer::new(),
            buffer: Vec::new(),
            upload: None,
            is_used: false,
            born: Instant::now(),
            address,
            generation: Cell::new(0),
            _slot: slot,
        }
    }

    /// Whether it ended, or something came that nobody asked for. `sure`: the system is asked as well.
    pub(super) fn is_dead(&self, sure: bool) -> bool {
        !self.connection.is_quiet(&mut Context::from_waker(Waker::noop()), sure)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// An exchange under way: counts as outstanding until it is dropped.
pub(super) struct Claim {
    pub(super) server: Rc<Server>,
}

impl Claim {
    pub(super) fn new(server: &Rc<Server>) -> Self {
        server.outstanding.set(server.outstanding.get() + 1);
        server.active_level.inc();
        Self { server: Rc::clone(server) }
    }
}

impl Claim {
    /// The answer is complete, and so is the request: the connection may serve another one.
    pub(super) fn settle(self, link: Box<Link>, idle: Duration) {
        if !idle.is_zero() {
            self.server.keep(link, idle);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.server.outstanding.set(self.server.outstanding.get().saturating_sub(1));
        self.server.active_level.dec();
    }
}
