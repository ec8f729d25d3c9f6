//! What an upstream is told about the connection a request came over.
//!
//! `X-Forwarded-*`, `Forwarded` (RFC 7239), `X-Real-IP`, `X-Request-Id` and `traceparent` are always
//! the gateway's own words. What came in under these names is continued when the peer is a trusted
//! proxy, and gone otherwise.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::http::{X_FORWARDED_FOR, first};
use crate::telemetry::trace::{RequestId, TraceContext};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Names a request in our logs and in the upstream's.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context §3.2.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Values that are the same for every request of a connection, made once.
#[derive(Debug)]
pub struct Hop {
    peer: HeaderValue,
    port: HeaderValue,
    forwarded_for: String,
    /// `Forwarded` for the host that was asked for last: clients rarely ask for two.
    forwarded: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Hop {
    /// From the two ends of a connection.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let ip = peer.ip().to_canonical();
        let forwarded_for = match ip {
            IpAddr::V4(ip) => format!("for={ip}"),
            // RFC 7239 §6: IPv6 is bracketed and quoted.
            IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
        };
        Self { peer: ip_value(ip), port: HeaderValue::from(local.port()), forwarded_for, forwarded: RefCell::default() }
    }

    /// `for=…;host=…;proto=…`.
    fn forwarded(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let Some(host) = host else { return text_value(&format!("{};proto=http", self.forwarded_for)) };
        let mut memo = self.forwarded.borrow_mut();
        if let Some((known, value)) = &*memo
            && known == host
        {
            return value.clone();
        }
        // The effective host has only characters that may stand in a quoted string.
        let host_text = host.to_str().unwrap_or_default();
        let value = text_value(&format!("{};host=\"{host_text}\";proto=http", self.forwarded_for));
        *memo = Some((host.clone(), value.clone()));
        value
    }
}

/// What is said about one request.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The connection.
    pub hop: &'a Hop,
    /// Whether the peer is a trusted proxy, so that its words are continued.
    pub trusted: bool,
    /// The client's address, see [`crate::http::client_addr`].
    pub client: IpAddr,
    /// The `Host` that the client asked for.
    pub host: Option<&'a HeaderValue>,
    /// This request's id.
    pub request_id: RequestId,
    /// This hop's span.
    pub trace: TraceContext,
}

/// The headers to set, read off the request before its own were removed.
#[derive(Debug)]
pub(super) struct ForwardedHeaders {
    list: [(HeaderName, Option<HeaderValue>); 9],
}

impl Forwarded<'_> {
    /// What to set, given what a trusted proxy may have said in `headers`.
    pub(super) fn headers(&self, headers: &HeaderMap) -> ForwardedHeaders {
        let host = self.host.cloned();
        let forwarded = self.hop.forwarded(self.host);
        let request_id = Some(self.request_id.header_value());
        let traceparent = Some(self.trace.child().header_value());
        let proto = HeaderValue::from_static("http");
        let list = if self.trusted {
            let said = |name: &HeaderName| first(headers, name).cloned();
            [
                (X_FORWARDED_FOR, Some(appended(headers, &X_FORWARDED_FOR, &self.hop.peer))),
                (X_FORWARDED_PROTO, said(&X_FORWARDED_PROTO).or(Some(proto))),
                (X_FORWARDED_HOST, said(&X_FORWARDED_HOST).or(host)),
                (X_FORWARDED_PORT, said(&X_FORWARDED_PORT).or_else(|| Some(self.hop.port.clone()))),
                (FORWARDED, Some(appended(headers, &FORWARDED, &forwarded))),
                (X_REAL_IP, Some(ip_value(self.client))),
                (X_REQUEST_ID, request_id),
                (TRACEPARENT, traceparent),
                (TRACESTATE, said(&TRACESTATE)),
            ]
        } else {
            [
                (X_FORWARDED_FOR, Some(self.hop.peer.clone())),
                (X_FORWARDED_PROTO, Some(proto)),
                (X_FORWARDED_HOST, host),
                (X_FORWARDED_PORT, Some(self.hop.port.clone())),
                (FORWARDED, Some(forwarded)),
                (X_REAL_IP, Some(self.hop.peer.clone())),
                (X_REQUEST_ID, request_id),
                (TRACEPARENT, traceparent),
                (TRACESTATE, None),
            ]
        };
        ForwardedHeaders { list }
    }
}

impl ForwardedHeaders {
    pub(super) fn set(self, headers: &mut HeaderMap) {
        for (name, value) in self.list {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// The lines of a list header as one, with one more member.
fn appended(headers: &HeaderMap, name: &HeaderName, member: &HeaderValue) -> HeaderValue {
    let mut lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    lines.push(member.as_bytes());
    HeaderValue::from_bytes(&lines.join(&b", "[..])).unwrap_or_else(|_| member.clone())
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    text_value(&ip.to_string())
}

/// A value of text that is known to be printable ASCII.
fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}
