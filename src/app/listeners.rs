//! The listeners that are open, one by one: each can come and go without the others noticing.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::StartError;
use crate::config::{self, ListenAddress};
use crate::server::{Admission, Inboxes, Inherited, Lifecycle, ListeningSocket, Terms};
use crate::telemetry::metrics::Metrics;

/// Every listener that accepts connections.
#[derive(Debug)]
pub(super) struct Listeners {
    inboxes: Inboxes,
    metrics: Arc<Metrics>,
    control: Handle,
    admission: watch::Sender<Admission>,
    inherited: Vec<Inherited>,
    open: Mutex<Open>,
}

/// In the order of the configuration.
#[derive(Debug, Default)]
struct Open {
    listeners: Vec<Listener>,
    /// The process drains: there will be no more.
    closed: bool,
}

#[derive(Debug)]
struct Listener {
    written: config::Listener,
    address: ListenAddress,
    /// Of the same socket, so that other settings at the same address can take it over.
    socket: ListeningSocket,
    /// Told to its accept loop and to its connections.
    lifecycle: watch::Sender<Lifecycle>,
}

/// A socket that listens and of which nobody accepts yet.
#[derive(Debug)]
pub(super) struct Bound {
    written: config::Listener,
    address: ListenAddress,
    socket: ListeningSocket,
}

/// The process drains, so that no listener can be opened.
#[derive(Debug)]
pub(super) struct Closed;

impl Bound {
    /// Takes the addresses, all of them or none. A socket that was passed to the process and is meant is
    /// taken instead of another.
    pub(super) fn all(listeners: &[config::Listener], inherited: &[Inherited]) -> Result<Vec<Self>, StartError> {
        let each = listeners.iter().enumerate();
        each.map(|(index, listener)| Self::one(index, listener, || socket_of(listener, inherited))).collect()
    }

    fn one(
        index: usize,
        written: &config::Listener,
        socket: impl FnOnce() -> io::Result<ListeningSocket>,
    ) -> Result<Self, StartError> {
        let failed = |source| {
            let (what, address) = (format!("listener {}", index + 1), written.address.clone());
            StartError::Bind { what, address, source }
        };
        let socket = socket().map_err(failed)?;
        let address = socket.address().map_err(failed)?;
        Ok(Self { written: written.clone(), address, socket })
    }
}

impl Listeners {
    /// None yet. Accept loops run on `control`.
    pub(super) fn new(
        inboxes: Inboxes,
        admission: Admission,
        metrics: Arc<Metrics>,
        control: Handle,
        inherited: Vec<Inherited>,
    ) -> Self {
        let admission = watch::Sender::new(admission);
        Self { inboxes, metrics, control, admission, inherited, open: Mutex::default() }
    }

    /// Takes the addresses of those that are not open yet. One that is open under other settings goes
    /// on as the same socket, so that nobody is turned away in between.
    pub(super) fn bind_new(&self, wanted: &[config::Listener]) -> Result<Vec<Bound>, StartError> {
        let open = self.open();
        let mut left: Vec<&Listener> = open.listeners.iter().collect();
        let mut is_new = |wanted: &config::Listener| take(&mut left, |open| open.written == *wanted).is_none();
        let new: Vec<_> = wanted.iter().enumerate().filter(|(_, wanted)| is_new(wanted)).collect();
        let bound = new.into_iter().map(|(index, wanted)| {
            let at = |open: &&Listener| open.written.address == wanted.address || open.address == wanted.address;
            let socket = || match take(&mut left, at) {
                Some(changed) => changed.socket.try_clone(),
                None => socket_of(wanted, &self.inherited),
            };
            Bound::one(index, wanted, socket)
        });
        bound.collect()
    }

    /// From now on exactly `wanted` are open: those that are stay as they are, `bound` has the others.
    /// What is left stops accepting, and its connections finish what they are at; so do those of a
    /// listener whose socket goes on under other settings.
    pub(super) fn replace(
        &self,
        wanted: &[config::Listener],
        bound: Vec<Bound>,
        admission: Admission,
    ) -> Result<Result<(), Closed>, StartError> {
        let mut open = self.open();
        if open.closed {
            return Ok(Err(Closed));
        }
        let mut new = Vec::new();
        for Bound { written, address, socket } in bound {
            let (lifecycle, seen) = watch::channel(Lifecycle::Running);
            let _control = self.control.enter();
            let accepting = socket.try_clone().map_err(StartError::Thread)?;
            let config::Listener { connections: most, proxy_protocol, h2c, .. } = written;
            let terms = Terms { most, proxy_protocol, h2c };
            let accept = self.inboxes.accept(accepting, terms, self.admission.subscribe(), &self.metrics, seen);
            new.push((Listener { written, address, socket, lifecycle }, accept.map_err(StartError::Thread)?));
        }
        // Nothing can fail from here on.
        self.admission.send_replace(admission);
        let mut accepting = Vec::new();
        for (listener, accept) in new {
            self.control.spawn(accept);
            accepting.push(listener);
        }
        let mut before = std::mem::take(&mut open.listeners);
        for wanted in wanted {
            let same = |listener: &Listener| listener.written == *wanted;
            open.listeners.extend(take(&mut before, same).or_else(|| take(&mut accepting, same)));
        }
        for gone in before {
            let goes_on = open.listeners.iter().any(|listener| listener.address == gone.address);
            let what = if goes_on { "a listener has other settings" } else { "a listener was closed" };
            tracing::info!(listener = %gone.address, "{what}");
            gone.lifecycle.send_replace(Lifecycle::Draining);
        }
        Ok(Ok(()))
    }

    /// Where clients connect, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<ListenAddress> {
        self.open().listeners.iter().map(|listener| listener.address.clone()).collect()
    }

    /// Stops accepting, for good, and lets every connection know.
    pub(super) fn close(&self) {
        let mut open = self.open();
        open.closed = true;
        // The sockets are closed with them.
        for listener in open.listeners.drain(..) {
            listener.lifecycle.send_replace(Lifecycle::Draining);
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket of a listener: one that was passed to the process, or a new one.
fn socket_of(listener: &config::Listener, inherited: &[Inherited]) -> io::Result<ListeningSocket> {
    match inherited.iter().find(|one| one.is_meant_by(&listener.address)) {
        Some(one) => one.socket.try_clone(),
        None => ListeningSocket::bind(&listener.address),
    }
}

/// Takes the first element that is meant: of two listeners at port 0 each is counted once.
fn take<T>(list: &mut Vec<T>, is_meant: impl Fn(&T) -> bool) -> Option<T> {
    let index = list.iter().position(is_meant)?;
    Some(list.remove(index))
}
