//! Headers after a body (RFC 9110 §6.5), in both directions.
//!
//! Receivers, hyper among them, may take only those that the head announced, so the announcement has
//! to travel too, although `Trailer` itself is a header of one connection.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::http::{HOP_BY_HOP, is_ours};

/// What a client's head said of trailers.
#[derive(Clone, Debug, Default)]
pub struct Trailers {
    pub(super) announced: Option<HeaderValue>,
    pub(super) accepted: bool,
}

impl Trailers {
    /// Reads `Trailer` and `TE` (RFC 9110 §6.6.2, §10.1.4). Has to see the client's own head:
    /// removing the hop-by-hop headers removes both. Names that only the gateway may say, and those
    /// for which `managed` is true, are not announced.
    pub fn of(headers: &HeaderMap, managed: impl Fn(&HeaderName) -> bool) -> Self {
        let accepted = headers.get_all(header::TE).iter().any(|line| {
            let codings = line.to_str().unwrap_or_default().split(',');
            codings.map(|coding| coding.split(';').next().unwrap_or_default()).any(is_trailers)
        });
        Self { announced: announced(headers, |name| is_ours(name) || managed(name)), accepted }
    }
}

fn is_trailers(coding: &str) -> bool {
    coding.trim().eq_ignore_ascii_case("trailers")
}

/// The `Trailer` header to send on: the announced names without those that may not follow a body.
pub(super) fn announced(headers: &HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) -> Option<HeaderValue> {
    let mut list = String::new();
    for line in headers.get_all(header::TRAILER) {
        for name in line.to_str().unwrap_or_default().split(',') {
            let Ok(name) = HeaderName::from_bytes(name.trim().as_bytes()) else { continue };
            if is_forbidden(&name) || unwanted(&name) {
                continue;
            }
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(name.as_str());
        }
    }
    if list.is_empty() { None } else { HeaderValue::try_from(list).ok() }
}

/// Removes the trailers that may not follow a body, and those that are `unwanted`.
pub(super) fn strip(trailers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = trailers.keys().filter(|name| is_forbidden(name) || unwanted(name)).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Fields that frame, route or authenticate a message, which therefore may not come after it
/// (RFC 9110 §6.5.1).
fn is_forbidden(name: &HeaderName) -> bool {
    const FORBIDDEN: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::HOST,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
    ];
    FORBIDDEN.contains(name) || HOP_BY_HOP.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn framing_and_managed_names_are_not_announced() {
        let head =
            headers(&[("trailer", "X-Sum, content-length, X-Auth-Subject"), ("trailer", "x-two,, te, x_real_ip")]);
        let trailers = Trailers::of(&head, |name| name.as_str().starts_with("x-auth-"));
        assert_eq!(trailers.announced.unwrap(), "x-sum, x-two");
        assert!(!trailers.accepted);
        assert!(Trailers::of(&headers(&[("trailer", "host")]), |_| false).announced.is_none());
    }

    #[test]
    fn te_trailers_is_found_in_any_list() {
        for value in ["trailers", "gzip, Trailers", "trailers;q=0.5"] {
            assert!(Trailers::of(&headers(&[("te", value)]), |_| false).accepted, "{value}");
        }
        assert!(!Trailers::of(&headers(&[("te", "gzip")]), |_| false).accepted);
    }

    #[test]
    fn forbidden_trailers_are_removed() {
        let mut trailers = headers(&[("x-sum", "1"), ("authorization", "b"), ("te", "c"), ("x-auth-groups", "d")]);
        strip(&mut trailers, |name| name.as_str().starts_with("x-auth-"));
        assert_eq!(trailers, headers(&[("x-sum", "1")]));
    }
}
