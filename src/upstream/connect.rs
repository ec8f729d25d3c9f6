//! From a server's name to a connection that is ready for a request.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::Backend;
use super::connections::{Link, Server};
use super::error::{ConnectError, Error, Invalid};
use super::health::Event;
use super::request::Outgoing;
use super::timer::Timer;
use crate::config::Transport;
use crate::http::BodyError;

/// Bytes of a response head, and of the buffer that it is read into.
const MAX_HEAD: usize = 64 * 1024;

/// Connects within `within`, which covers the name look-up and every address together.
pub(super) async fn connect<B>(server: &Rc<Server<B>>, backend: &Backend, within: Duration) -> Result<Link<B>, Error>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    let stream = match open(backend, Instant::now() + within).await {
        Ok(stream) => stream,
        Err(error) => {
            backend.standing.saw(Event::NotConnected, Instant::now());
            return Err(Error::Connect(error));
        }
    };
    // One branch here instead of one for each read and write.
    match stream {
        Stream::Plain(stream) => begin(server, stream).await,
        Stream::Tls(stream) => begin(server, *stream).await,
        Stream::Unix(stream) => begin(server, stream).await,
    }
}

/// HTTP/1.1 over a stream.
async fn begin<B, S>(server: &Rc<Server<B>>, stream: S) -> Result<Link<B>, Error>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        .handshake::<_, Outgoing<B>>(TokioIo::new(stream))
        .await
        .map_err(|error| Error::Invalid(Invalid::Head(error)))?;
    Ok(Link { sender, driver: server.drive(connection), timer: Timer::new(), is_used: false })
}

/// What a connection runs over.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
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
    // Small messages leave at once; hyper writes each in one piece.
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
