//! Real tokens for unit tests: two RSA keys, a pool, a key set, and claims that pass.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::jwks::KeySet;
use super::{Error, Verified, Verifier};
use crate::clock::Timestamp;
use crate::config::{self, Flow, Keys, PoolId, TokenUse};

/// The time of all tests: when the tokens below were issued, plus a minute.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_060);
/// The app client of the tokens.
pub(crate) const CLIENT: &str = "4hrtnexample";
/// The issuer of the tokens.
pub(crate) const ISSUER: &str = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC123xyz";
/// The other form of the same pool's issuer.
pub(crate) const OTHER_ISSUER: &str = "https://issuer-cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC123xyz";
/// The key id of [`sign`]'s key in [`key_set`].
pub(crate) const KID: &str = "k1";
/// A good header.
pub(crate) const HEADER: &str = r#"{"kid":"k1","alg":"RS256"}"#;

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());
static OTHER_KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());

/// A pool named `main`.
pub(crate) fn pool() -> config::Pool {
    config::Pool {
        name: Arc::from("main"),
        id: PoolId { region: "eu-west-1".to_owned(), suffix: "AbC123xyz".to_owned() },
        client_id: CLIENT.to_owned(),
        client_secret: None,
        flow: Flow::Srp,
        clients: vec![CLIENT.to_owned()],
        token_use: vec![TokenUse::Access],
        leeway: Duration::from_secs(10),
        endpoint: "http://127.0.0.1:1".to_owned(),
        issuers: vec![ISSUER.to_owned(), OTHER_ISSUER.to_owned()],
        jwks: "http://127.0.0.1:1/jwks.json".to_owned(),
        keys: Keys {
            refresh: Duration::from_secs(600),
            stale: Duration::from_secs(86_400),
            cooldown: Duration::from_secs(10),
            cache: None,
        },
        embedded: None,
    }
}

/// The claims of an access token that passes at [`NOW`]: issued a minute ago, good for an hour.
pub(crate) fn access_claims() -> Value {
    json!({
        "sub": "7f0c1f6e-0000-4000-8000-000000000001",
        "iss": ISSUER,
        "client_id": CLIENT,
        "origin_jti": "5b1f2a90-0000-4000-8000-000000000002",
        "event_id": "5b1f2a90-0000-4000-8000-000000000003",
        "token_use": "access",
        "scope": "aws.cognito.signin.user.admin orders/read",
        "auth_time": 1_800_000_000,
        "iat": 1_800_000_000,
        "exp": 1_800_003_600,
        "jti": "5b1f2a90-0000-4000-8000-000000000004",
        "username": "demo",
        "cognito:groups": ["admin", "staff"],
        "version": 2,
    })
}

/// The claims of an ID token of the same user.
pub(crate) fn id_claims() -> Value {
    json!({
        "sub": "7f0c1f6e-0000-4000-8000-000000000001",
        "iss": ISSUER,
        "aud": CLIENT,
        "origin_jti": "5b1f2a90-0000-4000-8000-000000000002",
        "event_id": "5b1f2a90-0000-4000-8000-000000000003",
        "token_use": "id",
        "auth_time": 1_800_000_000,
        "iat": 1_800_000_000,
        "exp": 1_800_003_600,
        "jti": "5b1f2a90-0000-4000-8000-000000000005",
        "cognito:username": "demo",
        "cognito:groups": ["admin"],
        "email": "demo@example.com",
        "email_verified": true,
        "custom:tenant": "a",
    })
}

/// A token with this header and these claims, as they are, signed by the key that [`key_set`] has.
pub(crate) fn sign(header: &str, claims: &str) -> String {
    sign_with(&KEY, header, claims)
}

/// The same, signed by the key that it does not have ([`other_jwk`]).
pub(crate) fn sign_with_other_key(header: &str, claims: &str) -> String {
    sign_with(&OTHER_KEY, header, claims)
}

fn sign_with(key: &KeyPair, header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The public half of [`sign`]'s key, as Cognito shows its own.
pub(crate) fn jwk(kid: &str) -> Value {
    jwk_of(&KEY, kid)
}

/// The public half of [`sign_with_other_key`]'s key.
pub(crate) fn other_jwk(kid: &str) -> Value {
    jwk_of(&OTHER_KEY, kid)
}

fn jwk_of(key: &KeyPair, kid: &str) -> Value {
    let public = key.public_key();
    json!({
        "alg": "RS256",
        "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        "kid": kid,
        "kty": "RSA",
        "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
        "use": "sig",
    })
}

/// A JWK Set with [`sign`]'s key under each of these names.
pub(crate) fn jwks(kids: &[&str]) -> String {
    json!({ "keys": kids.iter().map(|kid| jwk(kid)).collect::<Vec<_>>() }).to_string()
}

/// The key set of [`pool`] with [`KID`], fetched at [`NOW`]; nothing refreshes it.
pub(crate) fn key_set() -> KeySet {
    KeySet::fixed(Arc::new(pool()), &jwks(&[KID]), NOW)
}

/// A verifier of [`pool`]'s tokens.
pub(crate) fn verifier() -> Verifier {
    Verifier::new(vec![(Arc::new(pool()), key_set())])
}

/// What the verifier says of a token at [`NOW`].
pub(crate) fn verify(token: &str) -> Result<Verified, Error> {
    now_or_never(verifier().verify(token, NOW, Duration::ZERO))
}

/// The verified form of a token with these claims.
///
/// # Panics
/// When they do not pass.
pub(crate) fn verified(claims: &Value) -> Verified {
    verify(&sign(HEADER, &claims.to_string())).expect("these claims pass")
}

/// The result of a future that has nothing to wait for.
pub(crate) fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future has something to wait for"),
    }
}
