//! The HTTP side: one address, JSON 1.1 by `X-Amz-Target`, and the public documents of each pool.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::operations::{self, Operation};
use super::refusal::{Exception, Refusal};
use super::service::Service;
use super::store::Lookup;
use super::{directory, keys, names};
use crate::clock::Clock;
use crate::cognito::wire::{CONTENT_TYPE, Fault};
use crate::http::first;

/// The largest request body.
const BODY_LIMIT: usize = 128 * 1024;
/// How long a request body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long a connection may wait for a request head: longer than clients keep idle connections, so
/// that no request meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(120);
/// How long open connections get on shutdown.
const GRACE: Duration = Duration::from_secs(2);
/// Open connections at a time.
const CONNECTIONS: usize = 512;
/// Operations at a time: each may hash a password, which takes 19 MiB and all of a core.
const OPERATIONS: u32 = 4;
/// Between looks at whether keys have to be rotated.
const MAINTENANCE: Duration = Duration::from_secs(3600);

const JSON: &str = "application/json";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-amzn-errormessage");
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

/// Every answer is there whole.
type Answer = Response<Full<Bytes>>;

/// What every connection shares.
struct Shared {
    service: Arc<Service>,
    clock: Clock,
    operations: Arc<Semaphore>,
}

/// Serves until `stop` changes, then gives open connections a moment. When this is over, nothing of
/// it uses the service any more.
pub(super) async fn serve(listener: TcpListener, service: Arc<Service>, clock: Clock, mut stop: watch::Receiver<bool>) {
    let shared = Arc::new(Shared { service, clock, operations: Arc::new(Semaphore::new(OPERATIONS as usize)) });
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut maintenance = tokio::time::interval(MAINTENANCE);
    maintenance.tick().await;
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            _ = maintenance.tick() => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move { maintain(&shared).await });
            }
            accepted = accept(&listener, &slots) => {
                if let Some((stream, slot)) = accepted {
                    let (shared, stop) = (Arc::clone(&shared), stop.clone());
                    connections.spawn(async move {
                        serve_connection(stream, &shared, stop).await;
                        drop(slot);
                    });
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    if timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        connections.shutdown().await;
    }
    // An operation goes on when its connection is cut; the file is closed after the last one.
    if timeout(GRACE, shared.operations.acquire_many(OPERATIONS)).await.is_err() {
        tracing::warn!("an operation of the embedded pool is still going on");
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            tracing::warn!(%error, "the embedded pool could not accept a connection");
            // Out of file descriptors, mostly: trying again at once would spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn serve_connection(stream: tokio::net::TcpStream, shared: &Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let answer = |request| {
        let shared = Arc::clone(shared);
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the embedded pool ended early");
    }
}

async fn maintain(shared: &Arc<Shared>) {
    let (service, now) = (Arc::clone(&shared.service), shared.clock.now());
    match tokio::task::spawn_blocking(move || service.maintain(now)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the embedded pool could not be maintained"),
        Err(error) => tracing::error!(%error, "the maintenance of the embedded pool panicked"),
    }
}

/// One request, one answer: with a request id, open to scripts of every origin as Cognito's are.
async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let mut response = match route(request, shared).await {
        Ok(response) => response,
        Err(refusal) => refused(&refusal),
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&names::uuid()) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-amzn-RequestId,x-amzn-ErrorType,x-amzn-ErrorMessage,Date"),
    );
    response
}

