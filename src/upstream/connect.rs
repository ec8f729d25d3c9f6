//! From a server's name to a connection that is ready for a request.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::Backend;
use super::error::ConnectError;
use super::resolve::look_up;
use crate::config::Transport;

/// What a connection runs over.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Passes a call on to whichever stream it is.
macro_rules! on_stream {
    ($stream:expr, $call:ident($($argument:expr),*)) => {
        match $stream.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).$call($($argument),*),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).$call($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$call($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_shutdown(cx))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Where it leads; a unix socket leads to a path.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.peer_addr().ok(),
            Self::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// A stream to the server, by `deadline`.
pub(super) async fn open(backend: &Backend, deadline: Instant) -> Result<Stream, ConnectError> {
    if let Transport::Unix(path) = &backend.endpoint.transport {
        return match timeout_at(deadline, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => Ok(Stream::Unix(stream)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_elapsed) => Err(ConnectError::Timeout),
        };
    }
    let stream = race(&addresses(backend, deadline).await?, deadline).await?;
    tune(&stream).map_err(ConnectError::Io)?;
    let Some(tls) = &backend.tls else { return Ok(Stream::Plain(stream)) };
    let stream = timeout_at(deadline, tls.over(stream)).await.map_err(|_elapsed| ConnectError::Timeout)??;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Sets what the kernel does by itself about a connection.
fn tune(stream: &TcpStream) -> io::Result<()> {
    // Small messages leave at once; each is written in one piece.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // A stream may be silent for hours. A peer that vanished is noticed within 90 s all the same,
    // and firewalls in between do not forget the connection.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&keepalive.with_retries(3))?;
    // Bytes that are never acknowledged: the kernel alone would go on for a quarter of an hour.
    socket.set_tcp_user_timeout(Some(Duration::from_secs(120)))
}

fn failed(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused(error),
        _ => ConnectError::Io(error),
    }
}

/// Where the server is. The first connection to a name waits for the look-up.
async fn addresses(backend: &Backend, deadline: Instant) -> Result<Vec<SocketAddr>, ConnectError> {
    let resolved = match (backend.address, &backend.resolved) {
        (Some(address), _) => return Ok(vec![address]),
        (None, Some(resolved)) => resolved,
        (None, None) => return Ok(Vec::new()),
    };
    let known = resolved.addresses();
    if !known.is_empty() {
        return Ok(known);
    }
    let found = timeout_at(deadline, look_up(backend)).await.map_err(|_elapsed| ConnectError::Timeout)?;
    resolved.learn(&backend.endpoint.host, &found);
    found.map_err(ConnectError::Dns)?;
    Ok(resolved.addresses())
}

/// Connects to the address that answers first. Each gets a head start of 250 ms over the next, or
/// as long as it takes to fail (RFC 8305 §5): a dead one neither uses up the time nor costs much.
async fn race(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ConnectError> {
    const HEAD_START: Duration = Duration::from_millis(250);
    if let [address] = *addresses {
        let outcome = timeout_at(deadline, TcpStream::connect(address)).await;
        return outcome.map_err(|_elapsed| ConnectError::Timeout)?.map_err(failed);
    }
    let mut last = ConnectError::Dns(io::Error::from(io::ErrorKind::NotFound));
    let mut waiting = addresses.iter().copied().peekable();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        let patience = if waiting.peek().is_some() { deadline.min(Instant::now() + HEAD_START) } else { deadline };
        match timeout_at(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last = failed(error),
            Ok(Some(Err(error))) => last = ConnectError::Io(io::Error::other(error)),
            Ok(None) => return Err(last),
            Err(_elapsed) if Instant::now() >= deadline => return Err(ConnectError::Timeout),
            Err(_elapsed) => {}
        }
    }
}
