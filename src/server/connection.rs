//! One client connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Request, Response};
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
}

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The size of a head.
    pub head: HeadLimits,
    /// The time things may take.
    pub patience: Patience,
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

/// Serves HTTP/1.1 (and 1.0) on a socket until either side ends it.
pub(crate) async fn serve<S: Service, I: AsyncRead + AsyncWrite + Unpin>(
    stream: I,
    info: ConnInfo,
    service: Rc<S>,
    limits: ConnectionLimits,
    mut lifecycle: watch::Receiver<Lifecycle>,
) {
    let client = Rc::new(service.connected(info));
    let guarded = Guarded::new(stream, limits.head);
    let meter = guarded.meter();
    let mut connection = http1::Builder::new()
        .half_close(false)
        // Its timer for heads would also be the one for idle connections; the watchdog tells the two
        // apart and costs nothing per request.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size((limits.head.bytes * 2).max(64 * 1024))
        .serve_connection(
            TokioIo::new(guarded),
            service_fn(|request| exchange(Rc::clone(&service), Rc::clone(&client), Rc::clone(&meter), request)),
        );
    let draining = pin!(lifecycle.wait_for(|step| *step >= Lifecycle::Draining));
    let expired = watch_over(&mut connection, &meter, &limits.patience, draining).await;
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
const LINGER: Duration = Duration::from_secs(2);

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
            if Pin::new(&mut *connection).poll(cx).is_ready() {
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
async fn exchange<S: Service>(
    service: Rc<S>,
    client: Rc<S::Client>,
    meter: Rc<Meter>,
    request: Request<Incoming>,
) -> Result<Response<Answer<S::Body>>, Infallible> {
    let busy = Exchange::begin(Rc::clone(&meter));
    let request = request.map(|body| RequestBody::new(body, meter));
    let response = service.call(client, request).await;
    Ok(response.map(|body| Answer::new(body, busy)))
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
    stream.write_all(&bytes).await?;
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
mod tests {
    use std::cell::Cell;

    use tokio::io::DuplexStream;

    use super::*;
    use crate::http::Body as OurBody;

    /// Answers every request with its body (`/slow` after 30 s, `/early` without it), and refusals with their names.
    struct Echo {
        seen: Cell<usize>,
    }

    impl Service for Echo {
        type Client = ();
        type Body = OurBody;

        fn connected(&self, _info: ConnInfo) {}

        async fn call(self: Rc<Self>, _client: Rc<()>, request: Request<RequestBody>) -> Response<OurBody> {
            self.seen.set(self.seen.get() + 1);
            let mut response = Response::new(OurBody::Empty);
            if request.uri().path() == "/slow" {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            if request.uri().path() == "/early" {
                return response;
            }
            match request.into_body().collect().await {
                Ok(body) => *response.body_mut() = body.to_bytes().into(),
                Err(error) => {
                    *response.status_mut() = http::StatusCode::BAD_REQUEST;
                    *response.body_mut() = Bytes::from(error.to_string()).into();
                }
            }
            response
        }

        fn refuse(&self, _client: &(), refusal: Refusal) -> Response<OurBody> {
            let mut response = Response::new(OurBody::from(Bytes::from(format!("{refusal:?}"))));
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            response
        }
    }

    /// Starts a connection; returns the client's end and the switch.
    fn start() -> (DuplexStream, watch::Sender<Lifecycle>, tokio::task::JoinHandle<()>) {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let address = "127.0.0.1:1".parse().unwrap();
        let info = ConnInfo { peer: address, local: address, listener: "test".into() };
        let limits = ConnectionLimits {
            head: HeadLimits { bytes: 8192, lines: 100 },
            patience: Patience {
                idle: Duration::from_secs(75),
                request_head: Duration::from_secs(10),
                body_stall: Duration::from_secs(60),
            },
        };
        let (switch, lifecycle) = watch::channel(Lifecycle::Running);
        let service = Rc::new(Echo { seen: Cell::new(0) });
        (client, switch, tokio::task::spawn_local(serve(server, info, service, limits, lifecycle)))
    }

    /// Runs a test on a paused clock, where time passes only when everybody waits.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    async fn read_all(client: &mut DuplexStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[test]
    fn a_refused_request_behind_a_good_one_does_not_spoil_it() {
        run(async {
            let (mut client, _switch, _task) = start();
            client
                .write_all(
                    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
                )
                .await
                .unwrap();
            let text = read_all(&mut client).await;
            assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
            assert!(text.contains("\r\n\r\nabcHTTP/1.1 400"), "{text}");
            assert!(text.ends_with("Malformed(\"fragment\")"), "{text}");
        });
    }

    #[test]
    fn a_refusal_does_not_wait_longer_than_the_answer_before_it() {
        run(async {
            let (mut client, _switch, _task) = start();
            let begin = Instant::now();
            client
                .write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /#x HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let text = read_all(&mut client).await;
            assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
            assert!(text.ends_with("Malformed(\"fragment\")"), "{text}");
            assert_eq!(begin.elapsed().as_secs(), 30);
        });
    }

    #[test]
    fn a_broken_chunk_ends_the_request_it_belongs_to() {
        run(async {
            let (mut client, _switch, _task) = start();
            client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc").await.unwrap();
            let text = read_all(&mut client).await;
            assert!(text.starts_with("HTTP/1.1 400"), "{text}");
            assert!(text.ends_with("the client's body broke off"), "{text}");
        });
    }

    #[test]
    fn a_slow_head_is_answered_with_a_timeout_and_an_idle_connection_is_closed() {
        run(async {
            let (mut client, _switch, _task) = start();
            let begin = Instant::now();
            client.write_all(b"GET / HTT").await.unwrap();
            assert!(read_all(&mut client).await.ends_with("HeadTimeout"));
            assert_eq!(begin.elapsed().as_secs(), 10);
            let (mut client, _switch, _task) = start();
            let begin = Instant::now();
            assert_eq!(read_all(&mut client).await, "");
            assert_eq!(begin.elapsed().as_secs(), 75);
        });
    }

    #[test]
    fn the_idle_clock_starts_again_after_each_answer() {
        run(async {
            let (mut client, _switch, _task) = start();
            let begin = Instant::now();
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(70)).await;
                client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            }
            let text = read_all(&mut client).await;
            assert_eq!(text.matches("200 OK").count(), 3);
            assert_eq!(begin.elapsed().as_secs(), 3 * 70 + 75);
        });
    }

    #[test]
    fn a_request_body_that_stalls_fails_and_closes() {
        run(async {
            let (mut client, _switch, _task) = start();
            let begin = Instant::now();
            client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
            assert!(read_all(&mut client).await.ends_with("the body stalled"));
            assert_eq!(begin.elapsed().as_secs(), 60);
        });
    }

    #[test]
    fn a_client_that_is_answered_before_the_end_of_its_body_gets_to_send_on_for_a_while() {
        run(async {
            let (mut client, _switch, task) = start();
            client.write_all(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n").await.unwrap();
            let mut sent = 0;
            while client.write_all(&[b'x'; 60_000]).await.is_ok() && sent < 20 {
                sent += 1;
            }
            assert_eq!(sent, 20, "nobody reads what is sent");
            assert!(read_all(&mut client).await.starts_with("HTTP/1.1 200 OK"));
            let begin = Instant::now();
            task.await.unwrap();
            assert_eq!(begin.elapsed(), LINGER, "it ends although the client does not");
        });
    }

    #[test]
    fn a_client_that_does_not_read_is_cut() {
        run(async {
            let (mut client, _switch, task) = start();
            let big = "x".repeat(60_000);
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{big}", big.len());
            for _ in 0..2 {
                client.write_all(request.as_bytes()).await.unwrap();
            }
            let begin = Instant::now();
            task.await.unwrap();
            assert_eq!(begin.elapsed().as_secs(), 60);
        });
    }

    #[test]
    fn draining_closes_idle_connections_at_once() {
        run(async {
            let (mut client, switch, task) = start();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut start = [0; 12];
            client.read_exact(&mut start).await.unwrap();
            switch.send(Lifecycle::Draining).unwrap();
            let begin = Instant::now();
            task.await.unwrap();
            assert_eq!(begin.elapsed().as_secs(), 0);
        });
    }
}
