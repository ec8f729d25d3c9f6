//! The compact form of a token and its claims. Bytes with a line feed are taken as a header and a
//! payload and encoded first, so that the fuzzer need not discover base64.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use portcullis::token::Unverified;

fuzz_target!(|data: &[u8]| {
    let token = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => {
            let (header, payload) = data.split_at(at);
            let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
            format!("{}.{}.AAAA", encode(header), encode(payload.get(1..).unwrap_or_default()))
        }
        None => String::from_utf8_lossy(data).into_owned(),
    };
    let Ok(Unverified { claims, issuer }) = Unverified::from_token(&token) else { return };
    assert!(!claims.sub.is_empty() && !claims.client.is_empty());
    assert_eq!(claims.get("iss").and_then(|iss| iss.as_str()), Some(&*issuer));
    assert!(claims.exp >= 0 && claims.iat >= 0);
    assert!(claims.scopes().all(|scope| !scope.is_empty() && !scope.contains(' ')));

    // A token has one spelling: whoever compares tokens as texts compares what they say.
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    for part in &parts {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("strict base64url");
        assert_eq!(URL_SAFE_NO_PAD.encode(bytes), **part);
    }
    let header: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).expect("strict base64url")).expect("JSON");
    assert_eq!(header["alg"], "RS256");
    for name in ["crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "x5c"] {
        assert!(header.get(name).is_none(), "{name}");
    }
});
