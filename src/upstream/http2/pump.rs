//! A request's body on its way into a stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http_body::{Body, Frame};

use crate::http::BodyError;
use crate::upstream::http1::Failure;

/// Sends a body as far as the server makes room for it. It may be moved between tasks while it does.
pub(super) struct Pump<B> {
    stream: SendStream<Bytes>,
    /// `None` once all of it was taken.
    body: Option<B>,
    /// What of it was taken and not sent yet.
    data: Bytes,
}

impl<B> Pump<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    pub(super) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body: Some(body), data: Bytes::new() }
    }

    /// Ready when everything was handed to the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            if !self.data.is_empty() {
                ready!(self.poll_send(cx))?;
                continue;
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            // A server that has its answer ready may want no more (RFC 9113 §8.1).
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(over(reset.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into()))));
            }
            match ready!(Pin::new(body).poll_frame(cx)).transpose().map_err(Failure::Body)?.map(Frame::into_data) {
                Some(Ok(data)) => self.data = data,
                Some(Err(frame)) => {
                    self.body = None;
                    self.stream.send_trailers(frame.into_trailers().unwrap_or_default()).map_err(over)?;
                }
                None => {
                    self.body = None;
                    self.stream.send_data(Bytes::new(), true).map_err(over)?;
                }
            }
        }
    }

    /// What is left of the body; `None` when all of it was taken.
    pub(super) fn into_body(self) -> Option<B> {
        self.body
    }

    /// Sends as much as there is room for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.stream.reserve_capacity(self.data.len());
        if self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(over(error))),
                None => return Poll::Ready(Err(over(h2::Reason::STREAM_CLOSED.into()))),
            }
        }
        let piece = self.data.split_to(self.stream.capacity().min(self.data.len()));
        let is_last = self.data.is_empty() && self.body.as_ref().is_none_or(Body::is_end_stream);
        if is_last {
            self.body = None;
        }
        Poll::Ready(self.stream.send_data(piece, is_last).map_err(over))
    }
}

/// The server takes no more of it.
fn over(error: h2::Error) -> Failure {
    Failure::Socket(error.into_io().unwrap_or_else(|| io::Error::other("the stream is closed")))
}
