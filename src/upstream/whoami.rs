//! The built-in upstream: it answers with what it received.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName};
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Managed;
use super::error::Error;
use super::timer::Timer;
use crate::http::{Body, BodyError, json};

/// How the built-in server is called in metrics, logs and its `Host` header.
pub(super) const NAME: &str = "whoami";

#[derive(Serialize)]
struct Received<'a> {
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    headers: Map<String, Value>,
    identity: Map<String, Value>,
    body_length: u64,
}

/// Reads the request to its end and answers with its parts as JSON: exactly what a server would
/// have got, credentials included.
///
/// # Errors
/// [`Error::RequestBody`] when the body breaks off, or stands still for longer than `stall`.
pub(super) async fn answer<B>(
    head: Request<()>,
    body: Option<B>,
    managed: &Managed,
    stall: Duration,
) -> Result<Response<Body>, Error>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    let body_length = match body {
        Some(body) => drain(body, stall).await.map_err(Error::RequestBody)?,
        None => 0,
    };
    Ok(json(
        StatusCode::OK,
        &Received {
            method: head.method().as_str(),
            path: head.uri().path(),
            query: head.uri().query(),
            headers: listed(head.headers(), |_| true),
            identity: listed(head.headers(), |name| managed(name)),
            body_length,
        },
    ))
}

/// Reads a body to its end and keeps nothing of it but the number of bytes.
async fn drain<B>(mut body: B, stall: Duration) -> Result<u64, BodyError>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut timer = Timer::new();
    let mut length = 0u64;
    while !body.is_end_stream() {
        let due = Instant::now() + stall;
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Pending => timer.poll(cx, due).map(|()| Some(Err(BodyError::Stalled))),
            ready => ready,
        });
        let Some(frame) = frame.await.transpose()? else { break };
        length = length.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
    }
    Ok(length)
}

/// Headers as JSON members: text, or a list where a name stands more than once.
fn listed(headers: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool) -> Map<String, Value> {
    let mut members = Map::new();
    for name in headers.keys().filter(|name| wanted(name)) {
        let mut values: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|value| Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        members.insert(name.as_str().to_owned(), value);
    }
    members
}
