//! What stands in the store, and the rules that a record can tell by itself.
//!
//! No record has a `Debug` text: most of them hold something that belongs in no log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::names;
use crate::clock::Timestamp;
use crate::secret::Secret;

/// Milliseconds since the epoch, as they are stored.
pub(super) type Millis = u64;

/// A user pool.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Pool {
    pub id: String,
    pub name: String,
    pub created: Millis,
    pub policy: Policy,
    /// A verified e-mail address works as a user name.
    pub email_alias: bool,
    /// People may sign themselves up.
    pub self_sign_up: bool,
    /// Signing keys, the newest last.
    pub keys: Vec<SigningKey>,
    /// Seals refresh tokens: 32 bytes, base64url.
    #[serde(serialize_with = "expose")]
    pub token_key: Secret<String>,
    /// Makes up salts and verifiers of users who do not exist: 32 bytes, base64url.
    #[serde(serialize_with = "expose")]
    pub phantom_key: Secret<String>,
}

impl Pool {
    /// What follows the underscore of the id: the pool name of SRP.
    pub(super) fn suffix(&self) -> &str {
        self.id.split_once('_').map_or(self.id.as_str(), |(_, suffix)| suffix)
    }
}

/// What a password must be (`PasswordPolicyType`).
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Policy {
    /// Characters, 6 to 99.
    pub minimum_length: usize,
    pub uppercase: bool,
    pub lowercase: bool,
    pub numbers: bool,
    pub symbols: bool,
    /// Days that a password set by an administrator lasts.
    pub temporary_days: u64,
}

impl Default for Policy {
    /// The default of CreateUserPool.
    fn default() -> Self {
        Self { minimum_length: 8, uppercase: true, lowercase: true, numbers: true, symbols: true, temporary_days: 7 }
    }
}

/// Half of a generation of signing keys: one signs ID tokens, the other one access tokens.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SigningKey {
    pub kid: String,
    /// `id` or `access`.
    pub token_use: String,
    pub created: Millis,
    /// Since when it signs nothing any more.
    pub retired: Option<Millis>,
    /// Modulus and exponent, base64url, as in the key set.
    pub n: String,
    pub e: String,
    /// PKCS#8, base64url; gone when it is retired.
    #[serde(serialize_with = "expose_some")]
    pub private: Option<Secret<String>>,
}

/// An app client (`UserPoolClientType`).
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Client {
    pub id: String,
    pub pool: String,
    pub name: String,
    pub created: Millis,
    pub modified: Millis,
    #[serde(serialize_with = "expose_some")]
    pub secret: Option<Secret<String>>,
    /// `ExplicitAuthFlows`.
    pub flows: Vec<String>,
    pub access_validity: Validity,
    pub id_validity: Validity,
    pub refresh_validity: Validity,
    /// Minutes that a sign-in may take.
    pub session_minutes: u64,
    /// `PreventUserExistenceErrors` is `ENABLED`.
    pub hides_users: bool,
    /// `EnableTokenRevocation`.
    pub revocation: bool,
    /// `RefreshTokenRotation`: on, with this many seconds of grace for the token before.
    pub rotation_grace: Option<u64>,
}

impl Client {
    /// An app client with the defaults of `API_CreateUserPoolClient`.
    pub(super) fn new(id: String, pool: &str, name: &str, now: Timestamp) -> Self {
        let flows = ["ALLOW_REFRESH_TOKEN_AUTH", "ALLOW_USER_SRP_AUTH", "ALLOW_CUSTOM_AUTH"];
        Self {
            id,
            pool: pool.to_owned(),
            name: name.to_owned(),
            created: now.millis(),
            modified: now.millis(),
            secret: None,
            flows: flows.map(str::to_owned).to_vec(),
            access_validity: Validity { number: 1, unit: Unit::Hours },
            id_validity: Validity { number: 1, unit: Unit::Hours },
            refresh_validity: Validity { number: 30, unit: Unit::Days },
            session_minutes: 3,
            hides_users: false,
            revocation: true,
            rotation_grace: None,
        }
    }

    /// Whether an authentication flow is switched on.
    pub(super) fn allows(&self, flow: &str) -> bool {
        self.flows.iter().any(|allowed| allowed == flow || allowed.strip_prefix("ALLOW_") == Some(flow))
    }
}

/// How long tokens of one kind last, as an administrator wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validity {
    pub number: u64,
    pub unit: Unit,
}

impl Validity {
    /// The same as a duration.
    pub(super) const fn duration(self) -> Duration {
        let seconds = match self.unit {
            Unit::Seconds => 1,
            Unit::Minutes => 60,
            Unit::Hours => 3600,
            Unit::Days => 86_400,
        };
        Duration::from_secs(self.number.saturating_mul(seconds))
    }
}

/// `TimeUnitsType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unit {
    Seconds,
    Minutes,
    Hours,
    Days,
}

/// `UserStatusType`, as far as users of this pool get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Status {
    Unconfirmed,
    Confirmed,
    ResetRequired,
    ForceChangePassword,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unconfirmed => "UNCONFIRMED",
            Self::Confirmed => "CONFIRMED",
            Self::ResetRequired => "RESET_REQUIRED",
            Self::ForceChangePassword => "FORCE_CHANGE_PASSWORD",
        }
    }
}

