//! The sockets of clients: TCP ports, and unix sockets with their files.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::ListenAddress;
use crate::http::Peer;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;

/// A socket that listens. Clones share the socket, and the file of a unix socket, which is removed
/// with the last of them.
#[derive(Debug)]
pub struct ListeningSocket {
    kind: Kind,
    file: Option<Arc<SocketFile>>,
}

#[derive(Debug)]
enum Kind {
    Tcp(std::net::TcpListener),
    Unix(unix::UnixListener, PathBuf),
}

impl ListeningSocket {
    /// Takes an address. Binding is apart from accepting so that one that is taken is found before
    /// anything else starts.
    ///
    /// The file of a unix socket at which nobody listens any more is replaced. Who may connect is up
    /// to the rights of the new one, so to the process's umask (unix(7)).
    ///
    /// # Errors
    /// When the address is taken or not this machine's.
    pub fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Ok(Self { kind: Kind::Tcp(bind_tcp(*address)?), file: None }),
            ListenAddress::Unix(path) => {
                let listener = bind_unix(path)?;
                let file = SocketFile::at(path)?;
                Ok(Self { kind: Kind::Unix(listener, path.clone()), file: Some(Arc::new(file)) })
            }
            ListenAddress::Inherited(_) => {
                Err(io::Error::new(io::ErrorKind::NotFound, "systemd has passed no socket of this name"))
            }
        }
    }

    /// One that somebody else has bound. `None` if it does not listen.
    pub(super) fn of_tcp(listener: std::net::TcpListener) -> Option<Self> {
        listens(SockRef::from(&listener)).then(|| Self { kind: Kind::Tcp(listener), file: None })
    }

    /// The same. Its file is not ours to remove.
    pub(super) fn of_unix(listener: unix::UnixListener) -> Option<Self> {
        let address = listener.local_addr().ok()?;
        let path = match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => path.to_owned(),
            // As other programs write it.
            (None, name) => format!("@{}", String::from_utf8_lossy(name.unwrap_or_default())).into(),
        };
        listens(SockRef::from(&listener)).then(|| Self { kind: Kind::Unix(listener, path), file: None })
    }

    /// Where it is, with the real port.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Kind::Unix(_, path) => Ok(ListenAddress::Unix(path.clone())),
        }
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let kind = match &self.kind {
            Kind::Tcp(listener) => Kind::Tcp(listener.try_clone()?),
            Kind::Unix(listener, path) => Kind::Unix(listener.try_clone()?, path.clone()),
        };
        Ok(Self { kind, file: self.file.clone() })
    }

    /// Makes it ready to accept connections, on the runtime that this is called in. Whoever accepts
    /// has no part in the file: that goes when the listener does, not when its accept loop has seen so.
    pub(super) fn into_acceptor(self) -> io::Result<Acceptor> {
        match self.kind {
            Kind::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener).map(Acceptor::Tcp)
            }
            Kind::Unix(listener, _) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener).map(Acceptor::Unix)
            }
        }
    }
}

/// Accepts connections.
#[derive(Debug)]
pub(super) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    /// The next connection, which belongs to no runtime yet, and who it is from.
    pub(super) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Accepted::Tcp(stream.into_std()?), peer.into()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream.into_std()?), Peer::Unix))
            }
        }
    }
}

/// A connection on its way to the runtime that it will belong to.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(unix::UnixStream),
}

impl Accepted {
    /// The connection, on the runtime that this is called in.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                tokio::net::TcpStream::from_std(stream).map(Stream::Tcp)
            }
            Self::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

/// A connection. One type for both kinds, because what runs over it is large and would be there twice.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// Calls a method of the stream that it is.
macro_rules! of_either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        of_either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        of_either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        of_either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        // Both kinds are; were one not, the bytes would still arrive.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, stream => stream.poll_shutdown(cx))
    }
}

fn listens(socket: SockRef<'_>) -> bool {
    socket.is_listener().unwrap_or_default()
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, so that both can be configured.
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the old process's closed connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<unix::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        // A process that was killed leaves its file behind, and nobody can bind there again.
        if error.kind() != io::ErrorKind::AddrInUse || !is_abandoned(path, &address)? {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether a file is a socket at which nobody listens.
fn is_abandoned(path: &Path, address: &SockAddr) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Somebody whose backlog is full would keep us waiting, and is somebody.
    probe.set_nonblocking(true)?;
    Ok(probe.connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// The file of a unix socket, removed on drop unless it is another's by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: Self::identity(path)? })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = Self::identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a socket's file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> io::Result<ListeningSocket> {
        ListeningSocket::bind(&ListenAddress::Unix(path.to_owned()))
    }

    #[test]
    fn a_port_that_is_taken_is_found_at_once() {
        let taken = ListeningSocket::bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let again = ListeningSocket::bind(&taken.address().unwrap());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_file_without_a_listener_is_replaced_and_one_with_a_listener_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(unix::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "nobody removed it");
        let socket = bind(&path).unwrap();
        unix::UnixStream::connect(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        unix::UnixStream::connect(&path).unwrap();
        drop(socket);
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).unwrap_err().to_string(), "a file that is no socket is there");
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(bind(&folder.path().join("link")).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_file_goes_with_the_last_clone_unless_it_is_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = bind(&path).unwrap();
        let again = socket.try_clone().unwrap();
        drop(socket);
        unix::UnixStream::connect(&path).unwrap();
        drop(again);
        assert!(!path.exists());

        let ours = bind(&path).unwrap();
        // Not removed: the next file would get its inode.
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        let _anothers = bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }
}
