//! A request on its way into the socket.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Request;
use http::header::{self, HeaderMap};
use http_body::Body;

use super::connection::Socket;
use super::head;
use crate::http::BodyError;

/// Data that is copied behind what is to be written before it; more is written by itself.
const COPIED: usize = 4 * 1024;

/// Why a request did not get out.
#[derive(Debug)]
pub(in super::super) enum Failure {
    /// Its body broke off.
    Body(BodyError),
    /// The server takes no more of it.
    Socket(io::Error),
}

/// Writes one request. It may be moved between tasks while it does.
pub(in super::super) struct Pump<B> {
    socket: Rc<Socket>,
    /// Bytes to be written, and how many of them are.
    ready: Vec<u8>,
    written: usize,
    /// Data to be written behind them.
    data: Bytes,
    /// A line end is due behind the data.
    chunk_open: bool,
    body: Option<B>,
    /// Bytes that the body still owes; `None`: it is chunked.
    left: Option<u64>,
    /// Something has reached the socket.
    begun: bool,
}

impl<B> Pump<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    /// A pump for a request that is framed already. `buffer` is reused memory.
    pub(in super::super) fn new(
        socket: &Rc<Socket>,
        mut buffer: Vec<u8>,
        request: &Request<()>,
        body: Option<B>,
    ) -> Self {
        buffer.clear();
        head::write(request, &mut buffer);
        let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let left = if chunked { None } else { body.as_ref().map_or(Some(0), |body| body.size_hint().exact()) };
        let socket = Rc::clone(socket);
        Self { socket, ready: buffer, written: 0, data: Bytes::new(), chunk_open: false, body, left, begun: false }
    }

    /// Ready when everything was handed to the system.
    pub(in super::super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if !self.begun && self.data.is_empty() {
            // What the client has sent already goes out with the head, in one piece.
            let _whatever_is_there = self.poll_body(cx)?;
        }
        loop {
            ready!(self.poll_write(cx)).map_err(Failure::Socket)?;
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_body(cx)?);
        }
    }

    /// Whether nothing of the request has reached the socket.
    pub(in super::super) fn has_sent_nothing(&self) -> bool {
        !self.begun
    }

    /// The memory, for the next request.
    pub(in super::super) fn into_buffer(self) -> Vec<u8> {
        self.ready
    }

    /// What is left of the body; `None` when all of it was taken.
    pub(in super::super) fn into_body(self) -> Option<B> {
        self.body
    }

    /// Turns the next frame of the body into bytes to be written.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose().map_err(Failure::Body)?;
        match frame.map(http_body::Frame::into_data) {
            Some(Ok(data)) => self.add(data)?,
            Some(Err(frame)) => self.end(frame.into_trailers().ok())?,
            None => self.end(None)?,
        }
        if self.left == Some(0) {
            self.body = None;
        }
        Poll::Ready(Ok(()))
    }

    fn add(&mut self, data: Bytes) -> Result<(), Failure> {
        match &mut self.left {
            Some(left) => *left = left.checked_sub(data.len() as u64).ok_or(Failure::Body(BodyError::Client))?,
            // A chunk of no bytes would be the end.
            None if data.is_empty() => return Ok(()),
            None => {
                self.ready.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.chunk_open = true;
            }
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Failure> {
        if self.left.is_some_and(|left| left > 0) {
            return Err(Failure::Body(BodyError::Client));
        }
        if self.left.is_none() {
            self.ready.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.iter().flatten() {
                head::write_line(name, value, &mut self.ready);
            }
            self.ready.extend_from_slice(b"\r\n");
        }
        self.body = None;
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.data.is_empty() && self.data.len() <= COPIED {
                self.ready.extend_from_slice(&std::mem::take(&mut self.data));
            }
            if self.data.is_empty() && std::mem::take(&mut self.chunk_open) {
                self.ready.extend_from_slice(b"\r\n");
            }
            if let Some(bytes) = self.ready.get(self.written..).filter(|bytes| !bytes.is_empty()) {
                self.written += some(ready!(self.socket.poll_write(cx, bytes))?)?;
            } else if self.data.is_empty() {
                self.ready.clear();
                self.written = 0;
                return self.socket.poll_flush(cx);
            } else {
                self.ready.clear();
                self.written = 0;
                let count = some(ready!(self.socket.poll_write(cx, &self.data))?)?;
                self.data.advance(count);
            }
            self.begun = true;
        }
    }
}

/// A socket that takes no byte although there are some is closed.
fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}
