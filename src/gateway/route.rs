//! Which route a request takes: host, path and method in, the best match out.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;
use http::Method;

use crate::config::{self, HostPattern, PathPattern};
use crate::path::{Ambiguity, NormalPath};

/// What the table needs to know of a route.
pub trait Pattern {
    /// Which hosts.
    fn host(&self) -> &HostPattern;
    /// Which paths.
    fn path(&self) -> &PathPattern;
    /// Which methods; `None`: all.
    fn methods(&self) -> Option<&[Method]>;
    /// Whether it takes paths with an encoded slash.
    fn keep_encoded_slashes(&self) -> bool;
}

impl Pattern for Arc<config::Route> {
    fn host(&self) -> &HostPattern {
        &self.host
    }
    fn path(&self) -> &PathPattern {
        &self.path
    }
    fn methods(&self) -> Option<&[Method]> {
        self.methods.as_deref()
    }
    fn keep_encoded_slashes(&self) -> bool {
        self.keep_encoded_slashes
    }
}

/// Routes of one snapshot, ready to be searched.
///
/// The best match wins, whatever the order in the file: an exact host before a wildcard (the
/// longest one) before any host, then an exact path before the longest prefix, then a method list
/// before none.
#[derive(Debug)]
pub struct Routes<R> {
    exact_hosts: Table<Paths<R>>,
    /// By the name after `*.`.
    wildcard_hosts: Table<Paths<R>>,
    any_host: Paths<R>,
}

type Table<T> = HashMap<String, T, RandomState>;

#[derive(Debug)]
struct Paths<R> {
    exact: Table<Vec<R>>,
    prefix: Table<Vec<R>>,
    /// Length of the longest prefix, so that a very long path costs no more look-ups than that.
    longest_prefix: usize,
}

/// Why a request takes no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Another server could read the path so that it takes another route.
    Ambiguous(Ambiguity),
    /// Routes for this path exist, but none for the method. Holds the methods that have one.
    Method(Vec<Method>),
    /// No route at all.
    Unknown,
}

impl<R: Pattern> Routes<R> {
    /// A table of routes of which no two tie; `config` has made sure of that.
    pub fn new(routes: impl IntoIterator<Item = R>) -> Self {
        let mut table =
            Self { exact_hosts: Table::default(), wildcard_hosts: Table::default(), any_host: Paths::default() };
        for route in routes {
            let paths = match route.host() {
                HostPattern::Any => &mut table.any_host,
                HostPattern::Exact(name) => table.exact_hosts.entry(name.clone()).or_default(),
                HostPattern::Wildcard(suffix) => table.wildcard_hosts.entry(suffix.clone()).or_default(),
            };
            paths.add(route);
        }
        table
    }

    /// The best match for a lower-case host name without port, a path and a method. Where a lenient
    /// server would read the path in another way, that reading must lead to the same route.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, host: &str, path: &NormalPath<'_>, method: &Method) -> Result<&R, Miss> {
        let route = match self.best(host, &path.text, method) {
            Ok(route) if path.encoded_slash && !route.keep_encoded_slashes() => {
                return Err(Miss::Ambiguous(Ambiguity::EncodedSlash));
            }
            Err(_) if path.encoded_slash => return Err(Miss::Ambiguous(Ambiguity::EncodedSlash)),
            other => other?,
        };
        match &path.lenient {
            Some(lenient) if !self.best(host, lenient, method).is_ok_and(|other| std::ptr::eq(other, route)) => {
                Err(Miss::Ambiguous(Ambiguity::PathParameter))
            }
            _ => Ok(route),
        }
    }

    /// The best match by each reading of a path, if there is one: what a rewritten path would be taken
    /// for, had a client sent it.
    pub fn named(&self, host: &str, path: &NormalPath<'_>, method: &Method) -> impl Iterator<Item = &R> {
        let readings = [Some(&*path.text), path.lenient.as_deref()];
        readings.into_iter().flatten().filter_map(|reading| self.best(host, reading, method).ok())
    }

    /// The best match for one reading of a path.
    fn best(&self, host: &str, path: &str, method: &Method) -> Result<&R, Miss> {
        let mut other_methods = Vec::new();
        let start = (!self.wildcard_hosts.is_empty()).then_some(host);
        let wildcards = std::iter::successors(start, |name| name.split_once('.').map(|(_, parent)| parent))
            .skip(1)
            .filter_map(|parent| self.wildcard_hosts.get(parent));
        let candidates = self.exact_hosts.get(host).into_iter().chain(wildcards).chain([&self.any_host]);
        for paths in candidates {
            if let Some(route) = paths.find(path, method, &mut other_methods) {
                return Ok(route);
            }
        }
        Err(if other_methods.is_empty() { Miss::Unknown } else { Miss::Method(other_methods) })
    }
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self { exact: Table::default(), prefix: Table::default(), longest_prefix: 0 }
    }
}

