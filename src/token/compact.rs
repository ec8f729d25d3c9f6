//! A token before anything about it is believed: bounds, form, header (RFC 7515 §3.1, §4).
//!
//! A pure function of the bytes. All bounds are checked before the work that they bound.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Reason;
use crate::json::strict_parse;

/// Longest token in bytes. Cognito's are 1 to 2 kB; groups and custom attributes make them longer.
pub(super) const MAX_TOKEN: usize = 8 * 1024;
/// Longest decoded header in bytes; Cognito's have about 80.
const MAX_HEADER: usize = 1024;
/// Deepest nesting of header and payload.
const MAX_DEPTH: usize = 16;

/// The parts of a token that has the right form. Nothing in it is verified.
pub(super) struct Compact<'t> {
    /// What the signature is over: header, dot, payload as they came.
    pub(super) signed: &'t [u8],
    /// The signature, in strict base64url.
    pub(super) signature: &'t str,
    /// Which key the token says it is signed with.
    pub(super) kid: String,
    /// The members of the payload.
    pub(super) payload: Map<String, Value>,
}

impl<'t> Compact<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// The reason when it is too large, not a JWS in compact form, not signed with RS256, does not
    /// name its key, or has a header parameter that must be understood or that brings its own key.
    pub(super) fn parse(token: &'t str) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN {
            return Err(Reason::TooLarge);
        }
        match token.bytes().filter(|byte| *byte == b'.').count() {
            2 => {}
            // Five parts are an encrypted token (RFC 7516 §3.1), such as Cognito's refresh tokens.
            4 => return Err(Reason::Encrypted),
            _ => return Err(Reason::Malformed),
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Reason::Malformed)?;
        if header.len() > MAX_HEADER.div_ceil(3) * 4 {
            return Err(Reason::TooLarge);
        }
        let header = decode(header)?;
        if header.len() > MAX_HEADER {
            return Err(Reason::TooLarge);
        }
        let kid = key_id(&object(&header)?)?;
        let payload = object(&decode(payload)?)?;
        decode(signature)?;
        Ok(Self { signed: signed.as_bytes(), signature, kid, payload })
    }
}

/// Strict base64url (RFC 7515 §2): no padding, no white space, no bits left over.
fn decode(part: &str) -> Result<Vec<u8>, Reason> {
    match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(Reason::Malformed),
    }
}

/// A JSON object in which no member is there twice.
fn object(bytes: &[u8]) -> Result<Map<String, Value>, Reason> {
    match strict_parse(bytes, MAX_DEPTH) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Reason::Malformed),
    }
}

