//! A client's connection after it has switched to another protocol: from then on it is bytes, and
//! whoever asked for it has them.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};

use super::connection::Lifecycle;
use super::io::Meter;

/// The right to a connection's bytes, for whoever answers its request with 101 (HTTP/1.1) or, to
/// an extended CONNECT, with 200 (RFC 8441 §4).
#[derive(Debug)]
pub struct Upgrade(Source);

#[derive(Debug)]
enum Source {
    Connection(Rc<Meter>),
    Stream(Connect),
}

impl Upgrade {
    pub(super) fn of_connection(meter: &Rc<Meter>) -> Self {
        Self(Source::Connection(Rc::clone(meter)))
    }

    pub(super) fn of_stream(connect: Connect) -> Self {
        Self(Source::Stream(connect))
    }

    /// Has to be called before the answer is given. The bytes are there when the answer has left; `None`
    /// when the client is gone by then, or has sent something that nobody could have meant yet.
    pub fn begin(self) -> impl Future<Output = Option<Upgraded>> {
        let switched = match self.0 {
            Source::Connection(meter) => {
                let (switch, switched) = oneshot::channel();
                meter.switch(switch);
                Ok(switched)
            }
            Source::Stream(connect) => Err(connect),
        };
        async move {
            match switched {
                Ok(switched) => switched.await.ok(),
                Err(Connect { stream, lifecycle, open }) => {
                    let stream = Box::new(TokioIo::new(stream.await.ok()?));
                    Some(Upgraded { stream, lifecycle, _open: open })
                }
            }
        }
    }
}

/// A stream of HTTP/2 that an extended CONNECT asked for.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) stream: OnUpgrade,
    pub(super) lifecycle: watch::Receiver<Lifecycle>,
    /// Dropped when the stream is.
    pub(super) open: Box<dyn Any>,
}

/// What bytes go over.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// A connection that is nothing but bytes.
pub struct Upgraded {
    stream: Box<dyn Bytes>,
    lifecycle: watch::Receiver<Lifecycle>,
    _open: Box<dyn Any>,
}

impl std::fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgraded").finish_non_exhaustive()
    }
}

impl Upgraded {
    /// Ends when the process, or the listener, begins to drain.
    pub fn draining(&self) -> impl Future<Output = ()> + use<> {
        let mut lifecycle = self.lifecycle.clone();
        async move {
            // Nobody left to say so is no different.
            let _drains = lifecycle.wait_for(|step| *step >= Lifecycle::Draining).await.is_ok();
        }
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// Gives a connection to whoever has asked for it, and waits until it is over.
pub(super) async fn hand_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    lifecycle: watch::Receiver<Lifecycle>,
    switch: oneshot::Sender<Upgraded>,
) {
    let (open, mut over) = oneshot::channel::<()>();
    let handed = switch.send(Upgraded { stream: Box::new(stream), lifecycle, _open: Box::new(open) });
    if handed.is_ok() {
        // It ends with the drop of the other half.
        poll_fn(|cx| Pin::new(&mut over).poll(cx)).await.unwrap_or_default();
    }
}
