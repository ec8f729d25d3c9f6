//! An answer as it comes over a stream.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::header::{self, HeaderMap};
use http::{Method, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use super::Lease;
use crate::http::single;
use crate::upstream::http1::Broken;
use crate::upstream::timer::Timer;

/// The body of an answer. Dropping it before its end resets the stream.
pub(in super::super) struct Stream {
    /// `None` behind the end.
    body: Option<RecvStream>,
    /// Bytes still to come, where the head says so; `h2` holds the body to that.
    left: Option<u64>,
    pub(in super::super) timer: Timer,
    /// Sends the rest of a request whose answer has begun already.
    upload: Option<JoinHandle<()>>,
    _lease: Lease,
}

impl Stream {
    /// Parts an answer to a `method` request from its body.
    pub(super) fn of(
        answer: Response<RecvStream>,
        method: &Method,
        (lease, timer, upload): (Lease, Timer, Option<JoinHandle<()>>),
    ) -> (Response<()>, Box<Self>) {
        let (head, body) = answer.into_parts();
        let bodiless = *method == Method::HEAD
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || body.is_end_stream();
        let body = (!bodiless).then_some(body);
        let stream = Self { body, left: length(&head.headers), timer, upload, _lease: lease };
        (Response::from_parts(head, ()), Box::new(stream))
    }

    /// The next frame of the body; `None` at its end.
    pub(in super::super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Some(data) = ready!(body.poll_data(cx)) {
            let data = match data {
                Ok(data) => data,
                Err(error) => return self.fail(error),
            };
            // What was handed on is not held here any more.
            if let Err(error) = body.flow_control().release_capacity(data.len()) {
                return self.fail(error);
            }
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            if body.is_end_stream() {
                self.body = None;
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => {
                self.body = None;
                Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(fields))))
            }
            Err(error) => self.fail(error),
        }
    }

    /// Whether the answer has been read to its end.
    pub(in super::super) fn is_at_end(&self) -> bool {
        self.body.is_none()
    }

    /// What is known of the rest of the body.
    pub(in super::super) fn size_hint(&self) -> SizeHint {
        match (&self.body, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(left)) => SizeHint::with_exact(left),
            (Some(_), None) => SizeHint::default(),
        }
    }

    fn fail(&mut self, error: h2::Error) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.body = None;
        Poll::Ready(Some(Err(Broken::Closed(io::Error::other(error)))))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// The length that the head states.
fn length(headers: &HeaderMap) -> Option<u64> {
    let digits = single(headers, &header::CONTENT_LENGTH).ok()??.to_str().ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
