//! The connections of one worker to the servers of all upstreams.
//!
//! A worker is one thread, so there are cells here and no locks. What is counted here (outstanding
//! requests) is this worker's own view; whether a server is in use, all workers know together.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::balance;
use super::request::Outgoing;
use super::resolve::Resolved;
use super::retry::Budget;
use super::timer::Timer;
use super::{Backend, Upstream};
use crate::config::{self, Balance};
use crate::secret;
use crate::telemetry::metrics::Level;

/// Unused connections to one server that one worker keeps; the oldest gives way.
const MAX_IDLE: usize = 512;

/// How long a connection is used at most: what is behind an address changes without a word, such as
/// a load balancer's set of servers.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// All upstream connections of one worker. `B` is the body of the requests it forwards.
pub struct Connections<B> {
    known: RefCell<Vec<Known<B>>>,
    random: Cell<u64>,
}

/// The servers of one upstream, found again by the address of its `Arc`. The `Weak` keeps that
/// address from being used for another upstream.
struct Known<B> {
    upstream: Weak<Upstream>,
    servers: Servers<B>,
}

/// The servers of an upstream, in the order of its configuration.
pub(super) type Servers<B> = Rc<Group<B>>;

/// What one worker knows of one upstream.
pub(super) struct Group<B> {
    servers: Box<[Rc<Server<B>>]>,
    budget: Cell<Budget>,
}

impl<B> Group<B> {
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

impl<B> Deref for Group<B> {
    type Target = [Rc<Server<B>>];

    fn deref(&self) -> &Self::Target {
        &self.servers
    }
}

impl<B> Default for Connections<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> std::fmt::Debug for Connections<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("upstreams", &self.known.borrow().len()).finish_non_exhaustive()
    }
}

impl<B> Connections<B> {
    /// No connections yet. They belong to the thread's `LocalRuntime` (or `LocalSet`), on which
    /// [`super::forward()`] spawns them.
    pub fn new() -> Self {
        Self { known: RefCell::default(), random: Cell::new(u64::from_ne_bytes(secret::random())) }
    }

    /// The servers of an upstream. After a reload, servers that are also in the new configuration
    /// keep their connections.
    pub(super) fn servers(&self, upstream: &Arc<Upstream>) -> Servers<B> {
        let mut known = self.known.borrow_mut();
        let same = |entry: &&Known<B>| std::ptr::eq(entry.upstream.as_ptr(), Arc::as_ptr(upstream));
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
        servers: &Servers<B>,
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
        servers: &Servers<B>,
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
pub(super) struct Server<B> {
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
    idle: RefCell<VecDeque<(Link<B>, Instant)>>,
    reaper_runs: Cell<bool>,
    idle_level: Level,
    active_level: Level,
}

impl<B> Server<B> {
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
            reaper_runs: Cell::new(false),
            idle_level: backend.idle.clone(),
            active_level: backend.active.clone(),
        }
    }

    /// Whether connections to it are good for `backend`.
    fn is(&self, backend: &Backend, tls: &config::UpstreamTls) -> bool {
        self.endpoint.url() == backend.endpoint.url() && self.tls == *tls
    }

    /// An unused connection that is neither expired nor closed.
    pub(super) fn take_idle(&self, now: Instant) -> Option<Link<B>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let (mut link, until) = idle.pop_back()?;
            self.idle_level.dec();
            if until > now && link.is_ready() && self.leads_here(&mut link) {
                link.is_used = true;
                return Some(link);
            }
        }
    }

    /// Whether the connection leads to an address that is the server's: it may not be any more when
    /// what DNS says has changed since the last look.
    fn leads_here(&self, link: &mut Link<B>) -> bool {
        let (Some(resolved), Some(address)) = (&self.resolved, link.address) else { return true };
        let generation = resolved.generation();
        std::mem::replace(&mut link.generation, generation) == generation || resolved.contains(address)
    }

    /// Drops what is expired or closed; the time at which the next one expires.
    fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|(link, until)| *until > now && !link.is_closed());
        self.idle_level.dec_by(i64::try_from(before - idle.len()).unwrap_or_default());
        idle.iter().map(|(_, until)| *until).min()
    }
}

impl<B: 'static> Server<B> {
    /// Keeps a connection that is ready for another request, for at most `idle`.
    fn keep(self: &Rc<Self>, mut link: Link<B>, idle: Duration) {
        let now = Instant::now();
        if !self.leads_here(&mut link) || now >= link.born + MAX_AGE {
            return;
        }
        let mut kept = self.idle.borrow_mut();
        if kept.len() >= MAX_IDLE {
            kept.pop_front();
            self.idle_level.dec();
        }
        kept.push_back((link, now + idle));
        self.idle_level.inc();
        if !self.reaper_runs.replace(true) {
            tokio::task::spawn_local(reap(Rc::downgrade(self)));
        }
    }

    /// Runs a connection's I/O until it ends, and then forgets it at once.
    pub(super) fn drive<D>(self: &Rc<Self>, connection: D) -> JoinHandle<()>
    where
        D: Future<Output = hyper::Result<()>> + 'static,
    {
        let server = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
            if let Some(server) = server.upgrade() {
                server.sweep(Instant::now());
            }
        })
    }
}

impl<B> Drop for Server<B> {
    fn drop(&mut self) {
        self.idle_level.dec_by(i64::try_from(self.idle.get_mut().len()).unwrap_or_default());
    }
}

/// Closes connections when their time is over. Ends when there are none; the next one that is
/// kept starts it again.
async fn reap<B>(server: RcWeak<Server<B>>) {
    loop {
        let Some(alive) = server.upgrade() else { return };
        let Some(next) = alive.sweep(Instant::now()) else {
            alive.reaper_runs.set(false);
            return;
        };
        drop(alive);
        sleep_until(next).await;
    }
}

/// One connection. Dropping it closes it, whatever it is in the middle of.
pub(super) struct Link<B> {
    pub(super) sender: SendRequest<Outgoing<B>>,
    pub(super) driver: JoinHandle<()>,
    pub(super) timer: Timer,
    /// It has served a request before, so that the server may be about to close it.
    pub(super) is_used: bool,
    /// When it was made.
    pub(super) born: Instant,
    /// Where it leads, if the server has a name.
    pub(super) address: Option<SocketAddr>,
    /// Of what DNS says, the one that has this address.
    pub(super) generation: u64,
}

impl<B> Link<B> {
    fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl<B> Drop for Link<B> {
    fn drop(&mut self) {
        // Without this, hyper would finish sending the request's body first.
        self.driver.abort();
    }
}

/// An exchange under way: counts as outstanding until it is dropped.
pub(super) struct Claim<B> {
    pub(super) server: Rc<Server<B>>,
}

impl<B> Claim<B> {
    pub(super) fn new(server: &Rc<Server<B>>) -> Self {
        server.outstanding.set(server.outstanding.get() + 1);
        server.active_level.inc();
        Self { server: Rc::clone(server) }
    }
}

impl<B: 'static> Claim<B> {
    /// The answer is complete. The connection is kept if hyper has it ready for another request:
    /// it is not when request bytes are still to be sent, bytes came that nobody asked for, or
    /// either side said `close`.
    pub(super) fn settle(self, link: Link<B>, idle: Duration) {
        if link.is_ready() && !idle.is_zero() {
            self.server.keep(link, idle);
        }
    }
}

impl<B> Drop for Claim<B> {
    fn drop(&mut self) {
        self.server.outstanding.set(self.server.outstanding.get().saturating_sub(1));
        self.server.active_level.dec();
    }
}
