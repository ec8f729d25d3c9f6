//! The paths of routes must stand in the file as they are matched: in normal form.
//!
//! Requests go through the same normalizer, so that what is written here can match.

use crate::config::PathPattern;
use crate::config::values::Invalid;
use crate::path::normalize;

/// Reads `/a/b`, or `/a/*` for `/a` and everything below.
///
/// # Errors
/// When it is not in normal form (RFC 3986 §6.2.2), or has a star elsewhere. `keep_encoded_slashes`
/// allows `%2F`.
pub fn pattern(text: &str, keep_encoded_slashes: bool) -> Result<PathPattern, Invalid> {
    let (path, is_prefix) = match text.strip_suffix("/*") {
        Some(prefix) => (prefix, true),
        None => (text, false),
    };
    if path.contains('*') {
        let help = "a star stands only for the whole last segment: \"/api/*\"";
        return Err(Invalid::new("the star is in the wrong place").help(help));
    }
    if path.is_empty() && is_prefix {
        return Ok(PathPattern::Prefix(String::new()));
    }
    exact(path, keep_encoded_slashes).map_err(|invalid| match invalid.help {
        // Advice that is a path needs its star back.
        Some(help) if is_prefix && help.ends_with('"') => {
            let help = help.strip_suffix('"').map(|help| format!("{help}/*\""));
            Invalid { help, ..invalid }
        }
        help => Invalid { help, ..invalid },
    })?;
    if is_prefix && path.ends_with('/') {
        return Err(Invalid::new("an empty segment").help(format!("write \"{}/*\"", path.trim_end_matches('/'))));
    }
    Ok(if is_prefix { PathPattern::Prefix(path.to_owned()) } else { PathPattern::Exact(path.to_owned()) })
}

/// Reads the prefix of the identity routes: a path without a star and without a trailing slash.
///
/// # Errors
/// When it is not in normal form, has a star, or is the root, which would leave no path to any route.
pub fn prefix(text: &str) -> Result<String, Invalid> {
    if text.contains('*') {
        return Err(Invalid::new("it has a star").help("write the path alone, for instance \"/auth\""));
    }
    exact(text, false)?;
    match text.strip_suffix('/') {
        Some("") => Err(Invalid::new("it would hide every route").help("write for instance \"/auth\"")),
        Some(path) => Err(Invalid::new("it ends with a slash").help(format!("write \"{path}\""))),
        None => Ok(text.to_owned()),
    }
}

/// Reads a prefix that is removed from paths: without a star and without a trailing slash.
///
/// # Errors
/// When it is not in normal form, has a star, or is the root, of which nothing can be removed.
pub fn stripped(text: &str) -> Result<String, Invalid> {
    if text.contains('*') {
        return Err(Invalid::new("it has a star").help("write the path alone, for instance \"/api\""));
    }
    exact(text, false)?;
    match text.strip_suffix('/') {
        Some("") => {
            Err(Invalid::new("there is nothing to remove").help("leave it out, or write for instance \"/api\""))
        }
        Some(path) => Err(Invalid::new("it ends with a slash").help(format!("write \"{path}\""))),
        None => Ok(text.to_owned()),
    }
}

/// Whether a path equals its normal form.
fn exact(path: &str, keep_encoded_slashes: bool) -> Result<(), Invalid> {
    if !path.starts_with('/') {
        return Err(Invalid::new("it does not start with a slash").help(format!("write \"/{path}\"")));
    }
    if path.contains(['?', '#']) {
        return Err(Invalid::new("a query or a fragment").help("routes look at the path only"));
    }
    let refused = "requests for it are refused, because servers read such a path in different ways";
    match normalize(path) {
        Err(ambiguity) => Err(Invalid::new(ambiguity.to_string()).help(refused)),
        Ok(normal) if normal.text != path => {
            let help = format!("write \"{}\"", normal.text);
            Err(Invalid::new("not in normal form, so no request would match").help(help))
        }
        Ok(normal) if normal.encoded_slash && !keep_encoded_slashes => {
            let help = "requests with one are refused, unless the route has encoded_slashes = \"keep\"";
            Err(Invalid::new("an encoded slash").help(help))
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_exact_or_a_prefix_by_segments() {
        let exact = |path: &str| Ok(PathPattern::Exact(path.to_owned()));
        let prefix = |path: &str| Ok(PathPattern::Prefix(path.to_owned()));
        assert_eq!(pattern("/", false), exact("/"));
        assert_eq!(pattern("/a/", false), exact("/a/"));
        assert_eq!(pattern("/a;v=1/b%20c", false), exact("/a;v=1/b%20c"));
        assert_eq!(pattern("/*", false), prefix(""));
        assert_eq!(pattern("/api/*", false), prefix("/api"));
        assert_eq!(pattern("/a%2Fb", true), exact("/a%2Fb"));
    }

    #[test]
    fn everything_that_no_normal_path_equals_is_refused_with_the_normal_form() {
        let refused = Some("requests for it are refused, because servers read such a path in different ways");
        for (text, advice) in [
            ("api", Some("write \"/api\"")),
            ("api/*", Some("write \"/api/*\"")),
            ("//a", refused),
            ("/a//b/*", refused),
            ("/a/./b", refused),
            ("/a/..;x/b", refused),
            ("/a%00", refused),
            ("/a%5C", refused),
            ("/%61", Some("write \"/a\"")),
            ("/a%2e%2e", Some("write \"/a..\"")),
            ("/a%3a", Some("write \"/a%3A\"")),
            ("/é", Some("write \"/%C3%A9\"")),
            ("/a b/*", Some("write \"/a%20b/*\"")),
        ] {
            assert_eq!(pattern(text, false).unwrap_err().help.as_deref(), advice, "{text}");
        }
        for text in ["", "*", "/*/a", "/a*", "/a?b", "/a#b", "/a\\b", "/a%2fb", "/a%5C", "/%", "/%g0", "/a//*", "//*"] {
            assert!(pattern(text, false).is_err(), "{text}");
        }
    }

    #[test]
    fn the_prefix_of_the_identity_routes_leaves_room_for_others() {
        assert_eq!(prefix("/auth"), Ok("/auth".to_owned()));
        for text in ["/", "/auth/", "/auth/*", "auth", "", "/a/../b"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_path_that_is_accepted_is_one_that_requests_have(path in r"(/(\.\.?(;a)?|[a-z%2Ee;]{0,4}|é|%2[0-9a-f])){1,5}/?") {
            if pattern(&path, true).is_ok() {
                proptest::prop_assert_eq!(normalize(&path).map(|normal| normal.text.into_owned()), Ok(path));
            }
        }
    }
}
