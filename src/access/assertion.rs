//! What an upstream can check: a short JWT about each request, signed with a key of the gateway.
//!
//! An upstream that somebody can reach past the gateway must not believe identity headers, which
//! anybody can write. It can believe an assertion: it names whom it is for, who asked, which method and
//! path, and is over in a minute.
//!
//! Keys rotate by overlap. One that a reload brings is published at once and signs after [`LEAD`],
//! which is also how long a key set may be cached; until then the one before signs. One that is
//! taken out of the file stays published until its last assertion is over.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use http::header::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};

use super::Principal;
use crate::clock::Timestamp;
use crate::config;
use crate::es256::SigningKey;
use crate::secret;
use crate::telemetry::trace::RequestId;

/// Where the assertion is. Like everything below this prefix it is removed from every request that
/// comes in.
pub const HEADER: HeaderName = HeaderName::from_static("x-portcullis-assertion");

/// How long a key set may be cached, and so for how long a new key is published before it signs.
pub const LEAD: Duration = Duration::from_secs(300);

/// The longest life of an assertion, and as much again for clocks that differ.
const LINGER: Duration = Duration::from_secs(120);

/// The keys of one configuration, and those of earlier ones that still matter.
#[derive(Debug)]
pub struct Keys {
    /// In the order of the file; then those that are no longer in it.
    known: Vec<Known>,
    /// Signs while none of the others may yet.
    fallback: Arc<SigningKey>,
}

#[derive(Clone, Debug)]
struct Known {
    key: Arc<SigningKey>,
    /// It signs from then on, if none before it in the list does.
    signs: Timestamp,
    /// It is out of the file and published until then.
    until: Option<Timestamp>,
}

impl Keys {
    /// The keys that a process starts with, of which the first signs at once.
    pub fn new(first: Arc<SigningKey>, others: impl IntoIterator<Item = Arc<SigningKey>>) -> Self {
        let fallback = Arc::clone(&first);
        let known = |key| Known { key, signs: Timestamp::from_millis(0), until: None };
        Self { known: std::iter::once(first).chain(others).map(known).collect(), fallback }
    }

    /// The keys that a file has now, at `now`, after `before` were in force.
    pub fn after(
        before: &Self,
        first: Arc<SigningKey>,
        others: impl IntoIterator<Item = Arc<SigningKey>>,
        now: Timestamp,
    ) -> Self {
        let takes_over = now.after(LEAD);
        let mut known: Vec<Known> = std::iter::once(first)
            .chain(others)
            .map(|key| match before.known.iter().find(|known| known.key == key) {
                Some(earlier) => Known { until: None, ..earlier.clone() },
                None => Known { key, signs: takes_over, until: None },
            })
            .collect();
        let signer = before.signer(now);
        let handover = known.iter().map(|known| known.signs).min().map_or(now, |signs| signs.max(now));
        let gone = before.known.iter().filter(|earlier| known.iter().all(|one| one.key != earlier.key));
        let gone = gone.map(|earlier| {
            let signs_on = earlier.key == *signer;
            let until = if signs_on { handover } else { now }.after(LINGER);
            Known { until: Some(earlier.until.filter(|_| !signs_on).unwrap_or(until)), ..earlier.clone() }
        });
        let gone: Vec<Known> = gone.filter(|earlier| earlier.until.is_some_and(|until| until > now)).collect();
        known.extend(gone);
        Self { known, fallback: Arc::clone(signer) }
    }

    /// The key set (RFC 7517 §5) at `now`, without anything private.
    pub fn document(&self, now: Timestamp) -> Value {
        let published = self.known.iter().filter(|known| known.until.is_none_or(|until| until > now));
        json!({ "keys": published.map(|known| known.key.jwk()).collect::<Vec<_>>() })
    }

    /// The key that signs at `now`: the first of the file that has been published long enough.
    fn signer(&self, now: Timestamp) -> &Arc<SigningKey> {
        let ready = self.known.iter().find(|known| known.until.is_none() && known.signs <= now);
        ready.map_or(&self.fallback, |known| &known.key)
    }
}

/// The assertions of one upstream.
#[derive(Debug)]
pub struct Assertion {
    issuer: Arc<str>,
    audience: String,
    /// In seconds.
    ttl: i64,
    keys: Arc<Keys>,
}

/// What is said of a request. Absent members are absent: an anonymous caller has no `sub`.
#[derive(Debug, Serialize)]
struct Said<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
    request_id: &'a str,
    method: &'a str,
    path_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'a str>,
}

impl Assertion {
    /// For an upstream, under these keys.
    pub fn new(of_upstream: &config::Assertion, of_all: &config::Assertions, keys: Arc<Keys>) -> Self {
        Self {
            issuer: Arc::clone(&of_all.issuer),
            audience: of_upstream.audience.clone(),
            ttl: i64::try_from(of_upstream.ttl.as_secs()).unwrap_or(0),
            keys,
        }
    }

