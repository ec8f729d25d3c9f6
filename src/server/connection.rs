//! One client connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::body::{Answer, Exchange, RequestBody};
use super::framing::{HeadLimits, MAX_HEADERS, Refusal};
use super::io::{Expired, Guarded, Meter, Patience};
use super::upgrade::hand_over;
use crate::http::{BodyError, ConnInfo};

/// What answers requests. One value serves all connections of a worker.
pub trait Service: 'static {
    /// What it knows of a client connection, made once.
    type Client: 'static;
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error = BodyError> + Unpin + 'static;

    /// A connection has been accepted.
    fn connected(&self, info: ConnInfo) -> Self::Client;

    /// Answers a request. It cannot fail: failures are answers.
    fn call(
        self: Rc<Self>,
        client: Rc<Self::Client>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// The answer to something that never became a request. Its body is a full one.
    fn refuse(&self, client: &Self::Client, refusal: Refusal) -> Response<Self::Body>;

    /// The answer to a request whose head is not taken. Its body is a full one.
    fn refuse_request<B>(&self, client: &Self::Client, request: &Request<B>, refusal: Refusal) -> Response<Self::Body>;
}

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The size of a head.
    pub head: HeadLimits,
    /// The time things may take.
    pub patience: Patience,
    /// The time that a PROXY header and a TLS handshake may take together.
    pub handshake: Duration,
    /// Requests that may be open at once on one HTTP/2 connection.
    pub h2_streams: u32,
}

/// How the process is doing. Each step is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// Requests are taken.
    Running,
    /// Open requests are finished, new ones are not taken.
    Draining,
    /// Whatever is still open is cut.
    Stopping,
}

/// Header lines that hyper takes without being told.
const HYPER_HEADERS: usize = 100;

/// Serves HTTP/1.1 (and 1.0) on a socket until either side ends it.
pub(crate) async fn serve<S: Service, I: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: I,
    info: ConnInfo,
    service: Rc<S>,
    limits: ConnectionLimits,
    mut lifecycle: watch::Receiver<Lifecycle>,
) {
    let client = Rc::new(service.connected(info));
    let progress = Progress::new(&lifecycle);
    let guarded = Guarded::new(stream, limits.head);
    let meter = guarded.meter();
    let mut protocol = http1::Builder::new();
    protocol
        .half_close(false)
        // Its timer for heads would also be the one for idle connections; the watchdog tells the two
        // apart and costs nothing per request.
        .header_read_timeout(None)
        .max_buf_size((limits.head.bytes * 2).max(64 * 1024));
    if limits.head.lines > HYPER_HEADERS {
        // Told a number, hyper allocates room for so many with each request.
        protocol.max_headers(MAX_HEADERS);
    }
    let mut connection = protocol.serve_connection(
        TokioIo::new(guarded),
        service_fn(|request| {
            exchange(Rc::clone(&service), Rc::clone(&client), Rc::clone(&meter), progress.clone(), request)
        }),
    );
    let draining = pin!(lifecycle.wait_for(|step| *step >= Lifecycle::Draining));
    let expired = watch_over(&mut connection, &meter, &limits.patience, draining).await;
    if meter.has_switched() {
        let parts = connection.into_parts();
        // What a client sends before it has the 101 is meant for whoever it takes this to be (RFC 6455
        // §4.1): the other end must not get it.
        if let Some(switch) = meter.take_switch()
            && parts.read_buf.is_empty()
            && meter.refusal().is_none()
        {
            let stream = parts.io.into_inner().into_inner();
            Box::pin(hand_over(stream, progress.0.as_ref().clone(), switch)).await;
        }
        return;
    }
    let refusal = match expired {
        Some(Expired::Head) => Some(Refusal::HeadTimeout),
        _ => meter.refusal(),
    };
    let guarded = connection.into_parts().io.into_inner();
    let is_sending = guarded.in_body() && expired.is_none();
    let mut stream = guarded.into_inner();
    // Whether the client still takes it is its own affair.
    if let Some(refusal) = refusal {
        let told = timeout(LINGER, send_last(&mut stream, service.refuse(&client, refusal))).await;
        tracing::debug!(?refusal, told = told.is_ok(), "refused before there was a request");
    } else if is_sending {
        // It was answered before the end of its body, with a 401 or 413 for instance.
        let read = timeout(LINGER, drain(&mut stream)).await;
        tracing::debug!(read = read.is_ok(), "answered before the end of the request");
    }
}

