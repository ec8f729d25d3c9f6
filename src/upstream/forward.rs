//! One exchange with an upstream.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connect::connect;
use super::connections::{Claim, Connections, Link, Server};
use super::error::{Error, Invalid};
use super::health::Event;
use super::request::{self, Outgoing, Upload};
use super::response::{self, Rest};
use super::{Backend, Exchange, Target, Timing, Upstream, whoami};
use crate::http::{Body, BodyError};

/// Sends a request to a server of the upstream and returns its answer as soon as the head is
/// there; both bodies stream.
///
/// The request has been vetted: a path as its target, no hop-by-hop header, the identity set. Its
/// framing, `Host` and `Expect` are replaced. It is tried again as long as nothing of it was sent,
/// and when a kept connection ends without an answer, if it is idempotent and has no body. Dropping
/// the future, or the answer's body before its end, closes the connection.
///
/// # Errors
/// When there is no answer that can be passed on; see [`Error`].
pub fn forward<B>(
    upstream: &Arc<Upstream>,
    connections: &Connections<B>,
    request: Request<B>,
    exchange: &Exchange<'_>,
    timing: &mut Timing,
) -> impl Future<Output = Result<Response<Body>, Error>>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    // Prepared out here: a future keeps whatever it is given besides what it makes of it.
    let mut request = request::prepare(request, exchange);
    let started = Instant::now();
    async move {
        let backends = match &upstream.target {
            Target::Http(backends) => backends,
            Target::Whoami(tally) => {
                timing.server = Some(Arc::from(whoami::NAME));
                let host =
                    upstream.host_header(exchange.host.as_ref(), &header::HeaderValue::from_static(whoami::NAME));
                request.headers_mut().insert(header::HOST, host);
                let response = Box::pin(whoami::answer(request, exchange.managed, exchange.body_stall)).await?;
                tally.answered(response.status());
                timing.first_byte = Some(started.elapsed());
                return Ok(response);
            }
        };
        let servers = connections.servers(upstream);
        servers.count(started);
        let mut only_new = false;
        let mut avoid = None;
        let mut now = started;
        loop {
            let index = connections.pick(upstream, &servers, exchange.affinity, avoid, now).ok_or(Error::NoServer)?;
            let (Some(server), Some(backend)) = (servers.get(index), backends.get(index)) else {
                return Err(Error::NoServer);
            };
            timing.server = Some(Arc::clone(&backend.authority));
            request.headers_mut().insert(header::HOST, upstream.host_header(exchange.host.as_ref(), &backend.host));

            let claim = Claim::new(server);
            let mut was_used = false;
            let outcome = match link(server, backend, upstream, (!only_new).then_some(now)).await {
                Ok(link) => {
                    was_used = link.is_used;
                    send(link, request, upstream, backend, exchange).await
                }
                // Where no other server could be picked, trying again at once would only fail again.
                Err(error) if servers.len() > 1 => Outcome::Again(request, error),
                Err(error) => Outcome::Failed(error),
            };
            let error = match outcome {
                Outcome::Answered { mut response, link, upload } => match response::clean(&mut response) {
                    Ok(reusable) => {
                        let first_byte = started.elapsed();
                        timing.first_byte = Some(first_byte);
                        upstream.seconds.observe(first_byte.as_secs_f64());
                        backend.tally.answered(response.status());
                        backend.standing.answered();
                        let idle = upstream.config.idle;
                        let rest = Rest { claim, link, upload, reusable, idle, stall: exchange.body_stall };
                        return Ok(response.map(|incoming| response::body(incoming, rest)));
                    }
                    Err(invalid) => Error::Invalid(invalid),
                },
                Outcome::Again(same, error)
                    if timing.retries < upstream.config.retries && servers.may_retry(Instant::now()) =>
                {
                    tracing::debug!(server = %backend.authority, reason = error.reason(), "trying again");
                    backend.tally.failed(error.reason());
                    timing.retries += 1;
                    upstream.retries.inc();
                    request = same;
                    // When one kept connection was dead, the others may be as well.
                    only_new = was_used;
                    avoid = Some(index);
                    now = Instant::now();
                    continue;
                }
                Outcome::Again(_, error) | Outcome::Failed(error) => error,
            };
            backend.tally.failed(error.reason());
            return Err(error);
        }
    }
}

/// A connection that was kept until now, if one may be used and there is one, or else a new one.
async fn link<B>(
    server: &Rc<Server<B>>,
    backend: &Backend,
    upstream: &Upstream,
    kept_until: Option<Instant>,
) -> Result<Link<B>, Error>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    match kept_until.and_then(|now| server.take_idle(now)) {
        Some(link) => Ok(link),
        None => Box::pin(connect(server, backend, upstream.config.connect)).await,
    }
}

/// What became of a request on one connection.
enum Outcome<B> {
    Answered {
        response: Response<Incoming>,
        link: Link<B>,
        upload: Option<Rc<Upload>>,
    },
    /// Nothing of it was sent, or that does not matter: here it is again.
    Again(Request<Outgoing<B>>, Error),
    /// Some of it may have been acted on, and that may not happen twice.
    Failed(Error),
}

/// Sends a request on a connection and waits for the head of the answer.
fn send<B>(
    mut link: Link<B>,
    request: Request<Outgoing<B>>,
    upstream: &Upstream,
    backend: &Backend,
    exchange: &Exchange<'_>,
) -> impl Future<Output = Outcome<B>>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    let sent = Instant::now();
    // A server closes kept connections whenever it likes, also while a request is on its way to it:
    // only the kind of request tells whether it may be sent once more.
    // On a fresh connection it says something about the server, and another one may do better.
    let is_used = link.is_used;
    let copy = if is_used || upstream.backends().len() > 1 { request::repeatable(&request) } else { None };
    let upload = request.body().upload();
    if let Some(upload) = &upload {
        upload.start(sent);
    }
    let (head, stall) = (upstream.config.response_head, exchange.body_stall);
    let mut answer = Box::pin(link.sender.try_send_request(request));
    async move {
        let answer = poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            let due = upload.as_ref().map_or(sent + head, |upload| upload.due(head, stall));
            link.timer.poll(cx, due).map(|()| None)
        })
        .await;
        match answer {
            Some(Ok(response)) => Outcome::Answered { response, link, upload },
            Some(Err(mut failure)) => match failure.take_message() {
                Some(request) => Outcome::Again(request, Error::Closed(failure.into_error())),
                None => match (diagnose(failure.into_error(), upload.as_deref()), copy) {
                    (error @ Error::Closed(_), copy) => {
                        if !is_used {
                            backend.standing.saw(Event::NotAnswered, Instant::now());
                        }
                        match copy {
                            Some(copy) => Outcome::Again(copy, error),
                            None => Outcome::Failed(error),
                        }
                    }
                    (error, _) => Outcome::Failed(error),
                },
            },
            None => {
                let error = upload.map_or(Error::HeadTimeout, |upload| upload.overdue());
                if matches!(error, Error::HeadTimeout | Error::BodyStalled) {
                    backend.standing.saw(Event::NotAnswered, Instant::now());
                }
                Outcome::Failed(error)
            }
        }
    }
}

/// Whose fault a broken exchange is.
fn diagnose(error: hyper::Error, upload: Option<&Upload>) -> Error {
    if let Some(failure) = upload.and_then(Upload::failure) {
        Error::RequestBody(failure)
    } else if error.is_parse() {
        Error::Invalid(Invalid::Head(error))
    } else {
        Error::Closed(error)
    }
}
