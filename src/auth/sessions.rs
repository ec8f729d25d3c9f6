//! The state of an unfinished sign-in, sealed, in the client's hands.
//!
//! AES-256-GCM under a key that this process drew at its start: key id ‖ nonce ‖ ciphertext and tag,
//! as base64url. The purpose and the key id are the associated data, the expiry is inside, and
//! whatever is wrong with a session gives one and the same answer.
//!
//! A sealed count of attempts could be played back, so attempts are counted here, by the random id
//! inside the session. The key and the counts are this process's: an answer must come back to the
//! replica that gave the challenge.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::cognito::Challenge;
use crate::secret::{Secret, random};

/// Wrong answers that one challenge takes.
pub(super) const ATTEMPTS: u32 = 5;
/// The longest that a user pool keeps a session (AuthSessionValidity); the pool's own setting ends
/// it sooner.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Challenges of which attempts are remembered. Each took a right password to get, so that this is
/// out of a stranger's reach; when it is full, further challenges cannot be answered.
const REMEMBERED: usize = 100_000;
/// What the key may be used for.
const PURPOSE: &[u8] = b"portcullis challenge 1";
/// Bytes of the nonce of AES-GCM.
const NONCE: usize = 12;

/// Seals sessions, opens them, and counts the answers to them.
#[derive(Debug)]
pub(super) struct Sessions {
    key: RandomizedNonceKey,
    key_id: [u8; 4],
    answered: Mutex<HashMap<[u8; 16], Answered, RandomState>>,
}

/// A challenge that waits for its answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    id: [u8; 16],
    expires: Timestamp,
    /// The challenge's name.
    pub(super) challenge: String,
    /// The canonical username.
    pub(super) username: String,
    /// The pool's session.
    pub(super) session: Option<Secret<String>>,
}

/// The session is forged, of another process, expired, used, or was answered wrongly too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dead;

#[derive(Debug)]
struct Answered {
    times: u32,
    expires: Timestamp,
}

/// What is inside, in short names because the text travels.
#[derive(Serialize, Deserialize)]
struct Inside {
    i: [u8; 16],
    e: u64,
    c: String,
    u: String,
    s: Option<String>,
}

impl Sessions {
    /// With a key of its own.
    pub(super) fn new() -> Self {
        #[expect(clippy::expect_used, reason = "a key of the right length is always taken")]
        let key = RandomizedNonceKey::new(&AES_256_GCM, &random::<32>()).expect("256 bits");
        Self { key, key_id: random(), answered: Mutex::default() }
    }

