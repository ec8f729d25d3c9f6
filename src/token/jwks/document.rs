//! From a JWK Set (RFC 7517) to the keys that may verify a Cognito token.
//!
//! A pure function of the bytes. A key that does not fit is left out, with its reason; it never
//! takes the others with it. jsonwebtoken's own conversion ignores `alg`, `use` and `key_ops` and
//! makes HMAC keys of `oct` entries, so it is not used.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::json::{JsonError, strict_parse};

/// Largest document in bytes. A pool's two keys take about 1 kB.
pub(super) const MAX_DOCUMENT: usize = 256 * 1024;
/// Most entries in a document.
const MAX_KEYS: usize = 32;
/// Deepest nesting: real sets have 3 levels, 4 with certificates.
const MAX_DEPTH: usize = 16;
/// Longest `kid` in bytes; Cognito's have 44.
const MAX_KID: usize = 256;

/// An RSA public key for RS256, both numbers big-endian without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicKey {
    pub(super) kid: String,
    pub(super) n: Vec<u8>,
    pub(super) e: Vec<u8>,
}

/// What a document holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// At least one; no `kid` twice.
    pub(super) keys: Vec<PublicKey>,
    /// One line for each entry that was left out.
    pub(super) skipped: Vec<String>,
}

/// Why a whole document is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("longer than {MAX_DOCUMENT} bytes")]
    TooLarge,
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("no JSON object with an array `keys`")]
    Shape,
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    #[error("no key in it can verify RS256")]
    NoUsableKey,
}

/// Why one entry is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("not an object")]
    NotAnObject,
    #[error("`kid` is not a text of 1 to {MAX_KID} bytes")]
    Kid,
    #[error("`kid` is there before; the first one counts")]
    DuplicateKid,
    #[error("`kty` is not RSA")]
    Type,
    #[error("`use` is not sig")]
    Use,
    #[error("`key_ops` is not a list with verify")]
    Operations,
    #[error("`alg` is not RS256")]
    Algorithm,
    #[error("`n` is not an odd number of 2048 to 8192 bits")]
    Modulus,
    #[error("`e` is not an odd number from 3 to 4294967295")]
    Exponent,
}

/// Reads a JWK Set.
///
/// # Errors
/// When it is too large, not a JWK Set, has too many entries, or none that can be used.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, DocumentError> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge);
    }
    let document = strict_parse(bytes, MAX_DEPTH)?;
    let entries = document.get("keys").and_then(Value::as_array).ok_or(DocumentError::Shape)?;
    if entries.len() > MAX_KEYS {
        return Err(DocumentError::TooManyKeys);
    }
    let mut keys: Vec<PublicKey> = Vec::with_capacity(entries.len());
    let mut skipped = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        let unfit = match public_key(entry) {
            Ok(key) if keys.iter().any(|earlier| earlier.kid == key.kid) => Unfit::DuplicateKid,
            Ok(key) => {
                keys.push(key);
                continue;
            }
            Err(unfit) => unfit,
        };
        skipped.push(format!("keys[{place}]: {unfit}"));
    }
    if keys.is_empty() {
        return Err(DocumentError::NoUsableKey);
    }
    Ok(Document { keys, skipped })
}

fn public_key(entry: &Value) -> Result<PublicKey, Unfit> {
    let jwk = entry.as_object().ok_or(Unfit::NotAnObject)?;
    if jwk.get("kty").and_then(Value::as_str) != Some("RSA") {
        return Err(Unfit::Type);
    }
    if !absent_or(jwk, "use", |value| value == "sig") {
        return Err(Unfit::Use);
    }
    if !absent_or(jwk, "alg", |value| value == "RS256") {
        return Err(Unfit::Algorithm);
    }
    let may_verify = |value: &Value| value.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
    if !absent_or(jwk, "key_ops", may_verify) {
        return Err(Unfit::Operations);
    }
    let kid = match jwk.get("kid").and_then(Value::as_str) {
        Some(kid) if (1..=MAX_KID).contains(&kid.len()) => kid.to_owned(),
        _ => return Err(Unfit::Kid),
    };
    let n = number(jwk, "n").filter(|n| (2048..=8192).contains(&bits(n)) && is_odd(n)).ok_or(Unfit::Modulus)?;
    let e = number(jwk, "e").filter(|e| e.len() <= 4 && bits(e) >= 2 && is_odd(e)).ok_or(Unfit::Exponent)?;
    Ok(PublicKey { kid, n, e })
}

fn absent_or(jwk: &Map<String, Value>, name: &str, fits: impl FnOnce(&Value) -> bool) -> bool {
    jwk.get(name).is_none_or(fits)
}

