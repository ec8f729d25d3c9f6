//! `/auth/check`: another proxy asks whether a request may pass (nginx `auth_request`, Traefik
//! ForwardAuth, Caddy `forward_auth`, Envoy ext_authz over HTTP).
//!
//! Here is what it asks about and how it is answered; the decision is the gateway's own, the same as
//! for a request that it forwards itself.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, Uri};

use crate::access::Permit;
use crate::access::identity::{Identity, announce};
use crate::http::{Body, single};
use crate::problem::{Code, Problem};

/// The path below the prefix of the identity routes.
pub const PATH: &str = "/check";

const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");

/// The request that a proxy asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its target, a path or a whole URL, with its query.
    pub target: Uri,
    /// Its `Host` where the target has none.
    pub host: HeaderMap,
}

/// Why a question cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The proxy does not say what it asks about.
    #[error("{0} is missing")]
    Missing(HeaderName),
    /// A header is there twice, or is contradicted by its other form: one of them is a client's.
    #[error("{0} is there more than once, or contradicted")]
    Ambiguous(HeaderName),
    /// A header is not what it should be.
    #[error("{0} cannot be read")]
    Malformed(HeaderName),
}

/// The path that is asked about behind [`PATH`], if the path below the prefix is this route's. Empty
/// unless the proxy appends the path, as Envoy does.
pub fn serves(below_prefix: &str) -> Option<&str> {
    below_prefix.strip_prefix(PATH).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Reads what a trusted proxy asks about: `appended` to the path, or in `X-Forwarded-Uri` and
/// `X-Forwarded-Method`, or in `X-Original-URL` and `X-Original-Method`. Whoever sends both forms must
/// say the same in both, because only one of them can be the proxy's.
///
/// # Errors
/// When it does not say, or says it in two ways.
pub fn asked(method: &Method, appended: &str, headers: &HeaderMap) -> Result<Asked, Unclear> {
    let host = one(headers, &header::HOST)?;
    if !appended.is_empty() {
        let target = appended.parse().map_err(|_invalid| Unclear::Malformed(X_FORWARDED_URI))?;
        return Ok(Asked { method: method.clone(), target, host: host_header(host) });
    }
    let forwarded = form(headers, &X_FORWARDED_URI, &X_FORWARDED_METHOD)?;
    let original = form(headers, &X_ORIGINAL_URL, &X_ORIGINAL_METHOD)?;
    let (method, target, is_forwarded) = match (forwarded, original) {
        (None, None) => return Err(Unclear::Missing(X_FORWARDED_URI)),
        (Some((method, target)), None) => (method, target, true),
        (None, Some((method, target))) => (method, target, false),
        (Some(forwarded), Some(original)) => {
            if forwarded.0 != original.0 || forwarded.1.path_and_query() != original.1.path_and_query() {
                return Err(Unclear::Ambiguous(X_FORWARDED_URI));
            }
            (original.0, original.1, true)
        }
    };
    // A whole URL names its host; `Host` is then that of this server.
    let host = if is_forwarded { one(headers, &X_FORWARDED_HOST)?.or(host) } else { host };
    let host = if target.authority().is_some() && !is_forwarded { None } else { host };
    Ok(Asked { method, target, host: host_header(host) })
}

/// Yes, and who is calling.
///
/// # Errors
/// When a claim cannot stand in a header.
pub fn answer(identity: &Identity, permit: &Permit) -> Result<Response<Body>, Problem> {
    let mut response = Response::new(Body::Empty);
    announce(identity, permit, response.headers_mut())?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// No. Proxies pass 401 and 403 on, and nginx takes any other 4xx for a fault of this server: what
/// would have been another one becomes a 403 whose reason is the code.
pub fn refusal(problem: Problem) -> Problem {
    let status = problem.code.status();
    if !status.is_client_error() || matches!(status.as_u16(), 401 | 403 | 429) {
        return problem;
    }
    Problem::from(Code::AccessDenied).because(problem.code.as_str())
}

impl From<Unclear> for Problem {
    fn from(unclear: Unclear) -> Self {
        let (code, name) = match &unclear {
            Unclear::Missing(name) | Unclear::Malformed(name) => (Code::RequestMalformed, name),
            Unclear::Ambiguous(name) => (Code::HeaderAmbiguous, name),
        };
        Self::new(code, unclear.to_string()).because(name.as_str().to_owned())
    }
}

/// Target and method in one of the two forms; `None` when it has no target. A target without its
/// method is no question: GET may be allowed where DELETE is not.
fn form(headers: &HeaderMap, target: &HeaderName, method: &HeaderName) -> Result<Option<(Method, Uri)>, Unclear> {
    let Some(text) = one(headers, target)? else { return Ok(None) };
    let text = text.to_str().map_err(|_invalid| Unclear::Malformed(target.clone()))?;
    // What comes behind a `#` would be dropped in silence.
    let is_target = text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://");
    let uri = if is_target && !text.contains('#') { text.parse().ok() } else { None };
    let uri = uri.ok_or_else(|| Unclear::Malformed(target.clone()))?;
    let name = one(headers, method)?.ok_or_else(|| Unclear::Missing(method.clone()))?;
    let name = Some(name.as_bytes()).filter(|name| !name.iter().any(u8::is_ascii_lowercase));
    let name = name.and_then(|name| Method::from_bytes(name).ok());
    Ok(Some((name.ok_or_else(|| Unclear::Malformed(method.clone()))?, uri)))
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Unclear> {
    let value = single(headers, name).map_err(|_repeated| Unclear::Ambiguous(name.clone()))?;
    // Proxies that cannot remove a header set it to nothing.
    Ok(value.filter(|value| !value.is_empty()))
}

fn host_header(host: Option<&HeaderValue>) -> HeaderMap {
    host.map(|host| (header::HOST, host.clone())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(appended: &str, lines: &[(&'static str, &'static str)]) -> Result<String, Unclear> {
        let headers = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let Asked { method, target, host } = asked(&Method::PUT, appended, &headers)?;
        let host = one(&host, &header::HOST)?.map_or("-", |host| host.to_str().unwrap());
        Ok(format!("{method} {target} {host}"))
    }

    #[test]
    fn each_proxy_has_its_own_way_to_ask() {
        let traefik = [
            ("host", "gate"),
            ("x-forwarded-method", "GET"),
            ("x-forwarded-host", "app.example"),
            ("x-forwarded-uri", "/a?b"),
        ];
        assert_eq!(ask("", &traefik).as_deref(), Ok("GET /a?b app.example"));
        assert_eq!(ask("", &[traefik[0], traefik[1], traefik[3]]).as_deref(), Ok("GET /a?b gate"));
        let nginx = [
            ("host", "app.example"),
            ("x-original-url", "https://app.example/a?b"),
            ("x-original-method", "DELETE"),
            ("x-forwarded-uri", ""),
        ];
        assert_eq!(ask("", &nginx).as_deref(), Ok("DELETE https://app.example/a?b -"));
        let path = [nginx[0], ("x-original-url", "/a"), nginx[2]];
        assert_eq!(ask("", &path).as_deref(), Ok("DELETE /a app.example"));
        assert_eq!(ask("/a/b", &[("host", "app.example")]).as_deref(), Ok("PUT /a/b app.example"), "Envoy");
    }

    #[test]
    fn what_is_missing_doubled_or_contradicted_is_no_question() {
        let (uri, method) = (("x-forwarded-uri", "/a"), ("x-forwarded-method", "GET"));
        let (url, verb) = (("x-original-url", "/a"), ("x-original-method", "GET"));
        for (lines, expected) in [
            (vec![], Unclear::Missing(X_FORWARDED_URI)),
            (vec![uri], Unclear::Missing(X_FORWARDED_METHOD)),
            (vec![url, method], Unclear::Missing(X_ORIGINAL_METHOD)),
            (vec![uri, uri, method], Unclear::Ambiguous(X_FORWARDED_URI)),
            (vec![uri, method, method], Unclear::Ambiguous(X_FORWARDED_METHOD)),
            (vec![uri, method, url, ("x-original-method", "PUT")], Unclear::Ambiguous(X_FORWARDED_URI)),
            (vec![uri, method, ("x-original-url", "/b"), verb], Unclear::Ambiguous(X_FORWARDED_URI)),
            (vec![("x-forwarded-uri", "/a#b"), method], Unclear::Malformed(X_FORWARDED_URI)),
            (vec![("x-forwarded-uri", "a"), method], Unclear::Malformed(X_FORWARDED_URI)),
            (vec![("x-forwarded-uri", "*"), method], Unclear::Malformed(X_FORWARDED_URI)),
            (vec![("x-forwarded-uri", "/a b"), method], Unclear::Malformed(X_FORWARDED_URI)),
            (vec![uri, ("x-forwarded-method", "get")], Unclear::Malformed(X_FORWARDED_METHOD)),
        ] {
            assert_eq!(ask("", &lines), Err(expected), "{lines:?}");
        }
        assert!(ask("", &[uri, method, url, verb]).is_ok(), "both say the same");
    }

    #[test]
    fn refusals_are_those_that_proxies_pass_on() {
        for (code, status, reason) in [
            (Code::TokenExpired, 401, "token_expired"),
            (Code::AccessDenied, 403, "access_denied"),
            (Code::RateLimited, 429, "rate_limited"),
            (Code::RouteUnknown, 403, "route_unknown"),
            (Code::MethodNotAllowed, 403, "method_not_allowed"),
            (Code::PathAmbiguous, 403, "path_ambiguous"),
            (Code::KeysUnavailable, 503, "keys_unavailable"),
        ] {
            let refused = refusal(code.into());
            assert_eq!((refused.code.status().as_u16(), &*refused.reason), (status, reason));
        }
    }

    #[test]
    fn it_has_its_path_and_what_is_below() {
        assert_eq!((serves("/check"), serves("/check/"), serves("/check/a")), (Some(""), Some("/"), Some("/a")));
        assert_eq!((serves("/checks"), serves("/login"), serves("")), (None, None, None));
    }
}
