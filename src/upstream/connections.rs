//! The connections of one worker to the servers of all upstreams.
//!
//! A worker is one thread, so there are cells here and no locks. What is counted here (outstanding
//! requests) is this worker's own view; whether a server is in use, all workers know together.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::Upstream;
use super::balance;
use super::retry::Budget;
use super::server::Server;
use crate::config::Balance;
use crate::secret;

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
                let mut kept = known.iter().flat_map(|entry| entry.servers.iter());
                let kept = kept.find(|server| server.is(&upstream.config, backend));
                kept.cloned().unwrap_or_else(|| Rc::new(Server::new(&upstream.config, backend)))
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
        // Rather another server than the queue of this one; but who belongs to a server waits for it.
        let prefers_free = upstream.config.connections > 0 && upstream.config.balance != Balance::Hash;
        for only_free in [true, false].into_iter().skip(usize::from(!prefers_free)) {
            let is_full = |index: usize| only_free && servers.get(index).is_some_and(|server| server.is_full());
            let share = |index: usize| if is_full(index) { 0 } else { share(index) };
            while let Some(index) = self.choose(upstream, servers, affinity, share) {
                if backend(index).is_some_and(|backend| backend.standing.admits(now)) {
                    return Some(index);
                }
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
                let busy = |index: usize| server(index).map_or(u32::MAX, |server| server.outstanding());
                balance::least(count, number, weight, busy)
            }
            Balance::RoundRobin => {
                balance::round_robin(count, weight, |index| server(index).map(|server| server.turn()))
            }
            Balance::Hash => {
                balance::hash(count, affinity, weight, |index| server(index).map_or(0, |server| server.number()))
            }
        }
    }
}
