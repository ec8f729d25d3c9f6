//! A server's socket, as hyper gets to see it.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The socket of a connection: hyper's task reads and writes it, and whoever keeps the connection
/// can look at it.
///
/// A server may answer before it has read the whole request, and close (RFC 9112 §9.5). Writing then
/// fails while the answer waits to be read, and hyper would give up both. So a failed write is kept
/// back, and takes no more bytes: the reading side says how the connection ended.
pub(super) struct Socket {
    stream: Rc<RefCell<TcpStream>>,
    /// Why nothing more can be written.
    broken: Option<io::ErrorKind>,
}

/// Looks at a socket that hyper owns, and does not keep it open.
pub(super) struct Peek(Weak<RefCell<TcpStream>>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream: Rc::new(RefCell::new(stream)), broken: None }
    }

    pub(super) fn peek(&self) -> Peek {
        Peek(Rc::downgrade(&self.stream))
    }

    /// Keeps a failure back: from now on writing is never ready.
    fn note<T>(&mut self, cx: &Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = &outcome else { return outcome };
        tracing::debug!(%error, "an upstream takes no more of a request");
        self.broken = Some(error.kind());
        // Reading may have been waited for before this; it has something to say now.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Peek {
    /// Whether nothing has come, not even the end. A system call.
    pub(super) fn is_silent(&self) -> bool {
        let Some(stream) = self.0.upgrade() else { return false };
        let mut byte = [MaybeUninit::uninit()];
        let seen = SockRef::from(&*stream.borrow()).peek(&mut byte);
        seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf);
        match (&outcome, self.broken) {
            // The system tells of a reset once, and writing has heard of it. Without this, an answer
            // that lasts until the end of the connection would look whole. A broken pipe is no such
            // case: there the end had come in order before.
            (Poll::Ready(Ok(())), Some(kind)) if buf.filled().len() == before && kind != io::ErrorKind::BrokenPipe => {
                Poll::Ready(Err(kind.into()))
            }
            _ => outcome,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Pending;
        }
        let outcome = Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes);
        self.note(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Pending;
        }
        let outcome = Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, pieces);
        self.note(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}
