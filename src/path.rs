//! The one path normalizer, for requests and for the routes in the configuration.
//!
//! Whatever is matched, decided on and sent upstream is the string that this module returns. A
//! target that two servers could read in two ways is refused here, so that no backend can ever see
//! another path than the one the decision was about. The form is that of RFC 3986 §6.2.2: escapes
//! of unreserved characters decoded, all others in upper case, everything else as it came.

use std::borrow::Cow;
use std::fmt::Write;

/// A path in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// The path itself.
    pub text: Cow<'a, str>,
    /// It contains `%2F`: only a route that says so may take it.
    pub encoded_slash: bool,
    /// How a server that drops path parameters (`;…`) or decodes `%2F` reads it, when that differs.
    /// Both readings must lead to the same route.
    pub lenient: Option<String>,
}

/// Why a path can be read in more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum Ambiguity {
    #[error("the target is not an absolute path")]
    NotAbsolute,
    #[error("a segment is empty")]
    EmptySegment,
    #[error("a segment is `.` or `..`")]
    DotSegment,
    #[error("a slash is percent-encoded")]
    EncodedSlash,
    #[error("it contains a backslash")]
    Backslash,
    #[error("it contains a control character")]
    Control,
    #[error("a `%` is not followed by two hexadecimal digits")]
    BadEscape,
    #[error("it is percent-encoded twice")]
    DoubleEscape,
    #[error("it contains an overlong UTF-8 sequence")]
    Overlong,
    #[error("a server that ignores path parameters would take another route")]
    PathParameter,
}

impl Ambiguity {
    /// A word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "not_absolute",
            Self::EmptySegment => "empty_segment",
            Self::DotSegment => "dot_segment",
            Self::EncodedSlash => "encoded_slash",
            Self::Backslash => "backslash",
            Self::Control => "control",
            Self::BadEscape => "bad_escape",
            Self::DoubleEscape => "double_escape",
            Self::Overlong => "overlong",
            Self::PathParameter => "path_parameter",
        }
    }
}

/// Brings the path of a request target (without the query) into normal form.
///
/// # Errors
/// When a lenient server could read it in another way.
pub fn normalize(path: &str) -> Result<NormalPath<'_>, Ambiguity> {
    if !path.starts_with('/') {
        return Err(Ambiguity::NotAbsolute);
    }
    if path.bytes().all(is_plain) {
        check_segments(path)?;
        return Ok(NormalPath { text: Cow::Borrowed(path), encoded_slash: false, lenient: None });
    }
    let text: Cow<'_, str> = Cow::Owned(decode(path.as_bytes())?);
    let encoded_slash = text.contains("%2F");
    let has_parameters = text.contains(';') || text.contains("%3B");
    let lenient = (encoded_slash || has_parameters).then(|| lenient_reading(&text));
    check_segments(&text)?;
    if let Some(lenient) = &lenient {
        check_segments(lenient)?;
    }
    Ok(NormalPath { text, encoded_slash, lenient })
}

/// No segment but the last is empty, and none is a dot segment.
fn check_segments(path: &str) -> Result<(), Ambiguity> {
    // Most paths have neither, and one look at each pair is cheaper than a walk over the segments.
    if !path.as_bytes().windows(2).any(|pair| matches!(pair, b"//" | b"/.")) {
        return Ok(());
    }
    if path.contains("//") {
        return Err(Ambiguity::EmptySegment);
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) { Err(Ambiguity::DotSegment) } else { Ok(()) }
}

/// What a server makes of the path that decodes `%2F` and `%3B` and then drops `;…` up to the next
/// slash, as servlet containers do.
fn lenient_reading(path: &str) -> String {
    let decoded = path.replace("%2F", "/").replace("%3B", ";");
    let mut reading = String::with_capacity(decoded.len());
    for (index, segment) in decoded.split('/').enumerate() {
        if index > 0 {
            reading.push('/');
        }
        reading.push_str(segment.split(';').next().unwrap_or_default());
    }
    reading
}

