//! From a server's name to a connection that is ready for a request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::Backend;
use super::connections::{Link, Server};
use super::error::{ConnectError, Error};
use super::http1::{Connection, Socket};

/// Connects within `within`, which covers the name look-up and every address together.
pub(super) async fn connect(server: &Server, backend: &Backend, within: Duration) -> Result<Link, Error> {
    let stream = match open(backend, Instant::now() + within).await {
        Ok(stream) => stream,
        Err(error) => {
            server.is_unreachable(Instant::now());
            backend.healthy.set(0);
            return Err(Error::Connect(error));
        }
    };
    server.is_reachable();
    backend.healthy.set(1);
    Ok(Link::new(Connection::new(Socket::new(stream))))
}

async fn open(backend: &Backend, deadline: Instant) -> Result<TcpStream, ConnectError> {
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
    Ok(stream)
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
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => ConnectError::Refused(error),
            Ok(Err(error)) => ConnectError::Io(error),
            Err(_elapsed) => ConnectError::Timeout,
        };
    }
    Err(last)
}
