//! Which pages of other origins may use the identity routes (Fetch standard §3.2, CORS).
//!
//! Answers never say that credentials may be sent along: tokens travel in bodies and in
//! `Authorization`, which a page adds itself, and no cookie means anything here.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use crate::config;
use crate::http::{Body, single};
use crate::problem::{Code, Problem};

/// What a request of another origin may, and what its answer has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The origin that may read the answer.
    granted: Option<HeaderValue>,
    /// Whether the answer depends on the origin.
    varies: bool,
}

impl Crossing {
    /// Judges where a request for `host` comes from. Without `cors` nothing is said and nothing
    /// refused: browsers keep pages of other origins from reading the answers.
    ///
    /// # Errors
    /// `origin_denied` when it comes from an origin that is neither in the list nor this host's own.
    pub fn judge(
        cors: Option<&config::Cors>,
        headers: &HeaderMap,
        host: Option<&HeaderValue>,
    ) -> Result<Self, Problem> {
        let Some(cors) = cors else { return Ok(Self { granted: None, varies: false }) };
        let denied = || Problem::from(Code::OriginDenied).because("origin");
        let origin = single(headers, &header::ORIGIN).map_err(|_repeated| denied())?;
        let granted = match origin {
            None => None,
            Some(origin) if cors.origins.contains(origin) => Some(origin.clone()),
            // Browsers send `Origin` with every POST, also to where the page came from.
            Some(origin) if is_own(origin, host) => None,
            Some(_) => return Err(denied()),
        };
        Ok(Self { granted, varies: true })
    }

    /// The answer to a preflight, which has no token and no body; `None` for any other request.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if self.granted.is_none() || request.method() != Method::OPTIONS || !asks {
            return None;
        }
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, Traceparent, X-Request-Id"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        self.apply(headers);
        Some(response)
    }

    /// Says in an answer who may read it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = &self.granted {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let readable = HeaderValue::from_static("Retry-After, WWW-Authenticate, X-Request-Id");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
        }
    }
}

/// Whether an origin is the host that was asked. Its scheme is not known behind a proxy that ends TLS.
pub fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let host = host.and_then(|host| host.to_str().ok());
    matches!((authority, host), (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(origins: &[&'static str], host: &'static str) -> Result<Crossing, Code> {
        let cors = config::Cors { origins: vec![HeaderValue::from_static("https://app.example")] };
        let headers = origins.iter().map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))).collect();
        Crossing::judge(Some(&cors), &headers, Some(&HeaderValue::from_static(host))).map_err(|problem| problem.code)
    }

    #[test]
    fn origins_are_compared_whole() {
        let granted = |origin| Ok(Crossing { granted: Some(HeaderValue::from_static(origin)), varies: true });
        let unasked = Ok(Crossing { granted: None, varies: true });
        assert_eq!(judge(&["https://app.example"], "gate.example"), granted("https://app.example"));
        assert_eq!(judge(&[], "gate.example"), unasked);
        assert_eq!(judge(&["https://gate.example:8443"], "Gate.example:8443"), unasked, "the page's own");
        for origin in [
            "null",
            "",
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil.example",
            "https://evil-app.example",
            "https://app.example/",
            "https://APP.example",
            "https://gate.example.evil.example",
            "gate.example",
        ] {
            assert_eq!(judge(&[origin], "gate.example"), Err(Code::OriginDenied), "{origin}");
        }
        assert_eq!(judge(&["https://app.example"; 2], "gate.example"), Err(Code::OriginDenied), "one too many");
    }

    #[test]
    fn only_a_preflight_of_a_granted_origin_is_one() {
        let crossing = judge(&["https://app.example"], "gate.example").unwrap();
        let request = |method: Method, asks: bool| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            if asks {
                request.headers_mut().insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
            }
            request
        };
        assert!(crossing.preflight(&request(Method::OPTIONS, true)).is_some());
        assert!(crossing.preflight(&request(Method::OPTIONS, false)).is_none());
        assert!(crossing.preflight(&request(Method::POST, true)).is_none());
        let unasked = judge(&[], "gate.example").unwrap();
        assert!(unasked.preflight(&request(Method::OPTIONS, true)).is_none());
    }
}