/// Bytes that stand for themselves and need no second look: unreserved characters, sub-delimiters
/// except `;`, `:`, `@` and the slash.
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=')
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes escapes of unreserved characters, upper-cases the others, escapes what may not stand
/// there raw.
fn decode(path: &[u8]) -> Result<String, Ambiguity> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    // The byte before, decoded, while it may begin an overlong sequence.
    let mut lead = 0;
    while let [byte, tail @ ..] = rest {
        let (byte, escaped) = match (byte, tail) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                (hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l).ok_or(Ambiguity::BadEscape)?, true)
            }
            (b'%', _) => return Err(Ambiguity::BadEscape),
            (raw, _) => {
                rest = tail;
                (*raw, false)
            }
        };
        match byte {
            0..0x20 | 0x7f => return Err(Ambiguity::Control),
            b'\\' => return Err(Ambiguity::Backslash),
            // 0xC0 and 0xC1 begin only overlong sequences; 0xE0 and 0xF0 do before these bytes.
            0xc0 | 0xc1 => return Err(Ambiguity::Overlong),
            0x80..0xa0 if lead == 0xe0 => return Err(Ambiguity::Overlong),
            0x80..0x90 if lead == 0xf0 => return Err(Ambiguity::Overlong),
            _ => {}
        }
        lead = byte;
        if is_unreserved(byte) || !escaped && (is_plain(byte) || byte == b';') {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    // Looked for in what came out: `%25%36%31` is `%61` to whoever decodes it twice.
    let is_escape = |after: &[u8]| matches!(after, [b'%', b'2', b'5', a, b] if hex(*a).is_some() && hex(*b).is_some());
    if out.as_bytes().windows(5).any(is_escape) { Err(Ambiguity::DoubleEscape) } else { Ok(out) }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(path: &str) -> Result<String, Ambiguity> {
        normalize(path).map(|normal| normal.text.into_owned())
    }

    #[test]
    fn harmless_spellings_become_one() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/%61dmin", "/admin"),
            ("/%7euser/%7Euser", "/~user/~user"),
            ("/a%2bb%c3%bc", "/a%2Bb%C3%BC"),
            ("/sp%20ace", "/sp%20ace"),
            ("/ü", "/%C3%BC"),
            ("/a|b\"c", "/a%7Cb%22c"),
            ("/a%23b%3fc", "/a%23b%3Fc"),
            ("/100%25", "/100%25"),
            ("/100%25/x", "/100%25/x"),
            ("/.well-known/x", "/.well-known/x"),
            ("/..a/...", "/..a/..."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/admin*/", "/admin*/"),
        ] {
            assert_eq!(text(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn every_ambiguity_has_its_reason() {
        for (path, reason) in [
            ("", Ambiguity::NotAbsolute),
            ("*", Ambiguity::NotAbsolute),
            ("admin", Ambiguity::NotAbsolute),
            ("//admin", Ambiguity::EmptySegment),
            ("/a//b", Ambiguity::EmptySegment),
            ("/a/;x/b", Ambiguity::EmptySegment),
            ("/./a", Ambiguity::DotSegment),
            ("/a/.", Ambiguity::DotSegment),
            ("/public/../admin", Ambiguity::DotSegment),
            ("/public/%2e%2e/admin", Ambiguity::DotSegment),
            ("/public/.%2E", Ambiguity::DotSegment),
            ("/public/..;/admin", Ambiguity::DotSegment),
            ("/public/.;x=1/admin", Ambiguity::DotSegment),
            ("/public/..%3b/admin", Ambiguity::DotSegment),
            ("/public%2f..%2fadmin", Ambiguity::DotSegment),
            ("/public%5c..%5cadmin", Ambiguity::Backslash),
            ("/a\\b", Ambiguity::Backslash),
            ("/a%00", Ambiguity::Control),
            ("/a%0d%0ab", Ambiguity::Control),
            ("/a%7f", Ambiguity::Control),
            ("/a%", Ambiguity::BadEscape),
            ("/a%2", Ambiguity::BadEscape),
            ("/a%zz", Ambiguity::BadEscape),
            ("/a%u002f", Ambiguity::BadEscape),
            ("/public/%252e%252e/admin", Ambiguity::DoubleEscape),
            ("/public/%25%32e%25%32%65/admin", Ambiguity::DoubleEscape),
            ("/public/%25%32%65%252%65/admin", Ambiguity::DoubleEscape),
            ("/public%25%32F", Ambiguity::DoubleEscape),
            ("/public%25%302", Ambiguity::DoubleEscape),
            ("/a%c0%af", Ambiguity::Overlong),
            ("/a%e0%80%af", Ambiguity::Overlong),
            ("/a%f0%80%80%af", Ambiguity::Overlong),
        ] {
            assert_eq!(text(path), Err(reason), "{path}");
        }
    }

    #[test]
    fn encoded_slashes_are_kept_and_flagged() {
        let normal = normalize("/files/a%2fb").unwrap();
        assert_eq!(normal.text, "/files/a%2Fb");
        assert!(normal.encoded_slash);
        assert_eq!(normal.lenient.as_deref(), Some("/files/a/b"));
    }

    #[test]
    fn path_parameters_have_a_second_reading() {
        assert_eq!(normalize("/admin;.css").unwrap().lenient.as_deref(), Some("/admin"));
        assert_eq!(normalize("/a;x=1/b%3By").unwrap().lenient.as_deref(), Some("/a/b"));
        assert_eq!(normalize("/plain").unwrap().lenient, None);
    }

    #[test]
    fn an_ordinary_path_is_not_copied() {
        assert!(matches!(normalize("/api/v1/items").unwrap().text, Cow::Borrowed(_)));
    }

    /// Paths made of the pieces that attacks are made of, beside arbitrary text.
    fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/"),
            Just("."),
            Just(".."),
            Just("%2e"),
            Just("%2F"),
            Just("%5c"),
            Just("%25"),
            Just("%32"),
            Just("%65"),
            Just("%"),
            Just(";"),
            Just("%3b"),
            Just("\\"),
            Just("a"),
            Just("admin"),
            Just("%61"),
            Just("%c0%af"),
            Just("2e"),
            Just("ü"),
            Just("%C3%BC"),
        ];
        prop_oneof![
            proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat())),
            "\\PC*".prop_map(|text| format!("/{text}")),
        ]
    }

    /// What the most lenient server imaginable would make of a path: decode until nothing changes,
    /// read backslashes as slashes, drop parameters, resolve dots.
    fn most_lenient(path: &str) -> Vec<String> {
        let mut text = path.as_bytes().to_vec();
        loop {
            let decoded: Vec<u8> = percent_encoding::percent_decode(&text).collect();
            if decoded == text {
                break;
            }
            text = decoded;
        }
        let text = String::from_utf8_lossy(&text).replace('\\', "/");
        text.split('/').map(|s| s.split(';').next().unwrap_or("").to_owned()).collect()
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(path in paths()) {
            if let Ok(normal) = normalize(&path) {
                let again = normalize(&normal.text).expect("the normal form is normal");
                prop_assert_eq!(&again.text, &normal.text);
                prop_assert_eq!(again.lenient, normal.lenient);
            }
        }

        #[test]
        fn no_reading_climbs_or_collapses(path in paths()) {
            if let Ok(normal) = normalize(&path) {
                prop_assert!(normal.text.bytes().all(|b| b.is_ascii_graphic()));
                let segments = most_lenient(&normal.text);
                prop_assert!(segments.iter().all(|s| s != "." && s != ".."), "{:?}", segments);
                let inner = segments.get(1..segments.len() - 1).unwrap_or_default();
                prop_assert!(inner.iter().all(|s| !s.is_empty()), "{:?}", segments);
                // A lenient server sees the segments of one of the two readings, nothing else.
                let reading = normal.lenient.as_deref().unwrap_or(&normal.text);
                let expected: Vec<String> = reading.split('/').map(|s|
                    String::from_utf8_lossy(&percent_encoding::percent_decode_str(s).collect::<Vec<u8>>()).into_owned()).collect();
                prop_assert_eq!(segments, expected);
            }
        }
    }
}
