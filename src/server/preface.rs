//! Which HTTP a plaintext connection speaks, where a listener takes both (`h2c = true`).
//!
//! A client with prior knowledge begins with 24 bytes that are no HTTP/1 request (RFC 9113 §3.3,
//! §3.4). `Upgrade: h2c` is not offered: RFC 9113 has withdrawn it, and proxies were smuggled
//! through with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::Lifecycle;
use super::http2::PREFACE;
use super::io::Patience;

/// How a connection begins.
#[derive(Debug)]
pub(super) enum Opening<S> {
    /// With the preface.
    Http2(Rewound<S>),
    /// With something else.
    Http1(Rewound<S>),
    /// With the beginning of the preface, and then nothing in time.
    Late(S),
    /// Not at all.
    Gone,
}

/// Reads the first bytes of a connection until they tell. The first may take as long as a connection
/// may be idle, the others as long as a head may take.
pub(super) async fn opening<S: AsyncRead + Unpin>(
    mut stream: S,
    patience: &Patience,
    mut lifecycle: watch::Receiver<Lifecycle>,
) -> Opening<S> {
    let mut first = [0; PREFACE.len()];
    let received = tokio::select! {
        biased;
        received = timeout(patience.idle, stream.read(&mut first)) => received,
        _ = lifecycle.wait_for(|step| *step >= Lifecycle::Draining) => return Opening::Gone,
    };
    let mut filled = match received {
        Ok(Ok(filled)) if filled > 0 => filled,
        _ => return Opening::Gone,
    };
    let rest = async {
        while let (Some(start), Some(room)) = (first.get(..filled), first.get(filled..))
            && PREFACE.starts_with(start)
            && !room.is_empty()
        {
            match stream.read(first.get_mut(filled..).unwrap_or_default()).await? {
                0 => break,
                more => filled += more,
            }
        }
        io::Result::Ok(filled)
    };
    match timeout(patience.request_head, rest).await {
        Err(_late) => Opening::Late(stream),
        Ok(Err(_gone)) => Opening::Gone,
        Ok(Ok(filled)) if filled == PREFACE.len() && first == *PREFACE => {
            Opening::Http2(Rewound { first, next: 0, filled, stream })
        }
        Ok(Ok(filled)) => Opening::Http1(Rewound { first, next: 0, filled, stream }),
    }
}

/// A connection whose first bytes are read once more.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    first: [u8; PREFACE.len()],
    next: usize,
    filled: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.next == this.filled {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let known = this.first.get(this.next..this.filled).unwrap_or_default();
        let part = known.get(..known.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(part);
        this.next += part.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
