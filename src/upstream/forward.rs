//! One exchange with an upstream.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use http::header;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tokio::time::Instant;

use super::connections::Connections;
use super::error::{Error, Invalid};
use super::health::Event;
use super::http1::{Broken, Failure, Pump};
use super::http2;
use super::reach::{Carrier, reach};
use super::request::{self, Outgoing, Upload};
use super::response::{self, Rest, Source};
use super::server::{Claim, Link};
use super::tunnel::Handshake;
use super::{Backend, Exchange, Target, Timing, Upstream, whoami};
use crate::config::Protocol;
use crate::http::{Body, BodyError};

/// Sends a request to a server of the upstream and returns its answer as soon as the head is
/// there; both bodies stream.
///
/// The request has been vetted: a path as its target, no hop-by-hop header, the identity set. Its
/// framing, `Host` and `Expect` are replaced. It is tried again as long as nothing of it was sent,
/// and when a connection ends without an answer, if it is idempotent; in both cases only if all that
/// was taken of its body is still there (`replay`). Dropping the future, or the answer's
/// body before its end, closes the connection.
///
/// # Errors
/// When there is no answer that can be passed on; see [`Error`].
pub fn forward<B>(
    upstream: &Arc<Upstream>,
    connections: &Connections,
    request: Request<B>,
    exchange: &Exchange<'_>,
    timing: &mut Timing,
) -> impl Future<Output = Result<Response<Body>, Error>>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    // Prepared out here: a future keeps whatever it is given besides what it makes of it.
    let (head, body) = request::prepare(request, exchange).into_parts();
    let mut head = Request::from_parts(head, ());
    let upload = body.upload();
    let mut body = upload.is_some().then_some(body);
    let started = Instant::now();
    async move {
        if upstream.config.retries == 0 {
            upload.iter().for_each(|upload| upload.settle());
        }
        let backends = match &upstream.target {
            Target::Http(backends) => backends,
            Target::Whoami(tally) => {
                upload.iter().for_each(|upload| upload.settle());
                timing.server = Some(Arc::from(whoami::NAME));
                let own = header::HeaderValue::from_static(whoami::NAME);
                head.headers_mut().insert(header::HOST, upstream.host_header(exchange.host.as_ref(), &own));
                let answer = whoami::answer(head, body, exchange.managed, exchange.body_stall);
                let response = Box::pin(answer).await?;
                tally.answered(response.status());
                timing.first_byte = Some(started.elapsed());
                return Ok(response);
            }
        };
        let servers = connections.servers(upstream);
        let sure = upload.is_some() || !head.method().is_idempotent();
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
            head.headers_mut().insert(header::HOST, upstream.host_header(exchange.host.as_ref(), &backend.host));

            let claim = Claim::new(server);
            let protocol = upstream.config.protocol;
            let kept = match protocol {
                Protocol::Http2 => server.sessions().lease(server, now, upstream.config.idle).map(Carrier::Http2),
                Protocol::Http1 | Protocol::Auto if only_new => None,
                Protocol::Http1 | Protocol::Auto => server.take_idle(now, sure).map(Carrier::Http1),
            };
            let carrier = match kept {
                Some(carrier) => Ok(carrier),
                None => {
                    let carrier = Box::pin(reach(upstream, backend, server, sure)).await;
                    // The wait for the answer does not begin before there is a connection.
                    now = Instant::now();
                    carrier
                }
            };
            let was_used = carrier.as_ref().is_ok_and(Carrier::is_used);
            let (upload, to) = (upload.as_ref(), (&**upstream, backend, exchange));
            let outcome = match carrier {
                Ok(Carrier::Http1(link)) => {
                    let sent = send(link, &mut head, &mut body, upload, to, now).await;
                    sent.map(|(response, link)| (response, Source::Http1(link)))
                }
                Ok(Carrier::Http2(lease)) => {
                    let sent = Box::pin(http2::send(lease, &head, &mut body, upload, to, now)).await;
                    sent.map(|(response, stream)| (response, Source::Http2(stream)))
                }
                // Where no other server could be picked, trying again at once would only fail again.
                // Who waited for one has waited enough.
                Err(error) => Err(Failed { again: servers.len() > 1 && !matches!(error, Error::Busy(_)), error }),
            };
            let error = match outcome {
                Ok((mut response, source)) => match check(&mut response, exchange, source) {
                    Ok(checked) => {
                        let first_byte = started.elapsed();
                        timing.first_byte = Some(first_byte);
                        upstream.seconds.observe(first_byte.as_secs_f64());
                        backend.tally.answered(response.status());
                        backend.standing.answered();
                        let (source, reusable) = match checked {
                            Checked::Switched(handshake, link) => {
                                handshake.open(claim, link);
                                return Ok(response.map(|()| Body::Empty));
                            }
                            Checked::Answer(source, reusable) => (source, reusable),
                        };
                        let (idle, stall) = (upstream.config.idle, exchange.body_stall);
                        let upload = upload.cloned();
                        let rest = Rest { claim, source, upload, reusable, idle, stall };
                        return Ok(response.map(|()| response::body(rest)));
                    }
                    Err(invalid) => Error::Invalid(invalid),
                },
                Err(Failed { error, again: true })
                    if timing.retries < upstream.config.retries && servers.may_retry(Instant::now()) =>
                {
                    tracing::debug!(server = %backend.authority, reason = error.reason(), "trying again");
                    backend.tally.failed(error.reason());
                    timing.retries += 1;
                    upstream.retries.inc();
                    // When one kept connection was dead, the others may be as well.
                    only_new = was_used;
                    avoid = Some(index);
                    now = Instant::now();
                    continue;
                }
                Err(Failed { error, .. }) => error,
            };
            backend.tally.failed(error.reason());
            return Err(error);
        }
    }
}

