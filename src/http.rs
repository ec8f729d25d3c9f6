//! HTTP facts and types that every layer shares.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};

mod peer;

pub use peer::{Peer, TrustedProxies, X_FORWARDED_FOR, client_addr};

mod transport;

pub use transport::{HostNames, TlsSession, Transport, Zone};

/// What is known of a client's connection before its first request.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Who is at the other end: as the kernel saw it, or as a PROXY header says.
    pub peer: Peer,
    /// The address that it connected to; a unix socket has none.
    pub local: Option<SocketAddr>,
    /// The listener, for metrics: its address as it was bound.
    pub listener: Arc<str>,
    /// What the bytes of the connection travel in.
    pub transport: Transport,
}

/// Why a body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client stopped, or sent a broken body.
    #[error("the client's body broke off")]
    Client,
    /// More bytes than allowed.
    #[error("the body is too large")]
    TooLarge,
    /// No byte moved for too long.
    #[error("the body stalled")]
    Stalled,
    /// The upstream stopped, or sent a broken body.
    #[error("the upstream's body broke off")]
    Upstream,
    /// The route's `timeout` is over.
    #[error("the route's timeout is over")]
    Overdue,
    /// What the caller was let in with does not hold any more.
    #[error("the permission ended")]
    Unpermitted,
}

/// The body of an answer.
pub enum Body {
    /// No bytes.
    Empty,
    /// Bytes that are there already.
    Full(Bytes),
    /// Bytes that come as they come.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError>>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

/// Headers that concern one connection only and are never passed on (RFC 9110 §7.6.1). Those that
/// a `Connection` header nominates come on top.
pub const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether only the gateway may say this: hop-by-hop headers, `X-Forwarded-*` and their relatives.
pub fn is_ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    // Nearly every header ends here: the names below begin with one of these letters.
    if !matches!(
        text.as_bytes().first().copied().map(collapse),
        Some(b'c' | b'f' | b'k' | b'p' | b's' | b't' | b'u' | b'x')
    ) {
        return false;
    }
    // The spelling `Transfer_Encoding` is one that proxies pass and CGI servers fold.
    HOP_BY_HOP.iter().any(|hop| collapsed_eq(text, hop.as_str()))
        || OURS.iter().any(|ours| collapsed_eq(text, ours))
        || OUR_PREFIXES.iter().any(|prefix| starts_collapsed(text, prefix.as_bytes()))
}

/// Names that only the gateway sets, or that make a backend see another request than was decided on.
/// Whoever sends the request frames it anew, so that no true `Content-Length` is lost here.
const OURS: [&str; 14] = [
    "client-cert",
    "client-cert-chain",
    "content-length",
    "forwarded",
    "proxy",
    "traceparent",
    "tracestate",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-request-id",
    "x-client-cert",
    "x-client-ip",
];

// `X-SSL-…` and `SSL-…` are how others pass on what a client's certificate says.
const OUR_PREFIXES: [&str; 6] =
    ["x-forwarded-", "x-original-", "x-rewrite-", "x-portcullis-", "x-ssl-client-", "ssl-client-"];

/// How a lenient backend reads a byte of a header's name.
const fn collapse(byte: u8) -> u8 {
    match byte.to_ascii_lowercase() {
        byte @ (b'a'..=b'z' | b'0'..=b'9') => byte,
        _ => b'-',
    }
}

fn collapsed_eq(name: &str, collapsed: &str) -> bool {
    name.len() == collapsed.len() && starts_collapsed(name, collapsed.as_bytes())
}

/// Whether the collapsed name begins with `prefix`, which is collapsed already.
pub fn starts_collapsed(name: &str, prefix: &[u8]) -> bool {
    name.len() >= prefix.len() && name.bytes().map(collapse).zip(prefix).all(|(byte, wanted)| byte == *wanted)
}

