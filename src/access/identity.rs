//! What an upstream is told, and what it must never hear from anybody else.
//!
//! [`stamp`] removes and sets in one pass and returns a [`Vetted`] request, which is the only one
//! that can be sent. Names are compared in collapsed form (every character outside `[a-z0-9]` reads
//! as `-`), because CGI, WSGI and PHP backends cannot tell `X_Auth.Subject` from `X-Auth-Subject`.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::Body as HttpBody;

use super::Permit;
use super::assertion::{self, Assertion};
use super::forwarded::Forwarded;
use crate::clock::Timestamp;
use crate::config::{self, ClaimSource, HeaderEdits};
use crate::http::{Body, BodyError, is_ours, join_cookies, remove_nominated};
use crate::token::Claims;
use crate::upstream::{self, Connections, Exchange, Managed, Timing, Upstream};

/// Identity headers that are ready to be set.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

/// A claim that cannot stand in a header without being read as something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim behind {0} cannot be put into a header")]
pub struct Unrepresentable(pub HeaderName);

/// `[identity]`, ready for use.
pub struct Identity {
    headers: Vec<(HeaderName, ClaimSource)>,
    managed: Managed,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("headers", &self.headers).finish_non_exhaustive()
    }
}

impl Identity {
    /// From the configuration.
    pub fn new(config: &config::Identity) -> Self {
        let identity = config.clone();
        let managed = Arc::new(move |name: &HeaderName| identity.manages(name));
        Self { headers: config.headers.clone(), managed }
    }

    /// Whether a name could be read as one of the identity headers.
    pub fn managed(&self) -> &Managed {
        &self.managed
    }

    /// The headers that tell an upstream who sent a token. An absent claim is an absent header.
    ///
    /// # Errors
    /// When a claim contains control characters, is a structure, or is a list with a member that has
    /// a comma in it or a space at an end.
    pub fn headers_for(&self, claims: &Claims, pool: &config::Pool) -> Result<Headers, Unrepresentable> {
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, source) in &self.headers {
            let text = match source {
                ClaimSource::Pool => Some(pool.name.to_string()),
                ClaimSource::Client => Some(claims.client.clone()),
                ClaimSource::Username => claims.username.clone(),
                ClaimSource::Claim(claim) => match claims.get(claim) {
                    None => None,
                    Some(value) => claim_text(value).ok_or_else(|| Unrepresentable(name.clone()))?,
                },
            };
            if let Some(text) = text {
                headers.push((name.clone(), encode(&text).ok_or_else(|| Unrepresentable(name.clone()))?));
            }
        }
        Ok(headers)
    }
}

/// Sets every identity header of the configuration for a proxy that copies them, empty where there is
/// nothing to say: the proxy must not leave what the client sent under that name.
///
/// # Errors
/// When a claim of the caller cannot be represented.
pub fn announce(identity: &Identity, permit: &Permit, headers: &mut HeaderMap) -> Result<(), Unrepresentable> {
    for (name, _) in &identity.headers {
        headers.insert(name.clone(), HeaderValue::from_static(""));
    }
    if let Some(principal) = permit.principal() {
        for (name, value) in principal.headers.as_ref().map_err(Clone::clone)? {
            headers.insert(name.clone(), value.clone());
        }
    }
    Ok(())
}

/// A request that was decided on, cleaned and stamped. Only [`stamp`] makes one.
#[derive(Debug)]
pub struct Vetted<B> {
    request: Request<B>,
}

/// What [`stamp`] needs besides the request and the permit.
#[derive(Debug)]
pub struct Stamp<'a> {
    /// `[identity]`.
    pub identity: &'a Identity,
    /// What is said of the connection that the request came over.
    pub forwarded: Forwarded<'a>,
    /// Whether the caller's `Authorization` is passed on.
    pub keep_authorization: bool,
    /// The request asks to switch to WebSocket.
    pub websocket: bool,
    /// What the route changes. It cannot touch what the gateway sets.
    pub edits: &'a HeaderEdits,
    /// What is signed for the upstream, and the time.
    pub assertion: Option<(&'a Assertion, Timestamp)>,
}

