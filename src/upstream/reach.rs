//! From a server to something that a request can be sent over.

use std::rc::Rc;

use tokio::time::{Instant, timeout_at};

use super::cap::Slot;
use super::connect::{Stream, open};
use super::error::{ConnectError, Error};
use super::health::Event;
use super::http1::{Connection, Socket};
use super::http2::{self, Lease, Sessions};
use super::server::{Link, Server};
use super::waiting::{Way, way};
use super::{Backend, Upstream};
use crate::config::Protocol;

/// What a request is sent over.
pub(super) enum Carrier {
    /// A connection of its own.
    Http1(Box<Link>),
    /// A place on one that it shares.
    Http2(Lease),
}

impl Carrier {
    /// Whether the connection has served a request before, so that the server may be about to close it.
    pub(super) fn is_used(&self) -> bool {
        match self {
            Self::Http1(link) => link.is_used,
            Self::Http2(lease) => lease.is_used,
        }
    }
}

/// Waits until there is a connection to be had, and makes one if there is none that can be shared.
/// For `sure` see [`Server::take_idle`].
///
/// # Errors
/// When none was free in time, or none could be made.
pub(super) async fn reach(
    upstream: &Upstream,
    backend: &Backend,
    server: &Rc<Server>,
    sure: bool,
) -> Result<Carrier, Error> {
    let config = &upstream.config;
    let deadline = Instant::now() + config.connect;
    loop {
        if let Some(lease) = server.sessions().lease(server, Instant::now(), config.idle) {
            return Ok(Carrier::Http2(lease));
        }
        let slot = match way(server, deadline, sure).await? {
            Way::Kept(link) => return Ok(Carrier::Http1(link)),
            Way::Look => continue,
            Way::New(slot) => slot,
        };
        if config.protocol == Protocol::Http1 || server.speaks_http1().get() {
            return connect(upstream, backend, server, slot).await;
        }
        // One connection is enough for many: those who come while it is being made wait for it.
        let opened = server.sessions().opened();
        if let Some(_opening) = Sessions::opening(server) {
            return connect(upstream, backend, server, slot).await;
        }
        drop(slot);
        timeout_at(deadline, opened).await.map_err(|_elapsed| Error::Connect(ConnectError::Timeout))?;
    }
}

/// Connects within `connect`, which covers the name look-up and every address together.
async fn connect(upstream: &Upstream, backend: &Backend, server: &Rc<Server>, slot: Slot) -> Result<Carrier, Error> {
    let deadline = Instant::now() + upstream.config.connect;
    let made = async {
        let stream = open(backend, deadline).await?;
        let address = backend.resolved.as_ref().and_then(|_| stream.address());
        if !speaks_http2(&stream, upstream.config.protocol)? {
            server.speaks_http1().set(upstream.config.protocol == Protocol::Auto);
            let link = Link::new(Connection::new(Socket::new(stream)), address, slot);
            return Ok(Carrier::Http1(Box::new(link)));
        }
        server.speaks_http1().set(false);
        let begun = server.sessions().start(server, stream, (address, slot, upstream.config.idle));
        match timeout_at(deadline, begun).await {
            Ok(Ok(lease)) => Ok(Carrier::Http2(lease)),
            Ok(Err(error)) => Err(ConnectError::Io(std::io::Error::other(error))),
            Err(_elapsed) => Err(ConnectError::Timeout),
        }
    };
    made.await.map_err(|error| {
        backend.standing.saw(Event::NotConnected, Instant::now());
        Error::Connect(error)
    })
}

/// Whether a new connection speaks HTTP/2.
///
/// # Errors
/// When it has to, and TLS says that it does not.
pub(super) fn speaks_http2(stream: &Stream, protocol: Protocol) -> Result<bool, ConnectError> {
    let chosen = match stream {
        Stream::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        Stream::Plain(_) | Stream::Unix(_) => return Ok(protocol == Protocol::Http2),
    };
    match (protocol, chosen == Some(http2::ALPN)) {
        (Protocol::Http2, false) => Err(ConnectError::Tls(std::io::Error::other("the server does not offer HTTP/2"))),
        (_, is_http2) => Ok(is_http2),
    }
}
