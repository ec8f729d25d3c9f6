//! Messages that a real pool would send: codes and invitations. They are kept in an outbox instead.

use std::sync::Weak;
use std::time::Duration;

use aws_lc_rs::hmac;
use serde::Deserialize;
use serde_json::{Value, json};

use super::records::{Code, Pool, User};
use super::refusal::Refusal;
use super::service::Service;
use super::store::{Error, Lookup, MESSAGES, Write};
use super::{directory, names};
use crate::clock::Timestamp;
use crate::cognito::wire::CodeDeliveryDetails;
use crate::secret::{Secret, constant_time_eq};

pub use super::records::Message;

/// Messages that are kept; older ones are forgotten.
const KEPT: usize = 200;
/// Wrong answers to one code, after which no answer is right any more.
const ATTEMPTS: u32 = 5;

/// What a message is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    SignUp,
    PasswordReset,
    Invitation,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::SignUp => "sign_up",
            Self::PasswordReset => "password_reset",
            Self::Invitation => "invitation",
        }
    }

    /// How long a code lasts.
    const fn life(self) -> Duration {
        match self {
            Self::SignUp | Self::Invitation => Duration::from_secs(24 * 3600),
            Self::PasswordReset => Duration::from_secs(3600),
        }
    }
}

/// Where a message goes.
#[derive(Clone)]
pub(super) struct Destination {
    /// `email` or `phone_number`.
    attribute: &'static str,
    /// `EMAIL` or `SMS`.
    medium: &'static str,
    address: String,
}

impl Destination {
    /// For a sign-up code: the phone wins when there are both, since both are verified
    /// automatically.
    pub(super) fn unverified(user: &User) -> Option<Self> {
        Self::of(user, "phone_number", "SMS").or_else(|| Self::of(user, "email", "EMAIL"))
    }

    /// For a password reset: a verified address only, e-mail first.
    pub(super) fn verified(user: &User) -> Option<Self> {
        let verified = |attribute, medium| Self::of(user, attribute, medium).filter(|_| user.verified(attribute));
        verified("email", "EMAIL").or_else(|| verified("phone_number", "SMS"))
    }

    /// What the caller learns of it.
    pub(super) fn details(&self) -> CodeDeliveryDetails {
        CodeDeliveryDetails {
            destination: Some(names::masked(&self.address)),
            delivery_medium: Some(self.medium.to_owned()),
            attribute_name: Some(self.attribute.to_owned()),
        }
    }

    fn of(user: &User, attribute: &'static str, medium: &'static str) -> Option<Self> {
        Some(Self { attribute, medium, address: user.attributes.get(attribute)?.clone() })
    }
}

/// What the caller is told about a user who gets no message, because there is none of the name or
/// no way to reach them. It is the same each time.
pub(super) fn simulated(pool: &Pool, username: &str) -> CodeDeliveryDetails {
    let key = hmac::Key::new(hmac::HMAC_SHA256, pool.phantom_key.expose().as_bytes());
    let tag = hmac::sign(&key, format!("destination {username}").as_bytes());
    let mut letters = tag.as_ref().iter().map(|byte| char::from(b'a' + byte % 26));
    let (local, domain) = (letters.next().unwrap_or('a'), letters.next().unwrap_or('e'));
    CodeDeliveryDetails {
        destination: Some(format!("{local}***@{domain}***")),
        delivery_medium: Some("EMAIL".to_owned()),
        attribute_name: Some("email".to_owned()),
    }
}

/// Makes a new code and "sends" it. The caller stores it with the user.
///
/// # Errors
/// When the store fails.
pub(super) fn send_code(
    transaction: &Write,
    pool: &Pool,
    user: &User,
    to: &Destination,
    purpose: Purpose,
    now: Timestamp,
) -> Result<Code, Error> {
    let digits = names::code();
    send(transaction, pool, user, to, purpose, &digits, now)?;
    Ok(Code {
        digits: Secret::from(digits),
        attribute: to.attribute.to_owned(),
        expires: now.after(purpose.life()).millis(),
        wrong: 0,
    })
}

/// "Sends" a code or a temporary password.
///
/// # Errors
/// When the store fails.
pub(super) fn send(
    transaction: &Write,
    pool: &Pool,
    user: &User,
    to: &Destination,
    purpose: Purpose,
    code: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let kept = transaction.scan(MESSAGES, "")?;
    let number = kept.last().and_then(|(number, _)| number.parse::<u64>().ok()).unwrap_or_default() + 1;
    for (old, _) in kept.iter().take((kept.len() + 1).saturating_sub(KEPT)) {
        transaction.remove(MESSAGES, old)?;
    }
    let message = Message {
        time: now.rfc3339(),
        pool: pool.id.clone(),
        username: user.username.clone(),
        medium: to.medium.to_owned(),
        destination: to.address.clone(),
        purpose: purpose.as_str().to_owned(),
        code: code.to_owned(),
    };
    transaction.put(MESSAGES, &format!("{number:020}"), &message)
}

