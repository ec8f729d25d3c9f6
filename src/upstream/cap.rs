//! `connections`: how many connections to one server there may be, over all workers.
//!
//! A connection is made with a [`Slot`] and gives it back when it closes. Connections belong to one
//! worker each, so what a worker does not need, others can only have when it closes it. Requests that
//! find no slot queue here, over all workers, first come first served; the worker that has the
//! connection decides with [`Member::passes_on`] whether it is for its own or for others.
//!
//! The lock is taken when a connection is made or closed and by those who wait. Requests on kept
//! connections read one atomic.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use tokio::sync::oneshot;

/// Requests that wait for one server, over all workers. More would only wait in vain.
const MAX_WAITING: usize = 1024;

/// The connections to one server.
#[derive(Debug, Default)]
pub(super) struct Cap {
    /// The length of the queue, for those who only want to know whether there is one.
    waiting: AtomicUsize,
    /// A new connection would have to wait.
    is_full: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// 0: none.
    limit: usize,
    /// Connections that are there or being made.
    open: usize,
    queue: VecDeque<Waiter>,
    /// How many have ever waited.
    tickets: u64,
    members: Vec<Weak<Member>>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    member: Arc<Member>,
    grant: oneshot::Sender<Slot>,
}

/// One worker, as a user of the server's connections.
#[derive(Debug)]
pub(super) struct Member {
    cap: Arc<Cap>,
    /// Connections that are this worker's.
    held: AtomicUsize,
    /// Wakes whoever closes its idle connections.
    reaper: Mutex<Option<Waker>>,
}

/// The right to have one connection.
#[derive(Debug)]
pub(super) struct Slot(Option<Arc<Member>>);

/// A place in the queue, which is given up when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    member: Arc<Member>,
    ticket: u64,
    pub(super) granted: oneshot::Receiver<Slot>,
}

/// What came of asking for a slot.
#[derive(Debug)]
pub(super) enum Asked {
    Granted(Slot),
    Queued(Place),
    /// Too many wait already.
    Full,
}

impl Cap {
    pub(super) fn new(limit: usize) -> Self {
        let cap = Self::default();
        cap.set_limit(limit);
        cap
    }

    /// From now on there may be so many connections; 0: any number. Those that are too many stay
    /// until they end.
    pub(super) fn set_limit(&self, limit: usize) {
        let mut state = self.lock();
        state.limit = limit;
        let mut granted = Vec::new();
        while state.has_room() {
            let Some(grant) = state.grant_next() else { break };
            granted.push(grant);
        }
        self.publish(&state);
        drop(state);
        // Whoever has left gives the slot back here, which takes the lock.
        drop(granted);
    }

    /// A worker that will have connections.
    pub(super) fn join(self: &Arc<Self>) -> Arc<Member> {
        let member = Arc::new(Member { cap: Arc::clone(self), held: AtomicUsize::new(0), reaper: Mutex::default() });
        let mut state = self.lock();
        state.members.retain(|member| member.strong_count() > 0);
        state.members.push(Arc::downgrade(&member));
        member
    }

    fn publish(&self, state: &State) {
        self.waiting.store(state.queue.len(), Ordering::SeqCst);
        self.is_full.store(!state.may_grant(), Ordering::Relaxed);
    }

    /// A panic while it is held leaves counts that are as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.limit == 0 || self.open < self.limit
    }

    /// Whether who asks now gets a slot at once: nobody overtakes those who wait.
    fn may_grant(&self) -> bool {
        self.has_room() && self.queue.is_empty()
    }

    /// A slot for the first in the queue. What comes back is what the receiver had no use for; it has
    /// to be dropped without the lock.
    fn grant_next(&mut self) -> Option<Option<Slot>> {
        let Waiter { member, grant, .. } = self.queue.pop_front()?;
        self.open += 1;
        member.held.fetch_add(1, Ordering::Relaxed);
        Some(grant.send(Slot(Some(member))).err())
    }
}

impl Member {
    /// Whether the connections are counted there.
    pub(super) fn is_of(&self, cap: &Arc<Cap>) -> bool {
        Arc::ptr_eq(&self.cap, cap)
    }

    /// Whether there are requests in the queue, of whichever worker.
    pub(super) fn waiting(&self) -> usize {
        self.cap.waiting.load(Ordering::SeqCst)
    }

