//! From the bytes of a token to [`Verified`] claims, or to one exact reason why not.
//!
//! The order is fixed: bounds and form, then the issuer chooses the pool, then the key, then the
//! signature, then what the claims say, then the clock. Who may do what with a verified token is
//! not decided here: client, use and revocation belong to the access rules and are looked at on
//! every request.
//!
//! jsonwebtoken does the RSA and nothing else: it would accept headers with `crit`, a missing or
//! mistyped `iss`, an `iss` that is a list, and claims that are there twice.

pub mod cache;
mod claims;
mod compact;
pub mod jwks;

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use jsonwebtoken::crypto;

pub use self::claims::Claims;
use self::compact::Compact;
use self::jwks::{Key, KeySet, Keys, NoKey};
use crate::clock::Timestamp;
use crate::config;

/// Cognito's longest token lifetime: `AccessTokenValidity` in the Cognito API reference.
const MAX_LIFETIME_SECONDS: i64 = 24 * 60 * 60;

/// Declares the reasons with their words.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $word:literal)+) => {
        /// Why a token is refused: for the log, the metric label and `explain`, never for the client.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant),+
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The reason as one word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

reasons! {
    /// Not a JWS in compact form, not strict base64url, or not single JSON objects (RFC 7515 §7.1).
    Malformed "malformed"
    /// Token or header longer than any sensible one.
    TooLarge "too_large"
    /// A JWE, such as Cognito's refresh tokens.
    Encrypted "encrypted"
    /// `alg` is not RS256 (RFC 7518 §3.1).
    Algorithm "algorithm"
    /// `crit`, `b64` or `zip`: the token must not be read the usual way.
    CriticalHeader "critical_header"
    /// `jku`, `jwk`, `x5u` or `x5c`: the token brings its own key.
    KeyInHeader "key_in_header"
    /// `typ` says that this is something else (RFC 7515 §4.1.9, RFC 9068 §2.1).
    Type "type"
    /// No `kid`.
    KeyIdMissing "key_id_missing"
    /// `iss` is not a pool of the configuration.
    WrongIssuer "wrong_issuer"
    /// The pool has no key of that `kid`, or no longer.
    UnknownKey "unknown_key"
    /// The signature is not the key's.
    Signature "signature"
    /// A claim that has to be there is not.
    ClaimMissing "claim_missing"
    /// A claim has a type or value that it cannot have.
    ClaimType "claim_type"
    /// `exp` is over (RFC 7519 §4.1.4).
    Expired "expired"
    /// `nbf` is still to come (RFC 7519 §4.1.5).
    NotYetValid "not_yet_valid"
    /// `iat` is still to come (RFC 7519 §4.1.6).
    IssuedInFuture "issued_in_future"
    /// Made for longer than Cognito makes tokens for.
    Lifetime "lifetime"
    /// `token_use` is not one that is accepted here.
    WrongUse "wrong_use"
    /// The app client is not one that is accepted here.
    WrongClient "wrong_client"
    /// Signed out.
    Revoked "revoked"
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there are no verified claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The token is not good.
    #[error("the token is refused: {0}")]
    Refused(Reason),
    /// Nobody can tell at present, because the pool's keys cannot be had.
    #[error("the keys to verify the token cannot be had")]
    KeysUnavailable,
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl From<NoKey> for Error {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => Self::Refused(Reason::UnknownKey),
            NoKey::Unavailable => Self::KeysUnavailable,
        }
    }
}

/// Verifies the tokens of several pools.
#[derive(Clone, Debug)]
pub struct Verifier {
    sets: Vec<(Arc<config::Pool>, KeySet)>,
}

impl Verifier {
    /// A verifier of these pools' tokens. Of two pools with the same issuer the first one counts.
    pub fn new(sets: Vec<(Arc<config::Pool>, KeySet)>) -> Self {
        Self { sets }
    }

