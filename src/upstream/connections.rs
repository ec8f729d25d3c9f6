//! The connections of one worker to the servers of all upstreams.
//!
//! A worker is one thread, so there are cells here and no locks. What is counted here (outstanding
//! requests) is this worker's own view; whether a server is in use, all workers know together.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::balance;
use super::http1::Connection;
use super::resolve::Resolved;
use super::retry::Budget;
use super::timer::Timer;
use super::{Backend, Upstream};
use crate::config::{self, Balance};
use crate::secret;
use crate::telemetry::metrics::Level;

/// Unused connections to one server that one worker keeps; the oldest gives way.
const MAX_IDLE: usize = 512;

/// After this long a kept connection is looked at before it is used. Within a busy moment there is
/// hardly time for a server to have second thoughts, and that is when a system call costs most.
const RESTED: Duration = Duration::from_millis(1);

/// How long a connection is used at most: what is behind an address changes without a word, such as
/// a load balancer's set of servers.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// All upstream connections of one worker.
pub struct Connections {
    known: RefCell<Vec<Known>>,
    random: Cell<u64>,
}

/// The servers of one upstream, found again by the address of its `Arc`. The `Weak` keeps that
/// address from being used for another upstream.
struct Known {
    upstream: Weak<Upstream>,
    servers: Servers,
}

/// The servers of an upstream, in the order of its configuration.
pub(super) type Servers = Rc<Group>;

/// What one worker knows of one upstream.
pub(super) struct Group {
    servers: Box<[Rc<Server>]>,
    budget: Cell<Budget>,
}

impl Group {
    /// A request begins.
    pub(super) fn count(&self, now: Instant) {
        let mut budget = self.budget.get();
        budget.count(now);
        self.budget.set(budget);
    }

    /// Whether a request may be tried again.
    pub(super) fn may_retry(&self, now: Instant) -> bool {
        let mut budget = self.budget.get();
        let allowed = budget.take(now);
        self.budget.set(budget);
        allowed
    }
}

impl Deref for Group {
    type Target = [Rc<Server>];

    fn deref(&self) -> &Self::Target {
        &self.servers
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("upstreams", &self.known.borrow().len()).finish_non_exhaustive()
    }
}

impl Connections {
    /// No connections yet. They belong to the thread's `LocalRuntime` (or `LocalSet`), on which
    /// [`super::forward()`] spawns them.
    pub fn new() -> Self {
        Self { known: RefCell::default(), random: Cell::new(u64::from_ne_bytes(secret::random())) }
    }

    /// The servers of an upstream. After a reload, servers that are also in the new configuration
    /// keep their connections.
    pub(super) fn servers(&self, upstream: &Arc<Upstream>) -> Servers {
        let mut known = self.known.borrow_mut();
        let same = |entry: &&Known| std::ptr::eq(entry.upstream.as_ptr(), Arc::as_ptr(upstream));
        if let Some(entry) = known.iter().find(same) {
            return Rc::clone(&entry.servers);
        }
        let servers = upstream
            .backends()
            .iter()
            .map(|backend| {
                let name = &upstream.config.name;
                let mut kept = known.iter().flat_map(|entry| entry.servers.iter());
                let kept = kept.find(|server| server.upstream == *name && server.is(backend, &upstream.config.tls));
                kept.cloned().unwrap_or_else(|| Rc::new(Server::new(name, backend, &upstream.config.tls)))
            })
            .collect();
        let servers = Rc::new(Group { servers, budget: Cell::new(Budget::new(Instant::now())) });
        known.retain(|entry| entry.upstream.strong_count() > 0);
        known.push(Known { upstream: Arc::downgrade(upstream), servers: Rc::clone(&servers) });
        servers
    }

    /// The index of the server for the next request, `avoid` only when there is no other. `None`
    /// when there is no server that probes have not found bad.
    pub(super) fn pick(
        &self,
        upstream: &Upstream,
        servers: &Servers,
        affinity: u64,
        avoid: Option<usize>,
        now: Instant,
    ) -> Option<usize> {
        let backend = |index: usize| upstream.backends().get(index);
        let share = |index: usize| match backend(index) {
            Some(backend) if avoid != Some(index) => backend.standing.share(backend.endpoint.weight, now),
            _ => 0,
        };
        while let Some(index) = self.choose(upstream, servers, affinity, share) {
            if backend(index).is_some_and(|backend| backend.standing.admits(now)) {
                return Some(index);
            }
        }
        let last_resort =
            |index: usize| backend(index).map_or(0, |backend| backend.standing.last_resort(backend.endpoint.weight));
        self.choose(upstream, servers, affinity, last_resort)
    }

