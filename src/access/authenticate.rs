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
        let token = match sent(headers) {
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
    pub async fn principal(&self, token: &[u8], now: Timestamp) -> Result<Arc<Principal>, Error> {
        let cached = self.cache.get(token).map(|known| (known.verified.still_good(now), known));
        let principal = match cached {
            Some((Ok(()), known)) => {
                self.hits.inc();
                known
            }
            // A key that was withdrawn may be back, and a stale set may be fresh again: ask anew.
            None | Some((Err(Error::KeysUnavailable | Error::Refused(Reason::UnknownKey)), _)) => {
                self.misses.inc();
                let verified = Box::pin(self.verifier.verify(text(token)?, now, KEY_WAIT)).await?;
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

    /// The caller of a request that began earlier, as one with the same token would be seen now. Only
    /// the clock is not asked again: it is known when a token expires.
    ///
    /// # Errors
    /// When the token was revoked, its key withdrawn, or its pool taken out of the configuration.
    pub fn again(&self, principal: &Arc<Principal>, now: Timestamp) -> Result<Arc<Principal>, Error> {
        let (verified, claims) = (principal.verified(), principal.verified().claims());
        if verified.is_withdrawn() {
            return Err(Reason::UnknownKey.into());
        }
        if self.revoked.is_revoked(claims.jti.as_deref(), claims.origin_jti.as_deref(), now) {
            return Err(Reason::Revoked.into());
        }
        let adopted = self.verifier.adopt(verified)?;
        let same = Arc::ptr_eq(adopted.pool(), verified.pool());
        Ok(if same { Arc::clone(principal) } else { Arc::new(self.prepare(adopted)) })
    }

    /// Another number after each revocation.
    pub fn revocations(&self) -> u64 {
        self.revoked.changes()
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
    sent(headers)?.map(text).transpose().map_err(Refusal::Token)
}

/// The same as it was sent. That it is text is for the verifier to find out, once for each token.
fn sent(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let Some(value) = single(headers, &AUTHORIZATION).map_err(|_ambiguous| Refusal::Ambiguous)? else {
        return Ok(None);
    };
    let value = value.as_bytes();
    let (scheme, token) = value.split_at(memchr::memchr(b' ', value).unwrap_or(value.len()));
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Refusal::Scheme);
    }
    match token.trim_ascii() {
        b"" => Err(Refusal::Token(Reason::Malformed.into())),
        token => Ok(Some(token)),
    }
}

/// A token has no other characters than ASCII.
fn text(token: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(token).ok().filter(|token| token.is_ascii()).ok_or(Error::Refused(Reason::Malformed))
}

/// The credential of a request that nobody asks for one: a bad token does no harm there and a good
/// one no work. Two are refused all the same: an upstream that is sent both may take either.
pub fn unasked(headers: &HeaderMap) -> Credential {
    match single(headers, &AUTHORIZATION) {
        Ok(_) => Credential::Absent,
        Err(_ambiguous) => Credential::Refused(Refusal::Ambiguous),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HeaderName;
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Timestamp;
    use crate::store::Kind;
    use crate::token::jwks::KeySet;
    use crate::token::testing::{self, HEADER, KID, NOW, now_or_never};

    struct Setup {
        authenticator: Authenticator,
        keys: KeySet,
        revoked: Arc<Memory>,
    }

    impl Setup {
        fn new() -> Self {
            let (keys, metrics) = (testing::key_set(), Metrics::new());
            let verifier = Verifier::new(vec![(Arc::new(testing::pool()), keys.clone())]);
            let identity = Identity::new(&crate::config::Identity { prefix: "x-auth-".into(), headers: Vec::new() });
            let revoked = Arc::new(Memory::new(&metrics));
            let authenticator = Authenticator::new(verifier, Arc::new(identity), Arc::clone(&revoked), &metrics);
            Self { authenticator, keys, revoked }
        }

        fn ask(&self, token: &str, now: Timestamp) -> Result<Arc<Principal>, Error> {
            now_or_never(self.authenticator.principal(token.as_bytes(), now))
        }

        fn hits_and_misses(&self) -> (u64, u64) {
            (self.authenticator.hits.get(), self.authenticator.misses.get())
        }
    }

    fn token(claims: &Value) -> String {
        testing::sign(HEADER, &claims.to_string())
    }

    fn good() -> String {
        token(&testing::access_claims())
    }

    fn lines(values: &[&[u8]]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_bytes(value).unwrap())).collect()
    }

    #[test]
    fn a_token_is_verified_once() {
        let (setup, token) = (Setup::new(), good());
        let first = setup.ask(&token, NOW).unwrap();
        let second = setup.ask(&token, NOW.after(Duration::from_secs(60))).unwrap();
        assert!(Arc::ptr_eq(&first, &second), "the same principal, with everything prepared");
        assert_eq!(setup.hits_and_misses(), (1, 1));
        assert_eq!(&**first.subject(), "7f0c1f6e-0000-4000-8000-000000000001");
    }

    #[test]
    fn a_token_that_is_not_good_is_not_kept() {
        let setup = Setup::new();
        let mut forged = good();
        forged.replace_range(forged.len() - 8.., "AAAAAAAA");
        assert_eq!(setup.ask(&forged, NOW).unwrap_err(), Reason::Signature.into());
        assert_eq!(setup.ask(&forged, NOW).unwrap_err(), Reason::Signature.into());
        assert_eq!(setup.hits_and_misses(), (0, 2));
    }

    #[test]
    fn a_kept_token_can_be_revoked() {
        for (kind, id) in [(Kind::OriginJti, "origin_jti"), (Kind::Jti, "jti")] {
            let (setup, token) = (Setup::new(), good());
            setup.ask(&token, NOW).unwrap();
            let id = testing::access_claims()[id].as_str().unwrap().to_owned();
            let until = NOW.after(Duration::from_secs(7200));
            setup.revoked.revoke(kind, &id, until, NOW);
            assert_eq!(setup.ask(&token, NOW).unwrap_err(), Reason::Revoked.into(), "{kind:?}");
            assert_eq!(setup.ask(&token, NOW).unwrap_err(), Reason::Revoked.into(), "and stays so");
        }
    }

    #[test]
    fn a_caller_is_looked_at_again() {
        let setup = Setup::new();
        let caller = setup.ask(&good(), NOW).unwrap();
        assert!(Arc::ptr_eq(&setup.authenticator.again(&caller, NOW).unwrap(), &caller));

        let verifier = |pool: crate::config::Pool| Verifier::new(vec![(Arc::new(pool), setup.keys.clone())]);
        let with = |pool| {
            let identity = Arc::clone(&setup.authenticator.identity);
            Authenticator::new(verifier(pool), identity, Arc::clone(&setup.revoked), &Metrics::new())
        };
        let strict = crate::config::Pool { clients: Vec::new(), ..testing::pool() };
        let moved = with(strict).again(&caller, NOW).unwrap();
        assert!(moved.verified().pool().clients.is_empty(), "the pool as it is now");
        let elsewhere = crate::config::Pool { issuers: vec!["https://other.example".into()], ..testing::pool() };
        assert_eq!(with(elsewhere).again(&caller, NOW).unwrap_err(), Reason::WrongIssuer.into());

        let before = setup.authenticator.revocations();
        let id = testing::access_claims()["origin_jti"].as_str().unwrap().to_owned();
        setup.revoked.revoke(Kind::OriginJti, &id, NOW.after(Duration::from_secs(7200)), NOW);
        assert_ne!(setup.authenticator.revocations(), before);
        assert_eq!(setup.authenticator.again(&caller, NOW).unwrap_err(), Reason::Revoked.into());

        let other = Setup::new();
        let caller = other.ask(&good(), NOW).unwrap();
        other.keys.refresh_fixed(&testing::jwks(&["k2"]), NOW);
        assert_eq!(other.authenticator.again(&caller, NOW).unwrap_err(), Reason::UnknownKey.into());
    }

    #[test]
    fn a_revoked_token_is_refused_on_a_miss_as_well() {
        let setup = Setup::new();
        let mut other = testing::access_claims();
        other["jti"] = json!("another token of the same sign-in");
        let origin = other["origin_jti"].as_str().unwrap();
        setup.revoked.revoke(Kind::OriginJti, origin, NOW.after(Duration::from_secs(7200)), NOW);
        assert_eq!(setup.ask(&token(&other), NOW).unwrap_err(), Reason::Revoked.into());
    }

    #[test]
    fn a_kept_token_expires() {
        let (setup, token) = (Setup::new(), good());
        setup.ask(&token, NOW).unwrap();
        let exp = Timestamp::from_seconds(1_800_003_600);
        let leeway = Duration::from_secs(10);
        assert!(setup.ask(&token, exp.after(leeway - Duration::from_millis(1))).is_ok());
        assert_eq!(setup.ask(&token, exp.after(leeway)).unwrap_err(), Reason::Expired.into());
        assert_eq!(setup.hits_and_misses(), (1, 1), "an expired token is not a hit");
    }

    #[test]
    fn a_token_of_a_replaced_key_is_verified_again() {
        let (setup, token) = (Setup::new(), good());
        setup.ask(&token, NOW).unwrap();
        let other = json!({ "keys": [testing::other_jwk(KID)] }).to_string();
        setup.keys.refresh_fixed(&other, NOW);
        assert_eq!(setup.ask(&token, NOW).unwrap_err(), Reason::Signature.into(), "the key of that name is another");
        setup.keys.refresh_fixed(&testing::jwks(&[KID]), NOW);
        setup.ask(&token, NOW).unwrap();
        assert_eq!(setup.hits_and_misses(), (0, 3), "a withdrawn key that is back is a new key");
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_key_takes_its_tokens_with_it() {
        let (setup, token) = (Setup::new(), good());
        setup.ask(&token, NOW).unwrap();
        setup.keys.refresh_fixed(&testing::jwks(&["k2"]), NOW);
        assert_eq!(setup.authenticator.principal(token.as_bytes(), NOW).await.unwrap_err(), Reason::UnknownKey.into());
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_token_does_not_outlive_a_stale_key_set() {
        let (setup, token) = (Setup::new(), good());
        setup.ask(&token, NOW).unwrap();
        let stale = NOW.after(testing::pool().keys.stale + Duration::from_secs(1));
        tokio::time::advance(testing::pool().keys.stale).await;
        let outcome = setup.authenticator.principal(token.as_bytes(), stale).await;
        assert_eq!(outcome.unwrap_err(), Error::KeysUnavailable, "never open, and not a verdict on the token");
    }

    #[test]
    fn absent_refused_and_accepted_are_three_things() {
        let setup = Setup::new();
        let credential = |headers| now_or_never(setup.authenticator.credential(&headers, NOW));
        assert!(matches!(credential(HeaderMap::new()), Credential::Absent));
        let token = good();
        let accepted = credential(lines(&[format!("bearer {token}").as_bytes()]));
        assert!(matches!(accepted, Credential::Accepted(_)), "{accepted:?}");
        let twice = format!("Bearer {token}");
        let twice = credential(lines(&[twice.as_bytes(), twice.as_bytes()]));
        assert!(matches!(twice, Credential::Refused(Refusal::Ambiguous)), "also when both say the same: {twice:?}");
        let malformed = Refusal::Token(Reason::Malformed.into());
        let bad = credential(lines(&[b"Bearer x"]));
        assert!(matches!(bad, Credential::Refused(refusal) if refusal == malformed), "{bad:?}");
    }

    #[test]
    fn one_bearer_token_and_nothing_else() {
        let malformed = Err(Refusal::Token(Reason::Malformed.into()));
        for (value, expected) in [
            (&b"Bearer a.b.c"[..], Ok(Some("a.b.c"))),
            (b"bearer a.b.c", Ok(Some("a.b.c"))),
            (b"BEARER   a.b.c ", Ok(Some("a.b.c"))),
            (b"Bearer a b", Ok(Some("a b"))),
            (b"Bearer", malformed),
            (b"Bearer ", malformed),
            (b"Bearer \xc3\xa4", malformed),
            (b"\xff", Err(Refusal::Scheme)),
            (b"Basic ZGVtbzpkZW1v", Err(Refusal::Scheme)),
            (b"Bearer\ta", Err(Refusal::Scheme)),
            (b"Bearer:a", Err(Refusal::Scheme)),
            (b" Bearer a", Err(Refusal::Scheme)),
            (b"a.b.c", Err(Refusal::Scheme)),
            (b"", Err(Refusal::Scheme)),
        ] {
            assert_eq!(bearer(&lines(&[value])), expected, "{:?}", String::from_utf8_lossy(value));
        }
        assert_eq!(bearer(&HeaderMap::new()), Ok(None));
        assert_eq!(bearer(&lines(&[b"Bearer a", b"Basic b"])), Err(Refusal::Ambiguous));
        let elsewhere = HeaderMap::from_iter([
            (HeaderName::from_static("proxy-authorization"), HeaderValue::from_static("Bearer a")),
            (HeaderName::from_static("cookie"), HeaderValue::from_static("access_token=a")),
        ]);
        assert_eq!(bearer(&elsewhere), Ok(None), "tokens elsewhere are not looked for");
    }
}