    /// Seals what an answer to this challenge needs.
    ///
    /// # Errors
    /// When there is nothing random to make a nonce of.
    pub(super) fn seal(&self, challenge: &Challenge, now: Timestamp) -> Result<String, Dead> {
        let inside = Inside {
            i: random(),
            e: now.after(LIFETIME).millis(),
            c: challenge.name.clone(),
            u: challenge.username.clone(),
            s: challenge.session.as_ref().map(|session| session.expose().clone()),
        };
        let mut bytes = serde_json::to_vec(&inside).map_err(|_| Dead)?;
        let nonce = self.key.seal_in_place_append_tag(self.purpose(), &mut bytes).map_err(|_| Dead)?;
        let sealed = [&self.key_id[..], nonce.as_ref(), &bytes].concat();
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens a session that may still be answered.
    pub(super) fn open(&self, sealed: &str, now: Timestamp) -> Result<Pending, Dead> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| Dead)?;
        let (key_id, rest) = sealed.split_first_chunk::<4>().ok_or(Dead)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(Dead)?;
        if *key_id != self.key_id {
            return Err(Dead);
        }
        let mut bytes = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let bytes = self.key.open_in_place(nonce, self.purpose(), &mut bytes).map_err(|_| Dead)?;
        let inside: Inside = serde_json::from_slice(bytes).map_err(|_| Dead)?;
        let expires = Timestamp::from_millis(inside.e);
        if now >= expires {
            return Err(Dead);
        }
        let session = inside.s.map(Secret::from);
        Ok(Pending { id: inside.i, expires, challenge: inside.c, username: inside.u, session })
    }

    /// Counts an answer before it is tried, so that answers sent at the same time count as well.
    pub(super) fn charge(&self, pending: &Pending, now: Timestamp) -> Result<(), Dead> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.len() >= REMEMBERED {
            answered.retain(|_, entry| now < entry.expires);
        }
        if answered.len() >= REMEMBERED && !answered.contains_key(&pending.id) {
            return Err(Dead);
        }
        let entry = answered.entry(pending.id).or_insert(Answered { times: 0, expires: pending.expires });
        if entry.times >= ATTEMPTS {
            return Err(Dead);
        }
        entry.times += 1;
        Ok(())
    }

    /// The pool never judged the answer: it does not count.
    pub(super) fn refund(&self, pending: &Pending) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = answered.get_mut(&pending.id) {
            entry.times = entry.times.saturating_sub(1);
        }
    }

    /// The answer was right: there is no second one.
    pub(super) fn spend(&self, pending: &Pending) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.insert(pending.id, Answered { times: u32::MAX, expires: pending.expires });
    }

    fn purpose(&self) -> Aad<Vec<u8>> {
        Aad::from([PURPOSE, &self.key_id].concat())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cognito::wire::Parameters;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn challenge() -> Challenge {
        Challenge {
            name: "NEW_PASSWORD_REQUIRED".to_owned(),
            session: Some(Secret::from("pool's own session".to_owned())),
            parameters: Parameters::default(),
            available: Vec::new(),
            username: "sub-1".to_owned(),
        }
    }

    #[test]
    fn what_was_sealed_comes_out_and_cannot_be_read_in_between() {
        let sessions = Sessions::new();
        let sealed = sessions.seal(&challenge(), NOW).unwrap();
        assert_ne!(sealed, sessions.seal(&challenge(), NOW).unwrap());
        let raw = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        assert!(!raw.windows(5).any(|window| window == b"sub-1"));
        let pending = sessions.open(&sealed, NOW).unwrap();
        assert_eq!((pending.challenge.as_str(), pending.username.as_str()), ("NEW_PASSWORD_REQUIRED", "sub-1"));
        assert_eq!(pending.session.unwrap().expose(), "pool's own session");
    }

    #[test]
    fn an_expired_session_and_one_of_another_process_are_dead() {
        let sessions = Sessions::new();
        let sealed = sessions.seal(&challenge(), NOW).unwrap();
        assert!(sessions.open(&sealed, NOW.after(LIFETIME - Duration::from_millis(1))).is_ok());
        assert_eq!(sessions.open(&sealed, NOW.after(LIFETIME)).unwrap_err(), Dead);
        assert_eq!(Sessions::new().open(&sealed, NOW).unwrap_err(), Dead);
    }

    #[test]
    fn five_wrong_answers_kill_a_session_however_often_it_is_played_back() {
        let sessions = Sessions::new();
        let sealed = sessions.seal(&challenge(), NOW).unwrap();
        for _ in 0..ATTEMPTS {
            assert_eq!(sessions.charge(&sessions.open(&sealed, NOW).unwrap(), NOW), Ok(()));
        }
        assert_eq!(sessions.charge(&sessions.open(&sealed, NOW).unwrap(), NOW), Err(Dead));
        let other = sessions.open(&sessions.seal(&challenge(), NOW).unwrap(), NOW).unwrap();
        assert_eq!(sessions.charge(&other, NOW), Ok(()), "another challenge has its own count");
    }

    #[test]
    fn an_answer_that_was_not_judged_does_not_count_and_a_right_one_is_the_last() {
        let sessions = Sessions::new();
        let pending = sessions.open(&sessions.seal(&challenge(), NOW).unwrap(), NOW).unwrap();
        for _ in 0..2 * ATTEMPTS {
            assert_eq!(sessions.charge(&pending, NOW), Ok(()));
            sessions.refund(&pending);
        }
        sessions.spend(&pending);
        assert_eq!(sessions.charge(&pending, NOW), Err(Dead));
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_refused(position in 0_usize..200, bit in 0_u8..8) {
            let sessions = Sessions::new();
            let mut raw = URL_SAFE_NO_PAD.decode(sessions.seal(&challenge(), NOW).unwrap()).unwrap();
            let position = position % raw.len();
            raw[position] ^= 1 << bit;
            prop_assert_eq!(sessions.open(&URL_SAFE_NO_PAD.encode(raw), NOW).unwrap_err(), Dead);
        }

        #[test]
        fn any_text_is_refused(text in ".{0,300}") {
            prop_assert!(Sessions::new().open(&text, NOW).is_err());
        }
    }
}
