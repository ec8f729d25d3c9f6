//! One HTTP/2 client connection, from its preface to its last byte (RFC 9113).
//!
//! hyper and the `h2` crate speak the protocol. Around them stands what they leave open: heads are
//! checked as HTTP/1 heads are (`head`), frames are counted (`frames`), and everything that a client
//! may let last has a deadline (`io`, `stream`).

mod frames;
mod head;
mod io;
mod stream;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::io::{Expired, Pulse, Watched};
use self::stream::{Answer, Exchange, Tasks};
use super::body::{Leftover, RequestBody};
use super::connection::{ConnectionLimits, Lifecycle, Service};
use super::upgrade::Connect;
use crate::http::ConnInfo;

/// A door for the fuzz target of the frame counter, which is nobody else's business.
#[cfg(fuzzing)]
pub mod fuzzing {
    use tokio::time::Instant;

    use super::frames::{Flood, Tracker};

    /// Feeds the bytes of a connection in pieces of this size while time stands still. Gives what
    /// ended it, if anything, and whether a header block is open at the end.
    pub fn frames(bytes: &[u8], piece: usize) -> (Option<&'static str>, bool) {
        let now = Instant::now();
        let mut tracker = Tracker::new(now);
        let fed = bytes.chunks(piece.max(1)).try_for_each(|piece| tracker.feed(piece, &|| now));
        let flood = fed.err().map(|flood| match flood {
            Flood::Control => "control",
            Flood::Reset => "reset",
        });
        (flood, tracker.in_head())
    }
}

/// What every client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What one stream may send before it is read: as much as a body may run ahead of its upstream.
const STREAM_WINDOW: u32 = 256 << 10;
/// What all streams of a connection may send before it is read, so what a client can make us hold.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// The least that RFC 9113 §6.5.2 allows, and enough: larger frames only delay other streams.
const FRAME_SIZE: u32 = 16 << 10;
/// What is held of one answer that its client does not take.
const SEND_BUFFER: usize = 64 << 10;
/// The dynamic table of HPACK (RFC 7541 §4.2), the protocol's default.
const HEADER_TABLE: u32 = 4 << 10;
/// Streams that were reset before anybody looked at them; more of them end the connection.
const PENDING_RESETS: usize = 20;
/// Streams that we had to reset because of what the client sent; more of them end the connection.
const LOCAL_RESETS: usize = 128;
/// A client that is not there any more is noticed by a PING that it does not answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(10);

/// Serves HTTP/2 on a socket until either side ends it. The preface is still to be read.
pub(crate) async fn serve<S: Service, I: AsyncRead + AsyncWrite + Unpin>(
    stream: I,
    info: ConnInfo,
    service: Rc<S>,
    limits: ConnectionLimits,
    lifecycle: watch::Receiver<Lifecycle>,
) {
    let client = Rc::new(service.connected(info));
    let watched = Watched::new(stream);
    let pulse = watched.pulse();
    let tasks = Tasks::new(limits.patience.body_stall);
    let mut protocol = http2::Builder::new(tasks.clone());
    protocol
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_frame_size(FRAME_SIZE)
        .max_send_buf_size(SEND_BUFFER)
        .header_table_size(HEADER_TABLE)
        // Twice our own limit: what lies between gets our answer. Beyond, `h2` answers 431 by itself
        // and drops the fields as they come; at four times this it ends the connection.
        .max_header_list_size(u32::try_from(limits.head.bytes).unwrap_or(u32::MAX).saturating_mul(2))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        // RFC 8441; whether a route takes it is not known here.
        .enable_connect_protocol()
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT);
    let mut connection = pin!(protocol.serve_connection(
        TokioIo::new(watched),
        service_fn(|mut request| {
            let (offer, busy) = (tasks.begin(), Exchange::begin(Rc::clone(&pulse)));
            let connect = connect(&mut request, &lifecycle, &pulse);
            let answer = answer(Rc::clone(&service), Rc::clone(&client), request, (limits, offer.rest()), connect);
            async move { Ok::<_, Infallible>(answer.await.map(|body| Answer::new(body, offer, busy))) }
        }),
    ));
    let mut drain = lifecycle.clone();
    let mut draining = pin!(drain.wait_for(|step| *step >= Lifecycle::Draining));
    let (patience, mut finishing, mut drained) = (&limits.patience, false, false);
    let mut alarm = pin!(sleep_until(Instant::now() + patience.request_head));
    let cut = poll_fn(|cx| {
        if !drained && draining.as_mut().poll(cx).is_ready() {
            (drained, finishing) = (true, true);
            finish(connection.as_mut(), &pulse);
        }
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            pulse.watched_by(cx.waker());
            // As in HTTP/1, the alarm is moved forward only when something is due before it rings.
            let Some((at, what)) = pulse.deadline(patience) else { return Poll::Pending };
            if at < alarm.deadline() {
                alarm.as_mut().reset(at);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if at > Instant::now() {
                alarm.as_mut().reset(at);
            } else if what == Expired::Idle && !finishing {
                finishing = true;
                finish(connection.as_mut(), &pulse);
            } else {
                return Poll::Ready(Some(what));
            }
        }
    })
    .await;
    tracing::debug!(flood = ?pulse.flood(), ?cut, "an HTTP/2 connection is over");
}