/// A Base64urlUInt (RFC 7518 §2). Some producers put a zero byte in front, which is dropped.
fn number(jwk: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(jwk.get(name)?.as_str()?).ok()?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// The length in bits of a number without leading zero bytes.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|last| last & 1 == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::super::testing;
    use super::*;

    fn parse_value(document: &Value) -> Result<Document, DocumentError> {
        parse(document.to_string().as_bytes())
    }

    /// A good entry with one member replaced.
    fn with(name: &str, value: Value) -> Value {
        let mut jwk = testing::jwk("k1");
        jwk[name] = value;
        jwk
    }

    fn modulus(bytes: usize, first: u8, last: u8) -> Value {
        let mut n = vec![0xa5; bytes];
        n[0] = first;
        n[bytes - 1] = last;
        json!(URL_SAFE_NO_PAD.encode(n))
    }

    #[test]
    fn good_keys_are_taken_with_or_without_the_optional_members() {
        let mut bare = testing::jwk("k2");
        for name in ["use", "alg"] {
            bare.as_object_mut().unwrap().remove(name).unwrap();
        }
        let document = parse_value(&json!({ "keys": [testing::jwk("k1"), bare] })).unwrap();
        assert_eq!(document.keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(document.keys[0].e, [1, 0, 1]);
        assert_eq!(bits(&document.keys[0].n), 2048);
        assert_eq!(document.skipped, Vec::<String>::new());
        for fine in [with("key_ops", json!(["verify"])), with("n", modulus(1024, 0x80, 1)), with("e", json!("Aw"))] {
            assert!(parse_value(&json!({ "keys": [fine] })).is_ok(), "{fine}");
        }
        let padded = with("n", modulus(257, 0, 1));
        assert_eq!(parse_value(&json!({ "keys": [padded] })).unwrap().keys[0].n.len(), 256);
    }

    #[test]
    fn a_bad_key_is_left_out_and_the_others_stay() {
        let oct = json!({"kty": "oct", "kid": "o", "k": "AAAA", "alg": "HS256"});
        let ec = json!({"kty": "EC", "kid": "e", "crv": "P-256", "x": "AA", "y": "AA"});
        for (bad, reason) in [
            (json!("k"), Unfit::NotAnObject),
            (oct, Unfit::Type),
            (ec, Unfit::Type),
            (with("kty", json!("rsa")), Unfit::Type),
            (with("use", json!("enc")), Unfit::Use),
            (with("use", json!(null)), Unfit::Use),
            (with("alg", json!("RS512")), Unfit::Algorithm),
            (with("alg", json!("HS256")), Unfit::Algorithm),
            (with("alg", json!("RSA-OAEP")), Unfit::Algorithm),
            (with("key_ops", json!(["sign"])), Unfit::Operations),
            (with("key_ops", json!("verify")), Unfit::Operations),
            (with("kid", json!("")), Unfit::Kid),
            (with("kid", json!(7)), Unfit::Kid),
            (with("kid", json!("k".repeat(257))), Unfit::Kid),
            (with("kid", json!("good")), Unfit::DuplicateKid),
            (with("n", json!("!!")), Unfit::Modulus),
            (with("n", json!("")), Unfit::Modulus),
            (with("n", json!(5)), Unfit::Modulus),
            (with("n", modulus(256, 0x7f, 1)), Unfit::Modulus),
            (with("n", modulus(128, 0x80, 1)), Unfit::Modulus),
            (with("n", modulus(1025, 1, 1)), Unfit::Modulus),
            (with("n", modulus(256, 0x80, 2)), Unfit::Modulus),
            (with("e", json!("AQ")), Unfit::Exponent),
            (with("e", json!("AAAA")), Unfit::Exponent),
            (with("e", json!("BA")), Unfit::Exponent),
            (with("e", json!("AQAAAAE")), Unfit::Exponent),
            (with("e", json!("AQAB=")), Unfit::Exponent),
        ] {
            let document = parse_value(&json!({ "keys": [testing::jwk("good"), bad] })).unwrap();
            assert_eq!(document.keys.len(), 1, "{bad}");
            assert_eq!(document.keys[0].kid, "good");
            assert_eq!(document.skipped, [format!("keys[1]: {reason}")], "{bad}");
        }
    }

    #[test]
    fn a_set_without_a_usable_key_is_refused() {
        for keys in [json!([]), json!([with("use", json!("enc"))]), json!([5, null])] {
            assert_eq!(parse_value(&json!({ "keys": keys })), Err(DocumentError::NoUsableKey));
        }
    }

    #[test]
    fn other_documents_are_refused() {
        for text in ["{}", "[]", "5", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"KEYS":[]}"#] {
            assert_eq!(parse(text.as_bytes()), Err(DocumentError::Shape), "{text}");
        }
        for (text, reason) in [
            ("", JsonError::Syntax),
            ("<html>", JsonError::Syntax),
            (r#"{"keys":[]} x"#, JsonError::Syntax),
            (r#"{"keys":[],"keys":[]}"#, JsonError::Duplicate),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(DocumentError::Json(reason)), "{text}");
        }
        let many: Vec<Value> = (0..33).map(|n| testing::jwk(&format!("k{n}"))).collect();
        assert_eq!(parse_value(&json!({ "keys": many })), Err(DocumentError::TooManyKeys));
        assert_eq!(parse_value(&json!({ "keys": many[..32] })).unwrap().keys.len(), 32);
        assert_eq!(parse(&vec![b' '; MAX_DOCUMENT + 1]), Err(DocumentError::TooLarge));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn arbitrary_numbers_never_panic(n in proptest::collection::vec(any::<u8>(), 0..300), e in proptest::collection::vec(any::<u8>(), 0..6)) {
            let mut jwk = with("n", json!(URL_SAFE_NO_PAD.encode(n)));
            jwk["e"] = json!(URL_SAFE_NO_PAD.encode(e));
            if let Ok(document) = parse_value(&json!({ "keys": [jwk] })) {
                prop_assert!(bits(&document.keys[0].n) >= 2048 && document.keys[0].e.len() <= 4);
            }
        }
    }
}