async fn route(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Answer, Refusal> {
    check_host(&request)?;
    match (request.method(), request.uri().path()) {
        (&Method::OPTIONS, _) => Ok(preflight()),
        (&Method::POST, "/") => run(request, shared).await,
        (&Method::GET, _) => {
            let (service, uri, now) = (Arc::clone(&shared.service), request.uri().clone(), shared.clock.now());
            let document = tokio::task::spawn_blocking(move || document(&service, &uri, now)).await;
            document.unwrap_or_else(|_| Err(Refusal::new(Exception::InternalError, "An internal error occurred.")))
        }
        _ => Err(Refusal::new(Exception::UnknownOperation, "Only POST / has operations.")),
    }
}

/// Runs the operation that `X-Amz-Target` names, on a blocking thread.
async fn run(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Answer, Refusal> {
    let text = |name: &HeaderName| first(request.headers(), name).and_then(|value| value.to_str().ok());
    let target = text(&TARGET).unwrap_or_default();
    let operation = Operation::find(target).ok_or_else(Refusal::unknown_operation)?;
    operation.check_signature(text(&header::AUTHORIZATION))?;
    let body = Limited::new(request.into_body(), BODY_LIMIT);
    let body = match timeout(ARRIVAL, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Refusal::new(Exception::Serialization, "The request body is too large."));
        }
        Ok(Err(_)) | Err(_) => {
            return Err(Refusal::new(Exception::Serialization, "The request body did not arrive."));
        }
    };
    let internal = |_| Refusal::new(Exception::InternalError, "An internal error occurred.");
    let permit = Arc::clone(&shared.operations).acquire_owned().await.map_err(|_| internal(()))?;
    let (service, now) = (Arc::clone(&shared.service), shared.clock.now());
    // A panic in an operation ends as a failed join: the caller gets a 500, the server goes on.
    let reply = tokio::task::spawn_blocking(move || {
        let reply = operations::run(&service, operation, &body, now);
        drop(service);
        drop(permit);
        reply
    });
    let reply = reply.await.map_err(|error| {
        tracing::error!(%error, "an operation of the embedded pool panicked");
        internal(())
    })??;
    Ok(with_type(CONTENT_TYPE, reply))
}

/// `GET /health`, and the key set and the discovery document (OpenID Connect Discovery 1.0 §4) of
/// each pool.
fn document(service: &Service, uri: &Uri, now: crate::clock::Timestamp) -> Result<Answer, Refusal> {
    let tables = service.store.read()?;
    let path = uri.path().trim_start_matches('/');
    if path == "health" {
        let pools: Vec<String> = tables.scan(super::store::POOLS, "")?.into_iter().map(|(id, _)| id).collect();
        return Ok(with_type(JSON, json!({ "service": "portcullis-pool", "pools": pools }).to_string()));
    }
    let not_found = || {
        let mut response = with_type(JSON, json!({ "message": "There is nothing here." }).to_string());
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    };
    let Some((id, name)) = path.split_once("/.well-known/") else { return Ok(not_found()) };
    let Ok(pool) = directory::pool(&tables, id) else { return Ok(not_found()) };
    let document: Value = match name {
        "jwks.json" => keys::key_set(&pool, now),
        "openid-configuration" => {
            let issuer = service.issuer(id);
            json!({
                "issuer": issuer,
                "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["code", "token"],
                "scopes_supported": ["openid", "email", "phone", "profile"],
                "subject_types_supported": ["public"],
            })
        }
        _ => return Ok(not_found()),
    };
    Ok(with_type(JSON, document.to_string()))
}

/// Refuses requests for another host name. The server listens on loopback, but a web page can point
/// a name of its own there (DNS rebinding) and would then be of the same origin.
fn check_host(request: &Request<Incoming>) -> Result<(), Refusal> {
    let host = first(request.headers(), &header::HOST).and_then(|host| host.to_str().ok());
    let authority: Option<http::uri::Authority> = host.and_then(|host| host.parse().ok());
    let local = authority.is_some_and(|authority| is_local(authority.host()));
    if local { Ok(()) } else { Err(Refusal::new(Exception::Forbidden, "This server answers to loopback names only.")) }
}

fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
        || name == "localhost"
        || name.ends_with(".localhost")
}

/// The answer to a browser that asks whether it may call. `Authorization` is not among the headers:
/// no web page gets at the administrators' operations.
fn preflight() -> Answer {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "content-type,x-amz-target,x-amz-user-agent,cache-control,amz-sdk-invocation-id,amz-sdk-request",
        ),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("172800"));
    response
}

/// An exception as it travels: status, body and the two headers that the real service adds.
fn refused(refusal: &Refusal) -> Answer {
    let name = refusal.exception.as_str();
    let fault = Fault { kind: Some(name.to_owned()), message: Some(refusal.text.clone().into_owned()) };
    // Two texts always serialize.
    let mut response = with_type(CONTENT_TYPE, serde_json::to_vec(&fault).unwrap_or_default());
    *response.status_mut() = refusal.exception.status();
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&format!("{name}:")) {
        headers.insert(ERROR_TYPE, kind);
    }
    if let Ok(text) = HeaderValue::from_str(&refusal.text) {
        headers.insert(ERROR_MESSAGE, text);
    }
    response
}

fn with_type(media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_ours() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "pool.localhost"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", ""] {
            assert!(!is_local(host), "{host}");
        }
    }
}
