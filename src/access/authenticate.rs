//! From a request's headers to its [`Credential`].

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::identity::Identity;
use super::{Credential, Principal, Refusal};
use crate::clock::Timestamp;
use crate::http::single;
use crate::store::Memory;
use crate::telemetry::metrics::{Count, Metrics, Outcome};
use crate::token::cache::Cache;
use crate::token::{Error, Reason, Verified, Verifier};

/// Bytes of verified tokens that are kept.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// What a cached principal takes besides its token: claims, headers, bookkeeping.
const PRINCIPAL_BYTES: usize = 4 * 1024;
/// How long a request waits for a key that is not known yet.
const KEY_WAIT: Duration = Duration::from_secs(3);

/// Tells who sent a request.
#[derive(Debug)]
pub struct Authenticator {
    verifier: Verifier,
    identity: Arc<Identity>,
    revoked: Arc<Memory>,
    cache: Cache<Arc<Principal>>,
    hits: Count,
    misses: Count,
}

impl Authenticator {
    /// An authenticator with an empty cache.
    pub fn new(verifier: Verifier, identity: Arc<Identity>, revoked: Arc<Memory>, metrics: &Metrics) -> Self {
        let outcome = |outcome: &'static str| metrics.token_cache.get_or_create(&Outcome::new(outcome)).clone();
        let (hits, misses) = (outcome("hit"), outcome("miss"));
        Self { verifier, identity, revoked, cache: Cache::new(CACHE_BYTES), hits, misses }
    }

    /// What the request shows of its sender. Waits only for a key that nobody has asked for yet.
    pub async fn credential(&self, headers: &HeaderMap, now: Timestamp) -> Credential {
        let token = match bearer(headers) {
            Ok(Some(token)) => token,
            Ok(None) => return Credential::Absent,
            Err(refusal) => return Credential::Refused(refusal),
        };
        match self.principal(token, now).await {
            Ok(principal) => Credential::Accepted(principal),
            Err(error) => Credential::Refused(Refusal::Token(error)),
        }
    }

    /// Verifies a token, or remembers having done so, and asks whether it was revoked.
    ///
    /// # Errors
    /// Why the token is not good.
    pub async fn principal(&self, token: &str, now: Timestamp) -> Result<Arc<Principal>, Error> {
        let cached = self.cache.get(token).map(|known| (known.verified.still_good(now), known));
        let principal = match cached {
            Some((Ok(()), known)) => {
                self.hits.inc();
                known
            }
            // A key that was withdrawn may be back, and a stale set may be fresh again: ask anew.
            None | Some((Err(Error::KeysUnavailable | Error::Refused(Reason::UnknownKey)), _)) => {
                self.misses.inc();
                let verified = self.verifier.verify(token, now, KEY_WAIT).await?;
                let principal = Arc::new(self.prepare(verified));
                self.cache.insert(token, Arc::clone(&principal), PRINCIPAL_BYTES);
                principal
            }
            Some((Err(refused), _)) => return Err(refused),
        };
        let claims = principal.verified.claims();
        if self.revoked.is_revoked(claims.jti.as_deref(), claims.origin_jti.as_deref(), now) {
            return Err(Reason::Revoked.into());
        }
        Ok(principal)
    }

    fn prepare(&self, verified: Verified) -> Principal {
        Principal {
            headers: self.identity.headers_for(verified.claims(), verified.pool()),
            subject: verified.claims().sub.as_str().into(),
            verified,
        }
    }
}

/// The bearer token of a request (RFC 6750 §2.1). Tokens in queries and bodies are not looked for.
///
/// # Errors
/// When there is another credential, or more than one.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = single(headers, &AUTHORIZATION).map_err(|_ambiguous| Refusal::Ambiguous)? else {
        return Ok(None);
    };
    let malformed = Refusal::Token(Error::Refused(Reason::Malformed));
    let text = value.to_str().map_err(|_not_text| malformed)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::Scheme);
    }
    match token.trim_matches(' ') {
        "" => Err(malformed),
        token => Ok(Some(token)),
    }
}
