//! The signing keys of a pool: RS256, one pair for ID tokens and one for access tokens.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::records::{Pool, SigningKey};
use crate::clock::Timestamp;
use crate::config::TokenUse;
use crate::secret::Secret;

/// How long keys sign before they are replaced without being asked.
pub(super) const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How long a retired key stays in the key set: the longest life of a token that it may have signed.
pub(super) const OVERLAP: Duration = Duration::from_secs(86_400);

/// The key material is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The generator of aws-lc failed.
    #[error("no RSA key could be generated")]
    Generate,
    /// A stored key cannot be read.
    #[error("a stored signing key cannot be read")]
    Stored,
    /// Signing failed.
    #[error("a token could not be signed")]
    Sign,
}

/// Retires the keys that sign now, adds a new pair of pairs and drops what nobody needs any more.
/// The first call on a pool makes its first keys. Takes up to a second.
///
/// # Errors
/// When no key could be generated; the pool is as before.
pub(super) fn rotate(pool: &mut Pool, now: Timestamp) -> Result<(), Error> {
    let fresh = [generate(TokenUse::Id, now)?, generate(TokenUse::Access, now)?];
    pool.keys.retain(|key| key.retired.is_none_or(|at| now.since(Timestamp::from_millis(at)) < OVERLAP));
    for key in &mut pool.keys {
        key.retired.get_or_insert(now.millis());
        key.private = None;
    }
    pool.keys.extend(fresh);
    Ok(())
}

/// Whether it is time for new keys.
pub(super) fn due(pool: &Pool, now: Timestamp) -> bool {
    !pool.keys.iter().any(|key| key.retired.is_none() && now.since(Timestamp::from_millis(key.created)) < LIFE)
}

/// The key set (RFC 7517 §5) as `/.well-known/jwks.json` has it.
pub(super) fn key_set(pool: &Pool, now: Timestamp) -> Value {
    let shown = |key: &&SigningKey| key.retired.is_none_or(|at| now.since(Timestamp::from_millis(at)) < OVERLAP);
    let entry = |key: &SigningKey| json!({ "alg": "RS256", "e": key.e, "kid": key.kid, "kty": "RSA", "n": key.n, "use": "sig" });
    json!({ "keys": pool.keys.iter().filter(shown).map(entry).collect::<Vec<Value>>() })
}

/// The keys of a pool, ready for use.
pub(super) struct Ring {
    id: Signer,
    access: Signer,
    public: Vec<SigningKey>,
}

struct Signer {
    kid: String,
    key: KeyPair,
}

impl Ring {
    /// Reads the stored keys of a pool.
    ///
    /// # Errors
    /// [`Error::Stored`] when one of the two that sign is missing or broken.
    pub(super) fn load(pool: &Pool) -> Result<Self, Error> {
        let signer = |token_use: TokenUse| {
            let mut newest = pool.keys.iter().rev().filter(|key| key.token_use == token_use.as_str());
            let stored = newest.next().ok_or(Error::Stored)?;
            let pkcs8 = stored.private.as_ref().and_then(|text| URL_SAFE_NO_PAD.decode(text.expose()).ok());
            let pkcs8 = Secret::new(pkcs8.ok_or(Error::Stored)?);
            let key = KeyPair::from_pkcs8(pkcs8.expose()).map_err(|_| Error::Stored)?;
            Ok(Signer { kid: stored.kid.clone(), key })
        };
        let public = pool.keys.iter().map(|key| SigningKey { private: None, ..key.clone() }).collect();
        Ok(Self { id: signer(TokenUse::Id)?, access: signer(TokenUse::Access)?, public })
    }