    /// The header for a request whose method and target are what is sent.
    pub(super) fn header<B>(
        &self,
        request: &Request<B>,
        principal: Option<&Principal>,
        request_id: RequestId,
        now: Timestamp,
    ) -> HeaderValue {
        let claims = principal.map(|principal| principal.verified().claims());
        let scope = claims.map(|claims| claims.scopes().collect::<Vec<_>>().join(" "));
        let said = Said {
            iss: &self.issuer,
            aud: &self.audience,
            iat: now.seconds(),
            exp: now.seconds() + self.ttl,
            jti: secret::random_id::<16>(),
            request_id: request_id.as_str(),
            method: request.method().as_str(),
            path_sha256: URL_SAFE_NO_PAD.encode(digest(&SHA256, request.uri().path().as_bytes())),
            sub: claims.map(|claims| claims.sub.as_str()),
            username: claims.and_then(|claims| claims.username.as_deref()),
            groups: claims.map(|claims| claims.groups.as_slice()),
            scope: scope.filter(|scope| !scope.is_empty()),
            client_id: claims.map(|claims| claims.client.as_str()),
            pool: principal.map(|principal| &*principal.verified().pool().name),
        };
        // A struct of texts and numbers always serializes, and base64url always fits into a header.
        let claims = serde_json::to_vec(&said).unwrap_or_default();
        let jwt = self.keys.signer(now).jwt(&claims);
        let mut value = HeaderValue::try_from(jwt).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn key() -> Arc<SigningKey> {
        Arc::new(SigningKey::generate())
    }

    fn later(seconds: u64) -> Timestamp {
        START.after(Duration::from_secs(seconds))
    }

    fn published(keys: &Keys, now: Timestamp) -> Vec<String> {
        let document = keys.document(now);
        let keys = document["keys"].as_array().unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn at_the_start_the_first_signs_and_all_are_published() {
        let (a, b) = (key(), key());
        let keys = Keys::new(Arc::clone(&a), [Arc::clone(&b)]);
        assert_eq!(keys.signer(START), &a);
        assert_eq!(published(&keys, START), [a.kid(), b.kid()]);
    }

    #[test]
    fn a_new_key_is_published_before_it_signs_and_the_old_one_outlives_its_assertions() {
        let (old, new) = (key(), key());
        let before = Keys::new(Arc::clone(&old), []);
        let keys = Keys::after(&before, Arc::clone(&new), [], START);
        for (seconds, signer) in [(0, &old), (299, &old), (300, &new), (9999, &new)] {
            assert_eq!(keys.signer(later(seconds)), signer, "after {seconds} s");
        }
        // The last assertion of the old one is made at 299 s and is over at 359 s.
        for (seconds, both) in [(0, true), (300, true), (419, true), (420, false)] {
            let expected = if both { vec![new.kid(), old.kid()] } else { vec![new.kid()] };
            assert_eq!(published(&keys, later(seconds)), expected, "after {seconds} s");
        }
    }

    #[test]
    fn further_reloads_on_the_way_change_nothing() {
        let (old, new) = (key(), key());
        let mut keys = Keys::new(Arc::clone(&old), []);
        for seconds in [0, 100, 299] {
            keys = Keys::after(&keys, Arc::clone(&new), [], later(seconds));
            assert_eq!(keys.signer(later(seconds)), &old);
        }
        assert_eq!(keys.signer(later(300)), &new);
        assert_eq!(published(&keys, later(419)).len(), 2);
        assert_eq!(published(&Keys::after(&keys, Arc::clone(&new), [], later(420)), later(420)), [new.kid()]);
    }

    #[test]
    fn a_key_that_still_signs_is_published_however_often_its_successor_changes() {
        let (old, a, b) = (key(), key(), key());
        let first = Keys::after(&Keys::new(Arc::clone(&old), []), Arc::clone(&a), [], START);
        let second = Keys::after(&first, Arc::clone(&b), [], later(200));
        assert_eq!(published(&second, later(200)), [b.kid(), a.kid(), old.kid()]);
        assert_eq!(second.signer(later(499)), &old);
        assert_eq!(published(&second, later(499)), [b.kid(), old.kid()]);
        assert_eq!(second.signer(later(500)), &b);
        assert_eq!(published(&second, later(619)), [b.kid(), old.kid()]);
        assert_eq!(published(&second, later(620)), [b.kid()]);
    }

    #[test]
    fn a_key_that_was_announced_long_ago_signs_at_once() {
        let (old, new) = (key(), key());
        let announced = Keys::after(&Keys::new(Arc::clone(&old), []), Arc::clone(&old), [Arc::clone(&new)], START);
        assert_eq!(announced.signer(later(9999)), &old, "the first of the file");
        let swapped = Keys::after(&announced, Arc::clone(&new), [Arc::clone(&old)], later(600));
        assert_eq!(swapped.signer(later(600)), &new);
        let back = Keys::after(&swapped, Arc::clone(&old), [], later(700));
        assert_eq!(back.signer(later(700)), &old, "and one that comes back, too");
        assert_eq!(published(&back, later(700)), [old.kid(), new.kid()]);
    }
}
