//! From a server's name to a connection that is ready for a request.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::Backend;
use super::connections::Link;
use super::error::{ConnectError, Error};
use super::health::Event;
use super::http1::{Connection, Socket};
use crate::config::Transport;

/// Connects within `within`, which covers the name look-up and every address together.
pub(super) async fn connect(backend: &Backend, within: Duration) -> Result<Link, Error> {
    let stream = match open(backend, Instant::now() + within).await {
        Ok(stream) => stream,
        Err(error) => {
            backend.standing.saw(Event::NotConnected, Instant::now());
            return Err(Error::Connect(error));
        }
    };
    Ok(Link::new(Connection::new(Socket::new(stream))))
}

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

/// A stream to the server, by `deadline`.
pub(super) async fn open(backend: &Backend, deadline: Instant) -> Result<Stream, ConnectError> {
    if let Transport::Unix(path) = &backend.endpoint.transport {
        return match timeout_at(deadline, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => Ok(Stream::Unix(stream)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_elapsed) => Err(ConnectError::Timeout),
        };
    }
    let stream = match backend.address {
        Some(address) => first_that_answers(&[address], deadline).await?,
        None => {
            let endpoint = &backend.endpoint;
            let found = timeout_at(deadline, lookup_host((endpoint.host.as_str(), endpoint.port))).await;
            let addresses: Vec<SocketAddr> =
                found.map_err(|_elapsed| ConnectError::Timeout)?.map_err(ConnectError::Dns)?.collect();
            first_that_answers(&addresses, deadline).await?
        }
    };
    // Small messages leave at once; each is written in one piece.
    stream.set_nodelay(true).map_err(ConnectError::Io)?;
    let Some(tls) = &backend.tls else { return Ok(Stream::Plain(stream)) };
    let stream = timeout_at(deadline, tls.over(stream)).await.map_err(|_elapsed| ConnectError::Timeout)??;
    Ok(Stream::Tls(Box::new(stream)))
}

fn failed(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused(error),
        _ => ConnectError::Io(error),
    }
}

/// Tries the addresses in order. Each gets an equal share of what is left of the time, so that a
/// dead first one does not use it up.
async fn first_that_answers(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::Dns(io::Error::from(io::ErrorKind::NotFound));
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        last = match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed(error),
            Err(_elapsed) => ConnectError::Timeout,
        };
    }
    Err(last)
}
