//! The answer as the client gets it: hop-by-hop headers removed, its body watched.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::connections::{Claim, Link};
use super::error::Invalid;
use super::request::Upload;
use super::trailers;
use crate::http::{Body, BodyError, HOP_BY_HOP, remove_nominated, single};

/// Checks and cleans the head of an answer. The value says whether the connection may serve
/// another request.
pub(super) fn clean<T>(response: &mut Response<T>) -> Result<bool, Invalid> {
    // hyper marks both a 101 and a 2xx to CONNECT so; neither is ever asked for here.
    if response.extensions().get::<OnUpgrade>().is_some() {
        return Err(Invalid::Upgrade);
    }
    // On a connection to an HTTP/1.0 server hyper itself would fall back to 1.0, which has no
    // chunks: a later body of unknown length would be lost.
    let mut reusable = response.version() == Version::HTTP_11;
    let status = response.status();
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();

    let chunked = match single(headers, &header::TRANSFER_ENCODING) {
        Ok(None) => false,
        Ok(Some(coding)) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        Ok(Some(_)) | Err(_) => return Err(Invalid::TransferEncoding),
    };
    // hyper has read the body by its transfer coding or its single length. What else stands in the
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

    let announced = if chunked { trailers::announced(headers, |_| false) } else { None };
    strip_hop_by_hop(headers);
    if let Some(names) = announced {
        headers.insert(header::TRAILER, names);
    }
    Ok(reusable)
}

/// Removes what concerns the upstream's connection only (RFC 9110 §7.6.1).
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    static NAMES: [HeaderName; 9] = HOP_BY_HOP;
    remove_nominated(headers);
    // Most answers have none of them, and a look at each name is cheaper than nine look-ups.
    let found: Vec<HeaderName> = headers.keys().filter(|name| NAMES.contains(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// What the rest of an exchange needs once the head is there.
pub(super) struct Rest<B> {
    pub(super) claim: Claim<B>,
    pub(super) link: Link<B>,
    pub(super) upload: Option<Rc<Upload>>,
    /// Whether the head allows another request on the connection.
    pub(super) reusable: bool,
    /// How long an unused connection is kept.
    pub(super) idle: Duration,
    /// How long a body may stand still.
    pub(super) stall: Duration,
}

impl<B: 'static> Rest<B> {
    /// The whole answer has been read.
    fn finish(self) {
        if self.reusable {
            self.claim.settle(self.link, self.idle);
        }
    }
}

/// The body for the client. The connection goes back when the last byte was read; when this is
/// dropped before, the connection closes, and the upstream learns that nobody listens any more.
pub(super) fn body<B: 'static>(incoming: Incoming, rest: Rest<B>) -> Body {
    if incoming.is_end_stream() {
        rest.finish();
        return Body::Empty;
    }
    Body::Stream(Box::pin(Watched { incoming, rest: Some(rest), waiting: None }))
}

struct Watched<B> {
    incoming: Incoming,
    /// `None` once the body ended, either way.
    rest: Option<Rest<B>>,
    /// Since when the upstream has to send. A client that does not read is no stall of the upstream.
    waiting: Option<Instant>,
}

impl<B> Unpin for Watched<B> {}

impl<B: 'static> Watched<B> {
    fn finish(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.finish();
        }
    }

    fn fail(&mut self, error: hyper::Error) -> BodyError {
        let upload = self.rest.take().and_then(|rest| rest.upload);
        match upload.and_then(|upload| upload.failure()) {
            Some(failure) => failure,
            None => {
                tracing::debug!(%error, "an upstream's body broke off");
                BodyError::Upstream
            }
        }
    }

    /// Whether neither body has moved for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = *self.waiting.get_or_insert_with(Instant::now);
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let uploaded = rest.upload.as_ref().and_then(|upload| upload.moved());
        let since = uploaded.map_or(waiting, |moved| moved.max(waiting));
        rest.link.timer.poll(cx, since + rest.stall)
    }
}

impl<B: 'static> HttpBody for Watched<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Pending => {
                if this.poll_stalled(cx).is_pending() {
                    return Poll::Pending;
                }
                this.rest = None;
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            }
            Poll::Ready(frame) => frame,
        };
        this.waiting = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_trailers() {
                Ok(mut fields) => {
                    trailers::strip(&mut fields, |_| false);
                    this.finish();
                    Frame::trailers(fields)
                }
                Err(data) => {
                    if this.incoming.is_end_stream() {
                        this.finish();
                    }
                    data
                }
            })),
            Some(Err(error)) => Some(Err(this.fail(error))),
            None => {
                this.finish();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
