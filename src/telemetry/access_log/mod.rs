//! The access log: one line per request, and with it the request's metrics.
//!
//! A [`Record`] is begun with the request, filled on the way, and written when it is dropped, which
//! happens once and cannot be forgotten. [`Record::answer`] moves it into the body of the answer,
//! so that the line tells how the last byte went, also when the client left before it.
//!
//! The record has no field for a token, a cookie, a body or a query string.

mod line;

use std::borrow::Cow;
use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::metrics::{Metrics, RouteMetrics};
use super::trace::{RequestId, TraceContext};
use super::writer::Writer;
use crate::clock::Timestamp;
use crate::config::LogFormat;
use crate::http::{Peer, first};

/// Where lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// Nowhere; metrics are kept all the same.
    Off,
    /// To standard output.
    Stdout(LogFormat),
    /// As JSON, one by one, to whoever holds the other end.
    Lines(UnboundedSender<String>),
}

impl Sink {
    /// A sink whose lines can be awaited.
    pub fn collect() -> (Self, UnboundedReceiver<String>) {
        let (sender, receiver) = unbounded_channel();
        (Self::Lines(sender), receiver)
    }
}

/// The open access log. Clones share it.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    output: Output,
    metrics: Arc<Metrics>,
    /// For requests that matched no route.
    unrouted: RouteMetrics,
}

#[derive(Debug)]
enum Output {
    Off,
    Writer { writer: Writer, text: bool },
    Lines(UnboundedSender<String>),
}

/// The route label of requests that matched none.
pub const UNROUTED: &str = "-";

impl AccessLog {
    /// Opens the log. Lines to standard output go through one writer thread; when it falls behind
    /// they are dropped and counted in `portcullis_access_log_dropped_total`, never waited for.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(sink: Sink, metrics: Arc<Metrics>) -> io::Result<Self> {
        let output = match sink {
            Sink::Off => Output::Off,
            Sink::Lines(sender) => Output::Lines(sender),
            Sink::Stdout(format) => Output::Writer {
                text: super::is_text(format, io::stdout().is_terminal()),
                writer: {
                    let dropped = metrics.access_log_dropped.clone();
                    Writer::start("access-log", Box::new(io::stdout()), move |lines, error| {
                        dropped.inc_by(lines);
                        tracing::warn!(%error, lines, "access lines could not be written");
                    })?
                },
            },
        };
        Ok(Self::new(output, metrics))
    }

    /// A log whose lines can be awaited, with metrics of its own.
    pub fn collect() -> (Self, UnboundedReceiver<String>) {
        let (sender, receiver) = unbounded_channel();
        (Self::new(Output::Lines(sender), Arc::default()), receiver)
    }

    /// Writes what is pending, for at most `deadline`. Lines that come later are dropped and
    /// counted. Returns whether everything was written.
    pub fn close(&self, deadline: Duration) -> bool {
        match &self.0.output {
            Output::Writer { writer, .. } => writer.close(deadline),
            Output::Off | Output::Lines(_) => true,
        }
    }

    /// The metrics that records count in.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    fn new(output: Output, metrics: Arc<Metrics>) -> Self {
        let unrouted = RouteMetrics::new(&metrics, UNROUTED);
        Self(Arc::new(Shared { output, metrics, unrouted }))
    }
}

/// What the log says of one request. Written when dropped.
#[derive(Debug)]
pub struct Record {
    log: AccessLog,
    started: Instant,
    /// When the request's head had arrived.
    pub time: Timestamp,
    /// What the answer's `X-Request-Id` says; new unless a trusted proxy's is continued.
    pub request_id: RequestId,
    /// This hop's place in its trace; new unless a trusted proxy's is continued.
    pub trace: TraceContext,
    /// Who sent it: the peer, until trusted proxies' headers say better.
    pub client: Peer,
    /// The method.
    pub method: Method,
    /// The `Host` it was sent to.
    pub host: Option<HeaderValue>,
    /// The path as it was sent.
    pub path: Path,
    /// The route that matched.
    pub route: Option<Arc<RouteMetrics>>,
    /// The answer's status; set by [`Record::answer`]. `None` when dropped: logged as 499.
    pub status: Option<StatusCode>,
    /// The problem's code, when we answered with one.
    pub code: Option<&'static str>,
    /// The exact reason behind a code or a broken answer. Ours, never text from outside.
    pub reason: Option<Cow<'static, str>>,
    /// The verified caller's `sub`.
    pub subject: Option<Arc<str>>,
    /// The user pool that vouches for the caller, by its name in the config.
    pub pool: Option<Arc<str>>,
    /// Bytes of the request's body, counted by whoever reads it; see [`Record::count_in`].
    pub bytes_in: Option<Arc<AtomicU64>>,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From turning to the upstream, connecting included, to the head of its answer.
    pub first_byte: Option<Duration>,
    /// The upstream's name in the config.
    pub upstream: Option<Arc<str>>,
    /// The upstream's server that answered, or was tried last.
    pub server: Option<Arc<str>>,
    /// How often the request was tried again.
    pub retries: u32,
    /// The client connection's TLS version (`1.2`, `1.3`).
    pub tls: Option<&'static str>,
    /// The request's protocol version.
    pub version: Version,
    finished: bool,
}

