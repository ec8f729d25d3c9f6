//! One connection: its socket, and the answers that come in over it.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body::{Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::body::Place;
use super::head::{self, Head};
use crate::upstream::connect::Stream;

/// Bytes asked for at once: at first, and while every read brings as many as were asked for.
const READ: (usize, usize) = (8 * 1024, 64 * 1024);

/// A socket that one task may write to while another reads it. Both are on the same thread.
pub(in super::super) struct Socket {
    stream: RefCell<Stream>,
    /// A write was told of a reset: the system says so only once, and the next read would take it
    /// for an end in good order. (A broken pipe means that there was one.)
    is_reset: Cell<bool>,
}

impl Socket {
    pub(in super::super) fn new(stream: Stream) -> Self {
        Self { stream: RefCell::new(stream), is_reset: Cell::new(false) }
    }

    pub(in super::super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes));
        if written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
            self.is_reset.set(true);
        }
        Poll::Ready(written)
    }

    /// TLS may hold back what the system did not take; a plain socket has nothing to do.
    pub(in super::super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        match ready!(pin!(self.stream.borrow_mut().read_buf(buffer)).poll(cx))? {
            0 if self.is_reset.get() => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            count => Poll::Ready(Ok(count)),
        }
    }

    /// Whether nothing has come, not even an end, as far as this thread has been told. Wakes the
    /// task when something does. Usually no system call.
    fn is_quiet(&self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_pending()
    }

    /// The same, asked of the system.
    fn is_still_quiet(&self) -> bool {
        let peeked = SockRef::from(&*self.stream.borrow()).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Why an answer does not come, or not to its end.
#[derive(Debug)]
pub(in super::super) enum Broken {
    /// The connection ended, by the server or on the way.
    Closed(io::Error),
    /// What came cannot be read. Says what.
    Malformed(&'static str),
}

/// A connection as its client reads it.
pub(in super::super) struct Connection {
    socket: Rc<Socket>,
    /// What has come and was not taken yet.
    unread: BytesMut,
    place: Place,
    at_once: usize,
    /// Something of the present answer has come.
    heard: bool,
}

impl Connection {
    pub(in super::super) fn new(socket: Socket) -> Self {
        Self { socket: Rc::new(socket), unread: BytesMut::new(), place: Place::End, at_once: READ.0, heard: false }
    }

    /// The socket, for whoever writes the request.
    pub(in super::super) fn socket(&self) -> &Rc<Socket> {
        &self.socket
    }

    /// A request is about to be sent.
    pub(in super::super) fn begin(&mut self) {
        self.heard = false;
    }

    /// Whether nothing of an answer has come since then.
    pub(in super::super) fn heard_nothing(&self) -> bool {
        !self.heard
    }

    /// The head of the answer to `request`; interim answers are skipped (RFC 9110 §15.2). Once
    /// there is an answer the request has served its purpose: its headers make room for the answer's.
    pub(in super::super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Request<()>,
    ) -> Poll<Result<Head, Broken>> {
        loop {
            while !self.unread.is_empty() {
                let method = request.method().clone();
                let taken = head::take(&mut self.unread, &method, request.headers_mut());
                let Some(mut head) = taken.map_err(Broken::Malformed)? else { break };
                let status = head.response.status();
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    *request.headers_mut() = std::mem::take(head.response.headers_mut());
                    continue;
                }
                self.place = Place::start(head.framing);
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_fill(cx)).map_err(Broken::Closed)? == 0 {
                return Poll::Ready(Err(Broken::Closed(io::ErrorKind::UnexpectedEof.into())));
            }
            self.heard = true;
        }
    }

    /// The next frame of the answer's body; `None` at its end.
    pub(in super::super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.place.take(&mut self.unread) {
                Err(malformed) => return Poll::Ready(Some(Err(Broken::Malformed(malformed)))),
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.place == Place::End => return Poll::Ready(None),
                Ok(None) => {}
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.place.may_end() => {
                    self.place = Place::End;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(Broken::Closed(io::ErrorKind::UnexpectedEof.into())))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Broken::Closed(error)))),
            }
        }
    }

    /// Whatever came, on a connection that is nothing but bytes; none at the end.
    pub(in super::super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if self.unread.is_empty() && self.poll_fill(cx)?.is_pending() {
            // It may be quiet for hours.
            self.rest();
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.unread.split().freeze()))
    }

    /// What is left of the answer's body, if it has come to its end already, as short ones do.
    pub(in super::super) fn take_whole(&mut self) -> Option<Bytes> {
        let left = match self.place {
            Place::End => 0,
            Place::Length(left) => usize::try_from(left).ok().filter(|left| *left <= self.unread.len())?,
            _ => return None,
        };
        self.place = Place::End;
        Some(self.unread.split_to(left).freeze())
    }

    /// Whether the answer has been read to its end.
    pub(in super::super) fn is_at_end(&self) -> bool {
        self.place == Place::End
    }

    /// What is known of the rest of the body.
    pub(in super::super) fn size_hint(&self) -> SizeHint {
        match self.place {
            Place::End => SizeHint::with_exact(0),
            Place::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }

    /// Whether nothing came that nobody asked for, nor the connection's end. `cx` is woken by
    /// either. `sure`: the system is asked as well.
    pub(in super::super) fn is_quiet(&self, cx: &mut Context<'_>, sure: bool) -> bool {
        self.unread.is_empty() && self.socket.is_quiet(cx) && (!sure || self.socket.is_still_quiet())
    }

    /// Gives back the memory that an idle connection does not need.
    pub(in super::super) fn rest(&mut self) {
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
            self.at_once = READ.0;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.unread.reserve(self.at_once);
        let room = self.unread.capacity() - self.unread.len();
        let count = ready!(self.socket.poll_read(cx, &mut self.unread))?;
        if count == room {
            self.at_once = (self.at_once * 2).min(READ.1);
        }
        Poll::Ready(Ok(count))
    }
}
