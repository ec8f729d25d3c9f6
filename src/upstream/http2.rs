//! HTTP/2 as its client (RFC 9113), with `h2` for the frames.
//!
//! A worker has [`Sessions`] to a server: connections over which many exchanges go at once. A task
//! of its own keeps each of them going ([`session`]). An exchange holds a [`Lease`] on one, sends its
//! request with a `Pump` and reads its answer from a [`Stream`], all within the task of the client's
//! request, as with HTTP/1.1. hyper's client would hide what is decided on here: how many streams the
//! server still takes, whether it has looked at a request, and who is waiting for whom.

mod exchange;
mod pump;
mod session;
mod stream;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::header::{self, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use exchange::send;
pub(super) use session::{Lease, Sessions};
pub(super) use stream::Stream;

use crate::http::first;

/// How a server that speaks it is told from one that does not (RFC 9113 §3.2).
pub(super) const ALPN: &[u8] = b"h2";

/// Exchanges over one connection, if the server does not want fewer.
const MAX_STREAMS: usize = 128;
/// What one answer may bring before it is read: as much as a request may from a client.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all answers of a connection together, so that clients that do not read theirs hold
/// up nobody else. It bounds the memory that a server can make us hold.
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;
/// The least that RFC 9113 §6.5.2 allows, and enough: larger frames only delay other streams.
const FRAME_SIZE: u32 = 16 << 10;
/// What is held of one request that its server does not take.
const SEND_BUFFER: usize = 64 << 10;
/// The dynamic table of HPACK (RFC 7541 §4.2), the protocol's default.
const HEADER_TABLE: u32 = 4 << 10;
/// The head of an answer, as with HTTP/1.1.
const MAX_HEAD: u32 = 64 << 10;
/// Streams that we had to reset because of what the server sent; more of them end the connection.
const LOCAL_RESETS: usize = 128;

/// Begins a connection. Nothing is waited for: the server's settings count when they come.
///
/// # Errors
/// When the server does not take the preface.
async fn handshake<S>(stream: S) -> Result<(SendRequest<Bytes>, Connection<S, Bytes>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Builder::new()
        .initial_max_send_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_send_buffer_size(SEND_BUFFER)
        .header_table_size(HEADER_TABLE)
        .max_header_list_size(MAX_HEAD)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        // Nothing that was not asked for.
        .enable_push(false)
        .max_concurrent_streams(0)
        .handshake(stream)
        .await
}

/// The status that a request without a body is answered with, over a connection of its own.
///
/// # Errors
/// When there is no answer.
pub(super) async fn ask<S>(stream: S, request: &Request<()>, is_tls: bool) -> Result<StatusCode, h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, connection) = handshake(stream).await?;
    let head = head(request, is_tls).ok_or(h2::Reason::INTERNAL_ERROR)?;
    let answer = async {
        let (answer, _) = sender.ready().await?.send_request(head, true)?;
        answer.await.map(|answer| answer.status())
    };
    tokio::select! {
        biased;
        status = answer => status,
        ended = connection => Err(ended.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into())),
    }
}

/// A request that is framed for HTTP/1.1, as HTTP/2 has it (RFC 9113 §8.2.2, §8.3.1). `None` if its
/// `Host` cannot be an `:authority`.
fn head(request: &Request<()>, is_tls: bool) -> Option<Request<()>> {
    let host = first(request.headers(), &header::HOST)?;
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    let target = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = Uri::from_parts(parts).ok()?;
    *head.version_mut() = http::Version::HTTP_2;
    // Kept as it is: it may have to be sent again.
    let mut headers: HeaderMap = request.headers().clone();
    for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    *head.headers_mut() = headers;
    Some(head)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_head_loses_what_is_of_http_1() {
        let mut request = Request::new(());
        *request.uri_mut() = "/x?y=1".parse().unwrap();
        for (name, value) in [
            ("host", "app.example:81"),
            ("connection", "te"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-a", "b"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let sent = head(&request, true).unwrap();
        assert_eq!(sent.uri(), "https://app.example:81/x?y=1");
        let mut names: Vec<&str> = sent.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-a"]);
        *request.uri_mut() = "*".parse().unwrap();
        assert_eq!(head(&request, false).unwrap().uri().path(), "*");
        request.headers_mut().insert("host", HeaderValue::from_static("a/b"));
        assert!(head(&request, false).is_none());
    }
}
