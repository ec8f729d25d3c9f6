//! The head of an HTTP/2 request, checked and brought into the form that an HTTP/1.1 head has,
//! before anybody decides on it.
//!
//! What `h2` refuses never comes here: pseudo-headers that are missing, repeated, unknown, late or
//! not of their grammar, connection headers, upper-case names, control bytes (RFC 9113 §8.2, §8.3).
//! It resets such a stream, or ends the connection.

use http::header::{self, HeaderValue};
use http::{Method, Request, Uri};

use crate::http::{join_cookies, single};
use crate::server::framing::{HeadLimits, MAX_TARGET, Refusal};

/// Checks a head and makes it an ordinary one: its cookies in one line, and a `Host`. An `extended`
/// CONNECT has the target of any other request (RFC 8441 §4).
///
/// # Errors
/// When a server behind the gateway could read it as another request than the one that is decided
/// on, or when it is too large.
pub(super) fn vet<B>(request: &mut Request<B>, extended: bool, limits: HeadLimits) -> Result<(), Refusal> {
    // RFC 9113 §8.2.3: clients cut cookies into crumbs to compress them better.
    join_cookies(request.headers_mut());
    check_size(request, limits)?;
    // Methods are case-sensitive, but not every backend knows: `post` must not get past a rule for `POST`.
    if request.method().as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Refusal::Malformed("method"));
    }
    if extended || *request.method() != Method::CONNECT {
        check_target(request.method(), request.uri())?;
    }
    let headers = request.headers();
    // An HTTP/1.1 line would lose blanks at either end (RFC 9113 §8.2.1).
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if headers.values().any(|value| is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())) {
        return Err(Refusal::Malformed("header_value"));
    }
    if single(headers, &header::CONTENT_LENGTH).is_err() {
        return Err(Refusal::Ambiguous("content-length"));
    }
    if !headers.contains_key(header::HOST) {
        let authority = request.uri().authority().ok_or(Refusal::Malformed("host_missing"))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_not_text| Refusal::Malformed("host"))?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// Counts what the head would be as HTTP/1.1, so that one limit means the same in both.
fn check_size<B>(request: &Request<B>, limits: HeadLimits) -> Result<(), Refusal> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    let authority = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let fields: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    if request.headers().len() > limits.lines || target + authority + fields > limits.bytes {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

/// `http` or `https` exactly, and a path or `*` (RFC 9113 §8.3.1). CONNECT has neither.
fn check_target(method: &Method, uri: &Uri) -> Result<(), Refusal> {
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Refusal::Malformed("scheme"));
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if target.starts_with('/') || (target == "*" && *method == Method::OPTIONS) {
        Ok(())
    } else {
        Err(Refusal::Malformed("target"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, lines: 10 };

    fn vetted(method: &str, uri: &str, lines: &[(&str, &str)]) -> Result<Request<()>, Refusal> {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        let mut request = builder.body(()).unwrap();
        vet(&mut request, false, LIMITS).map(|()| request)
    }

    fn refusal(method: &str, uri: &str, lines: &[(&str, &str)]) -> Refusal {
        vetted(method, uri, lines).unwrap_err()
    }

    #[test]
    fn cookies_become_one_line_and_the_authority_a_host() {
        let request = vetted("GET", "http://a.example:81/x", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
        let headers = request.unwrap().headers().clone();
        assert_eq!(single(&headers, &header::COOKIE).unwrap().unwrap(), "a=1; b=2");
        assert_eq!(single(&headers, &header::HOST).unwrap().unwrap(), "a.example:81");
        let both = vetted("GET", "http://a/", &[("host", "b")]).unwrap();
        assert_eq!(both.headers().len(), 1, "whether they agree is the gateway's to say");
        let crumbs = [("cookie", "a=b"); 50];
        assert!(vetted("GET", "http://a/", &crumbs).is_ok(), "crumbs count as the one line that they are");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        assert_eq!(refusal("get", "http://a/", &[]), Refusal::Malformed("method"));
        assert_eq!(refusal("GET", "htTps+x://a/", &[]), Refusal::Malformed("scheme"));
        assert_eq!(refusal("GET", "ftp://a/", &[]), Refusal::Malformed("scheme"));
        assert_eq!(refusal("GET", "*", &[("host", "a")]), Refusal::Malformed("target"));
        assert!(vetted("OPTIONS", "*", &[("host", "a")]).is_ok());
        assert_eq!(refusal("GET", "/", &[]), Refusal::Malformed("host_missing"));
        assert_eq!(refusal("GET", "http://a/", &[("x", " y")]), Refusal::Malformed("header_value"));
        assert_eq!(refusal("GET", "http://a/", &[("x", "y\t")]), Refusal::Malformed("header_value"));
        let twice = [("content-length", "3"), ("content-length", "3")];
        assert_eq!(refusal("POST", "http://a/", &twice), Refusal::Ambiguous("content-length"));
    }

    #[test]
    fn size_and_number_are_those_of_http_1() {
        assert_eq!(refusal("GET", "http://a/", &[("x", &"y".repeat(1024))]), Refusal::HeadTooLarge);
        assert_eq!(refusal("GET", "http://a/", &[("x", "y"); 11]), Refusal::HeadTooLarge);
        assert!(vetted("GET", "http://a/", &[("x", "y"); 10]).is_ok());
        let crumbs = [("cookie", "0123456789=0123456789"); 50];
        assert_eq!(refusal("GET", "http://a/", &crumbs), Refusal::HeadTooLarge, "crumbs count by their bytes");
        assert_eq!(refusal("GET", &format!("http://a/{}", "x".repeat(8192)), &[]), Refusal::TargetTooLong);
    }
}
