//! Keys for ES256: ECDSA on the curve P-256 with SHA-256 (RFC 7518 §3.4).
//!
//! What the gateway signs itself it signs with one of these. The signatures of user pools are
//! another matter: those are RS256, and `token` checks them.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::secret::Secret;

/// A private key, and how its public half is called.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    kid: String,
    /// Both coordinates of the public point, base64url.
    x: String,
    y: String,
    /// The JOSE header of everything it signs, base64url.
    header: String,
}

/// Why a text is no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no private key in PEM in it.
    #[error("there is no PEM block with a private key")]
    NotPem,
    /// The key is for another algorithm, or damaged.
    #[error("not a private key of the curve P-256")]
    NotP256,
}

impl SigningKey {
    /// A new key.
    #[expect(clippy::expect_used, reason = "without random numbers there is no safe way on, as in `secret`")]
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key can be made");
        Self::new(pair).expect("the public half of a new key is a point")
    }

    /// Reads PEM text as `openssl` writes it: PKCS#8 (RFC 5958) or SEC 1 (RFC 5915).
    ///
    /// # Errors
    /// When it is not a private key of the curve P-256.
    pub fn from_pem(pem: &Secret<String>) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_not_pem| KeyError::NotPem)?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_der(algorithm, der.secret_der());
        Self::new(pair.map_err(|_rejected| KeyError::NotP256)?)
    }

    /// The private key as PKCS#8 in PEM.
    #[expect(clippy::expect_used, reason = "a key that exists can be written down")]
    pub fn to_pem(&self) -> Secret<String> {
        let der = self.pair.to_pkcs8v1().expect("a key has a PKCS#8 form");
        let base64 = Secret::new(STANDARD.encode(der.as_ref()));
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for line in base64.expose().as_bytes().chunks(64) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Secret::new(pem)
    }

    /// The name of the key: the thumbprint of its public half (RFC 7638). The same key is called the
    /// same wherever it is read.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half (RFC 7517).
    pub fn jwk(&self) -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y, "use": "sig", "alg": "ES256", "kid": self.kid,
        })
    }

    /// A JWT in its compact form (RFC 7515 §7.1) with these claims, which are JSON.
    #[expect(clippy::expect_used, reason = "signing fails only without random numbers, as in `secret`")]
    pub fn jwt(&self, claims: &[u8]) -> String {
        let mut jwt = String::with_capacity(self.header.len() + claims.len() * 4 / 3 + 96);
        jwt.push_str(&self.header);
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut jwt);
        let signature = self.pair.sign(&SystemRandom::new(), jwt.as_bytes()).expect("a good key signs");
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut jwt);
        jwt
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        // SEC 1 §2.3.3: 4, then both coordinates of 32 bytes.
        let (x, y) = match pair.public_key().as_ref().split_first() {
            Some((4, point)) if point.len() == 64 => point.split_at_checked(32).ok_or(KeyError::NotP256)?,
            _ => return Err(KeyError::NotP256),
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638 §3.2: the required members only, in this order and without a space.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "kid": kid, "typ": "JWT"}).to_string());
        Ok(Self { pair, kid, x, y, header })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Two keys with the same thumbprint are the same.
impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.kid == other.kid
    }
}

impl Eq for SigningKey {}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};

    use super::*;

    /// The key of RFC 7515, appendix A.3, as `openssl ecparam -genkey` writes one.
    const SEC1: &str = "\
-----BEGIN EC PARAMETERS-----
BggqhkjOPQMBBw==
-----END EC PARAMETERS-----
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEII6bEJ5xkJi/mASH3x9dd+nLKWBuvtImO19XwhPfhPSyoAoGCCqGSM49
AwEHoUQDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEXH8UTNG72b
focs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==
-----END EC PRIVATE KEY-----
";
    /// The same, behind `openssl pkcs8 -topk8 -nocrypt`.
    const PKCS8: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgjpsQnnGQmL+YBIff
H1136cspYG6+0iY7X1fCE9+E9LKhRANCAAR/zc4ncPbEXUGDy+5v20t7WAczNXvp
7xO6z248e9FURcfxRM0bvZt+hyzf7bnuufSzaV1uqQskrYpGIyiFiOWt
-----END PRIVATE KEY-----
";

    fn read(text: &str) -> Result<SigningKey, KeyError> {
        SigningKey::from_pem(&Secret::from(text.to_owned()))
    }

    #[test]
    fn others_can_check_what_it_signs() {
        let key = SigningKey::generate();
        let jwt = key.jwt(br#"{"sub":"a"}"#);
        assert_eq!(jsonwebtoken::decode_header(&jwt).unwrap().kid.as_deref(), Some(key.kid()));
        let public = DecodingKey::from_ec_components(&key.x, &key.y).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_required_spec_claims::<&str>(&[]);
        let claims: Value = jsonwebtoken::decode(&jwt, &public, &validation).unwrap().claims;
        assert_eq!(claims, json!({"sub": "a"}));
        let other = SigningKey::generate();
        let other = DecodingKey::from_ec_components(&other.x, &other.y).unwrap();
        assert!(jsonwebtoken::decode::<Value>(&jwt, &other, &validation).is_err());
    }

    #[test]
    fn a_key_is_the_same_in_each_of_its_forms() {
        let key = read(SEC1).unwrap();
        assert_eq!(read(PKCS8), Ok(SigningKey::from_pem(&key.to_pem()).unwrap()));
        assert_eq!(read(PKCS8).unwrap().kid(), key.kid());
        assert_eq!(read(&format!("notes\n{PKCS8}")).unwrap(), key, "openssl writes text around it");
        assert_ne!(SigningKey::generate(), key);
    }

    #[test]
    fn its_name_is_the_thumbprint_of_rfc_7638() {
        // By Python's hashlib from the coordinates in the appendix.
        assert_eq!(read(SEC1).unwrap().kid(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
    }

    #[test]
    fn other_texts_are_no_keys() {
        let p384 = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let p384 = STANDARD.encode(p384.to_pkcs8v1().unwrap().as_ref());
        let damaged = PKCS8.replacen("MIG", "MIH", 1);
        for (text, error) in [
            ("", KeyError::NotPem),
            ("c2VjcmV0", KeyError::NotPem),
            ("-----BEGIN PRIVATE KEY-----\n", KeyError::NotPem),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", KeyError::NotP256),
            (&format!("-----BEGIN PRIVATE KEY-----\n{p384}\n-----END PRIVATE KEY-----\n"), KeyError::NotP256),
            (&damaged, KeyError::NotP256),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
    }

    #[test]
    fn nothing_private_is_printed() {
        let key = read(PKCS8).unwrap();
        let shown = format!("{key:?} {}", key.jwk());
        assert!(shown.contains(key.kid()) && !shown.contains("\"d\""), "{shown}");
        assert_eq!(format!("{:?}", key.to_pem()), "***");
    }
}