/// How long a client may take to read a last answer, and to stop sending.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Runs a connection to its end; says so when it ended because something took too long.
async fn watch_over<C>(
    connection: &mut C,
    meter: &Meter,
    patience: &Patience,
    mut draining: Pin<&mut impl Future>,
) -> Option<Expired>
where
    C: Future<Output = hyper::Result<()>> + Graceful + Unpin,
{
    let mut is_draining = false;
    let mut alarm = pin!(sleep_until(Instant::now() + patience.idle));
    poll_fn(|cx| {
        if !is_draining && draining.as_mut().poll(cx).is_ready() {
            is_draining = true;
            connection.finish();
        }
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
                if ended.is_err() {
                    drop(meter.take_switch());
                }
                return Poll::Ready(None);
            }
            // The alarm is moved forward only when something is due before it rings. Most requests
            // come and go without touching it.
            let Some((at, what)) = meter.deadline(patience) else { return Poll::Pending };
            if at < alarm.deadline() {
                alarm.as_mut().reset(at);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if at > Instant::now() {
                alarm.as_mut().reset(at);
            } else if what == Expired::RequestBody {
                meter.give_up_on_body();
            } else {
                return Poll::Ready(Some(what));
            }
        }
    })
    .await
}

/// A connection that can be asked to finish.
trait Graceful {
    /// No further request after the present one.
    fn finish(&mut self);
}

impl<I, B, S> Graceful for http1::Connection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

/// One request and its answer, with the connection marked busy from the first to the last.
///
/// hyper keeps room for this future for as long as the connection lives, and moves it about: it is a
/// small one, and what a request needs is given back with the request.
fn exchange<S: Service>(
    service: Rc<S>,
    client: Rc<S::Client>,
    meter: Rc<Meter>,
    progress: Progress,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer<S::Body>>, Infallible>> {
    let busy = Exchange::begin(Rc::clone(&meter));
    let answer = Box::pin(service.call(client, request.map(|body| RequestBody::new(body, meter))));
    async move {
        let mut answer = answer.await;
        if progress.is_draining() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(answer.map(|body| Answer::new(body, busy)))
    }
}

/// The lifecycle, as each answer asks for it.
///
/// The watchdog tells hyper to finish when it is polled. Where the process began to drain since, in
/// the same poll on another core, hyper would still promise to keep the connection.
#[derive(Clone)]
struct Progress(Rc<watch::Receiver<Lifecycle>>);

impl Progress {
    fn new(lifecycle: &watch::Receiver<Lifecycle>) -> Self {
        Self(Rc::new(lifecycle.clone()))
    }

    fn is_draining(&self) -> bool {
        // The first value was `Running`. While it is the only one, no lock that workers share is taken.
        self.0.has_changed().unwrap_or(true) && *self.0.borrow() >= Lifecycle::Draining
    }
}

/// Writes an answer to what was no request, and closes so that the client gets to read it.
pub(crate) async fn send_last<I, B>(stream: &mut I, response: Response<B>) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in head.headers.iter().filter(|(name, _)| **name != CONNECTION) {
        bytes.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    write_last(stream, &bytes).await
}

/// Writes the last bytes of a connection, and closes so that the client gets to read them.
pub(super) async fn write_last<I: AsyncRead + AsyncWrite + Unpin>(stream: &mut I, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    drain(stream).await
}

/// Reads what the client still sends, up to its end: closing with unread bytes would reset the
/// connection, and many a client would lose the answer with it (RFC 9112 §9.6).
async fn drain<I: AsyncRead + Unpin>(stream: &mut I) -> io::Result<()> {
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
