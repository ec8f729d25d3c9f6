//! The listeners that are open, one by one: each can come and go without the others noticing.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::StartError;
use crate::config::{self, ListenAddress};
use crate::server::tls::Tls;
use crate::server::{Admission, Entrance, Inboxes, Inherited, Lifecycle, ListeningSocket, Terms};
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
    written: Written,
    address: ListenAddress,
    /// Of the same socket, so that other settings at the same address can take it over.
    socket: ListeningSocket,
    /// Told to its accept loop and to its connections.
    lifecycle: watch::Sender<Lifecycle>,
}

/// A socket that the configuration wants, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    /// Of a `[[listener]]`, whose redirect is another.
    Serves(config::Listener),
    /// `redirect_http_from` of a listener.
    Redirects {
        from: ListenAddress,
        /// Where the listener is.
        to: ListenAddress,
        /// Its connections begin as those of the listener do.
        proxy_protocol: bool,
    },
}

impl Written {
    /// Every socket, a redirect after its listener. Each comes with what it is called.
    fn all(listeners: &[config::Listener]) -> impl Iterator<Item = (String, Self)> {
        listeners.iter().enumerate().flat_map(|(index, listener)| {
            let name = format!("listener {}", index + 1);
            let redirect = listener.redirect_http_from.map(|from| {
                let (to, proxy_protocol) = (listener.address.clone(), listener.proxy_protocol);
                (format!("{name}, redirect_http_from"), Self::Redirects { from: from.into(), to, proxy_protocol })
            });
            let serves = Self::Serves(config::Listener { redirect_http_from: None, ..listener.clone() });
            [Some((name, serves)), redirect].into_iter().flatten()
        })
    }

    const fn address(&self) -> &ListenAddress {
        match self {
            Self::Serves(listener) => &listener.address,
            Self::Redirects { from, .. } => from,
        }
    }

    const fn terms(&self) -> Terms {
        match self {
            Self::Serves(listener) => Terms { most: listener.connections, proxy_protocol: listener.proxy_protocol },
            Self::Redirects { proxy_protocol, .. } => Terms { most: None, proxy_protocol: *proxy_protocol },
        }
    }

    const fn is_redirect(&self) -> bool {
        matches!(self, Self::Redirects { .. })
    }
}

/// A socket that listens and of which nobody accepts yet.
#[derive(Debug)]
pub(super) struct Bound {
    written: Written,
    address: ListenAddress,
    socket: ListeningSocket,
    entrance: Entrance,
}

/// The process drains, so that no listener can be opened.
#[derive(Debug)]
pub(super) struct Closed;

impl Bound {
    /// Takes the addresses, all of them or none. `tls` is that of these listeners. A socket that was
    /// passed to the process and is meant is taken instead of a new one.
    pub(super) fn all(
        listeners: &[config::Listener],
        tls: &Tls,
        inherited: &[Inherited],
    ) -> Result<Vec<Self>, StartError> {
        Self::beside(&[], listeners, tls, inherited)
    }

    /// The same for what is not open yet. What is open under other settings goes on as the same
    /// socket, so that nobody is turned away in between.
    fn beside(
        open: &[Listener],
        wanted: &[config::Listener],
        tls: &Tls,
        inherited: &[Inherited],
    ) -> Result<Vec<Self>, StartError> {
        let mut left: Vec<&Listener> = open.iter().collect();
        let wanted: Vec<_> = Written::all(wanted)
            .map(|(what, written)| {
                let same = take(&mut left, |open| open.written == written);
                (what, written, same)
            })
            .collect();
        // Where there is no port, clients come by one that somebody else has.
        let (mut bound, mut endpoints, mut port) = (Vec::new(), tls.endpoints().iter(), 443);
        for (what, written, same) in wanted {
            let entrance = match &written {
                Written::Serves(config::Listener { tls: Some(_), .. }) => {
                    // There is one for each listener that has TLS, in their order; without it nobody listens.
                    let endpoint = endpoints.next().ok_or_else(|| StartError::Tls(Vec::new()))?;
                    Entrance::Tls(Arc::clone(endpoint))
                }
                Written::Serves(listener) => Entrance::Plain { h2c: listener.h2c },
                Written::Redirects { .. } => Entrance::Redirect(port),
            };
            let address = match same {
                Some(same) => same.address.clone(),
                None => {
                    let address = written.address();
                    let at = |open: &&Listener| open.written.address() == address || open.address == *address;
                    let socket = match take(&mut left, at) {
                        Some(changed) => changed.socket.try_clone(),
                        None => open_socket(address, inherited),
                    };
                    let failed = |source| StartError::Bind { what: what.clone(), address: address.clone(), source };
                    let socket = socket.map_err(failed)?;
                    let address = socket.address().map_err(failed)?;
                    bound.push(Self { written: written.clone(), address: address.clone(), socket, entrance });
                    address
                }
            };
            if !written.is_redirect() {
                port = address.tcp().map_or(443, |address| address.port());
            }
        }
        Ok(bound)
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

    /// Takes the addresses of those that are not open yet. `tls` is that of all that are `wanted`.
    pub(super) fn bind_new(&self, wanted: &[config::Listener], tls: &Tls) -> Result<Vec<Bound>, StartError> {
        Bound::beside(&self.open().listeners, wanted, tls, &self.inherited)
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
        for Bound { written, address, socket, entrance } in bound {
            let (lifecycle, seen) = watch::channel(Lifecycle::Running);
            let _control = self.control.enter();
            let accepting = socket.try_clone().map_err(StartError::Thread)?;
            let (admission, terms) = (self.admission.subscribe(), written.terms());
            let accept = self.inboxes.accept(accepting, entrance, terms, admission, &self.metrics, seen);
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
        for (_, wanted) in Written::all(wanted) {
            let same = |listener: &Listener| listener.written == wanted;
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
        self.addresses_where(|written| !written.is_redirect())
    }

    /// Where clients are sent to `https`, in the order of the configuration.
    pub(super) fn redirects(&self) -> Vec<SocketAddr> {
        self.addresses_where(Written::is_redirect).iter().filter_map(ListenAddress::tcp).collect()
    }

    fn addresses_where(&self, is_meant: impl Fn(&Written) -> bool) -> Vec<ListenAddress> {
        let open = self.open();
        open.listeners.iter().filter(|one| is_meant(&one.written)).map(|one| one.address.clone()).collect()
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

/// A socket at this address: one that was passed to the process, or a new one.
fn open_socket(address: &ListenAddress, inherited: &[Inherited]) -> io::Result<ListeningSocket> {
    match inherited.iter().find(|one| one.is_meant_by(address)) {
        Some(one) => one.socket.try_clone(),
        None => ListeningSocket::bind(address),
    }
}

/// Takes the first element that is meant: of two listeners at port 0 each is counted once.
fn take<T>(list: &mut Vec<T>, is_meant: impl Fn(&T) -> bool) -> Option<T> {
    let index = list.iter().position(is_meant)?;
    Some(list.remove(index))
}
