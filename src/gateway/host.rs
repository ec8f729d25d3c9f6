//! Which host a request is for (RFC 9110 §7.2, RFC 9112 §3.2).

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Uri, uri};

use crate::http::single;

/// The one host that a request is for.
#[derive(Debug, PartialEq, Eq)]
pub struct EffectiveHost<'a> {
    /// Lower case, without port and trailing dot: what routes are matched with. Empty for
    /// HTTP/1.0 requests without one.
    pub name: Cow<'a, str>,
    /// As the client wrote it, with its port: what an upstream may be told.
    pub value: Option<HeaderValue>,
}

/// Why there is not one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum HostError {
    #[error("there is more than one Host header")]
    Repeated,
    #[error("the Host header is not a host")]
    Malformed,
    #[error("the target names another host than the Host header")]
    Contradiction,
}

/// Finds the host of a request. An absolute target and the `Host` header have to agree.
///
/// # Errors
/// When they do not, or when either is not a host with an optional port.
pub fn effective_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<EffectiveHost<'a>, HostError> {
    let scheme_port = if uri.scheme() == Some(&uri::Scheme::HTTPS) { 443 } else { 80 };
    let normal_name = |text| normal_name(text, scheme_port);
    let header = single(headers, &header::HOST).map_err(|_repeated| HostError::Repeated)?;
    let from_header = header.map(|value| normal_name(value.to_str().unwrap_or_default())).transpose()?;
    let from_target = uri.authority().map(uri::Authority::as_str).map(normal_name).transpose()?;
    match (from_header, from_target) {
        (Some(header), Some(target)) if header != target => Err(HostError::Contradiction),
        (Some((name, _)), _) => Ok(EffectiveHost { name, value: header.cloned() }),
        (None, Some((name, _))) => {
            let value = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
            Ok(EffectiveHost { name, value })
        }
        (None, None) => Ok(EffectiveHost { name: Cow::Borrowed(""), value: None }),
    }
}

/// The name in a `Host` header in normal form; empty where there is none.
///
/// # Errors
/// When it is not a host with an optional port.
pub(super) fn host_name(value: Option<&HeaderValue>) -> Result<Cow<'_, str>, HostError> {
    let Some(value) = value else { return Ok(Cow::Borrowed("")) };
    Ok(normal_name(value.to_str().unwrap_or_default(), 80)?.0)
}

/// Name in normal form, and the port if it is not the scheme's own (RFC 9110 §4.2.3).
fn normal_name(text: &str, scheme_port: u16) -> Result<(Cow<'_, str>, Option<u16>), HostError> {
    let end = if text.starts_with('[') {
        text.find(']').map_or(0, |at| at + 1)
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (name, port) = text.split_at_checked(end).ok_or(HostError::Malformed)?;
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        // RFC 3986 §3.2.3: the port may be empty.
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_overflow| HostError::Malformed)?)
        }
        _ => return Err(HostError::Malformed),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_literal = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    let valid = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(literal) => is_literal(literal),
        None => {
            name.bytes().all(is_name) && !name.as_bytes().windows(2).any(|pair| pair == b"..") && !name.starts_with('.')
        }
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || !valid {
        return Err(HostError::Malformed);
    }
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    Ok((name, port.filter(|port| *port != scheme_port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(target: &str, lines: &[&'static str]) -> Result<String, HostError> {
        let uri: Uri = target.parse().unwrap();
        let headers =
            lines.iter().map(|line| (header::HOST, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect();
        effective_host(&uri, &headers).map(|host| host.name.into_owned())
    }

    #[test]
    fn names_are_brought_into_one_form() {
        for (line, name) in [
            ("app.example.com", "app.example.com"),
            ("APP.Example.com.:8080", "app.example.com"),
            ("localhost:", "localhost"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("under_score", "under_score"),
        ] {
            assert_eq!(host("/", &[line]).as_deref(), Ok(name), "{line}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for line in [
            "", "a b", "a/b", "a@b", "a,b", "a:b", "a:99999", "a:80:80", "[::1", "[x]", "::1", "a..b", ".a", ".",
            "a?b", "a#b",
        ] {
            assert_eq!(host("/", &[line]), Err(HostError::Malformed), "{line}");
        }
        assert_eq!(host("/", &["a", "a"]), Err(HostError::Repeated));
    }

    #[test]
    fn target_and_header_have_to_agree() {
        assert_eq!(host("http://App.example/x", &["app.example"]).as_deref(), Ok("app.example"));
        assert_eq!(host("https://public.example/", &["admin.example"]), Err(HostError::Contradiction));
        assert_eq!(host("http://a:80/", &["a"]).as_deref(), Ok("a"));
        assert_eq!(host("https://a/", &["a:443"]).as_deref(), Ok("a"));
        assert_eq!(host("http://a/", &["a:443"]), Err(HostError::Contradiction));
        assert_eq!(host("http://a:81/", &["a:82"]), Err(HostError::Contradiction));
        assert_eq!(host("http://u@a/", &["a"]), Err(HostError::Malformed));
        assert_eq!(host("http://a/", &[]).as_deref(), Ok("a"), "HTTP/1.0");
        assert_eq!(host("/", &[]).as_deref(), Ok(""), "HTTP/1.0");
    }
}
