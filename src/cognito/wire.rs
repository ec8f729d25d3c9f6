//! What travels: the requests and replies of the user pool API (JSON 1.1), for both of its ends.
//!
//! Types and members have the names of the API reference, "Amazon Cognito user pools API Reference,
//! Actions". Members that Portcullis has no use for are left out: a reader ignores what it does not
//! know, and takes `null` for absent.
#![expect(missing_docs, reason = "the members are those of the API reference, under the same names")]

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Deserializer};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The media type of every request and reply.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// What stands before the operation's name in `X-Amz-Target`.
pub const TARGET_PREFIX: &str = "AWSCognitoIdentityProviderService.";

/// A request that the API knows.
pub trait Operation: Serialize + DeserializeOwned {
    /// Its name in `X-Amz-Target`.
    const NAME: &'static str;
    /// Whether it may be sent again when nobody knows if it has arrived: it consumes no code, sends
    /// no message to the user and creates nothing.
    const REPEATABLE: bool;
    /// What a success answers.
    type Reply: Serialize + DeserializeOwned;
}

/// Gives each request its name, which is the type's, and its reply.
macro_rules! operations {
    ($($request:ident -> $reply:ident $(, repeatable: $repeatable:literal)?;)+) => {$(
        impl Operation for $request {
            const NAME: &'static str = stringify!($request);
            const REPEATABLE: bool = false $(|| $repeatable)?;
            type Reply = $reply;
        }
    )+};
}

operations! {
    SignUp -> SignUpReply;
    ConfirmSignUp -> ConfirmSignUpReply;
    ResendConfirmationCode -> CodeDelivery;
    InitiateAuth -> AuthReply, repeatable: true;
    RespondToAuthChallenge -> AuthReply;
    GetTokensFromRefreshToken -> TokensReply;
    RevokeToken -> Empty, repeatable: true;
    GlobalSignOut -> Empty, repeatable: true;
    ForgotPassword -> CodeDelivery;
    ConfirmForgotPassword -> Empty;
    GetUser -> GetUserReply, repeatable: true;
}

/// `API_SignUp`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignUp {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub secret_hash: Option<Secret<String>>,
    pub username: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub password: Option<Secret<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_attributes: Option<Vec<Attribute>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignUpReply {
    #[serde(default)]
    pub user_confirmed: bool,
    pub user_sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_delivery_details: Option<CodeDeliveryDetails>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub session: Option<Secret<String>>,
}

/// `API_ConfirmSignUp`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfirmSignUp {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub secret_hash: Option<Secret<String>>,
    pub username: String,
    #[serde(serialize_with = "expose")]
    pub confirmation_code: Secret<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfirmSignUpReply {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub session: Option<Secret<String>>,
}

/// `API_ResendConfirmationCode`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ResendConfirmationCode {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub secret_hash: Option<Secret<String>>,
    pub username: String,
}

/// The reply of ResendConfirmationCode and ForgotPassword.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CodeDelivery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_delivery_details: Option<CodeDeliveryDetails>,
}

/// `API_InitiateAuth`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InitiateAuth {
    pub client_id: String,
    pub auth_flow: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub auth_parameters: Parameters,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub session: Option<Secret<String>>,
}

/// `API_RespondToAuthChallenge`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RespondToAuthChallenge {
    pub client_id: String,
    pub challenge_name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub challenge_responses: Parameters,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub session: Option<Secret<String>>,
}

/// The reply of InitiateAuth and RespondToAuthChallenge: tokens, or the next challenge.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AuthReply {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub session: Option<Secret<String>>,
    /// Always there, also beside tokens: clients index into it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub challenge_parameters: Parameters,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_challenges: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_result: Option<AuthenticationResult>,
}

/// `API_GetTokensFromRefreshToken`. It takes the raw client secret, not a hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetTokensFromRefreshToken {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub client_secret: Option<Secret<String>>,
    #[serde(serialize_with = "expose")]
    pub refresh_token: Secret<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TokensReply {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_result: Option<AuthenticationResult>,
}

/// `API_RevokeToken`. It takes a refresh token only, and the raw client secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RevokeToken {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub client_secret: Option<Secret<String>>,
    #[serde(serialize_with = "expose")]
    pub token: Secret<String>,
}

/// `API_GlobalSignOut`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GlobalSignOut {
    #[serde(serialize_with = "expose")]
    pub access_token: Secret<String>,
}

/// `API_ForgotPassword`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ForgotPassword {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub secret_hash: Option<Secret<String>>,
    pub username: String,
}

/// `API_ConfirmForgotPassword`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfirmForgotPassword {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub secret_hash: Option<Secret<String>>,
    pub username: String,
    #[serde(serialize_with = "expose")]
    pub confirmation_code: Secret<String>,
    #[serde(serialize_with = "expose")]
    pub password: Secret<String>,
}

/// `API_GetUser`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetUser {
    #[serde(serialize_with = "expose")]
    pub access_token: Secret<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetUserReply {
    pub username: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub user_attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_mfa_setting: Option<String>,
    #[serde(rename = "UserMFASettingList", skip_serializing_if = "Option::is_none")]
    pub user_mfa_setting_list: Option<Vec<String>>,
}

