//! Sign-ins that wait for the answer to a challenge.
//!
//! They live in memory: each lasts minutes, and a restart of the pool ends them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::refusal::Refusal;
use crate::clock::Timestamp;
use crate::cognito::srp::ServerStart;

/// More sign-ins at a time than this push out the ones that end first.
const CAPACITY: usize = 10_000;

/// A sign-in between two requests.
pub(super) struct Session {
    /// The app client that began it; no other one may go on.
    pub client: String,
    pub expires: Timestamp,
    pub step: Step,
}

/// What has to be answered.
pub(super) enum Step {
    /// PASSWORD_VERIFIER.
    Proof {
        start: ServerStart,
        srp_a: String,
        /// `USER_ID_FOR_SRP`.
        user_id: String,
        /// `None` for a user who does not exist.
        username: Option<String>,
    },
    /// NEW_PASSWORD_REQUIRED: the temporary password was right.
    NewPassword { username: String },
}

enum Entry {
    Open(Session),
    Used { until: Timestamp },
}

impl Entry {
    const fn until(&self) -> Timestamp {
        match self {
            Self::Open(session) => session.expires,
            Self::Used { until } => *until,
        }
    }
}

/// All sessions, by the id that the client has to send back.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Entry>>);

impl Sessions {
    /// Keeps a session under an unguessable id.
    pub(super) fn insert(&self, id: String, session: Session, now: Timestamp) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CAPACITY {
            // Expired ones are kept until here, so that they can be told from invented ones.
            entries.retain(|_, entry| entry.until() > now);
        }
        if entries.len() >= CAPACITY {
            let first = entries.iter().min_by_key(|(_, entry)| entry.until()).map(|(id, _)| id.clone());
            first.and_then(|id| entries.remove(&id));
        }
        entries.insert(id, Entry::Open(session));
    }

    /// Takes a session out, if it is the client's; nobody can take it a second time.
    ///
    /// # Errors
    /// NotAuthorizedException with the text that tells unknown, expired and used ones apart.
    pub(super) fn take(&self, id: &str, client: &str, now: Timestamp) -> Result<Session, Refusal> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get_mut(id) else {
            return Err(Refusal::not_authorized("Invalid session for the user."));
        };
        match entry {
            Entry::Open(session) if session.client != client => {
                Err(Refusal::not_authorized("Invalid session for the user."))
            }
            Entry::Used { .. } => {
                Err(Refusal::not_authorized("Invalid session for the user, session can only be used once."))
            }
            Entry::Open(session) if session.expires <= now => {
                Err(Refusal::not_authorized("Invalid session for the user, session is expired."))
            }
            Entry::Open(session) => {
                let until = session.expires;
                match std::mem::replace(entry, Entry::Used { until }) {
                    Entry::Open(session) => Ok(session),
                    Entry::Used { .. } => Err(Refusal::not_authorized("Invalid session for the user.")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1000);

    fn session(seconds: u64) -> Session {
        Session {
            client: "c".to_owned(),
            expires: NOW.after(Duration::from_secs(seconds)),
            step: Step::NewPassword { username: "alice".to_owned() },
        }
    }

    fn text(taken: Result<Session, Refusal>) -> String {
        taken.err().map(|refusal| refusal.text.into_owned()).unwrap_or_default()
    }

    #[test]
    fn a_session_is_used_once_by_its_own_client_in_time() {
        let sessions = Sessions::default();
        sessions.insert("s".to_owned(), session(180), NOW);
        assert_eq!(text(sessions.take("t", "c", NOW)), "Invalid session for the user.");
        assert_eq!(text(sessions.take("s", "d", NOW)), "Invalid session for the user.");
        assert!(sessions.take("s", "c", NOW).is_ok());
        assert_eq!(text(sessions.take("s", "c", NOW)), "Invalid session for the user, session can only be used once.");
        sessions.insert("u".to_owned(), session(180), NOW);
        let late = NOW.after(Duration::from_secs(180));
        assert_eq!(text(sessions.take("u", "c", late)), "Invalid session for the user, session is expired.");
    }

    #[test]
    fn the_table_is_bounded_and_drops_what_ends_first() {
        let sessions = Sessions::default();
        sessions.insert("first".to_owned(), session(1), NOW);
        for number in 0..CAPACITY {
            sessions.insert(number.to_string(), session(180), NOW);
        }
        assert_eq!(sessions.0.lock().unwrap().len(), CAPACITY);
        assert!(sessions.take("first", "c", NOW).is_err());
        assert!(sessions.take("0", "c", NOW).is_ok());
    }
}