impl<R: Pattern> Paths<R> {
    fn add(&mut self, route: R) {
        let routes = match route.path() {
            PathPattern::Exact(path) => self.exact.entry(path.clone()).or_default(),
            PathPattern::Prefix(path) => {
                self.longest_prefix = self.longest_prefix.max(path.len());
                self.prefix.entry(path.clone()).or_default()
            }
        };
        routes.push(route);
        // Those with a method list come first, so that the first that fits is the best.
        routes.sort_by_key(|route| route.methods().is_none());
    }

    fn find(&self, path: &str, method: &Method, other_methods: &mut Vec<Method>) -> Option<&R> {
        let mut pick = |routes: Option<&'_ Vec<R>>| -> Option<usize> {
            let routes = routes?;
            let found = routes.iter().position(|route| route.methods().is_none_or(|list| list.contains(method)));
            if found.is_none() {
                other_methods.extend(routes.iter().filter_map(Pattern::methods).flatten().cloned());
            }
            found
        };
        let exact = self.exact.get(path);
        if let Some(index) = pick(exact) {
            return exact?.get(index);
        }
        if self.prefix.is_empty() {
            return None;
        }
        prefixes(path, self.longest_prefix).find_map(|prefix| {
            let routes = self.prefix.get(prefix);
            pick(routes).and_then(|index| routes?.get(index))
        })
    }
}