    fn choose(
        &self,
        upstream: &Upstream,
        servers: &Servers,
        affinity: u64,
        weight: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let (count, server) = (servers.len(), |index: usize| servers.get(index));
        match upstream.config.balance {
            Balance::Least => {
                let mut random = self.random.get();
                let number = balance::next_random(&mut random);
                self.random.set(random);
                let busy = |index: usize| server(index).map_or(u32::MAX, |server| server.outstanding.get());
                balance::least(count, number, weight, busy)
            }
            Balance::RoundRobin => {
                balance::round_robin(count, weight, |index| server(index).map(|server| &server.turn))
            }
            Balance::Hash => {
                balance::hash(count, affinity, weight, |index| server(index).map_or(0, |server| server.number))
            }
        }
    }
}

/// What one worker knows of one server.
pub(super) struct Server {
    upstream: Arc<str>,
    endpoint: config::Endpoint,
    tls: config::UpstreamTls,
    /// What its name means.
    resolved: Option<Arc<Resolved>>,
    /// What `balance = "hash"` knows it by.
    number: u64,
    outstanding: Cell<u32>,
    /// What `balance = "round_robin"` owes it.
    turn: Cell<i64>,
    /// Most recently used last, each with the end of its time. The last one is taken first, so
    /// that a burst's surplus grows old and goes.
    idle: RefCell<VecDeque<Kept>>,
    /// Wakes the task that watches the idle connections, while there is one.
    reaper: RefCell<Option<Waker>>,
    reaper_starts: Cell<bool>,
    idle_level: Level,
    active_level: Level,
}

impl Server {
    fn new(upstream: &Arc<str>, backend: &Backend, tls: &config::UpstreamTls) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            endpoint: backend.endpoint.clone(),
            tls: tls.clone(),
            resolved: backend.resolved.clone(),
            number: balance::number_of(backend.endpoint.url().as_bytes()),
            outstanding: Cell::new(0),
            turn: Cell::new(0),
            idle: RefCell::default(),
            reaper: RefCell::default(),
            reaper_starts: Cell::new(false),
            idle_level: backend.idle.clone(),
            active_level: backend.active.clone(),
        }
    }

    /// Whether connections to it are good for `backend`.
    fn is(&self, backend: &Backend, tls: &config::UpstreamTls) -> bool {
        self.endpoint.url() == backend.endpoint.url() && self.tls == *tls
    }

    /// An unused connection that is neither expired nor closed, and on which nothing came: it would be
    /// read as the next answer. `sure`: what goes over it cannot be sent again, so that one more
    /// system call is worth it.
    pub(super) fn take_idle(&self, now: Instant, sure: bool) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let Kept { mut link, since, until } = idle.pop_back()?;
            self.idle_level.dec();
            let sure = sure || now.saturating_duration_since(since) >= RESTED;
            // Nobody needs to be woken by it before the next exchange says so.
            let mut cx = Context::from_waker(Waker::noop());
            if until > now && link.connection.is_quiet(&mut cx, sure) && self.leads_here(&mut link) {
                link.is_used = true;
                return Some(link);
            }
        }
    }

    /// Whether the connection leads to an address that is the server's: it may not be any more when
    /// what DNS says has changed since the last look.
    fn leads_here(&self, link: &mut Link) -> bool {
        let (Some(resolved), Some(address)) = (&self.resolved, link.address) else { return true };
        let generation = resolved.generation();
        std::mem::replace(&mut link.generation, generation) == generation || resolved.contains(address)
    }

    /// Drops what is expired, closed, or says something unasked; the time at which the next one
    /// expires. `cx` is woken when another one closes.
    fn sweep(&self, now: Instant, cx: &mut Context<'_>) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|kept| kept.until > now && kept.link.connection.is_quiet(cx, false));
        self.idle_level.dec_by(i64::try_from(before - idle.len()).unwrap_or_default());
        idle.iter().map(|kept| kept.until).min()
    }

    /// Keeps a connection for another request, for at most `idle`, unless bytes came that nobody
    /// asked for, or its end.
    fn keep(self: &Rc<Self>, mut link: Link, idle: Duration) {
        let now = Instant::now();
        if !self.leads_here(&mut link) || now >= link.born + MAX_AGE {
            return;
        }
        link.connection.rest();
        let reaper = self.reaper.borrow();
        let waker = reaper.as_ref().unwrap_or(Waker::noop());
        if !link.connection.is_quiet(&mut Context::from_waker(waker), false) {
            return;
        }
        let mut kept = self.idle.borrow_mut();
        if kept.len() >= MAX_IDLE {
            kept.pop_front();
            self.idle_level.dec();
        }
        kept.push_back(Kept { link, since: now, until: now + idle });
        self.idle_level.inc();
        if reaper.is_none() && !self.reaper_starts.replace(true) {
            tokio::task::spawn_local(reap(Rc::downgrade(self)));
        }
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
    link: Link,
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
    pub(super) generation: u64,
}

impl Link {
    pub(super) fn new(connection: Connection, address: Option<SocketAddr>) -> Self {
        Self {
            connection,
            timer: Timer::new(),
            buffer: Vec::new(),
            upload: None,
            is_used: false,
            born: Instant::now(),
            address,
            generation: 0,
        }
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
    pub(super) fn settle(self, link: Link, idle: Duration) {
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
