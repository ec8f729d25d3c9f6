//! The answer as the client gets it: hop-by-hop headers removed, its body watched.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::error::Invalid;
use super::http1::Broken;
use super::http2;
use super::request::Upload;
use super::server::{Claim, Link};
use super::timer::Timer;
use super::trailers;
use crate::http::{Body, BodyError, HOP_BY_HOP, remove_nominated, single};

/// Checks and cleans the head of an answer. The value says whether the connection may serve
/// another request.
pub(super) fn clean<T>(response: &mut Response<T>) -> Result<bool, Invalid> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Invalid::Upgrade);
    }
    // An HTTP/1.0 server may not know chunks: a later body of unknown length would be lost on it.
    let mut reusable = response.version() == Version::HTTP_11;
    let is_http2 = response.version() == Version::HTTP_2;
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();

    let chunked = match single(headers, &header::TRANSFER_ENCODING) {
        Ok(None) => false,
        Ok(Some(coding)) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        Ok(Some(_)) | Err(_) => return Err(Invalid::TransferEncoding),
    };
    // The body is read by its transfer coding or its single length. What else stands in the
    // head may not reach the client (RFC 9112 §6.3); the server states the length it knows anew.
    let plain = match single(headers, &header::CONTENT_LENGTH) {
        Ok(None) => true,
        Ok(Some(length)) => !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit),
        Err(_) => false,
    };
    let contradictory = chunked && headers.contains_key(header::CONTENT_LENGTH);
    if contradictory || !plain || status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    reusable &= !contradictory;

    let announced = if chunked || is_http2 { trailers::announced(headers, |_| false) } else { None };
    reusable &= !strip_hop_by_hop(headers);
    if let Some(names) = announced {
        headers.insert(header::TRAILER, names);
    }
    Ok(reusable)
}

/// Removes what concerns the upstream's connection only (RFC 9110 §7.6.1); says whether that is to be
/// closed.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) -> bool {
    static NAMES: [HeaderName; 9] = HOP_BY_HOP;
    let close = remove_nominated(headers);
    // Most answers have none of them, and a look at each name is cheaper than nine look-ups.
    let found: Vec<HeaderName> = headers.keys().filter(|name| NAMES.contains(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
    close
}

/// Where the body of an answer comes from.
pub(super) enum Source {
    Http1(Box<Link>),
    Http2(Box<http2::Stream>),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Http1(link) => link.connection.poll_frame(cx),
            Self::Http2(stream) => stream.poll_frame(cx),
        }
    }

    fn is_at_end(&self) -> bool {
        match self {
            Self::Http1(link) => link.connection.is_at_end(),
            Self::Http2(stream) => stream.is_at_end(),
        }
    }

    /// What is left of it, if it has come to its end already.
    fn take_whole(&mut self) -> Option<Bytes> {
        match self {
            Self::Http1(link) => link.connection.take_whole(),
            Self::Http2(stream) => stream.is_at_end().then(Bytes::new),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(link) => link.connection.size_hint(),
            Self::Http2(stream) => stream.size_hint(),
        }
    }

    fn timer(&mut self) -> &mut Timer {
        match self {
            Self::Http1(link) => &mut link.timer,
            Self::Http2(stream) => &mut stream.timer,
        }
    }
}

/// What the rest of an exchange needs once the head is there.
pub(super) struct Rest {
    pub(super) claim: Claim,
    pub(super) source: Source,
    pub(super) upload: Option<Rc<Upload>>,
    /// Whether the head allows another request on the connection.
    pub(super) reusable: bool,
    /// How long an unused connection is kept.
    pub(super) idle: Duration,
    /// How long a body may stand still.
    pub(super) stall: Duration,
}

impl Rest {
    /// Whether the request has left as a whole.
    fn is_out(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_out())
    }

    /// The whole answer has been read.
    fn finish(self) {
        let is_out = self.is_out();
        if let (Source::Http1(link), true, true) = (self.source, self.reusable, is_out) {
            self.claim.settle(link, self.idle);
        }
    }
}

/// The body for the client. The connection goes back when the last byte was read; when this is
/// dropped before, the connection closes, and the upstream learns that nobody listens any more.
pub(super) fn body(mut rest: Rest) -> Body {
    // While the rest of a request is being sent, somebody has to wait for that, too.
    if (rest.is_out() || rest.source.is_at_end())
        && let Some(whole) = rest.source.take_whole()
    {
        rest.finish();
        return Body::from(whole);
    }
    Body::Stream(Box::pin(Watched { rest: Some(rest), waiting: None }))
}

struct Watched {
    /// `None` once the body ended, either way.
    rest: Option<Rest>,
    /// Since when the upstream has to send. A client that does not read is no stall of the upstream.
    waiting: Option<Instant>,
}

impl Watched {
    /// The body is over. The connection goes back if it can.
    fn finish(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.finish();
        }
    }

    /// The body breaks off, and with it the connection.
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.rest = None;
        Poll::Ready(Some(Err(error)))
    }

    /// Whether neither body has moved for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = *self.waiting.get_or_insert_with(Instant::now);
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let uploaded = rest.upload.as_ref().and_then(|upload| upload.moved());
        let since = uploaded.map_or(waiting, |moved| moved.max(waiting));
        rest.source.timer().poll(cx, since + rest.stall)
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
        if let Some(upload) = &rest.upload {
            if let Some(failure) = upload.failure() {
                return this.fail(failure);
            }
            upload.wake_at_end(cx);
        }
        let frame = match rest.source.poll_frame(cx) {
            Poll::Pending => {
                ready!(this.poll_stalled(cx));
                return this.fail(BodyError::Stalled);
            }
            Poll::Ready(frame) => frame,
        };
        let at_end = rest.source.is_at_end();
        this.waiting = None;
        let frame = match frame {
            Some(Err(broken)) => {
                tracing::debug!(?broken, "an upstream's body broke off");
                return this.fail(BodyError::Upstream);
            }
            other => other.and_then(Result::ok),
        };
        if at_end {
            this.finish();
        }
        Poll::Ready(frame.map(|frame| {
            Ok(match frame.into_trailers() {
                Ok(mut fields) => {
                    trailers::strip(&mut fields, |_| false);
                    Frame::trailers(fields)
                }
                Err(data) => data,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.as_ref().map_or(SizeHint::with_exact(0), |rest| rest.source.size_hint())
    }
}