/// `/a/b/c` → `/a/b/c`, `/a/b`, `/a`, `` : the prefixes by whole segments, the longest first, none
/// longer than `longest`.
fn prefixes(path: &str, longest: usize) -> impl Iterator<Item = &str> {
    let parent = |path: &str| path.rfind('/').unwrap_or(0);
    let mut start = Some(path);
    if path.len() > longest {
        // The prefix must be followed by a slash, which may stand right behind the longest one.
        start = path.get(..=longest).map(|head| path.get(..parent(head)).unwrap_or_default());
    }
    std::iter::successors(start, move |path| (!path.is_empty()).then(|| path.get(..parent(path)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::normalize;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Entry(&'static str, HostPattern, PathPattern, Option<Vec<Method>>);

    impl Pattern for Entry {
        fn host(&self) -> &HostPattern {
            &self.1
        }
        fn path(&self) -> &PathPattern {
            &self.2
        }
        fn methods(&self) -> Option<&[Method]> {
            self.3.as_deref()
        }
        fn keep_encoded_slashes(&self) -> bool {
            self.0.starts_with("keep")
        }
    }

    fn exact(path: &str) -> PathPattern {
        PathPattern::Exact(path.into())
    }

    fn prefix(path: &str) -> PathPattern {
        PathPattern::Prefix(path.into())
    }

    fn name<'a>(routes: &'a Routes<Entry>, host: &str, path: &str, method: Method) -> &'a str {
        match routes.find(host, &normalize(path).unwrap(), &method) {
            Ok(entry) => entry.0,
            Err(Miss::Method(_)) => "405",
            Err(Miss::Unknown) => "404",
            Err(Miss::Ambiguous(_)) => "400",
        }
    }

    #[test]
    fn the_best_match_wins_whatever_the_order() {
        let host = |text: &str| HostPattern::Exact(text.into());
        let wild = |text: &str| HostPattern::Wildcard(text.into());
        let mut entries = vec![
            Entry("any /*", HostPattern::Any, prefix(""), None),
            Entry("any /api/*", HostPattern::Any, prefix("/api"), None),
            Entry("any /api/v1/*", HostPattern::Any, prefix("/api/v1"), None),
            Entry("any /api/v1", HostPattern::Any, exact("/api/v1"), None),
            Entry("any POST /api/*", HostPattern::Any, prefix("/api"), Some(vec![Method::POST])),
            Entry("wild /api/*", wild("example.com"), prefix("/api"), None),
            Entry("deep wild /api/*", wild("b.example.com"), prefix("/api"), None),
            Entry("host /only", host("app.example.com"), exact("/only"), None),
        ];
        for _ in 0..2 {
            let routes = Routes::new(entries.clone());
            for (host, path, method, expected) in [
                ("x", "/", Method::GET, "any /*"),
                ("x", "/apix", Method::GET, "any /*"),
                ("x", "/api", Method::GET, "any /api/*"),
                ("x", "/api/", Method::GET, "any /api/*"),
                ("x", "/api/v1", Method::GET, "any /api/v1"),
                ("x", "/api/v1/", Method::GET, "any /api/v1/*"),
                ("x", "/api/v1/a/b/c/d/e", Method::GET, "any /api/v1/*"),
                ("x", "/api/v2", Method::POST, "any POST /api/*"),
                ("example.com", "/api/x", Method::GET, "any /api/*"),
                ("a.example.com", "/api/x", Method::GET, "wild /api/*"),
                ("a.b.example.com", "/api/x", Method::GET, "deep wild /api/*"),
                ("app.example.com", "/only", Method::GET, "host /only"),
                ("app.example.com", "/api/x", Method::GET, "wild /api/*"),
                ("app.example.com", "/else", Method::GET, "any /*"),
            ] {
                assert_eq!(name(&routes, host, path, method), expected, "{host} {path}");
            }
            entries.reverse();
        }
    }

    #[test]
    fn a_path_without_the_method_is_405_and_no_path_is_404() {
        let routes = Routes::new([Entry("get", HostPattern::Any, prefix("/a"), Some(vec![Method::GET]))]);
        assert_eq!(routes.best("h", "/a/b", &Method::PUT), Err(Miss::Method(vec![Method::GET])));
        assert_eq!(routes.best("h", "/b", &Method::GET), Err(Miss::Unknown));
    }

    #[test]
    fn every_reading_of_a_path_must_take_the_same_route() {
        let routes = Routes::new([
            Entry("/*", HostPattern::Any, prefix(""), None),
            Entry("/admin", HostPattern::Any, exact("/admin"), None),
            Entry("keep /files/*", HostPattern::Any, prefix("/files"), None),
        ]);
        for (path, expected) in [
            ("/a;x=1/b", "/*"),
            ("/admin;.css", "400"),
            ("/admin%3b", "400"),
            ("/a%2fb", "400"),
            ("/files/a%2fb", "keep /files/*"),
            ("/files/a%2fb;c", "keep /files/*"),
            ("/files%2fa", "400"),
        ] {
            assert_eq!(name(&routes, "h", path, Method::GET), expected, "{path}");
        }
    }

    /// What a server makes of a path that decodes everything and drops parameters.
    fn first_segment_of_the_most_lenient(path: &str) -> String {
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy().replace('\\', "/");
        let mut segments = decoded.split('/').map(|segment| segment.split(';').next().unwrap_or_default().to_owned());
        segments.find(|segment| !segment.is_empty()).unwrap_or_default()
    }

    fn attacks() -> impl Strategy<Value = String> {
        let pieces =
            ["/", "admin", "%61dmin", "ad", "min", ";", ";x", "%3b", "%2F", "%2f..", "..", ".", "%25", "x", "/public"];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_rewrite_never_reaches_a_stricter_route(rest in attacks(), keep in proptest::bool::ANY) {
            let open = if keep { "keep /public" } else { "/public" };
            let routes = Routes::new([
                Entry(open, HostPattern::Any, prefix("/public"), None),
                Entry("guarded", HostPattern::Any, prefix("/admin"), None),
            ]);
            let rewrite = config::Rewrite { strip: "/public".to_owned(), to: prefix("") };
            let path = format!("/public{rest}");
            let Ok(normal) = normalize(&path) else { return Ok(()) };
            let Ok(route) = routes.find("h", &normal, &Method::GET) else { return Ok(()) };
            let sent = rewrite.apply(&normal.text);
            let sent = normalize(&sent).expect("the rest of a normal path is one");
            if routes.named("h", &sent, &Method::GET).all(|other| std::ptr::eq(other, route)) {
                prop_assert_ne!(first_segment_of_the_most_lenient(&sent.text), "admin", "{} as {}", path, sent.text);
            }
        }

        #[test]
        fn prefixes_match_the_plain_definition(path in "(/[a-c]{0,3}){1,6}", prefix in "(/[a-c]{0,3}){0,4}", extra in 0usize..4) {
            let matches = prefix.is_empty() || path == prefix || path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'));
            prop_assert_eq!(prefixes(&path, prefix.len() + extra).any(|p| p == prefix), matches);
        }
    }
}
