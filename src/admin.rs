//! The operator's listener. It never shares an address with a public one.
//!
//! | endpoint | answers |
//! |---|---|
//! | `GET /live` | 200 while the process can answer at all |
//! | `GET /ready` | 200 when requests can be served, else 503; JSON with every part, its reason and its age |
//! | `GET /metrics` | every metric, as OpenMetrics text (`docs/METRICS.md`) |
//! | `GET /routes` | the routes: what they match, where they lead, who may pass |
//! | `GET /upstreams` | upstreams and their servers |
//! | `GET /keys` | the key set of each pool: key ids and ages |
//! | `GET /config` | the configuration in force, with its generation and without its secrets |
//! | `GET /outbox` | the codes that the embedded pool "sent"; 404 without one |
//! | `POST /reload` | reads the configuration again: 200 and what changed, or 422 `config_invalid` and why nothing did |
//! | `PUT /log-level` | sets the level to the body: `error`, `warn`, `info`, `debug`, also as JSON `{"level": "debug"}` |
//!
//! `HEAD` works wherever `GET` does. Failures are the same `application/problem+json` as on public
//! listeners. A connection carries one request and lasts 30 s at most, so that none can be held.
//!
//! There is no authentication: whoever reaches the address is an operator. Bound to loopback, as it
//! is by default, the listener therefore answers only when `Host` is `localhost` or a loopback
//! address; anything else is a web page whose name was rebound to this machine, and gets a 421
//! `misdirected`. Bound to another address it goes by names that it cannot know, and does not look.

pub mod effective;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::Level;

use crate::http::{Body, single};
use crate::problem::{Code, Problem};
use crate::telemetry::trace::RequestId;

/// What an endpoint shows, made when it is asked for.
pub type View = Box<dyn Fn() -> Value + Send + Sync>;
/// What `POST /reload` waits for: what to show, or the text of why nothing changed.
pub type Reloading = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// Where the endpoints get what they show.
pub struct Views {
    /// `GET /ready`.
    pub ready: Box<dyn Fn() -> Ready + Send + Sync>,
    /// `GET /metrics`: brings the gauges that age by themselves up to date, then gives the text.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// `GET /routes`.
    pub routes: View,
    /// `GET /upstreams`.
    pub upstreams: View,
    /// `GET /keys`.
    pub keys: View,
    /// `GET /config`.
    pub config: View,
    /// `GET /outbox`: `None` while no pool is embedded.
    pub outbox: Box<dyn Fn() -> Option<Value> + Send + Sync>,
    /// `POST /reload`.
    pub reload: Box<dyn Fn() -> Reloading + Send + Sync>,
    /// `PUT /log-level`.
    pub set_level: Box<dyn Fn(Level) + Send + Sync>,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

/// Whether requests can be served, part by part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// All parts are.
    pub ready: bool,
    /// Everything that has a say.
    pub parts: Vec<Part>,
}

impl From<Vec<Part>> for Ready {
    fn from(parts: Vec<Part>) -> Self {
        Self { ready: parts.iter().all(|part| part.ready), parts }
    }
}

/// One thing that serving depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// For instance `keys main`.
    pub name: String,
    /// Whether it does its work.
    pub ready: bool,
    /// Why not; or what is wrong although it does, such as a key set that could not be refreshed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since what it works with was confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
}

/// The listener, bound and not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// From a connection's first byte to the end of the request's head.
const HEAD: Duration = Duration::from_secs(5);
/// A whole connection.
const CONNECTION: Duration = Duration::from_secs(30);
/// After a failed accept, which is out of file descriptors more often than not.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's body.
const BODY: usize = 256;

impl Admin {
    /// Binds the address; port 0 takes any free port.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// The address it is bound to, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped. Has to run on a tokio runtime that the data plane does
    /// not use, so that a busy gateway still answers `/live`.
    ///
    /// # Errors
    /// When the runtime does not take the listener.
    pub async fn serve(self, views: Views) -> io::Result<Infallible> {
        let listener = TcpListener::from_std(self.listener)?;
        let (views, local_only) = (Arc::new(views), self.address.ip().to_canonical().is_loopback());
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin listener could not accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let views = views.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let views = views.clone();
                    async move { Ok::<_, Infallible>(answer(&views, local_only, request).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that breaks off or dawdles is nobody's concern.
                let _served = tokio::time::timeout(CONNECTION, connection).await.is_ok();
                drop(place);
            });
        }
    }
}