    /// Verifies a token at `now`. Waits for at most `wait`, and only for a key that is not known yet.
    ///
    /// # Errors
    /// The one reason why the token is not good, or that its key cannot be had. A token with a
    /// wrong signature is never called expired.
    pub async fn verify(&self, token: &str, now: Timestamp, wait: Duration) -> Result<Verified, Error> {
        let token = Compact::parse(token)?;
        let (pool, set) = self.issuing_pool(claims::issuer(&token.payload)?)?;
        let key = set.find(&token.kid, now, wait).await?;
        // The algorithm is the key's: a set has RS256 keys only.
        match crypto::verify(token.signature, token.signed, key.decoding(), Algorithm::RS256) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(Reason::Signature.into()),
        }
        let claims = Claims::from_payload(token.payload)?;
        check_times(&claims, now, pool.leeway)?;
        Ok(Verified { claims: Arc::new(claims), pool: pool.clone(), key, keys: set.keys().clone() })
    }

    /// A token that was good, as the pools of this verifier see it: since it was verified its pool may
    /// have been configured anew.
    ///
    /// # Errors
    /// When its issuer is no pool here.
    pub fn adopt(&self, verified: &Verified) -> Result<Verified, Reason> {
        let (pool, _) = self.issuing_pool(claims::issuer(verified.claims.all())?)?;
        Ok(Verified { pool: Arc::clone(pool), ..verified.clone() })
    }

    fn issuing_pool(&self, issuer: &str) -> Result<(&Arc<config::Pool>, &KeySet), Reason> {
        let of_issuer = |(pool, _): &&(Arc<config::Pool>, KeySet)| pool.issuers.iter().any(|known| known == issuer);
        let (pool, set) = self.sets.iter().find(of_issuer).ok_or(Reason::WrongIssuer)?;
        Ok((pool, set))
    }
}

/// The claims of a token of which nothing was verified: for `explain`, which decides nothing.
#[derive(Clone, Debug)]
pub struct Unverified {
    /// What the token says.
    pub claims: Claims,
    /// Whom it says it is from.
    pub issuer: String,
}

impl Unverified {
    /// Reads a token without looking at its signature.
    ///
    /// # Errors
    /// When it has not the form of a token.
    pub fn from_token(token: &str) -> Result<Self, Reason> {
        Self::from_payload(Compact::parse(token)?.payload)
    }

    /// Takes a token's payload as it is.
    ///
    /// # Errors
    /// When it is not the payload of a Cognito token.
    pub fn from_payload(payload: serde_json::Map<String, serde_json::Value>) -> Result<Self, Reason> {
        let issuer = claims::issuer(&payload)?.to_owned();
        Ok(Self { claims: Claims::from_payload(payload)?, issuer })
    }
}

/// A token that was good when it was verified. Only [`Verifier::verify`] makes one.
#[derive(Clone, Debug)]
pub struct Verified {
    claims: Arc<Claims>,
    pool: Arc<config::Pool>,
    key: Arc<Key>,
    keys: Arc<Keys>,
}

impl Verified {
    /// What the token says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The pool that issued it.
    pub fn pool(&self) -> &Arc<config::Pool> {
        &self.pool
    }

    /// When it expires, leeway included.
    pub fn good_until(&self) -> Timestamp {
        Timestamp::from_seconds(u64::try_from(self.claims.exp).unwrap_or_default()).after(self.pool.leeway)
    }

    /// Whether its pool no longer has the key that signed it.
    pub fn is_withdrawn(&self) -> bool {
        self.key.is_retired()
    }

    /// Whether the verdict still holds at `now`: what a cache must ask before it believes itself.
    ///
    /// # Errors
    /// When the token has expired, its key was withdrawn, or the key set has become stale.
    pub fn still_good(&self, now: Timestamp) -> Result<(), Error> {
        if self.is_withdrawn() {
            return Err(Reason::UnknownKey.into());
        }
        if !self.keys.is_fresh(now) {
            return Err(Error::KeysUnavailable);
        }
        check_times(&self.claims, now, self.pool.leeway)?;
        Ok(())
    }
}

/// The clock against `exp`, `nbf` and `iat`, each with the leeway in the token's favor.
fn check_times(claims: &Claims, now: Timestamp, leeway: Duration) -> Result<(), Reason> {
    // Claims have no year beyond 9999, and leeways and the clock saturate: nothing overflows.
    let now = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    let leeway = i64::try_from(leeway.as_millis()).unwrap_or(i64::MAX);
    let millis = |seconds: i64| seconds.saturating_mul(1000);
    if millis(claims.exp).saturating_add(leeway) <= now {
        return Err(Reason::Expired);
    }
    let latest = now.saturating_add(leeway);
    if claims.nbf.is_some_and(|nbf| millis(nbf) > latest) {
        return Err(Reason::NotYetValid);
    }
    if millis(claims.iat) > latest {
        return Err(Reason::IssuedInFuture);
    }
    let longest = millis(MAX_LIFETIME_SECONDS).saturating_add(leeway);
    if millis(claims.exp).saturating_sub(millis(claims.iat)) > longest {
        return Err(Reason::Lifetime);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