/// Holds an answer against a code and uses the code up when it is right. The caller stores the user
/// in any case, because wrong answers are counted.
///
/// # Errors
/// ExpiredCodeException, CodeMismatchException, LimitExceededException.
pub(super) fn redeem(slot: &mut Option<Code>, answer: &str, now: Timestamp) -> Result<Code, Refusal> {
    let Some(code) = slot else { return Err(Refusal::code_expired()) };
    if code.wrong >= ATTEMPTS {
        return Err(Refusal::attempt_limit());
    }
    if Timestamp::from_millis(code.expires) <= now {
        return Err(Refusal::code_expired());
    }
    if !constant_time_eq(code.digits.expose().as_bytes(), answer.as_bytes()) {
        code.wrong += 1;
        return Err(Refusal::code_mismatch());
    }
    slot.take().ok_or_else(Refusal::code_expired)
}

/// The request of `PortcullisPool.ListMessages`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListMessages {
    user_pool_id: String,
}

/// `PortcullisPool.ListMessages`: what the pool would have sent, newest first.
///
/// # Errors
/// ResourceNotFoundException.
pub(super) fn list(service: &Service, request: ListMessages, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let messages = tables.scan(MESSAGES, "")?.into_iter().rev().map(|(_, message)| message);
    let messages: Vec<Message> = messages.filter(|message| message.pool == pool.id).collect();
    Ok(json!({ "Messages": messages }))
}

/// The messages of one server. It does not keep the server's data open: after the shutdown the
/// outbox is empty.
#[derive(Clone, Debug)]
pub struct Outbox(pub(super) Weak<Service>);

impl Outbox {
    /// The messages, newest first. Reads the store: not for a thread that must not block.
    pub fn list(&self) -> Vec<Message> {
        let messages = self.0.upgrade().map(|service| service.store.read()?.scan(MESSAGES, "")).transpose();
        match messages {
            Ok(messages) => messages.unwrap_or_default().into_iter().rev().map(|(_, message)| message).collect(),
            Err(error) => {
                tracing::error!(%error, "the outbox of the embedded pool cannot be read");
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::keys;
    use super::super::records::Status;
    use super::super::store::Store;
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

    fn user(attributes: &[(&str, &str)]) -> User {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        User::new("alice", Status::Unconfirmed, attributes.collect::<BTreeMap<_, _>>(), NOW)
    }

    #[test]
    fn a_reset_code_goes_to_verified_addresses_only() {
        let user =
            user(&[("email", "a@example.com"), ("phone_number", "+12065550123"), ("phone_number_verified", "true")]);
        let to = Destination::verified(&user).unwrap().details();
        assert_eq!(to.destination.as_deref(), Some("+*******0123"));
        assert!(Destination::unverified(&user).is_some_and(|to| to.medium == "SMS"));
    }

    #[test]
    fn a_code_works_once_in_time_and_not_after_five_mistakes() {
        let pool = keys::tests::pool();
        let user = user(&[("email", "a@example.com")]);
        let store = Store::open(None).unwrap();
        let to = Destination::unverified(&user).unwrap();
        let send =
            |now| store.write(|tables| send_code(tables, &pool, &user, &to, Purpose::PasswordReset, now)).unwrap();
        let code = send(NOW);
        let digits = code.digits.expose().clone();
        let mut slot = Some(code.clone());
        assert_eq!(redeem(&mut slot, "wrong", NOW).err(), Some(Refusal::code_mismatch()));
        assert!(redeem(&mut slot, &digits, NOW).is_ok());
        assert_eq!(redeem(&mut slot, &digits, NOW).err(), Some(Refusal::code_expired()));

        let late = NOW.after(Duration::from_secs(3600));
        assert_eq!(redeem(&mut Some(code.clone()), &digits, late).err(), Some(Refusal::code_expired()));

        let mut slot = Some(code);
        for _ in 0..ATTEMPTS {
            assert_eq!(redeem(&mut slot, "wrong", NOW).err(), Some(Refusal::code_mismatch()));
        }
        assert_eq!(redeem(&mut slot, &digits, NOW).err(), Some(Refusal::attempt_limit()));
    }

    #[test]
    fn the_outbox_is_bounded() {
        let pool = keys::tests::pool();
        let user = user(&[("email", "a@example.com")]);
        let store = Store::open(None).unwrap();
        let to = Destination::unverified(&user).unwrap();
        for number in 0..KEPT + 5 {
            store.write(|tables| send(tables, &pool, &user, &to, Purpose::SignUp, &number.to_string(), NOW)).unwrap();
        }
        let kept = store.read().unwrap().scan(MESSAGES, "").unwrap();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept.first().unwrap().1.code, "5");
        assert_eq!(kept.last().unwrap().1.code, (KEPT + 4).to_string());
    }
}