    /// Whether a new connection would have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.cap.is_full.load(Ordering::Relaxed)
    }

    /// The right to make a connection, or a place in the queue.
    pub(super) fn ask(self: &Arc<Self>) -> Asked {
        let mut state = self.cap.lock();
        if state.may_grant() {
            state.open += 1;
            self.cap.publish(&state);
            self.held.fetch_add(1, Ordering::Relaxed);
            return Asked::Granted(Slot(Some(Arc::clone(self))));
        }
        if state.queue.len() >= MAX_WAITING {
            return Asked::Full;
        }
        let (grant, granted) = oneshot::channel();
        state.tickets += 1;
        let ticket = state.tickets;
        state.queue.push_back(Waiter { ticket, member: Arc::clone(self), grant });
        self.cap.publish(&state);
        let members: Vec<_> = state.members.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for member in members {
            let reaper = member.reaper.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(reaper) = reaper {
                reaper.wake();
            }
        }
        Asked::Queued(Place { member: Arc::clone(self), ticket, granted })
    }

    /// From now on `waker` is woken, once, when somebody begins to wait.
    pub(super) fn watched_by(&self, waker: &Waker) {
        let mut reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *reaper {
            Some(known) => known.clone_from(waker),
            None => *reaper = Some(waker.clone()),
        }
    }

    /// Whether a connection that became free here is to be closed, so that another worker may have
    /// one: when nobody waits here, when the other has less than its share, or none at all and
    /// waited longer. Otherwise a handed-over connection is better than a new one.
    pub(super) fn passes_on(self: &Arc<Self>) -> bool {
        let state = self.cap.lock();
        let of_mine = |waiter: &&Waiter| Arc::ptr_eq(&waiter.member, self);
        let Some(other) = state.queue.iter().find(|waiter| !of_mine(waiter)) else { return false };
        let Some(mine) = state.queue.iter().find(of_mine) else { return true };
        let (theirs, ours) = (other.member.held.load(Ordering::Relaxed), self.held.load(Ordering::Relaxed));
        theirs + 1 < ours || (theirs == 0 && other.ticket < mine.ticket)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(member) = self.0.take() else { return };
        member.held.fetch_sub(1, Ordering::Relaxed);
        let mut state = member.cap.lock();
        state.open = state.open.saturating_sub(1);
        let granted = if state.has_room() { state.grant_next() } else { None };
        member.cap.publish(&state);
        drop(state);
        drop(granted);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.member.cap.lock();
        state.queue.retain(|waiter| waiter.ticket != self.ticket);
        self.member.cap.publish(&state);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    fn granted(member: &Arc<Member>) -> Slot {
        match member.ask() {
            Asked::Granted(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn queued(member: &Arc<Member>) -> Place {
        match member.ask() {
            Asked::Queued(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn slots_go_to_those_who_wait_in_order_and_past_those_who_left() {
        let cap = Arc::new(Cap::new(1));
        let (one, other) = (cap.join(), cap.join());
        let slot = granted(&one);
        assert!(one.is_full());
        let (gone, mut first, mut second) = (queued(&one), queued(&other), queued(&one));
        assert_eq!(one.waiting(), 3);
        drop(gone);
        assert_eq!(one.waiting(), 2);
        drop(slot);
        let slot = first.granted.try_recv().unwrap();
        assert!(second.granted.try_recv().is_err());
        assert_eq!((one.held.load(Ordering::Relaxed), other.held.load(Ordering::Relaxed)), (0, 1));
        drop(slot);
        // Granted, and gone before it noticed.
        drop(second);
        assert_eq!((one.waiting(), cap.lock().open), (0, 0));
        drop(granted(&one));
    }

    #[test]
    fn the_queue_has_an_end_and_a_higher_limit_shortens_it() {
        let cap = Arc::new(Cap::new(1));
        let member = cap.join();
        let _slot = granted(&member);
        let mut places: Vec<_> = (0..MAX_WAITING).map(|_| queued(&member)).collect();
        assert!(matches!(member.ask(), Asked::Full));
        cap.set_limit(3);
        let slots: Vec<_> = places.iter_mut().filter_map(|place| place.granted.try_recv().ok()).collect();
        assert_eq!((slots.len(), member.waiting()), (2, MAX_WAITING - 2));
        cap.set_limit(0);
        assert_eq!(member.waiting(), 0);
        assert!(!member.is_full());
    }

    #[test]
    fn workers_share_what_there_is() {
        let cap = Arc::new(Cap::new(4));
        let (one, other) = (cap.join(), cap.join());
        let mut slots: Vec<_> = (0..4).map(|_| granted(&one)).collect();
        assert!(!one.passes_on(), "nobody waits");
        let _mine = queued(&one);
        assert!(!one.passes_on(), "only here");
        let mut theirs: Vec<_> = (0..4).map(|_| queued(&other)).collect();
        assert!(one.passes_on(), "they have none");
        // The one who waits here came first: it gets what is closed.
        slots.pop();
        slots.pop();
        let got = theirs[0].granted.try_recv().unwrap();
        assert_eq!((one.held.load(Ordering::Relaxed), other.held.load(Ordering::Relaxed)), (3, 1));
        assert!(!other.passes_on(), "they have less");
        drop(got);
        assert!(one.passes_on() || other.held.load(Ordering::Relaxed) > 0);
    }

    struct Flag(AtomicUsize);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_has_idle_connections_is_told_that_others_wait() {
        let cap = Arc::new(Cap::new(1));
        let (one, other) = (cap.join(), cap.join());
        let _slot = granted(&one);
        let flag = Arc::new(Flag(AtomicUsize::new(0)));
        one.watched_by(&Waker::from(Arc::clone(&flag)));
        let _places = (queued(&other), queued(&other));
        assert_eq!(flag.0.load(Ordering::Relaxed), 1);
        assert!(one.passes_on(), "nobody waits here");
    }
}
