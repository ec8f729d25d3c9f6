//! The paths of routes must stand in the file as they are matched: in normal form.
//!
//! This only checks what an operator wrote. Requests go through the normalizer of `gateway::path`.

use std::fmt::Write;

use crate::config::PathPattern;
use crate::config::values::Invalid;

/// Reads `/a/b`, or `/a/*` for `/a` and everything below.
///
/// # Errors
/// When it is not in normal form (RFC 3986 §6.2.2), or has a star elsewhere. `keep_encoded_slashes`
/// allows `%2F` and `%5C`.
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
        Some(help) if is_prefix => {
            Invalid { help: help.strip_suffix('"').map(|help| format!("{help}/*\"")), ..invalid }
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

/// Whether a path equals its normal form.
fn exact(path: &str, keep_encoded_slashes: bool) -> Result<(), Invalid> {
    if !path.starts_with('/') {
        return Err(Invalid::new("it does not start with a slash").help(format!("write \"/{path}\"")));
    }
    if path.contains(['?', '#']) {
        return Err(Invalid::new("a query or a fragment").help("routes look at the path only"));
    }
    if path.contains('\\') {
        return Err(Invalid::new("a backslash").help("some servers read it as a slash: requests with one are refused"));
    }
    if path.chars().any(char::is_control) {
        return Err(Invalid::new("a control character"));
    }
    let (normal, escapes) = normal_escapes(path)?;
    for escape in escapes {
        match escape {
            b'/' | b'\\' if keep_encoded_slashes => {}
            b'/' | b'\\' => {
                let help = "requests with one are refused, unless the route has encoded_slashes = \"keep\"";
                return Err(Invalid::new("an encoded slash").help(help));
            }
            0..=31 | 127 => return Err(Invalid::new("an encoded control character")),
            _ => {}
        }
    }
    let normal = without_dot_segments(&normal);
    if normal == path {
        return Ok(());
    }
    Err(Invalid::new("not in normal form, so no request would match").help(format!("write \"{normal}\"")))
}

/// The path with escapes only where they are needed and in upper case, and every byte that stands behind one.
fn normal_escapes(path: &str) -> Result<(String, Vec<u8>), Invalid> {
    let mut normal = String::with_capacity(path.len());
    let mut escapes = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let (byte, escaped) = if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(Invalid::new("a broken escape").help("a percent sign itself is written \"%25\""));
            };
            (u8::try_from(high * 16 + low).unwrap_or_default(), true)
        } else {
            (byte, false)
        };
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let separates = b"/!$&'()*+,;=:@".contains(&byte);
        if unreserved || (separates && !escaped) {
            normal.push(char::from(byte));
        } else {
            escapes.push(byte);
            // Writing to a string cannot fail.
            let _written = write!(normal, "%{byte:02X}");
        }
    }
    Ok((normal, escapes))
}

/// The path without empty, `.` and `..` segments, also those with `;` parameters.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    for segment in path.split('/').skip(1) {
        let name = segment.split(';').next().unwrap_or_default();
        ends_with_slash = matches!(name, "." | "..") || segment.is_empty();
        match name {
            ".." => drop(kept.pop()),
            _ if ends_with_slash => {}
            _ => kept.push(segment),
        }
    }
    let mut normal = String::from("/") + &kept.join("/");
    if ends_with_slash && !kept.is_empty() {
        normal.push('/');
    }
    normal
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
        for (text, advice) in [
            ("api", Some("write \"/api\"")),
            ("api/*", Some("write \"/api/*\"")),
            ("//a", Some("write \"/a\"")),
            ("/a//b/*", Some("write \"/a/b/*\"")),
            ("/a/./b", Some("write \"/a/b\"")),
            ("/a/../b", Some("write \"/b\"")),
            ("/..", Some("write \"/\"")),
            ("/a/..;x/b", Some("write \"/b\"")),
            ("/%61", Some("write \"/a\"")),
            ("/a%2e%2e", Some("write \"/a..\"")),
            ("/a%3a", Some("write \"/a%3A\"")),
            ("/é", Some("write \"/%C3%A9\"")),
            ("/a b", Some("write \"/a%20b\"")),
            ("/a%00", None),
            ("/a\u{7f}", None),
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
        fn the_normal_form_is_accepted_and_stays(path in r"(/(\.\.?(;a)?|[a-z%2Ee;]{0,4}|é|%2[0-9a-f])){1,5}/?") {
            if let Ok((escaped, _)) = normal_escapes(&path) {
                let normal = without_dot_segments(&escaped);
                proptest::prop_assert_eq!(normal_escapes(&normal).map(|(again, _)| without_dot_segments(&again)), Ok(normal));
            }
        }
    }
}
