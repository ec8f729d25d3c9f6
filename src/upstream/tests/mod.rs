//! Exchanges with a scripted server, byte by byte.
//!
//! The vocabulary: a [`Script`] is a listening server, a [`Wire`] one connection to it as the
//! server sees it, a [`Gate`] an upstream with the connections of one worker. A test lets
//! `gate.forward(..)` and the server's lines run side by side with `tokio::join!`.

mod again;
mod early;
mod failures;
mod framing;
mod http2;
mod reuse;
mod secure;
mod whoami;

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Connections, Error, Exchange, Managed, Timing, Trailers, Upstream, forward};
use crate::config::{self, Balance, Endpoint, HostHeader, Protocol, Servers, Transport, UpstreamTls};
use crate::http::{Body, BodyError};
use crate::telemetry::metrics::{Metrics, ServerState};

/// Runs a test the way a worker runs: one thread, local tasks.
pub(super) fn on_worker<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test hangs") })
}

/// A server that does what the test says.
pub(super) struct Script {
    listener: TcpListener,
    probe: std::net::TcpListener,
}

impl Script {
    pub(super) fn new() -> Self {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        probe.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(probe.try_clone().unwrap()).unwrap();
        Self { listener, probe }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        let address = self.probe.local_addr().unwrap();
        Endpoint {
            transport: Transport::Plain,
            host: address.ip().to_string(),
            port: address.port(),
            authority: address.to_string(),
            weight: 1,
        }
    }

    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.probe.local_addr().unwrap()
    }

    pub(super) async fn accept(&self) -> Wire {
        Wire { stream: self.listener.accept().await.unwrap().0, buffer: Vec::new() }
    }

    /// That nobody connected again. On loopback a connection is there as soon as it was made.
    pub(super) fn assert_no_further_connection(&self) {
        assert!(self.probe.accept().is_err(), "there is another connection");
    }
}

/// One connection, as the server sees it.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Reads up to and including `end`; what follows stays for the next call.
    pub(super) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self.buffer.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let text: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8(text).unwrap();
            }
            let count = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// Reads a request's head.
    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub(super) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Waits until the gateway closes the connection; what it sent before.
    pub(super) async fn closed(&mut self) -> String {
        loop {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return String::from_utf8_lossy(&self.buffer).into_owned(),
                Ok(_) => {}
            }
        }
    }
}

/// An upstream and the connections of one worker.
pub(super) struct Gate {
    pub(super) upstream: Arc<Upstream>,
    pub(super) connections: Connections,
    pub(super) metrics: Metrics,
    pub(super) timing: RefCell<Timing>,
    pub(super) body_stall: Duration,
    pub(super) affinity: RefCell<u64>,
    managed: Managed,
}

impl Gate {
    pub(super) fn to(script: &Script) -> Self {
        Self::with(script, |_| {})
    }

    pub(super) fn with(script: &Script, change: impl FnOnce(&mut config::Upstream)) -> Self {
        let mut config = config::Upstream {
            name: Arc::from("app"),
            servers: Servers::Http(vec![script.endpoint()]),
            protocol: Protocol::Http1,
            balance: Balance::Least,
            host: HostHeader::Preserve,
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            connections: 0,
            retries: 1,
            keep_authorization: false,
            resolve: Duration::from_secs(30),
            health: None,
            tls: UpstreamTls::default(),
            assertion: None,
        };
        change(&mut config);
        let metrics = Metrics::new();
        Self {
            upstream: Arc::new(Upstream::new(Arc::new(config), &metrics).unwrap()),
            connections: Connections::new(),
            metrics,
            timing: RefCell::default(),
            body_stall: Duration::from_secs(10),
            affinity: RefCell::new(0),
            managed: Arc::new(|name: &HeaderName| name.as_str().starts_with("x-auth-")),
        }
    }

    pub(super) async fn forward<B>(&self, mut request: Request<B>) -> Result<Response<Body>, Error>
    where
        B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
    {
        // As the vetting does: read what was said of trailers, then remove it.
        let trailers = Trailers::of(request.headers(), |name| (self.managed)(name));
        for name in ["te", "trailer"] {
            request.headers_mut().remove(name);
        }
        let exchange = Exchange {
            host: Some(HeaderValue::from_static("app.example")),
            trailers,
            managed: &self.managed,
            body_stall: self.body_stall,
            affinity: *self.affinity.borrow(),
            handshake: None,
        };
        let mut timing = Timing::default();
        let answer = forward(&self.upstream, &self.connections, request, &exchange, &mut timing).await;
        self.timing.replace(timing);
        answer
    }

    /// The gauge of connections in a state; what exchanges and idle connections there are.
    pub(super) fn connections_in(&self, state: &'static str) -> i64 {
        let server = self.upstream.backends()[0].authority.clone();
        self.metrics.upstream_connections.get_or_create(&ServerState::new("app", server, state)).get()
    }
}

/// The body of a request that a test sends.
pub(super) struct Sent {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BodyError>>,
    /// Bytes to come; `None` when that is not known.
    left: Option<u64>,
}

/// The client's end of a body.
pub(super) type Client = mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>;

impl Sent {
    pub(super) fn nothing() -> Self {
        Self::open(Some(0)).1
    }

    /// A body that the test feeds.
    pub(super) fn open(length: Option<u64>) -> (Client, Self) {
        let (client, frames) = mpsc::unbounded_channel();
        (client, Self { frames, left: length })
    }

    pub(super) fn sized(text: &'static str) -> Self {
        let (client, body) = Self::open(Some(text.len() as u64));
        client.send(data(text)).unwrap();
        body
    }

    /// A body of unknown length, of these frames.
    pub(super) fn of(frames: impl IntoIterator<Item = Result<Frame<Bytes>, BodyError>>) -> Self {
        let (client, body) = Self::open(None);
        frames.into_iter().for_each(|frame| client.send(frame).unwrap());
        body
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.frames.poll_recv(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(left)) = (&frame, &mut self.left) {
            *left -= frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(super) fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

pub(super) fn trailer_frame(lines: &[(&'static str, &'static str)]) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::trailers(headers(lines)))
}

pub(super) fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

pub(super) fn request(method: Method, lines: &[(&'static str, &'static str)], body: Sent) -> Request<Sent> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = "/x?y=1".parse().unwrap();
    *request.headers_mut() = headers(lines);
    request
}

pub(super) fn get() -> Request<Sent> {
    request(Method::GET, &[], Sent::nothing())
}

/// Reads an answer's body: its text, its trailers, or why it broke off.
pub(super) async fn read(response: Response<Body>) -> Result<(String, HeaderMap), BodyError> {
    let collected = response.into_body().collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok((String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers))
}

pub(super) async fn text(response: Response<Body>) -> String {
    read(response).await.unwrap().0
}

/// One plain exchange on a new connection, which is kept.
pub(super) async fn first_exchange(gate: &Gate, script: &Script) -> Wire {
    let (answer, wire) = tokio::join!(gate.forward(get()), async {
        let mut wire = script.accept().await;
        wire.head().await;
        wire.write(OK).await;
        wire
    });
    assert_eq!(text(answer.unwrap()).await, "hi");
    wire
}

/// A complete answer on a connection that stays open.
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
