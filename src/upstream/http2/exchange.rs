//! One exchange over a stream.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::time::Instant;

use super::pump::Pump;
use super::{Lease, Stream, head};
use crate::http::BodyError;
use crate::upstream::error::{Error, Invalid};
use crate::upstream::forward::Failed;
use crate::upstream::health::Event;
use crate::upstream::http1::Failure;
use crate::upstream::request::{Outgoing, Upload};
use crate::upstream::timer::Timer;
use crate::upstream::{Backend, Exchange, Upstream};

/// Sends a request over a connection and waits for the head of the answer. What is left of the body
/// by then is sent by a task of its own, so that neither direction waits for the other.
pub(in super::super) async fn send<B>(
    lease: Lease,
    request: &Request<()>,
    body: &mut Option<Outgoing<B>>,
    upload: Option<&Rc<Upload>>,
    (upstream, backend, exchange): (&Upstream, &Backend, &Exchange<'_>),
    now: Instant,
) -> Result<(Response<()>, Box<Stream>), Failed>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    let (head_wait, stall) = (upstream.config.response_head, exchange.body_stall);
    let Some(head) = head(request, backend.tls.is_some()) else {
        let error = Error::Invalid(Invalid::Head("the host cannot be an authority"));
        return Err(Failed { error, again: false });
    };
    if let Some(upload) = upload {
        upload.start(now);
    }
    let (mut answer, stream) = match lease.send(head, body.is_none()) {
        Ok(begun) => begun,
        // The connection ended between two looks at it.
        Err(error) => return Err(Failed { error: reason(error), again: true }),
    };
    let mut pump = body.take().map(|body| Pump::new(stream, body));
    let mut timer = Timer::new();
    // What is left of the body when the server takes no more of it.
    let mut rest = None;
    let outcome = poll_fn(|cx| {
        match pump.as_mut().map(|pump| pump.poll(cx)) {
            Some(Poll::Ready(Ok(()))) => {
                pump = None;
                upload.inspect(|upload| upload.finished());
            }
            Some(Poll::Ready(Err(Failure::Body(error)))) => {
                return Poll::Ready(Err(Trouble::Known(Error::RequestBody(error))));
            }
            Some(Poll::Ready(Err(Failure::Socket(error)))) => {
                // The server may have answered before it stopped to read (RFC 9113 §8.1).
                tracing::debug!(%error, "a server takes no more of a request");
                rest = pump.take().and_then(Pump::into_body);
            }
            Some(Poll::Pending) | None => {}
        }
        if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
            return Poll::Ready(answer.map_err(Trouble::Stream));
        }
        let due = upload.map_or(now + head_wait, |upload| upload.due(head_wait, stall));
        ready!(timer.poll(cx, due));
        Poll::Ready(Err(Trouble::Known(upload.map_or(Error::HeadTimeout, |upload| upload.overdue()))))
    })
    .await;
    let trouble = match outcome {
        Ok(answer) => {
            upload.inspect(|upload| upload.settle());
            lease.answered();
            let sending = pump.zip(upload).map(|(mut pump, upload)| {
                let sending = async move { poll_fn(|cx| pump.poll(cx)).await };
                tokio::task::spawn_local(Rc::clone(upload).finish(sending))
            });
            return Ok(Stream::of(answer, request.method(), (lease, timer, sending)));
        }
        Err(trouble) => trouble,
    };
    let was_processed = !matches!(&trouble, Trouble::Stream(error) if was_refused(error));
    let error = match trouble {
        Trouble::Known(error) => error,
        Trouble::Stream(error) => reason(error),
    };
    if matches!(error, Error::HeadTimeout) {
        lease.timed_out();
    }
    let closed = matches!(error, Error::Closed(_));
    let is_fault =
        matches!(error, Error::HeadTimeout | Error::BodyStalled) || (closed && was_processed && !lease.is_used);
    if is_fault {
        backend.standing.saw(Event::NotAnswered, Instant::now());
    }
    let elsewhere = lease.is_used || upstream.backends().len() > 1;
    let harmless = !was_processed || (closed && elsewhere && request.method().is_idempotent());
    let again = match upload.filter(|_| harmless) {
        Some(upload) => {
            *body = Outgoing::again(upload, pump.and_then(Pump::into_body).or(rest));
            body.is_some()
        }
        None => harmless,
    };
    Err(Failed { error, again })
}

/// Why there is no answer.
enum Trouble {
    Stream(h2::Error),
    Known(Error),
}

/// Whether the server says that it has not looked at the request: it refused the stream, or goes and
/// named an earlier one as the last (RFC 9113 §8.7).
fn was_refused(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// What it is called here: the server's ending is one thing, its nonsense another.
fn reason(error: h2::Error) -> Error {
    if error.is_library() {
        tracing::debug!(%error, "a server does not speak HTTP/2 as it should");
        return Error::Invalid(Invalid::Head("it is not HTTP/2 as it should be"));
    }
    match error.get_io().map(io::Error::kind) {
        Some(_) => Error::Closed(error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())),
        None => Error::Closed(io::Error::other(error)),
    }
}
