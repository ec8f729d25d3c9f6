//! What a route changes on the way: the path that goes upstream, and headers in both directions.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::config::PathPattern;

/// `strip_prefix` and `rewrite`: what goes upstream in place of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Cut off by whole segments; every path of the route begins so. Without `strip_prefix` it is
    /// what the route's own pattern has in front of its star.
    pub strip: String,
    /// `Prefix`: put in front of the rest. `Exact`: sent whatever the rest is.
    pub to: PathPattern,
}

impl Rewrite {
    /// The path to send for a path of the route. A function of the normal form alone; the caller
    /// brings what comes out into normal form again.
    pub fn apply(&self, path: &str) -> String {
        let rest = path.strip_prefix(self.strip.as_str()).unwrap_or(path);
        match &self.to {
            PathPattern::Exact(path) => path.clone(),
            PathPattern::Prefix(prefix) if prefix.is_empty() && rest.is_empty() => "/".to_owned(),
            PathPattern::Prefix(prefix) => format!("{prefix}{rest}"),
        }
    }
}

/// `request_headers` or `response_headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Every line of these goes.
    pub remove: Vec<HeaderName>,
    /// Each replaces what is there. Values that look like credentials are marked as sensitive.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Carries them out.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::path::pattern;
    use crate::path::normalize;
    use proptest::prelude::*;

    fn rewrite(strip: &str, to: &str) -> Rewrite {
        Rewrite { strip: strip.to_owned(), to: pattern(to, true).unwrap() }
    }

    #[test]
    fn prefixes_are_cut_and_put_by_whole_segments() {
        for (strip, to, path, sent) in [
            ("/api", "/*", "/api/x/y", "/x/y"),
            ("/api", "/*", "/api/", "/"),
            ("/api", "/*", "/api", "/"),
            ("/api", "/v1/*", "/api/x", "/v1/x"),
            ("/api", "/v1/*", "/api/", "/v1/"),
            ("/api", "/v1/*", "/api", "/v1"),
            ("", "/v1/*", "/x", "/v1/x"),
            ("", "/v1/*", "/", "/v1/"),
            ("/api", "/health", "/api/x", "/health"),
            ("/api", "/*", "/api/a%2Fb;c", "/a%2Fb;c"),
        ] {
            assert_eq!(rewrite(strip, to).apply(path), sent, "{path} by {strip} to {to}");
        }
    }

    #[test]
    fn removed_goes_set_replaces_and_the_rest_stays() {
        let line =
            |name: &'static str, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let edits = HeaderEdits { remove: vec![HeaderName::from_static("a")], set: vec![line("b", "new")] };
        let mut headers: HeaderMap = [line("a", "1"), line("b", "old"), line("c", "3")].into_iter().collect();
        headers.append("a", HeaderValue::from_static("2"));
        headers.append("b", HeaderValue::from_static("older"));
        edits.apply(&mut headers);
        assert_eq!(headers, [line("b", "new"), line("c", "3")].into_iter().collect());
    }

    proptest! {
        #[test]
        fn what_comes_out_is_normal_already(rest in r"(/([a-z.]{1,3}|%2[0-9A-F]|%25|;[a-z]|[0-9]{2}|é){1,3}){0,4}/?", to in "(/[a-z]{1,3}){0,2}") {
            let path = format!("/api{rest}");
            if let Ok(normal) = normalize(&path) {
                let rewrite = rewrite("/api", &format!("{to}/*"));
                let sent = rewrite.apply(&normal.text);
                let again = normalize(&sent).expect("no new ambiguity");
                prop_assert_eq!(&again.text, &sent);
                let lenient = normal.lenient.as_deref().map(|path| rewrite.apply(path));
                prop_assert_eq!(again.lenient, lenient, "both readings are rewritten alike");
            }
        }
    }
}
