//! Whole tokens, one test for each way to refuse them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::testing::{CLIENT, HEADER, NOW, OTHER_ISSUER, access_claims, id_claims, now_or_never, sign};
use super::*;

/// The reason why a token with these claims is refused at [`NOW`].
fn refusal(claims: &Value) -> Reason {
    reason(&sign(HEADER, &claims.to_string()))
}

fn reason(token: &str) -> Reason {
    match testing::verify(token) {
        Err(Error::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Good claims with one replaced.
fn with(name: &str, value: Value) -> Value {
    let mut claims = access_claims();
    claims[name] = value;
    claims
}

fn seconds(offset: i64) -> Value {
    json!(NOW.seconds() + offset)
}

/// Where the parts of a token begin: payload, signature.
fn parts(token: &str) -> (&str, &str, &str) {
    let mut parts = token.split('.');
    (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn good_tokens_pass() {
    let access = testing::verified(&access_claims());
    assert_eq!(access.claims().client, CLIENT);
    assert_eq!(&*access.pool().name, "main");
    assert_eq!(testing::verified(&id_claims()).claims().token_use, config::TokenUse::Id);
    testing::verified(&with("iss", json!(OTHER_ISSUER)));
    for typ in ["JWT", "at+jwt"] {
        let header = format!(r#"{{"kid":"k1","alg":"RS256","typ":"{typ}"}}"#);
        assert!(testing::verify(&sign(&header, &access_claims().to_string())).is_ok(), "{typ}");
    }
}

#[test]
fn words_of_reasons_are_snake_case_and_differ() {
    let mut words: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), Reason::ALL.len());
}

#[test]
fn form_and_header_are_checked_before_anything_else() {
    let claims = access_claims().to_string();
    for (header, expected) in [
        (r#"{"kid":"k1","alg":"RS256","crit":["b64"],"b64":true}"#, Reason::CriticalHeader),
        (r#"{"kid":"k1","alg":"RS256","jku":"https://evil.example"}"#, Reason::KeyInHeader),
        (r#"{"kid":"k1","alg":"RS256","typ":"dpop+jwt"}"#, Reason::Type),
        (r#"{"kid":"k1","alg":"RS384"}"#, Reason::Algorithm),
        (r#"{"alg":"RS256"}"#, Reason::KeyIdMissing),
        (r#"{"kid":"k2","alg":"RS256"}"#, Reason::UnknownKey),
        (r#"{"kid":"k1","kid":"k1","alg":"RS256"}"#, Reason::Malformed),
    ] {
        assert_eq!(reason(&sign(header, &claims)), expected, "{header}");
    }
    assert_eq!(reason(&".".repeat(64 * 1024)), Reason::TooLarge);
    assert_eq!(reason("a.b.c.d.e"), Reason::Encrypted);
    assert_eq!(reason(&format!("{}=", sign(HEADER, &claims))), Reason::Malformed);
    let with_group = with("cognito:groups", json!(["g".repeat(8000)]));
    assert_eq!(refusal(&with_group), Reason::TooLarge);
}

#[test]
fn lesson_20_a_token_signed_with_the_public_key_as_hmac_secret_is_refused() {
    use aws_lc_rs::hmac;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let n = testing::jwk("k1")["n"].as_str().unwrap().to_owned();
    for (header, expected) in [
        (r#"{"kid":"k1","alg":"HS256"}"#, Reason::Algorithm),
        (r#"{"kid":"k1","alg":"RS256"}"#, Reason::Signature),
        (r#"{"kid":"oct","alg":"HS256"}"#, Reason::Algorithm),
    ] {
        let token = sign(header, &access_claims().to_string());
        let (head, payload, _) = parts(&token);
        let signed = format!("{head}.{payload}");
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(&n).unwrap());
        let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&secret, signed.as_bytes())));
        // A key set that brings the public key as a symmetric key does not help the forger.
        let oct = json!({"kty": "oct", "kid": "oct", "k": n, "alg": "HS256"});
        let document = json!({"keys": [oct, testing::jwk("k1")]}).to_string();
        let pool = Arc::new(testing::pool());
        let verifier = Verifier::new(vec![(pool.clone(), KeySet::fixed(pool, &document, NOW))]);
        let verdict = now_or_never(verifier.verify(&forged, NOW, Duration::ZERO));
        assert_eq!(verdict.map(|_| ()), Err(Error::Refused(expected)), "{header}");
    }
    for header in [r#"{"kid":"k1","alg":"none"}"#, r#"{"kid":"k1","alg":"NONE"}"#] {
        let token = sign(header, &access_claims().to_string());
        let (head, payload, _) = parts(&token);
        assert_eq!(reason(&token), Reason::Algorithm);
        assert_eq!(reason(&format!("{head}.{payload}.AAAA")), Reason::Algorithm);
        assert_eq!(reason(&format!("{head}.{payload}.")), Reason::Algorithm);
    }
}

#[test]
fn the_issuer_is_one_exact_text() {
    for issuer in [
        "https://evil.example",
        "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC123xyz/",
        "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC123xyy",
        "HTTPS://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC123xyz",
        "",
    ] {
        assert_eq!(refusal(&with("iss", json!(issuer))), Reason::WrongIssuer, "{issuer}");
    }
    // jsonwebtoken takes a list with one good member, and a number, for a good issuer.
    for issuer in [json!(["https://evil.example", testing::ISSUER]), json!([testing::ISSUER]), json!(5), json!(null)] {
        assert_eq!(refusal(&with("iss", issuer.clone())), Reason::ClaimType, "{issuer}");
    }
    let mut claims = access_claims();
    claims.as_object_mut().unwrap().remove("iss").unwrap();
    assert_eq!(refusal(&claims), Reason::ClaimMissing);
}

#[test]
fn an_unknown_issuer_is_refused_before_any_key_work() {
    let header = r#"{"kid":"unknown","alg":"RS256"}"#;
    let token = sign(header, &with("iss", json!("https://evil.example")).to_string());
    assert_eq!(reason(&token), Reason::WrongIssuer);
}

#[test]
fn each_pool_has_its_own_keys() {
    let other_issuer = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Other0001";
    let mut other = testing::pool();
    other.name = Arc::from("other");
    other.issuers = vec![other_issuer.to_owned()];
    let other = Arc::new(other);
    // Both pools call their key k1.
    let document = json!({"keys": [testing::other_jwk("k1")]}).to_string();
    let main = Arc::new(testing::pool());
    let sets = vec![(main, testing::key_set()), (other.clone(), KeySet::fixed(other, &document, NOW))];
    let verifier = Verifier::new(sets);
    let verify = |token: &str| now_or_never(verifier.verify(token, NOW, Duration::ZERO));

    let of_main = access_claims().to_string();
    let of_other = with("iss", json!(other_issuer)).to_string();
    assert_eq!(&*verify(&sign(HEADER, &of_main)).unwrap().pool().name, "main");
    assert_eq!(&*verify(&testing::sign_with_other_key(HEADER, &of_other)).unwrap().pool().name, "other");
    for stolen in [sign(HEADER, &of_other), testing::sign_with_other_key(HEADER, &of_main)] {
        assert_eq!(verify(&stolen).map(|_| ()), Err(Error::Refused(Reason::Signature)));
    }
}

#[test]
fn the_signature_is_checked_before_the_claims_are_believed() {
    for claims in [access_claims(), with("exp", seconds(-3000)), with("token_use", json!("refresh"))] {
        let token = testing::sign_with_other_key(HEADER, &claims.to_string());
        assert_eq!(reason(&token), Reason::Signature, "{claims}");
    }
    // The payload of one token with the signature of another.
    let a = sign(HEADER, &access_claims().to_string());
    let b = sign(HEADER, &with("username", json!("admin")).to_string());
    let ((head, _, signature), (_, payload, _)) = (parts(&a), parts(&b));
    assert_eq!(reason(&format!("{head}.{payload}.{signature}")), Reason::Signature);
    assert_eq!(reason(&format!("{head}.{payload}.AAAA")), Reason::Signature, "too short for the key");
}

#[test]
fn claims_have_their_types_also_when_they_are_signed() {
    // CVE-2026-25537: jsonwebtoken before 10.3 took a text in `nbf` for an absent claim.
    for (name, value) in [
        ("nbf", json!("4102444800")),
        ("exp", json!(1e300)),
        ("exp", json!(-1)),
        ("exp", json!(9_007_199_254_740_993_u64)),
        ("exp", json!(1_800_003_600.5)),
        ("exp", json!("1800003600")),
        ("iat", json!(null)),
        ("sub", json!(5)),
        ("cognito:groups", json!("admin")),
        ("scope", json!(["a"])),
        ("token_use", json!(["access"])),
        ("client_id", json!([CLIENT])),
    ] {
        assert_eq!(refusal(&with(name, value.clone())), Reason::ClaimType, "{name}: {value}");
    }
    let mut claims = id_claims();
    claims["aud"] = json!([CLIENT, "another"]);
    assert_eq!(refusal(&claims), Reason::ClaimType);
}

#[test]
fn lesson_22_required_claims_are_required() {
    for name in ["iss", "sub", "exp", "iat", "token_use", "client_id"] {
        let mut claims = access_claims();
        claims.as_object_mut().unwrap().remove(name).unwrap();
        assert_eq!(refusal(&claims), Reason::ClaimMissing, "{name}");
    }
    assert_eq!(refusal(&with("token_use", json!("refresh"))), Reason::WrongUse);
}

#[test]
fn a_claim_that_is_there_twice_is_refused() {
    // jsonwebtoken lets the last one win for every claim that its caller did not declare.
    let claims = access_claims().to_string();
    let twice = claims.replacen('{', r#"{"custom:role":"admin","custom:role":"user","#, 1);
    assert_eq!(reason(&sign(HEADER, &twice)), Reason::Malformed);
    let nested = claims.replacen('{', r#"{"address":{"formatted":"a","formatted":"b"},"#, 1);
    assert_eq!(reason(&sign(HEADER, &nested)), Reason::Malformed);
    assert_eq!(reason(&sign(HEADER, &format!("{claims}{{}}"))), Reason::Malformed, "trailing junk");
    let deep = claims.replacen('{', &format!(r#"{{"x":{}{},"#, "[".repeat(16), "]".repeat(16)), 1);
    assert_eq!(reason(&sign(HEADER, &deep)), Reason::Malformed);
}

#[test]
fn times_have_exactly_the_leeway() {
    let at = |claims: Value, millis: u64| {
        let token = sign(HEADER, &claims.to_string());
        let verdict = testing::verifier();
        let verdict = now_or_never(verdict.verify(&token, Timestamp::from_millis(millis), Duration::ZERO));
        verdict.map(|_| ())
    };
    let now = NOW.millis();
    let refused = |reason| Err(Error::Refused(reason));
    // The pool's leeway is 10 s.
    assert_eq!(at(with("exp", seconds(-9)), now), Ok(()));
    assert_eq!(at(with("exp", seconds(-10)), now), refused(Reason::Expired));
    assert_eq!(at(with("exp", seconds(-10)), now - 1), Ok(()));
    assert_eq!(at(with("exp", json!(0)), now), refused(Reason::Expired));
    assert_eq!(at(with("nbf", seconds(10)), now), Ok(()));
    assert_eq!(at(with("nbf", seconds(11)), now), refused(Reason::NotYetValid));
    assert_eq!(at(with("iat", seconds(10)), now), Ok(()));
    assert_eq!(at(with("iat", seconds(11)), now), refused(Reason::IssuedInFuture));
    let iat = NOW.seconds() - 60;
    assert_eq!(at(with("exp", json!(iat + 86_400 + 10)), now), Ok(()));
    assert_eq!(at(with("exp", json!(iat + 86_400 + 11)), now), refused(Reason::Lifetime));
    assert_eq!(at(with("exp", json!(253_402_300_799_i64)), now), refused(Reason::Lifetime));
}

#[test]
fn a_cached_verdict_ends_with_the_token_its_key_and_its_set() {
    let pool = Arc::new(testing::pool());
    let set = KeySet::fixed(pool.clone(), &testing::jwks(&["k1"]), NOW);
    let verifier = Verifier::new(vec![(pool.clone(), set.clone())]);
    let token = sign(HEADER, &with("exp", seconds(3600)).to_string());
    let verified = now_or_never(verifier.verify(&token, NOW, Duration::ZERO)).unwrap();
    assert_eq!(verified.still_good(NOW), Ok(()));
    let expiry = NOW.after(Duration::from_secs(3600) + pool.leeway);
    assert_eq!(verified.still_good(Timestamp::from_millis(expiry.millis() - 1)), Ok(()));
    assert_eq!(verified.still_good(expiry), Err(Error::Refused(Reason::Expired)));

    set.refresh_fixed(&testing::jwks(&["k0", "k1", "k2"]), NOW);
    assert_eq!(verified.still_good(NOW), Ok(()), "the key did not change");
    set.refresh_fixed(&json!({"keys": [testing::other_jwk("k1")]}).to_string(), NOW);
    assert_eq!(verified.still_good(NOW), Err(Error::Refused(Reason::UnknownKey)), "same name, another key");
    set.refresh_fixed(&testing::jwks(&["k1"]), NOW);
    assert_eq!(verified.still_good(NOW), Err(Error::Refused(Reason::UnknownKey)), "verify again");
    assert!(now_or_never(verifier.verify(&token, NOW, Duration::ZERO)).is_ok());
}

#[test]
fn a_stale_set_verifies_nothing() {
    let mut pool = testing::pool();
    pool.keys.stale = Duration::from_secs(60);
    let pool = Arc::new(pool);
    let set = KeySet::fixed(pool.clone(), &testing::jwks(&["k1"]), NOW);
    let verifier = Verifier::new(vec![(pool, set)]);
    let token = sign(HEADER, &access_claims().to_string());
    let at = |seconds| NOW.after(Duration::from_secs(seconds));
    let verified = now_or_never(verifier.verify(&token, at(60), Duration::ZERO)).unwrap();
    assert_eq!(verified.still_good(at(60)), Ok(()));
    assert_eq!(verified.still_good(at(61)), Err(Error::KeysUnavailable));
    assert!(now_or_never(verifier.verify(&token, at(60), Duration::ZERO)).is_ok());
}

proptest! {
    #[test]
    fn any_changed_byte_refuses_a_token(place in any::<prop::sample::Index>(), byte in 0_u8..128) {
        let token = sign(HEADER, &access_claims().to_string());
        let mut bytes = token.clone().into_bytes();
        let place = place.index(bytes.len());
        prop_assume!(bytes[place] != byte);
        bytes[place] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(matches!(testing::verify(&changed), Err(Error::Refused(_))));
    }

    #[test]
    fn a_shortened_or_lengthened_token_is_refused(keep in any::<prop::sample::Index>(), more in "[A-Za-z0-9_.=-]{1,5}") {
        let token = sign(HEADER, &access_claims().to_string());
        let keep = keep.index(token.len());
        prop_assert!(testing::verify(token.get(..keep).unwrap()).is_err());
        let longer = format!("{token}{more}");
        prop_assert!(testing::verify(&longer).is_err());
    }

    #[test]
    fn arbitrary_text_is_refused(text in any::<String>()) {
        prop_assert!(matches!(testing::verify(&text), Err(Error::Refused(_))));
    }
}

#[test]
fn every_single_character_matters() {
    let token = sign(HEADER, &access_claims().to_string());
    for place in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        // The neighbor in the alphabet changes the lowest bits, which a lenient decoder drops.
        bytes[place] = if bytes[place] == b'B' { b'A' } else { b'B' };
        let changed = String::from_utf8(bytes).unwrap();
        if changed != token {
            assert!(testing::verify(&changed).is_err(), "byte {place}");
        }
    }
}