/// What an answer is good for.
enum Checked<'a> {
    /// For the client, and the connection perhaps for another request.
    Answer(Source, bool),
    /// The connection is a WebSocket from here on.
    Switched(&'a Handshake, Box<Link>),
}

/// Checks and cleans the head of an answer.
fn check<'a>(response: &mut Response<()>, exchange: &Exchange<'a>, source: Source) -> Result<Checked<'a>, Invalid> {
    match (exchange.handshake, source) {
        (Some(handshake), Source::Http1(link)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            handshake.check(response)?;
            Ok(Checked::Switched(handshake, link))
        }
        (_, source) => Ok(Checked::Answer(source, response::clean(response)?)),
    }
}

/// No answer came over one connection.
pub(super) struct Failed {
    pub(super) error: Error,
    /// Nothing of the request was sent, or sending it twice does no more than sending it once (RFC
    /// 9110 §9.2.2).
    pub(super) again: bool,
}

/// Sends a request on a connection and waits for the head of the answer. What is left of the body
/// by then is sent by a task of its own, so that neither direction waits for the other.
fn send<B>(
    mut link: Box<Link>,
    head: &mut Request<()>,
    body: &mut Option<Outgoing<B>>,
    upload: Option<&Rc<Upload>>,
    (upstream, backend, exchange): (&Upstream, &Backend, &Exchange<'_>),
    now: Instant,
) -> impl Future<Output = Result<(Response<()>, Box<Link>), Failed>>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    let (head_wait, stall) = (upstream.config.response_head, exchange.body_stall);
    if let Some(upload) = upload {
        upload.start(now);
    }
    let buffer = std::mem::take(&mut link.buffer);
    let mut pump = Some(Pump::new(link.connection.socket(), buffer, head, body.take()));
    link.connection.begin();
    async move {
        // Whether the socket was closed before it took a byte of the request.
        let mut unsent = false;
        // What is left of the body when the socket takes no more of it.
        let mut rest = None;
        let answer = poll_fn(|cx| {
            match pump.as_mut().map(|pump| pump.poll(cx)) {
                Some(Poll::Ready(Ok(()))) => {
                    link.buffer = pump.take().map(Pump::into_buffer).unwrap_or_default();
                    upload.inspect(|upload| upload.finished());
                }
                Some(Poll::Ready(Err(Failure::Body(error)))) => return Poll::Ready(Err(Error::RequestBody(error))),
                Some(Poll::Ready(Err(Failure::Socket(error)))) => {
                    // The server may have answered before it stopped to read (RFC 9112 §9.5).
                    tracing::debug!(%error, "a server takes no more of a request");
                    unsent = pump.as_ref().is_some_and(Pump::has_sent_nothing);
                    rest = pump.take().and_then(Pump::into_body);
                }
                Some(Poll::Pending) | None => {}
            }
            if let Poll::Ready(answer) = link.connection.poll_head(cx, head) {
                return Poll::Ready(answer.map_err(|broken| match broken {
                    Broken::Closed(error) => Error::Closed(error),
                    Broken::Malformed(what) => Error::Invalid(Invalid::Head(what)),
                }));
            }
            let due = upload.map_or(now + head_wait, |upload| upload.due(head_wait, stall));
            ready!(link.timer.poll(cx, due));
            Poll::Ready(Err(upload.map_or(Error::HeadTimeout, |upload| upload.overdue())))
        })
        .await;
        match answer {
            Ok(answer) => {
                upload.inspect(|upload| upload.settle());
                if let (Some(mut pump), Some(upload)) = (pump, upload) {
                    let sending = async move { poll_fn(|cx| pump.poll(cx)).await };
                    link.upload = Some(tokio::task::spawn_local(Rc::clone(upload).finish(sending)));
                }
                Ok((answer.response, link))
            }
            Err(error) => {
                // On a new connection it says something about the server.
                let is_fault = matches!(error, Error::HeadTimeout | Error::BodyStalled)
                    || (matches!(error, Error::Closed(_)) && !link.is_used);
                if is_fault {
                    backend.standing.saw(Event::NotAnswered, Instant::now());
                }
                // A server closes kept connections whenever it likes, also while a request is on its
                // way to it, and another one may do better than one that fails: only the kind of
                // request tells whether it may be sent once more.
                let unheard = matches!(error, Error::Closed(_)) && link.connection.heard_nothing();
                let elsewhere = link.is_used || upstream.backends().len() > 1;
                let harmless = unheard && (unsent || (elsewhere && head.method().is_idempotent()));
                let again = match upload.filter(|_| harmless) {
                    Some(upload) => {
                        *body = Outgoing::again(upload, pump.and_then(Pump::into_body).or(rest));
                        body.is_some()
                    }
                    None => harmless,
                };
                Err(Failed { error, again })
            }
        }
    }
}