    /// A JWS in compact form (RFC 7515 §7.1) whose header is exactly `kid` and `alg`, as Cognito's.
    ///
    /// # Errors
    /// [`Error::Sign`].
    pub(super) fn sign(&self, token_use: TokenUse, claims: &Value) -> Result<String, Error> {
        let signer = match token_use {
            TokenUse::Id => &self.id,
            TokenUse::Access => &self.access,
        };
        // A kid is base64, which needs no escaping.
        let header = format!(r#"{{"kid":"{}","alg":"RS256"}}"#, signer.kid);
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; signer.key.public_modulus_len()];
        signer
            .key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| Error::Sign)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token of the given use that this pool signed; `None` for any other text.
    pub(super) fn open(&self, token_use: TokenUse, token: &str) -> Option<Value> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let kid = header.get("kid")?.as_str()?;
        let key = self.public.iter().find(|key| key.kid == kid && key.token_use == token_use.as_str())?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let key = RsaPublicKeyComponents { n: decode(&key.n)?, e: decode(&key.e)? };
        key.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &decode(signature)?).ok()?;
        serde_json::from_slice(&decode(claims)?).ok()
    }
}

fn generate(token_use: TokenUse, now: Timestamp) -> Result<SigningKey, Error> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::Generate)?;
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| Error::Generate)?;
    let n = pair.public_key().modulus().big_endian_without_leading_zero();
    let e = pair.public_key().exponent().big_endian_without_leading_zero();
    Ok(SigningKey {
        kid: STANDARD.encode(digest(&SHA256, n)),
        token_use: token_use.as_str().to_owned(),
        created: now.millis(),
        retired: None,
        n: URL_SAFE_NO_PAD.encode(n),
        e: URL_SAFE_NO_PAD.encode(e),
        private: Some(Secret::new(URL_SAFE_NO_PAD.encode(pkcs8.as_ref()))),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::records::Policy;
    use super::*;
    use crate::secret::random_id;

    /// A pool without keys.
    pub(in super::super) fn pool() -> Pool {
        Pool {
            id: "eu-west-1_Dev000001".to_owned(),
            name: "test".to_owned(),
            created: 0,
            policy: Policy::default(),
            email_alias: false,
            self_sign_up: true,
            keys: Vec::new(),
            token_key: Secret::new(random_id::<32>()),
            phantom_key: Secret::new(random_id::<32>()),
        }
    }

    fn kids(pool: &Pool, now: Timestamp) -> Vec<String> {
        let set = key_set(pool, now);
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn each_use_has_its_own_key_and_header() {
        let mut pool = pool();
        let now = Timestamp::from_seconds(1_000_000);
        assert!(due(&pool, now));
        rotate(&mut pool, now).unwrap();
        let ring = Ring::load(&pool).unwrap();
        let token = ring.sign(TokenUse::Access, &json!({ "sub": "s" })).unwrap();
        assert_eq!(ring.open(TokenUse::Access, &token), Some(json!({ "sub": "s" })));
        assert_eq!(ring.open(TokenUse::Id, &token), None, "the ID key did not sign it");
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&header).unwrap();
        assert_eq!(header.keys().map(String::as_str).collect::<Vec<_>>(), ["alg", "kid"]);
        assert_eq!(header["kid"].as_str().unwrap().len(), 44);
        let mut tampered = token.into_bytes();
        let middle = tampered.len() / 2;
        tampered[middle] ^= 1;
        assert_eq!(ring.open(TokenUse::Access, &String::from_utf8(tampered).unwrap()), None);
    }

    #[test]
    fn a_rotation_keeps_old_keys_for_a_day_and_their_private_half_not_at_all() {
        let mut pool = pool();
        let start = Timestamp::from_seconds(1_000_000);
        rotate(&mut pool, start).unwrap();
        let token = Ring::load(&pool).unwrap().sign(TokenUse::Access, &json!({ "sub": "s" })).unwrap();
        let first = kids(&pool, start);
        rotate(&mut pool, start).unwrap();
        assert_eq!(kids(&pool, start).len(), 4);
        assert!(kids(&pool, start).starts_with(&first));
        assert!(pool.keys.iter().all(|key| key.retired.is_none() == key.private.is_some()));
        assert!(Ring::load(&pool).unwrap().open(TokenUse::Access, &token).is_some());
        let later = start.after(OVERLAP);
        assert_eq!(kids(&pool, later).len(), 2);
        assert!(!kids(&pool, later).contains(&first[0]));
        assert!(!due(&pool, later) && due(&pool, start.after(LIFE)));
    }
}