/// A user.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct User {
    /// In canonical form.
    pub username: String,
    pub sub: String,
    pub created: Millis,
    pub modified: Millis,
    pub enabled: bool,
    pub status: Status,
    /// Without `sub`; the `*_verified` ones are `true` or `false`.
    pub attributes: BTreeMap<String, String>,
    pub groups: BTreeSet<String>,
    pub credentials: Option<Credentials>,
    /// When a password set by an administrator stops working.
    pub temporary_until: Option<Millis>,
    /// Confirms the sign-up.
    pub confirmation: Option<Code>,
    /// Resets the password.
    pub reset: Option<Code>,
    /// Wrong passwords in a row, and when the last one came.
    pub failures: u32,
    pub last_failure: Millis,
}

impl User {
    /// A user who has no password yet.
    pub(super) fn new(username: &str, status: Status, attributes: BTreeMap<String, String>, now: Timestamp) -> Self {
        Self {
            username: names::canonical(username),
            sub: names::uuid(),
            created: now.millis(),
            modified: now.millis(),
            enabled: true,
            status,
            attributes,
            groups: BTreeSet::new(),
            credentials: None,
            temporary_until: None,
            confirmation: None,
            reset: None,
            failures: 0,
            last_failure: 0,
        }
    }

    /// Whether `attribute`, `email` or `phone_number`, is verified.
    pub(super) fn verified(&self, attribute: &str) -> bool {
        self.attributes.get(&format!("{attribute}_verified")).is_some_and(|value| value == "true")
    }

    /// The verified e-mail address in lower case: what an alias is compared by.
    pub(super) fn alias(&self) -> Option<String> {
        self.attributes.get("email").filter(|_| self.verified("email")).map(|email| email.to_lowercase())
    }
}

/// What proves a password. The SRP verifier serves SRP and nothing else; a password that arrives in
/// plain text is compared with the Argon2id hash, which is the expensive one to guess from.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Credentials {
    /// Hex without leading zeros.
    pub salt: String,
    /// 384 bytes, base64url.
    #[serde(serialize_with = "expose")]
    pub verifier: Secret<String>,
    /// 32 bytes of Argon2id over the same salt, base64url.
    #[serde(serialize_with = "expose")]
    pub hash: Secret<String>,
    /// What the hash cost, so that it can be computed again when new ones cost more.
    pub cost: Cost,
}

/// The parameters of Argon2id (RFC 9106 §3.1), with one lane.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
}

/// A code that was sent to a user.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Code {
    #[serde(serialize_with = "expose")]
    pub digits: Secret<String>,
    /// The attribute it was sent to: the right code verifies it.
    pub attribute: String,
    pub expires: Millis,
    /// Wrong answers so far.
    pub wrong: u32,
}

/// A group (`GroupType`).
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Group {
    pub name: String,
    pub description: Option<String>,
    pub precedence: Option<u64>,
    pub created: Millis,
    pub modified: Millis,
}

/// All refresh tokens that come from one sign-in; its id is their tokens' `origin_jti`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Family {
    pub id: String,
    pub client: String,
    pub username: String,
    /// Seconds since the epoch: `auth_time`.
    pub signed_in: i64,
    /// Absolute; refreshing does not move it.
    pub expires: Millis,
    pub revoked: bool,
    /// With rotation: the number of the newest refresh token.
    pub generation: u64,
    /// With rotation: until when the refresh token before the newest one works, too.
    pub grace_until: Millis,
}

/// A message that a real pool would have sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// When it was sent, RFC 3339.
    pub time: String,
    /// The user pool's id.
    pub pool: String,
    /// To whom.
    pub username: String,
    /// `EMAIL` or `SMS`.
    pub medium: String,
    /// The whole address or number.
    pub destination: String,
    /// `sign_up`, `password_reset` or `invitation`.
    pub purpose: String,
    /// The code; the temporary password in an invitation.
    pub code: String,
}

/// A secret goes into the store in the clear: the file itself is what has to be kept safe.
fn expose<S: Serializer>(secret: &Secret<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn expose_some<S: Serializer>(secret: &Option<Secret<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => expose(secret, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_allows_what_its_flows_say_in_either_spelling() {
        let mut client = Client::new("c".to_owned(), "p", "app", Timestamp::from_seconds(1));
        assert!(client.allows("USER_SRP_AUTH") && !client.allows("USER_PASSWORD_AUTH"));
        client.flows = vec!["USER_PASSWORD_AUTH".to_owned()];
        assert!(client.allows("USER_PASSWORD_AUTH") && !client.allows("USER_SRP_AUTH"));
    }

    #[test]
    fn only_a_verified_address_is_an_alias() {
        let mut user = User::new("Alice", Status::Confirmed, BTreeMap::new(), Timestamp::from_seconds(1));
        assert_eq!((user.username.as_str(), user.alias()), ("alice", None));
        user.attributes.insert("email".to_owned(), "A@Example.com".to_owned());
        assert_eq!(user.alias(), None);
        user.attributes.insert("email_verified".to_owned(), "true".to_owned());
        assert_eq!(user.alias().as_deref(), Some("a@example.com"));
    }
}