/// Removes what the client may not say and sets what the gateway says.
///
/// # Errors
/// When a claim of the caller cannot be represented: passing the request on without it would make
/// it another request.
pub fn stamp<B>(mut request: Request<B>, permit: &Permit, stamp: &Stamp<'_>) -> Result<Vetted<B>, Unrepresentable> {
    let headers = request.headers_mut();
    // First of all what `Connection` nominates, so that nothing set below can be nominated away.
    remove_nominated(headers);
    // What trusted proxies said is read before it is removed.
    let said = stamp.forwarded.said(headers);
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| match **name {
            header::AUTHORIZATION => !stamp.keep_authorization,
            // It may hold a token, and means nothing without the switch.
            header::SEC_WEBSOCKET_PROTOCOL => !stamp.websocket,
            _ => is_ours(name) || (stamp.identity.managed)(name),
        })
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
    join_cookies(headers);
    stamp.edits.apply(headers);
    stamp.forwarded.set(said, headers);
    if let Some(principal) = permit.principal() {
        for (name, value) in principal.headers.as_ref().map_err(Clone::clone)? {
            headers.insert(name.clone(), value.clone());
        }
    }
    if let Some((assertion, now)) = stamp.assertion {
        let principal = permit.principal().map(|principal| &**principal);
        let signed = assertion.header(&request, principal, stamp.forwarded.request_id, now);
        request.headers_mut().insert(assertion::HEADER, signed);
    }
    Ok(Vetted { request })
}

impl<B> Vetted<B>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    /// Sends the request: the one way to reach an upstream.
    ///
    /// # Errors
    /// When there is no answer that can be passed on.
    pub fn send(
        self,
        upstream: &Arc<Upstream>,
        connections: &Connections,
        exchange: &Exchange<'_>,
        timing: &mut Timing,
    ) -> impl Future<Output = Result<Response<Body>, upstream::Error>> {
        upstream::forward(upstream, connections, self.request, exchange, timing)
    }
}

impl<B> Vetted<B> {
    /// The request as it would be sent, for `explain`.
    pub fn request(&self) -> &Request<B> {
        &self.request
    }
}

/// A claim as text: `Some(None)` when there is nothing to say, `None` when it cannot be said.
fn claim_text(value: &serde_json::Value) -> Option<Option<String>> {
    let text = match value {
        serde_json::Value::Null => return Some(None),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Bool(flag) => flag.to_string(),
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::Array(members) => {
            let mut list = String::new();
            for (index, member) in members.iter().enumerate() {
                // Readers split at commas and trim.
                let member =
                    member.as_str().filter(|member| !member.contains(',') && member.trim_matches(' ') == *member)?;
                if index > 0 {
                    list.push(',');
                }
                list.push_str(member);
            }
            list
        }
        serde_json::Value::Object(_) => return None,
    };
    Some(Some(text))
}

/// A header value: control characters are refused, whatever is not ASCII is percent-encoded as
/// UTF-8, and so is `%`, so that the encoding can be undone (RFC 8187 §3.2.1 without its prefix).
/// So is a space at either end: readers of a header drop it (RFC 9110 §5.5), and ` admin` would
/// become `admin` on the way.
fn encode(text: &str) -> Option<HeaderValue> {
    if text.chars().any(char::is_control) {
        return None;
    }
    if text.is_ascii() && !text.contains('%') && text.trim_matches(' ') == text {
        return HeaderValue::from_str(text).ok();
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    for (at, byte) in text.bytes().enumerate() {
        let trimmed = byte == b' ' && (at == 0 || at + 1 == text.len());
        if byte.is_ascii() && byte != b'%' && !trimmed {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").ok()?;
        }
    }
    HeaderValue::from_str(&encoded).ok()
}

#[cfg(test)]
mod tests;
