//! What an upstream is told about the connection a request came over.
//!
//! `X-Forwarded-*`, `Forwarded` (RFC 7239), `X-Real-IP`, `X-Request-Id` and `traceparent` are always
//! the gateway's own words. What came in under these names is continued when the peer is a trusted
//! proxy, and gone otherwise.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::http::{Peer, Transport, X_FORWARDED_FOR, first};
use crate::telemetry::trace::{RequestId, TraceContext};

/// RFC 9440 §2.2.
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
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
    /// Not of a peer without an address.
    peer: Option<HeaderValue>,
    port: Option<HeaderValue>,
    proto: &'static str,
    client_certificate: Option<HeaderValue>,
    forwarded_for: String,
    /// `Forwarded` for the host that was asked for last: clients rarely ask for two.
    forwarded: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Hop {
    /// From the two ends of a connection, and what is between them.
    pub fn new(peer: Peer, local: Option<SocketAddr>, transport: &Transport) -> Self {
        let forwarded_for = match peer {
            Peer::Ip(IpAddr::V4(ip)) => format!("for={ip}"),
            // RFC 7239 §6: IPv6 is bracketed and quoted.
            Peer::Ip(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
            // §6.2.
            Peer::Unix | Peer::Unknown => "for=unknown".to_owned(),
        };
        Self {
            peer: ip_value(peer),
            port: local.map(|local| HeaderValue::from(local.port())),
            proto: if transport.tls().is_some() { "https" } else { "http" },
            client_certificate: transport.tls().and_then(|session| session.client_certificate.clone()),
            forwarded_for,
            forwarded: RefCell::default(),
        }
    }

    /// `for=…;host=…;proto=…`.
    fn forwarded(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let Some(host) = host else { return text_value(&format!("{};proto={}", self.forwarded_for, self.proto)) };
        let mut memo = self.forwarded.borrow_mut();
        if let Some((known, value)) = &*memo
            && known == host
        {
            return value.clone();
        }
        // The effective host has only characters that may stand in a quoted string.
        let host_text = host.to_str().unwrap_or_default();
        let value = text_value(&format!("{};host=\"{host_text}\";proto={}", self.forwarded_for, self.proto));
        // A copy: the value that came in keeps the whole buffer alive that it was read into.
        *memo = Some((text_value(host_text), value.clone()));
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
    /// The client, see [`crate::http::client_addr`].
    pub client: Peer,
    /// The `Host` that the client asked for.
    pub host: Option<&'a HeaderValue>,
    /// This request's id.
    pub request_id: RequestId,
    /// This hop's span.
    pub trace: TraceContext,
}

/// What a trusted proxy said, read off the request before it was removed. Nothing of a stranger.
#[derive(Debug, Default)]
pub(super) struct Said {
    addresses: Option<HeaderValue>,
    proto: Option<HeaderValue>,
    host: Option<HeaderValue>,
    port: Option<HeaderValue>,
    forwarded: Option<HeaderValue>,
    tracestate: Option<HeaderValue>,
}

impl Forwarded<'_> {
    /// What is to be continued of `headers`.
    pub(super) fn said(&self, headers: &HeaderMap) -> Said {
        if !self.trusted {
            return Said::default();
        }
        let one = |name: &HeaderName| first(headers, name).cloned();
        Said {
            addresses: joined(headers, &X_FORWARDED_FOR),
            proto: one(&X_FORWARDED_PROTO),
            host: one(&X_FORWARDED_HOST),
            port: one(&X_FORWARDED_PORT),
            forwarded: joined(headers, &FORWARDED),
            tracestate: tracestate(headers),
        }
    }

    /// Sets the headers. None of them may be there any more.
    pub(super) fn set(&self, said: Said, headers: &mut HeaderMap) {
        let forwarded = self.hop.forwarded(self.host);
        // A trusted peer's own address is not the client's.
        let client = if self.trusted { ip_value(self.client) } else { self.hop.peer.clone() };
        let addresses = match &self.hop.peer {
            Some(peer) => Some(appended(said.addresses, peer)),
            None => said.addresses,
        };
        set(headers, X_FORWARDED_FOR, addresses);
        headers.insert(X_FORWARDED_PROTO, said.proto.unwrap_or(HeaderValue::from_static(self.hop.proto)));
        set(headers, X_FORWARDED_HOST, said.host.or_else(|| self.host.cloned()));
        set(headers, X_FORWARDED_PORT, said.port.or_else(|| self.hop.port.clone()));
        headers.insert(FORWARDED, appended(said.forwarded, &forwarded));
        set(headers, X_REAL_IP, client);
        set(headers, CLIENT_CERT, self.hop.client_certificate.clone());
        headers.insert(X_REQUEST_ID, self.request_id.header_value());
        headers.insert(TRACEPARENT, self.trace.child().header_value());
        set(headers, TRACESTATE, said.tracestate);
    }
}

/// What others noted about the trace. It goes on only with the trace that it is about (W3C Trace
/// Context §4.3), and is a list that may come in several lines (§3.3.1).
fn tracestate(headers: &HeaderMap) -> Option<HeaderValue> {
    let continued = first(headers, &TRACEPARENT).is_some_and(|value| TraceContext::parse(value.as_bytes()).is_ok());
    if continued { joined(headers, &TRACESTATE) } else { None }
}

/// A list with one more member.
fn appended(list: Option<HeaderValue>, member: &HeaderValue) -> HeaderValue {
    let longer = list.map(|list| HeaderValue::from_bytes(&[list.as_bytes(), member.as_bytes()].join(&b", "[..])));
    longer.and_then(Result::ok).unwrap_or_else(|| member.clone())
}

/// The lines of a list header as one; `None` when there are none.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() { None } else { HeaderValue::from_bytes(&lines.join(&b", "[..])).ok() }
}