async fn answer(views: &Views, local_only: bool, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let respond = async || {
        if local_only && !names_this_machine(&head.headers) {
            return Err(Problem::from(Code::Misdirected).because("host"));
        }
        let endpoint = Endpoint::find(head.uri.path()).ok_or(Problem::from(Code::RouteUnknown))?;
        match (endpoint, &head.method) {
            (Endpoint::LogLevel, &Method::PUT) => set_level(views, body).await,
            (Endpoint::Reload, &Method::POST) => reload(views, &head.headers).await,
            (Endpoint::Show(show), &Method::GET | &Method::HEAD) => Ok(show(views)),
            (Endpoint::Outbox, &Method::GET | &Method::HEAD) => show_outbox(views),
            (Endpoint::LogLevel, _) => Err(wrong_method("PUT")),
            (Endpoint::Reload, _) => Err(wrong_method("POST")),
            (Endpoint::Show(_) | Endpoint::Outbox, _) => Err(wrong_method("GET, HEAD")),
        }
    };
    let mut response =
        respond().await.unwrap_or_else(|problem: Problem| full(problem.response(RequestId::random().as_str())));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

enum Endpoint {
    Show(fn(&Views) -> Response<Full<Bytes>>),
    Outbox,
    LogLevel,
    Reload,
}

impl Endpoint {
    fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/live" => Self::Show(|_| json_of(StatusCode::OK, &json!({ "live": true }))),
            "/ready" => Self::Show(show_ready),
            "/metrics" => Self::Show(show_metrics),
            "/routes" => Self::Show(|views| json_of(StatusCode::OK, &(views.routes)())),
            "/upstreams" => Self::Show(|views| json_of(StatusCode::OK, &(views.upstreams)())),
            "/keys" => Self::Show(|views| json_of(StatusCode::OK, &(views.keys)())),
            "/config" => Self::Show(|views| json_of(StatusCode::OK, &(views.config)())),
            "/outbox" => Self::Outbox,
            "/log-level" => Self::LogLevel,
            "/reload" => Self::Reload,
            _ => return None,
        })
    }
}

fn show_ready(views: &Views) -> Response<Full<Bytes>> {
    let ready = (views.ready)();
    json_of(if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &ready)
}

fn show_metrics(views: &Views) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from((views.metrics)()));
    let format = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}

fn show_outbox(views: &Views) -> Result<Response<Full<Bytes>>, Problem> {
    (views.outbox)().map(|outbox| json_of(StatusCode::OK, &outbox)).ok_or(Code::RouteUnknown.into())
}

async fn reload(views: &Views, headers: &HeaderMap) -> Result<Response<Full<Bytes>>, Problem> {
    // Browsers put it on every POST, and need nobody's leave to send one without a body.
    if headers.contains_key(header::ORIGIN) {
        return Err(Code::OriginDenied.into());
    }
    let reloaded = (views.reload)().await.map_err(|why| Problem::new(Code::ConfigInvalid, why))?;
    Ok(json_of(StatusCode::OK, &reloaded))
}

async fn set_level(views: &Views, body: Incoming) -> Result<Response<Full<Bytes>>, Problem> {
    let body = Limited::new(body, BODY).collect().await.map_err(|_| Problem::from(Code::BodyTooLarge))?.to_bytes();
    let level = parse_level(&body).ok_or_else(|| {
        Problem::new(Code::BodyInvalid, "The body has to be one of error, warn, info, debug and trace")
    })?;
    (views.set_level)(level);
    Ok(json_of(StatusCode::OK, &json!({ "level": level.as_str().to_ascii_lowercase() })))
}

/// A level as a bare word or as JSON, `"debug"` or `{"level": "debug"}`.
fn parse_level(body: &[u8]) -> Option<Level> {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let word = match &value {
        Some(Value::String(word)) => word,
        Some(Value::Object(members)) => members.get("level")?.as_str()?,
        Some(_) => return None,
        None => std::str::from_utf8(body).ok()?,
    };
    word.trim().parse().ok().filter(|_| word.trim().bytes().all(|byte| byte.is_ascii_alphabetic()))
}

fn wrong_method(allow: &str) -> Problem {
    Problem { allow: Some(allow.to_owned()), ..Problem::from(Code::MethodNotAllowed) }
}

fn json_of(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    full(crate::http::json(status, value))
}

/// The answers made here have their whole body at hand.
fn full(response: Response<Body>) -> Response<Full<Bytes>> {
    response.map(|body| match body {
        Body::Full(bytes) => Full::new(bytes),
        Body::Empty | Body::Stream(_) => Full::default(),
    })
}

/// Whether the request was meant for this machine by its own name. No `Host` is what plain health
/// checks of HTTP/1.0 send, and never a browser.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Ok(host) = single(headers, &header::HOST) else { return false };
    let Some(host) = host else { return true };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = name.parse().ok();
    name.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests;
