//! Passwords: what they must be, how they are kept, and how often they may be wrong.

use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::records::{Cost, Credentials, Policy, Pool, User};
use super::refusal::{Exception, Refusal};
use crate::clock::Timestamp;
use crate::cognito::srp::{self, Identity, Number, Verifier};
use crate::secret::{Secret, constant_time_eq, random};

/// Wrong passwords that cost no wait; each further one doubles it
/// ("Lockout behavior for failed sign-in attempts" in the Amazon Cognito developer guide).
const FREE_FAILURES: u32 = 5;
/// The longest wait, and the quiet time after which failures are forgotten.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// One of the equally strong choices of the OWASP Password Storage Cheat Sheet: the one that takes
/// little memory, because several may run at a time in a process that has other things to do.
const COST: Cost = Cost { memory_kib: 7168, passes: 5 };

/// Holds a password against the policy.
///
/// # Errors
/// InvalidPasswordException with the first reason.
pub(super) fn check_policy(policy: &Policy, password: &str) -> Result<(), Refusal> {
    let is_symbol = |letter: char| letter.is_ascii_punctuation() || letter == ' ';
    let reason = if password.chars().count() < policy.minimum_length {
        "Password not long enough"
    } else if policy.uppercase && !password.chars().any(|letter| letter.is_ascii_uppercase()) {
        "Password must have uppercase characters"
    } else if policy.lowercase && !password.chars().any(|letter| letter.is_ascii_lowercase()) {
        "Password must have lowercase characters"
    } else if policy.numbers && !password.chars().any(|letter| letter.is_ascii_digit()) {
        "Password must have numeric characters"
    } else if policy.symbols && !password.chars().any(is_symbol) {
        "Password must have symbol characters"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Exception::InvalidPassword, format!("Password did not conform with policy: {reason}")))
}

/// What is stored for a password. `username` is in canonical form: it goes into the SRP verifier,
/// which is worth nothing for another user or pool. Expensive.
pub(super) fn credentials(pool: &Pool, username: &str, password: &str) -> Credentials {
    let salt = Number::from_bytes(&random::<16>());
    let who = Identity { pool_name: pool.suffix(), user_id: username };
    let verifier = srp::verifier(who, password, &salt);
    Credentials {
        hash: Secret::new(URL_SAFE_NO_PAD.encode(hash(password, &salt, COST))),
        verifier: Secret::new(URL_SAFE_NO_PAD.encode(verifier.expose())),
        salt: salt.to_hex(),
        cost: COST,
    }
}

/// Whether a password that came in plain text is the right one. It takes as long when there is no
/// user, or the user has no password. Expensive.
pub(super) fn matches(credentials: Option<&Credentials>, password: &str) -> bool {
    let salt = credentials.and_then(|credentials| Number::from_hex(&credentials.salt, "salt").ok());
    let salt = salt.unwrap_or_else(|| Number::from_bytes(&[1; 16]));
    let cost = credentials.map_or(COST, |credentials| credentials.cost);
    let hashed = URL_SAFE_NO_PAD.encode(hash(password, &salt, cost));
    credentials.is_some_and(|credentials| constant_time_eq(credentials.hash.expose().as_bytes(), hashed.as_bytes()))
}

/// Salt and verifier for an SRP exchange; `None` when the stored ones cannot be read.
pub(super) fn exchange(credentials: &Credentials) -> Option<(Number, Verifier)> {
    let verifier = URL_SAFE_NO_PAD.decode(credentials.verifier.expose()).ok()?;
    Some((Number::from_hex(&credentials.salt, "salt").ok()?, Verifier::from_bytes(&verifier).ok()?))
}

/// Salt and verifier of a user who does not exist: the same at every attempt, and nobody knows a
/// password that fits.
pub(super) fn phantom(pool: &Pool, username: &str) -> Option<(Number, Verifier)> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, pool.phantom_key.expose().as_bytes());
    let block = |label: u8| hmac::sign(&key, &[&[label], username.as_bytes()].concat());
    let salt = Number::from_bytes(block(0).as_ref().get(..16)?);
    // Below N, whose first 64 bits are all set, except with a probability of 2^-64.
    let verifier: Vec<u8> = (1..=12).flat_map(|label| block(label).as_ref().to_vec()).collect();
    Some((salt, Verifier::from_bytes(&verifier).ok()?))
}

