//! The request as the upstream gets it: framed anew, its body watched.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::error::Error;
use super::http1::Failure;
use super::replay::{self, Replay};
use super::trailers::{self, Trailers};
use super::{Exchange, Managed};
use crate::http::{BodyError, is_ours};

/// Frames a request from what is known of its body, and from nothing that the client wrote.
///
/// An exact length becomes `Content-Length`; an unknown one `Transfer-Encoding: chunked`, also
/// with methods that rarely have a body; no body gets neither, except for methods that are expected
/// to have one (RFC 9110 §8.6).
pub(super) fn prepare<B>(request: Request<B>, exchange: &Exchange<'_>) -> Request<Outgoing<B>>
where
    B: Body<Data = Bytes, Error = BodyError>,
{
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_11;
    let headers = &mut head.headers;
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    // The body is sent without waiting for a 100, so none must be asked for.
    headers.remove(header::EXPECT);
    let Trailers { announced, accepted } = &exchange.trailers;
    if *accepted {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(handshake) = exchange.handshake {
        let mut request = Request::from_parts(head, ());
        handshake.ask(&mut request);
        return request.map(|()| Outgoing { body: None, upload: None, again: Vec::new().into_iter() });
    }
    if body.is_end_stream() {
        if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        return Request::from_parts(head, Outgoing { body: None, upload: None, again: Vec::new().into_iter() });
    }
    let kept = Replay::default();
    if body.size_hint().lower() > replay::MAX_BYTES {
        kept.forget();
    }
    if let Some(length) = body.size_hint().exact() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    } else {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        if let Some(names) = announced {
            headers.insert(header::TRAILER, names.clone());
        }
    }
    let upload = Upload {
        since: Cell::new(Instant::now()),
        state: Cell::new(State::Upstream),
        is_out: Cell::new(false),
        reader: RefCell::default(),
        managed: Managed::clone(exchange.managed),
        kept,
    };
    Request::from_parts(
        head,
        Outgoing { body: Some(body), upload: Some(Rc::new(upload)), again: Vec::new().into_iter() },
    )
}

/// The body of a request on its way.
pub(super) struct Outgoing<B> {
    /// What the client still has to send. `None` once it has sent everything.
    body: Option<B>,
    /// There is one where there is a body.
    upload: Option<Rc<Upload>>,
    /// Its beginning, when that was sent before.
    again: std::vec::IntoIter<Bytes>,
}

impl<B> Outgoing<B> {
    /// What is known of the sending; `None` without a body.
    pub(super) fn upload(&self) -> Option<Rc<Upload>> {
        self.upload.clone()
    }

    /// The body from its beginning, for another try; `sent` is what is left of the one before.
    /// `None` when its beginning was not kept.
    pub(super) fn again(upload: &Rc<Upload>, sent: Option<Self>) -> Option<Self> {
        let again = upload.kept.pieces()?.into_iter();
        Some(Self { body: sent.and_then(|sent| sent.body), upload: Some(Rc::clone(upload)), again })
    }
}

/// How far a request's body is. The exchange looks at it when its timer goes off.
pub(super) struct Upload {
    since: Cell<Instant>,
    state: Cell<State>,
    /// The system has taken the last byte.
    is_out: Cell<bool>,
    /// Whoever reads the answer, while a task of its own sends the rest of the request.
    reader: RefCell<Option<Waker>>,
    managed: Managed,
    kept: Replay,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The server has to take what it was given.
    Upstream,
    /// The client has to send more.
    Client,
    /// Everything was handed to the connection.
    Sent,
    /// The client's body broke off.
    Failed(BodyError),
}

impl Upload {
    /// The exchange begins, or begins anew on another connection.
    pub(super) fn start(&self, now: Instant) {
        self.since.set(now);
        self.is_out.set(false);
    }

    /// The body will not be sent a second time.
    pub(super) fn settle(&self) {
        self.kept.forget();
    }

    /// When to give up waiting for a response head: `head` after the last byte, or `stall` after
    /// the last one that moved.
    pub(super) fn due(&self, head: Duration, stall: Duration) -> Instant {
        match self.state.get() {
            State::Sent => self.since.get() + head,
            State::Upstream | State::Client | State::Failed(_) => self.since.get() + stall,
        }
    }

    /// Whose fault it is that the time is over.
    pub(super) fn overdue(&self) -> Error {
        match self.state.get() {
            State::Sent => Error::HeadTimeout,
            State::Upstream => Error::BodyStalled,
            State::Client => Error::RequestBody(BodyError::Stalled),
            State::Failed(error) => Error::RequestBody(error),
        }
    }

    /// When the body last moved, while there is more to send.
    pub(super) fn moved(&self) -> Option<Instant> {
        matches!(self.state.get(), State::Upstream | State::Client).then(|| self.since.get())
    }

    /// Why the client's body broke off, if it did.
    pub(super) fn failure(&self) -> Option<BodyError> {
        match self.state.get() {
            State::Failed(error) => Some(error),
            State::Upstream | State::Client | State::Sent => None,
        }
    }

    /// The system has taken the last byte of the request.
    pub(super) fn is_out(&self) -> bool {
        self.is_out.get()
    }

    /// Sends the rest of the request, and tells whoever reads the answer if the client leaves.
    pub(super) async fn finish(self: Rc<Self>, sending: impl Future<Output = Result<(), Failure>>) {
        match sending.await {
            Ok(()) => self.is_out.set(true),
            // The server may answer all the same.
            Err(Failure::Socket(error)) => tracing::debug!(%error, "a server takes no more of a request"),
            Err(Failure::Body(error)) => self.enter(State::Failed(error)),
        }
        let reader = self.reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The request has left in one piece.
    pub(super) fn finished(&self) {
        self.is_out.set(true);
    }

    /// Wakes the reader of the answer when the upload ends.
    pub(super) fn wake_at_end(&self, cx: &Context<'_>) {
        if !self.is_out.get() {
            self.reader.replace(Some(cx.waker().clone()));
        }
    }

    fn enter(&self, state: State) {
        if self.state.replace(state) != state {
            self.since.set(Instant::now());
        }
    }
}

impl<B> Body for Outgoing<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(upload) = &this.upload else { return Poll::Ready(None) };
        if let Some(piece) = this.again.next() {
            upload.enter(if this.is_end_stream() { State::Sent } else { State::Upstream });
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(body) = &mut this.body else {
            upload.enter(State::Sent);
            return Poll::Ready(None);
        };
        upload.enter(State::Client);
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                upload.enter(State::Failed(error));
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                upload.enter(State::Sent);
                return Poll::Ready(None);
            }
        };
        Poll::Ready(Some(Ok(match frame.into_trailers() {
            Ok(mut fields) => {
                trailers::strip(&mut fields, |name| is_ours(name) || (upload.managed)(name));
                upload.kept.forget();
                upload.enter(State::Sent);
                Frame::trailers(fields)
            }
            Err(data) => {
                if let Some(piece) = data.data_ref() {
                    upload.kept.keep(piece);
                }
                upload.enter(if body.is_end_stream() { State::Sent } else { State::Upstream });
                data
            }
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream) && self.again.as_slice().is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let again: u64 = self.again.as_slice().iter().map(|piece| piece.len() as u64).sum();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint.set_lower(hint.lower().saturating_add(again));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::tests::{Sent, headers, on_worker, request, trailer_frame};
    use super::*;

    #[test]
    fn managed_trailers_are_dropped_even_when_they_were_announced() {
        let body = Sent::of([trailer_frame(&[("x-sum", "1"), ("x-auth-subject", "root"), ("content-length", "9")])]);
        let managed: Managed = std::sync::Arc::new(|name| name.as_str().starts_with("x-auth-"));
        let exchange = Exchange {
            host: None,
            trailers: Trailers::of(&headers(&[("trailer", "x-auth-subject")]), |_| false),
            managed: &managed,
            body_stall: Duration::from_secs(1),
            affinity: 0,
            handshake: None,
        };
        let mut body = prepare(request(Method::POST, &[], body), &exchange).into_body();
        let frame = on_worker(poll_fn(move |cx| Pin::new(&mut body).poll_frame(cx)));
        assert_eq!(frame.unwrap().unwrap().into_trailers().unwrap(), headers(&[("x-sum", "1")]));
    }
}