/// A reply without members. Some operations answer it with no body at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// `API_AttributeType`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attribute {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// `API_CodeDeliveryDetailsType`. The destination is masked: `a***@e***`, `+*******1234`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CodeDeliveryDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_medium: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute_name: Option<String>,
}

/// `API_AuthenticationResultType`. `expires_in` is the access token's life in seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AuthenticationResult {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub access_token: Option<Secret<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub refresh_token: Option<Secret<String>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    pub id_token: Option<Secret<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_device_metadata: Option<NewDeviceMetadata>,
}

/// `API_NewDeviceMetadataType`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewDeviceMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_group_key: Option<String>,
}

/// The body of every refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The exception's name, at times between a namespace and `#`, or before `:` and a URL.
    #[serde(rename = "__type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(alias = "Message", skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A map of texts: `AuthParameters`, `ChallengeResponses`, `ChallengeParameters`. All values count
/// as secrets, because passwords and codes are among them.
#[derive(Clone, Debug, Default)]
pub struct Parameters(BTreeMap<String, Secret<String>>);

impl Parameters {
    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.expose().as_str())
    }

    /// The same map with one entry more.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Secret<String>>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// All entries, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.expose().as_str()))
    }
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// `null` values are absent ones, which JavaScript clients send. Values that are not texts become
/// JSON text, the form in which the API wraps structures: emulators forget to.
impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
        let text = |value| match value {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        let entries = values.into_iter().filter_map(|(key, value)| Some((key, Secret::from(text(value)?))));
        Ok(Self(entries.collect()))
    }
}

/// Here, and only here, a secret goes out: to the user pool, over the pool's own connection.
fn expose<S: Serializer>(secret: &Secret<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn expose_some<S: Serializer>(secret: &Option<Secret<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => expose(secret, serializer),
        None => serializer.serialize_none(),
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_members_of_the_api_and_absent_ones_are_left_out() {
        let request = InitiateAuth {
            client_id: "c".to_owned(),
            auth_flow: "USER_SRP_AUTH".to_owned(),
            auth_parameters: Parameters::default().with("USERNAME", "demo".to_owned()).with("SRP_A", "ff".to_owned()),
            session: None,
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"ClientId":"c","AuthFlow":"USER_SRP_AUTH","AuthParameters":{"SRP_A":"ff","USERNAME":"demo"}}"#
        );
        assert_eq!(InitiateAuth::NAME, "InitiateAuth");
        let repeatable = [InitiateAuth::REPEATABLE, SignUp::REPEATABLE, GetTokensFromRefreshToken::REPEATABLE];
        assert_eq!(repeatable, [true, false, false]);
    }

    #[test]
    fn unknown_members_are_ignored_and_null_is_absent() {
        let text = r#"{"ClientId":"c","AuthFlow":"F","AuthParameters":{"USERNAME":"u","DEVICE_KEY":null},
            "Session":null,"ClientMetadata":{"a":"b"}}"#;
        let request: InitiateAuth = serde_json::from_str(text).unwrap();
        assert_eq!(request.auth_parameters.iter().collect::<Vec<_>>(), [("USERNAME", "u")]);
        assert!(request.session.is_none());
        let request: InitiateAuth =
            serde_json::from_str(r#"{"ClientId":"c","AuthFlow":"F","AuthParameters":null}"#).unwrap();
        assert_eq!(request.auth_parameters.iter().count(), 0);
    }

    #[test]
    fn structures_in_challenge_parameters_become_text() {
        let reply: AuthReply = serde_json::from_str(
            r#"{"ChallengeName":"MFA_SETUP","ChallengeParameters":{"MFAS_CAN_SETUP":["SMS_MFA"],"USERNAME":"u"}}"#,
        )
        .unwrap();
        assert_eq!(reply.challenge_parameters.get("MFAS_CAN_SETUP"), Some(r#"["SMS_MFA"]"#));
        assert_eq!(serde_json::to_value(AuthReply::default()).unwrap(), serde_json::json!({"ChallengeParameters": {}}));
    }

    #[test]
    fn no_debug_text_shows_a_secret() {
        let parameters = Parameters::default().with("PASSWORD", "hunter2".to_owned());
        let request = RevokeToken {
            client_id: "c".to_owned(),
            client_secret: Some(Secret::from("hunter2".to_owned())),
            token: Secret::from("hunter2".to_owned()),
        };
        assert!(!format!("{parameters:?} {request:?}").contains("hunter2"));
        assert!(serde_json::to_string(&request).unwrap().contains(r#""Token":"hunter2""#));
    }

    #[test]
    fn a_fault_is_read_in_either_spelling() {
        for text in [r#"{"__type":"X","message":"m"}"#, r#"{"__type":"X","Message":"m"}"#] {
            let fault: Fault = serde_json::from_str(text).unwrap();
            assert_eq!(fault, Fault { kind: Some("X".to_owned()), message: Some("m".to_owned()) });
        }
    }
}