/// Removes what `Connection` nominates (RFC 9110 §7.6.1); says whether the connection is to be closed
/// after this message (RFC 9112 §9.6).
///
/// Nominating an end-to-end header such as `Host` has no effect beyond removing it: what the gateway
/// sets is set afterwards.
pub fn remove_nominated(headers: &mut HeaderMap) -> bool {
    let (mut nominated, mut close) = (Vec::new(), false);
    for line in headers.get_all(header::CONNECTION) {
        for token in line.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            // The usual ones are no headers, or one that is hop-by-hop by itself.
            if token.eq_ignore_ascii_case(b"close") {
                close = true;
            } else if !token.eq_ignore_ascii_case(b"keep-alive") {
                nominated.extend(HeaderName::from_bytes(token));
            }
        }
    }
    for name in nominated {
        headers.remove(name);
    }
    close
}

/// Several `Cookie` lines are one list (RFC 6265 §5.4); backends that take the first or the last
/// line would see different ones.
pub fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// A header that must be there at most once was there more often.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than one {0} header")]
pub struct Ambiguous(pub HeaderName);

/// The value of a header that may stand in a message at most once.
///
/// # Errors
/// When it stands there more often: taking either of them would be a guess.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Ambiguous> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(Ambiguous(name.clone())),
    }
}

/// The first value of a header that decides nothing, so that further ones do no harm.
pub fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    headers.get_all(name).iter().next()
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    // Our own answer types are maps with text keys, which always serialize.
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body error can come out of code that has none.
impl From<Infallible> for BodyError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_header_that_must_be_single_is_refused_when_it_is_not() {
        let two = headers(&[("authorization", "a"), ("authorization", "a")]);
        assert_eq!(single(&two, &header::AUTHORIZATION), Err(Ambiguous(header::AUTHORIZATION)));
        assert_eq!(single(&two, &header::HOST), Ok(None));
    }

    /// Every character that a header's name may have (RFC 9110 §5.6.2).
    const TOKEN: &str = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

    /// A lenient backend's reading of a name, written out plainly.
    fn folded(name: &str) -> String {
        name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    }

    proptest::proptest! {
        #[test]
        fn no_spelling_of_our_words_is_anybody_elses(
            at: proptest::sample::Index,
            replacements in proptest::collection::vec((proptest::sample::select(TOKEN.chars().collect::<Vec<_>>()), proptest::bool::ANY), 40),
            tail in "[a-z0-9-]{0,6}",
        ) {
            let whole = HOP_BY_HOP.map(|name| name.as_str().to_owned()).into_iter().chain(OURS.map(str::to_owned));
            let all: Vec<String> = whole.chain(OUR_PREFIXES.map(|prefix| format!("{prefix}{tail}"))).collect();
            let name = &all[at.index(all.len())];
            let spelled: String = name.chars().zip(replacements).map(|(c, (other, upper))| match c {
                '-' if other.is_ascii_alphanumeric() => '_',
                '-' => other,
                c if upper => c.to_ascii_uppercase(),
                c => c,
            }).collect();
            proptest::prop_assert!(is_ours(&HeaderName::from_bytes(spelled.as_bytes()).unwrap()), "{spelled}");
        }

        #[test]
        fn what_is_ours_is_exactly_what_reads_like_it(name in "[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,16}|[cfkptuxCFKPTUX][!#$%&'*+.^_`|~0-9a-zA-Z-]{0,24}|x[-_.~](forwarded|original|rewrite|portcullis)[-_.~!][a-z]{0,4}") {
            let reading = folded(&name);
            let expected = HOP_BY_HOP.iter().any(|hop| reading == hop.as_str())
                || OURS.contains(&reading.as_str())
                || OUR_PREFIXES.iter().any(|prefix| reading.starts_with(prefix));
            proptest::prop_assert_eq!(is_ours(&HeaderName::from_bytes(name.as_bytes()).unwrap()), expected, "{}", name);
        }
    }
}