/// Sets a header, if there is something to say.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

fn ip_value(peer: Peer) -> Option<HeaderValue> {
    peer.ip().map(|ip| text_value(&ip.to_string()))
}

/// A value of text that is known to be printable ASCII.
fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn hop(peer: &str, local: &str) -> Hop {
        Hop::new(peer.parse::<IpAddr>().unwrap().into(), Some(local.parse().unwrap()), &Transport::Plain)
    }

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    /// What goes upstream, given what came in over a connection from 10.0.0.1.
    fn said(trusted: bool, lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let client = "203.0.113.9".parse::<IpAddr>().unwrap().into();
        said_over(&hop("10.0.0.1", "10.0.0.2:8080"), trusted, client, lines)
    }

    fn said_over(hop: &Hop, trusted: bool, client: Peer, lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let host = HeaderValue::from_static("app.example:8080");
        let forwarded = Forwarded {
            hop,
            trusted,
            client,
            host: Some(&host),
            request_id: RequestId::continued(&HeaderValue::from_static("r1")).unwrap(),
            trace: TraceContext::parse(PARENT.as_bytes()).unwrap(),
        };
        let mut headers = HeaderMap::new();
        forwarded.set(forwarded.said(&map(lines)), &mut headers);
        headers
    }

    fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> &'a str {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert!(values.len() <= 1, "{name}: {values:?}");
        values.first().map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn a_stranger_is_described_not_believed() {
        let headers = said(
            false,
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-port", "443"),
                ("forwarded", "for=1.1.1.1"),
                ("x-real-ip", "1.1.1.1"),
                ("x-request-id", "forged"),
                ("traceparent", PARENT),
                ("tracestate", "a=1"),
            ],
        );
        assert_eq!(text(&headers, "x-forwarded-for"), "10.0.0.1");
        assert_eq!(text(&headers, "x-forwarded-proto"), "http");
        assert_eq!(text(&headers, "x-forwarded-host"), "app.example:8080");
        assert_eq!(text(&headers, "x-forwarded-port"), "8080");
        assert_eq!(text(&headers, "forwarded"), "for=10.0.0.1;host=\"app.example:8080\";proto=http");
        assert_eq!(text(&headers, "x-real-ip"), "10.0.0.1");
        assert_eq!(text(&headers, "x-request-id"), "r1");
        assert_eq!(text(&headers, "tracestate"), "");
    }

    #[test]
    fn a_trusted_proxy_is_continued() {
        let headers = said(
            true,
            &[
                ("x-forwarded-for", "203.0.113.9"),
                ("x-forwarded-for", "10.0.0.7"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "public.example"),
                ("x-forwarded-port", "443"),
                ("forwarded", "for=203.0.113.9"),
                ("x-real-ip", "192.0.2.2"),
                ("traceparent", PARENT),
                ("tracestate", "a=1"),
                ("tracestate", "b=2"),
            ],
        );
        assert_eq!(text(&headers, "x-forwarded-for"), "203.0.113.9, 10.0.0.7, 10.0.0.1");
        assert_eq!(text(&headers, "x-forwarded-proto"), "https");
        assert_eq!(text(&headers, "x-forwarded-host"), "public.example");
        assert_eq!(text(&headers, "x-forwarded-port"), "443");
        let ours = "for=10.0.0.1;host=\"app.example:8080\";proto=http";
        assert_eq!(text(&headers, "forwarded"), format!("for=203.0.113.9, {ours}"));
        assert_eq!(text(&headers, "x-real-ip"), "203.0.113.9", "the client that the walk found, not a header");
        assert_eq!(text(&headers, "x-request-id"), "r1");
        assert_eq!(text(&headers, "tracestate"), "a=1, b=2");
    }

    #[test]
    fn a_trusted_proxy_that_says_nothing_is_described() {
        let headers = said(true, &[]);
        assert_eq!(text(&headers, "x-forwarded-for"), "10.0.0.1");
        assert_eq!(text(&headers, "x-forwarded-proto"), "http");
        assert_eq!(text(&headers, "x-forwarded-host"), "app.example:8080");
        assert_eq!(text(&headers, "x-forwarded-port"), "8080");
        assert_eq!(text(&headers, "tracestate"), "");
    }

    #[test]
    fn a_peer_without_an_address_is_unknown_and_no_word_stands_for_its_address() {
        let hop = Hop::new(Peer::Unix, None, &Transport::Plain);
        let stranger = said_over(&hop, false, Peer::Unix, &[("x-forwarded-for", "1.1.1.1"), ("x-real-ip", "1.1.1.1")]);
        assert_eq!(text(&stranger, "forwarded"), "for=unknown;host=\"app.example:8080\";proto=http");
        for absent in ["x-forwarded-for", "x-forwarded-port", "x-real-ip"] {
            assert_eq!(text(&stranger, absent), "", "{absent}");
        }
        let client = "203.0.113.9".parse::<IpAddr>().unwrap().into();
        let believed = said_over(&hop, true, client, &[("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=x")]);
        assert_eq!(text(&believed, "x-forwarded-for"), "203.0.113.9");
        assert_eq!(text(&believed, "x-real-ip"), "203.0.113.9");
        assert_eq!(text(&believed, "forwarded"), "for=x, for=unknown;host=\"app.example:8080\";proto=http");
    }

    #[test]
    fn the_trace_goes_on_with_a_span_of_its_own() {
        for trusted in [false, true] {
            let headers = said(trusted, &[]);
            let next = TraceContext::parse(text(&headers, "traceparent").as_bytes()).unwrap();
            let before = TraceContext::parse(PARENT.as_bytes()).unwrap();
            assert_eq!(next.trace_id().digits(), before.trace_id().digits());
            assert!(next.is_sampled());
            assert_ne!(next, before);
        }
    }

    #[test]
    fn notes_about_another_trace_are_dropped() {
        for parent in ["", "00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            let headers = said(true, &[("traceparent", parent), ("tracestate", "a=1")]);
            assert_eq!(text(&headers, "tracestate"), "", "{parent:?}");
        }
        assert_eq!(text(&said(true, &[("tracestate", "a=1")]), "tracestate"), "");
    }

    #[test]
    fn ipv6_is_bracketed_and_quoted_where_it_has_to_be() {
        let v6 = hop("2001:db8::1", "[::1]:80");
        assert_eq!(v6.forwarded(None), "for=\"[2001:db8::1]\";proto=http");
        let host = HeaderValue::from_static("[::1]:80");
        assert_eq!(v6.forwarded(Some(&host)), "for=\"[2001:db8::1]\";host=\"[::1]:80\";proto=http");
        assert_eq!(v6.peer.unwrap(), "2001:db8::1", "X-Forwarded-For has no brackets");
        let mapped = hop("::ffff:192.0.2.1", "[::1]:80");
        assert_eq!(mapped.peer.as_ref().unwrap(), "192.0.2.1");
        assert_eq!(mapped.forwarded(None), "for=192.0.2.1;proto=http");
    }

    #[test]
    fn what_is_remembered_belongs_to_its_host() {
        let hop = hop("10.0.0.1", "10.0.0.2:8080");
        let (a, b) = (HeaderValue::from_static("a.example"), HeaderValue::from_static("b.example"));
        for (host, expected) in [
            (Some(&a), "for=10.0.0.1;host=\"a.example\";proto=http"),
            (Some(&a), "for=10.0.0.1;host=\"a.example\";proto=http"),
            (Some(&b), "for=10.0.0.1;host=\"b.example\";proto=http"),
            (None, "for=10.0.0.1;proto=http"),
            (Some(&b), "for=10.0.0.1;host=\"b.example\";proto=http"),
            (Some(&a), "for=10.0.0.1;host=\"a.example\";proto=http"),
        ] {
            assert_eq!(hop.forwarded(host), expected);
        }
    }
}
