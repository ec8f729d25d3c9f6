//! The answer of a listener that only sends its clients to TLS.

use http::header::{HeaderValue, LOCATION};
use http::{Response, StatusCode, Uri};

use super::host::EffectiveHost;
use crate::access::forwarded::X_REQUEST_ID;
use crate::http::Body;
use crate::problem::{Code, Problem};
use crate::telemetry::trace::RequestId;

/// 308 (RFC 9110 §15.4.9) to the same URL with `https` at `port`.
///
/// # Errors
/// When the request names no host.
pub(super) fn to_https(
    host: &EffectiveHost<'_>,
    port: u16,
    target: &Uri,
    request_id: RequestId,
) -> Result<Response<Body>, Problem> {
    let nowhere = || Problem { close: true, ..Problem::from(Code::RequestMalformed).because("host") };
    if host.name.is_empty() {
        return Err(nowhere());
    }
    // The effective host is a checked one, so that nobody can be sent anywhere else by what follows.
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let path = target.path_and_query().map(http::uri::PathAndQuery::as_str).filter(|path| path.starts_with('/'));
    let location = format!("https://{}{port}{}", host.name, path.unwrap_or("/"));
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_bytes(location.as_bytes()).map_err(|_| nowhere())?);
    headers.insert(X_REQUEST_ID, request_id.header_value());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::http::first;

    fn location(host: &str, port: u16, target: &str) -> Option<String> {
        let host = EffectiveHost { name: Cow::Borrowed(host), value: None };
        let response = to_https(&host, port, &target.parse().unwrap(), RequestId::random()).ok()?;
        assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
        Some(first(response.headers(), &LOCATION).unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn the_same_url_with_https() {
        for (host, port, target, expected) in [
            ("a.example", 443, "/", "https://a.example/"),
            ("a.example", 8443, "/a/b?c=d&e", "https://a.example:8443/a/b?c=d&e"),
            ("[::1]", 443, "//evil.example/%2e%2e", "https://[::1]//evil.example/%2e%2e"),
            ("a.example", 443, "http://a.example/x?y", "https://a.example/x?y"),
            ("a.example", 443, "*", "https://a.example/"),
        ] {
            assert_eq!(location(host, port, target).as_deref(), Some(expected), "{target}");
        }
        assert_eq!(location("", 443, "/"), None, "HTTP/1.0 without a host");
    }
}
