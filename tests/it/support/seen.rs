//! A request as it arrived at an upstream, and what no gateway may send there.

use super::reply::Fields;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Which connection it came over; the first is 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// Every byte of it.
    pub(crate) raw: Vec<u8>,
}

impl Seen {
    /// The value of a header that stands there at most once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there more than once: {}", self.text());
        value
    }

    /// All of it, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// Header names that a lenient server could read as one of the identity headers.
    pub(crate) fn identity(&self) -> Vec<(&str, &str)> {
        let collapse = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let ours = self.headers.iter().filter(|(name, _)| collapse(name).starts_with("x-auth-"));
        ours.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// What is wrong with the head of a request, whatever the client had sent.
pub(super) fn violation(seen: &Seen) -> Option<String> {
    let count = |name: &str| seen.headers.iter().filter(|(n, _)| n == name).count();
    if count("host") != 1 {
        return Some("not exactly one Host".to_owned());
    }
    if count("content-length") + count("transfer-encoding") > 1 {
        return Some("more than one framing".to_owned());
    }
    if count("cookie") > 1 {
        return Some("split cookies".to_owned());
    }
    for (name, value) in &seen.headers {
        let bad = match name.as_str() {
            "connection" => !["close", "keep-alive", "te"].contains(&value.to_ascii_lowercase().as_str()),
            "transfer-encoding" => value != "chunked",
            "content-length" => value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()),
            // RFC 9110 §10.1.4: the one coding that a hop may ask for.
            "te" => value != "trailers",
            "keep-alive" | "proxy-connection" | "proxy-authorization" | "upgrade" | "http2-settings" => true,
            "x-forwarded-uri" | "x-forwarded-method" | "x-forwarded-prefix" | "x-http-method-override" => true,
            name => name.starts_with("x-original-") || name.starts_with("x-rewrite-"),
        };
        if bad {
            return Some(format!("{name}: {value}"));
        }
    }
    let plain = seen.target.starts_with('/')
        && !seen.target.starts_with("//")
        && !seen.target.contains(['#', '\\'])
        && !seen.target.split('?').next().unwrap_or_default().split('/').any(|s| s == "." || s == "..");
    if !plain {
        return Some(format!("target {:?}", seen.target));
    }
    let bare = (0..seen.raw.len()).any(|at| seen.raw[at] == b'\n' && (at == 0 || seen.raw[at - 1] != b'\r'));
    bare.then(|| "a bare LF".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::reply::parse_field;

    #[test]
    fn every_violation_is_noticed() {
        let seen = |head: &str| {
            let mut lines = head.split("\r\n");
            let target = lines.next().unwrap_or_default().to_owned();
            let headers = lines.filter(|l| !l.is_empty()).map(parse_field).collect();
            let raw = head.as_bytes().to_vec();
            Seen { connection: 0, method: "GET".into(), target, headers, body: vec![], trailers: vec![], raw }
        };
        assert_eq!(violation(&seen("/a?b=//\r\nhost: h\r\nconnection: close")), None);
        for head in [
            "/",
            "/\r\nhost: h\r\nhost: h",
            "/\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked",
            "/\r\nhost: h\r\ntransfer-encoding: gzip, chunked",
            "/\r\nhost: h\r\ncontent-length: +1",
            "/\r\nhost: h\r\nconnection: x-auth-subject",
            "/\r\nhost: h\r\nte: gzip",
            "/\r\nhost: h\r\nx-original-url: /",
            "/\r\nhost: h\r\ncookie: a=b\r\ncookie: c=d",
            "//a\r\nhost: h",
            "/a/../b\r\nhost: h",
            "/a#b\r\nhost: h",
            "http://h/\r\nhost: h",
            "/\r\nhost: h\nx: y",
        ] {
            assert!(violation(&seen(head)).is_some(), "{head:?}");
        }
    }
}