impl Record {
    /// Begins the record of a request whose head has just arrived from `client`. It is boxed because
    /// it moves into the answer and through the server with it.
    pub fn begin<B>(log: &AccessLog, now: Timestamp, client: Peer, request: &Request<B>) -> Box<Self> {
        log.0.metrics.requests_in_flight.inc();
        Box::new(Self {
            log: log.clone(),
            started: Instant::now(),
            time: now,
            request_id: RequestId::random(),
            trace: TraceContext::random(),
            client,
            method: request.method().clone(),
            host: first(request.headers(), &header::HOST).cloned(),
            path: Path::from(request.uri()),
            route: None,
            status: None,
            code: None,
            reason: None,
            subject: None,
            pool: None,
            bytes_in: None,
            bytes_out: 0,
            first_byte: None,
            upstream: None,
            server: None,
            retries: 0,
            tls: None,
            version: request.version(),
            finished: false,
        })
    }

    /// How long ago the request's head arrived.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The counter to give to whoever reads the request's body, for bytes as they pass.
    pub fn count_in(&mut self) -> Arc<AtomicU64> {
        self.bytes_in.get_or_insert_default().clone()
    }

    /// Moves the record into the answer. The line is written when the last byte of the body has
    /// been handed over, or when the body is dropped because it cannot be.
    pub fn answer<B: Body>(mut self: Box<Self>, response: Response<B>) -> Response<RecordedBody<B>> {
        let status = response.status();
        self.status = Some(status);
        // These never have a body on the wire (RFC 9110 §6.4.1), so that nobody polls theirs.
        let bodiless = self.method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        self.finished = bodiless || response.body().is_end_stream();
        response.map(|body| RecordedBody { expected: body.size_hint().exact(), body, record: self })
    }

    /// The answer has begun something that has no end of its own, such as a WebSocket.
    pub fn switch(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.finished = true;
    }

    /// The answer ends here, and this is why: the status has been sent, so that it is what happened.
    pub fn end(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.finished = true;
        self.reason.get_or_insert_with(|| reason.into());
    }

    /// Status and reason as they are logged: an answer that was not finished is a 499, as nginx
    /// calls a client that closed its request.
    fn outcome(&self) -> (u16, Option<&str>) {
        let reason = self.reason.as_deref();
        match self.status {
            Some(status) if self.finished => (status.as_u16(), reason),
            None if std::thread::panicking() => (500, reason.or(Some("panic"))),
            _ => (499, reason.or(Some("client_left"))),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let log = self.log.clone();
        let elapsed = self.elapsed();
        let (status, reason) = self.outcome();
        let route = self.route.as_deref().unwrap_or(&log.0.unrouted);
        log.0.metrics.requests_in_flight.dec();
        route.observe(StatusCode::from_u16(status).unwrap_or_default(), elapsed.as_secs_f64());
        let dropped = match &log.0.output {
            Output::Off => false,
            Output::Writer { writer, text } => {
                let written = line::with(self, (status, reason), elapsed, *text, |line| writer.push(line));
                written != Some(true)
            }
            Output::Lines(sender) => {
                let sent = line::with(self, (status, reason), elapsed, false, |line| {
                    sender.send(String::from_utf8_lossy(line).trim_end().to_owned()).is_ok()
                });
                sent != Some(true)
            }
        };
        if dropped {
            log.0.metrics.access_log_dropped.inc();
        }
    }
}

/// The path of a request target, without its query: that stays out of reach.
#[derive(Clone, Default)]
pub struct Path(Option<PathAndQuery>);

impl Path {
    /// The path as it was sent; empty when the target has none.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", PathAndQuery::path)
    }
}

impl From<&Uri> for Path {
    fn from(uri: &Uri) -> Self {
        Self(uri.path_and_query().cloned())
    }
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// The body of an answer, which counts its bytes and holds the request's record until its end.
#[derive(Debug)]
pub struct RecordedBody<B> {
    body: B,
    /// The body's length, when it is known. The connection drops a body at its last byte, without
    /// asking whether it has ended.
    expected: Option<u64>,
    record: Box<Record>,
}

impl<B> RecordedBody<B> {
    /// The record of the request that this answers.
    pub fn record(&mut self) -> &mut Record {
        &mut self.record
    }
}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin> Body for RecordedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.record.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64);
                this.record.finished |= this.expected == Some(this.record.bytes_out) || this.body.is_end_stream();
            }
            Poll::Ready(Some(Err(error))) => {
                this.record.end(error.to_string());
            }
            Poll::Ready(None) => this.record.finished = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes counted so far.
fn counted(counter: Option<&Arc<AtomicU64>>) -> u64 {
    counter.map_or(0, |bytes| bytes.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests;