/// Refuses an attempt that comes too early after wrong ones. It does not lengthen the wait.
///
/// # Errors
/// NotAuthorizedException `Password attempts exceeded`.
pub(super) fn check_lock(user: &User, now: Timestamp) -> Result<(), Refusal> {
    if user.failures < FREE_FAILURES {
        return Ok(());
    }
    let wait = Duration::from_secs(1 << (user.failures - FREE_FAILURES).min(10)).min(LONGEST_WAIT);
    if now < Timestamp::from_millis(user.last_failure).after(wait) {
        return Err(Refusal::not_authorized("Password attempts exceeded"));
    }
    Ok(())
}

/// Notes a wrong password.
pub(super) fn note_failure(user: &mut User, now: Timestamp) {
    let quiet = now.since(Timestamp::from_millis(user.last_failure));
    user.failures = if quiet > LONGEST_WAIT { 1 } else { user.failures.saturating_add(1) };
    user.last_failure = now.millis();
}

fn hash(password: &str, salt: &Number, cost: Cost) -> [u8; 32] {
    let mut out = [0; 32];
    // Parameters that Argon2 does not know can come out of a damaged file only.
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(out.len())).unwrap_or_default();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    // The salt as text, since Argon2 wants at least 8 bytes and a salt may begin with zeros.
    let salt = format!("{:0>32}", salt.to_hex());
    #[expect(clippy::expect_used, reason = "it fails for lengths that cannot occur here, or without memory")]
    argon2.hash_password_into(password.as_bytes(), salt.as_bytes(), &mut out).expect("Argon2id works");
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::keys;
    use super::super::records::Status;
    use super::*;

    fn policy_says(password: &str) -> Option<String> {
        check_policy(&Policy::default(), password).err().map(|refusal| refusal.text.into_owned())
    }

    #[test]
    fn the_policy_names_what_is_missing() {
        assert_eq!(policy_says("Portcullis-1"), None);
        assert_eq!(policy_says("Aa1-"), Some("Password did not conform with policy: Password not long enough".into()));
        for (password, word) in
            [("aaaaaaa1-", "uppercase"), ("AAAAAAA1-", "lowercase"), ("Aaaaaaaa-", "numeric"), ("Aaaaaaa1", "symbol")]
        {
            let expected = format!("Password did not conform with policy: Password must have {word} characters");
            assert_eq!(policy_says(password), Some(expected));
        }
    }

    #[test]
    fn only_the_password_itself_matches() {
        let pool = keys::tests::pool();
        let stored = credentials(&pool, "alice", "Portcullis-1");
        assert!(matches(Some(&stored), "Portcullis-1"));
        assert!(!matches(Some(&stored), "Portcullis-2"));
        assert!(!matches(None, "Portcullis-1"));
        let again = credentials(&pool, "alice", "Portcullis-1");
        assert_ne!(again.hash.expose(), stored.hash.expose(), "salted");
        assert!(exchange(&stored).is_some());
    }

    #[test]
    fn a_phantom_is_stable_and_different_for_each_name() {
        let pool = keys::tests::pool();
        let (salt, verifier) = phantom(&pool, "nobody").unwrap();
        assert!(phantom(&pool, "nobody").is_some_and(|again| again.0 == salt && again.1 == verifier));
        assert!(phantom(&pool, "somebody").is_some_and(|other| other.0 != salt && other.1 != verifier));
    }

    #[test]
    fn waits_double_after_the_fifth_failure_and_are_forgotten() {
        let start = Timestamp::from_seconds(1_000_000);
        let mut user = User::new("alice", Status::Confirmed, BTreeMap::new(), start);
        for _ in 0..4 {
            note_failure(&mut user, start);
        }
        assert!(check_lock(&user, start).is_ok());
        note_failure(&mut user, start);
        assert!(check_lock(&user, start).is_err());
        assert!(check_lock(&user, start.after(Duration::from_secs(1))).is_ok());
        note_failure(&mut user, start);
        assert!(check_lock(&user, start.after(Duration::from_secs(1))).is_err());
        assert!(check_lock(&user, start.after(Duration::from_secs(2))).is_ok());
        user.failures = 40;
        assert!(check_lock(&user, start.after(LONGEST_WAIT)).is_ok());
        note_failure(&mut user, start.after(LONGEST_WAIT * 2));
        assert_eq!(user.failures, 1);
    }
}