/// What a client gets that is not served: the SETTINGS that a server begins with (RFC 9113 §3.4) and
/// a GOAWAY (§6.8), which says that nothing was done, and why.
pub(super) fn go_away(reason: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// Of connection 0, with 0 as the last stream.
    const GOAWAY: [u8; 10] = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    let length = u16::try_from(8 + reason.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&SETTINGS[..], &[0], &length, &GOAWAY, &ENHANCE_YOUR_CALM, reason.as_bytes()].concat()
}

/// Takes no further request: a GOAWAY, and the end when those that are open are answered (RFC 9113
/// §6.8).
fn finish<I, B, S>(connection: Pin<&mut http2::Connection<I, S, Tasks>>, pulse: &Pulse)
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Tasks: Http2ServerConnExec<S::Future, B>,
{
    pulse.finish();
    connection.graceful_shutdown();
}

/// The stream of an extended CONNECT for a WebSocket (RFC 8441 §5); any other CONNECT has none to give.
fn connect(
    request: &mut Request<Incoming>,
    lifecycle: &watch::Receiver<Lifecycle>,
    pulse: &Rc<Pulse>,
) -> Option<Connect> {
    if *request.method() != Method::CONNECT {
        return None;
    }
    let protocol = request.extensions_mut().remove::<Protocol>()?;
    let stream = request.extensions_mut().remove::<OnUpgrade>()?;
    let open = Box::new(Exchange::begin(Rc::clone(pulse)));
    (protocol.as_str() == "websocket").then(|| Connect { stream, lifecycle: lifecycle.clone(), open })
}

/// One request and its answer; no body for HEAD, which hyper would send in HTTP/2.
async fn answer<S: Service>(
    service: Rc<S>,
    client: Rc<S::Client>,
    mut request: Request<Incoming>,
    (limits, rest): (ConnectionLimits, Leftover),
    connect: Option<Connect>,
) -> Response<Option<S::Body>> {
    let is_head = request.method() == Method::HEAD;
    let mut response = match head::vet(&mut request, connect.is_some(), limits.head) {
        Err(refusal) => {
            let response = service.refuse_request(&client, &request, refusal);
            *rest.borrow_mut() = Some(request.into_body());
            response
        }
        Ok(()) => {
            let stall = limits.patience.body_stall;
            let request = request.map(|body| match connect {
                Some(connect) => RequestBody::connecting(body, connect),
                None => RequestBody::with_timer(body, stall, rest),
            });
            let answer = service.call(client, request);
            // What a request needs is given back with the request.
            Box::pin(answer).await
        }
    };
    if is_head {
        if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
            response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        return response.map(|_| None);
    }
    response.map(Some)
}

#[cfg(test)]
mod tests;