/// The `kid` of a header with which nothing is wrong.
fn key_id(header: &Map<String, Value>) -> Result<String, Reason> {
    let has = |names: &[&str]| names.iter().any(|name| header.contains_key(*name));
    if has(&["enc"]) {
        return Err(Reason::Encrypted);
    }
    // Extensions that change what is signed or how (RFC 7515 §4.1.11, RFC 7797, RFC 7516 §4.1.3).
    if has(&["crit", "b64", "zip"]) {
        return Err(Reason::CriticalHeader);
    }
    // A token that brings its own key (RFC 7515 §4.1.2-6): whoever looks there has already lost.
    if has(&["jku", "jwk", "x5u", "x5c"]) {
        return Err(Reason::KeyInHeader);
    }
    if header.get("alg").and_then(Value::as_str) != Some("RS256") {
        return Err(Reason::Algorithm);
    }
    let typ_is_known = match header.get("typ") {
        None => true,
        Some(Value::String(typ)) => ["JWT", "at+jwt"].iter().any(|known| known.eq_ignore_ascii_case(typ)),
        Some(_) => false,
    };
    if !typ_is_known {
        return Err(Reason::Type);
    }
    match header.get("kid") {
        Some(Value::String(kid)) if !kid.is_empty() => Ok(kid.clone()),
        _ => Err(Reason::KeyIdMissing),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A token with this header text, a harmless payload and three bytes as its signature.
    fn token(header: &str) -> String {
        format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header))
    }

    fn reason(token: &str) -> Reason {
        Compact::parse(token).map(|_| ()).expect_err("the token is refused")
    }

    #[test]
    fn a_good_one_comes_apart() {
        let text = token(r#"{"kid":"k1","alg":"RS256"}"#);
        let compact = Compact::parse(&text).unwrap();
        assert_eq!(compact.kid, "k1");
        assert_eq!(compact.signature, "AAAA");
        assert_eq!(compact.signed, text.strip_suffix(".AAAA").unwrap().as_bytes());
        assert!(compact.payload.is_empty());
    }

    #[test]
    fn size_and_dots_come_first() {
        // CVE-2025-30204: 64 KiB of dots.
        assert_eq!(reason(&".".repeat(64 * 1024)), Reason::TooLarge);
        assert_eq!(reason(&"a".repeat(MAX_TOKEN + 1)), Reason::TooLarge);
        assert_eq!(reason(&".".repeat(MAX_TOKEN)), Reason::Malformed);
        for text in ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e.f", "..", "e30", ".e30.AAAA"] {
            assert_eq!(reason(text), Reason::Malformed, "{text}");
        }
        let good = token(r#"{"kid":"k1","alg":"RS256"}"#);
        assert_eq!(reason(&good.replace("e30", "")), Reason::Malformed, "no payload");
        assert_eq!(reason(&good.replace("AAAA", "")), Reason::Malformed, "no signature");
        let header = |bytes: usize| {
            let rest = r#"{"kid":"","alg":"RS256"}"#.len();
            format!(r#"{{"kid":"{}","alg":"RS256"}}"#, "k".repeat(bytes - rest))
        };
        assert!(Compact::parse(&token(&header(MAX_HEADER))).is_ok());
        assert_eq!(reason(&token(&header(MAX_HEADER + 1))), Reason::TooLarge);
        assert_eq!(reason(&format!("{}.e30.AAAA", "A".repeat(4000))), Reason::TooLarge, "before it is decoded");
    }

    #[test]
    fn an_encrypted_token_is_told_apart() {
        assert_eq!(reason("a.b.c.d.e"), Reason::Encrypted);
        assert_eq!(reason(&token(r#"{"kid":"k","alg":"RSA-OAEP","enc":"A256GCM"}"#)), Reason::Encrypted);
    }

    #[test]
    fn base64url_is_strict() {
        let good = token(r#"{"kid":"k1","alg":"RS256"}"#);
        assert!(Compact::parse(&good).is_ok());
        for (change, text) in [
            ("padding", good.replace(".e30.", ".e30=.")),
            ("padding of the signature", format!("{good}=")),
            ("trailing bits", good.replace(".e30.", ".e31.")),
            ("trailing bits of the signature", good.replace(".AAAA", ".AAB")),
            ("the other alphabet", good.replace(".AAAA", ".AA+/")),
            ("white space", good.replace(".e30.", ".e 30.")),
            ("a line end", format!("{good}\n")),
        ] {
            assert_eq!(reason(&text), Reason::Malformed, "{change}");
        }
        assert!(Compact::parse(&good.replace(".AAAA", ".AA-_")).is_ok());
    }

    #[test]
    fn algorithms_other_than_rs256_are_refused() {
        // Algorithm confusion.
        for alg in
            [r#""none""#, r#""None""#, r#""HS256""#, r#""rs256""#, r#""RS512""#, r#""PS256""#, r#""ES256""#, "null"]
        {
            assert_eq!(reason(&token(&format!(r#"{{"kid":"k","alg":{alg}}}"#))), Reason::Algorithm, "{alg}");
        }
        assert_eq!(reason(&token(r#"{"kid":"k","alg":["RS256"]}"#)), Reason::Algorithm);
        assert_eq!(reason(&token(r#"{"kid":"k"}"#)), Reason::Algorithm);
    }

    #[test]
    fn header_parameters_that_change_the_rules_are_refused() {
        // jsonwebtoken parses `crit` and ignores it, and does not look at the others at all.
        for (member, expected) in [
            (r#""crit":["b64"]"#, Reason::CriticalHeader),
            (r#""crit":[]"#, Reason::CriticalHeader),
            (r#""b64":false"#, Reason::CriticalHeader),
            (r#""b64":true"#, Reason::CriticalHeader),
            (r#""zip":"DEF""#, Reason::CriticalHeader),
            (r#""jku":"https://evil.example/jwks""#, Reason::KeyInHeader),
            (r#""jwk":{"kty":"RSA"}"#, Reason::KeyInHeader),
            (r#""x5u":"https://evil.example/x""#, Reason::KeyInHeader),
            (r#""x5c":null"#, Reason::KeyInHeader),
            (r#""typ":"JOSE""#, Reason::Type),
            (r#""typ":7"#, Reason::Type),
        ] {
            let header = format!(r#"{{"kid":"k","alg":"RS256",{member}}}"#);
            assert_eq!(reason(&token(&header)), expected, "{member}");
        }
        for typ in ["JWT", "jwt", "at+jwt", "AT+JWT"] {
            let header = format!(r#"{{"kid":"k","alg":"RS256","typ":"{typ}"}}"#);
            assert!(Compact::parse(&token(&header)).is_ok(), "{typ}");
        }
    }

    #[test]
    fn the_key_must_be_named() {
        for header in [
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"RS256","kid":5}"#,
            r#"{"alg":"RS256","kid":""}"#,
            r#"{"alg":"RS256","kid":null}"#,
        ] {
            assert_eq!(reason(&token(header)), Reason::KeyIdMissing, "{header}");
        }
    }

    #[test]
    fn header_and_payload_are_single_json_objects() {
        for header in [
            r#"{"kid":"k","alg":"RS256"}x"#,
            r#"{"kid":"k","alg":"RS256"}{}"#,
            r#"{"kid":"k","alg":"none","alg":"RS256"}"#,
            r#"{"kid":"a","x":{"y":1,"y":2},"alg":"RS256"}"#,
            r#"["RS256"]"#,
            "RS256",
        ] {
            assert_eq!(reason(&token(header)), Reason::Malformed, "{header}");
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"kid":"k","alg":"RS256"}"#);
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(2500), "]".repeat(2500));
        for payload in [r#"{"sub":"a"}}"#, r#"{"sub":"a","sub":"b"}"#, "[]", "5", "\"{}\"", "\u{0}{}", &deep] {
            let text = format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode(payload));
            assert_eq!(reason(&text), Reason::Malformed, "{payload}");
        }
        let very_deep = format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode("[".repeat(10_000)));
        assert_eq!(reason(&very_deep), Reason::TooLarge, "10,000 levels do not even fit");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let parsed = Compact::parse(&text);
            prop_assert!(parsed.is_err() || text.len() <= MAX_TOKEN);
        }

        #[test]
        fn token_shaped_text_never_panics(text in r"[A-Za-z0-9_=-]{0,40}\.[A-Za-z0-9_=-]{0,40}\.[A-Za-z0-9_=-]{0,40}") {
            prop_assert!(Compact::parse(&text).is_err(), "a random header does not say RS256");
        }
    }
}
