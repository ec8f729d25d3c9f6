//! The operations of the API: one table of names, who may call them, and what runs.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::refusal::{Exception, Refusal};
use super::service::Service;
use super::{account, admin_groups, admin_pools, admin_users, messages, signin, validate};
use crate::clock::Timestamp;
use crate::cognito::wire::TARGET_PREFIX;

/// What stands before the name of an operation that Cognito does not have.
pub const OWN_PREFIX: &str = "PortcullisPool.";

/// Who may call an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Everybody: the request itself carries the proof, if one is needed.
    Public,
    /// Administrators, who sign requests with AWS credentials (SigV4).
    Signed,
}

/// One operation.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    name: &'static str,
    access: Access,
    run: fn(&Service, Value, Timestamp) -> Result<Vec<u8>, Refusal>,
}

/// Rows of the table: the operation has the name of its function in the API's spelling.
macro_rules! table {
    ($($access:ident $name:literal $function:path;)+) => {
        &[$(Operation {
            name: $name,
            access: Access::$access,
            run: |service, request, now| answer(service, request, now, $function),
        }),+]
    };
}

const OPERATIONS: &[Operation] = table! {
    Public "SignUp" account::sign_up;
    Public "ConfirmSignUp" account::confirm_sign_up;
    Public "ResendConfirmationCode" account::resend_confirmation_code;
    Public "ForgotPassword" account::forgot_password;
    Public "ConfirmForgotPassword" account::confirm_forgot_password;
    Public "ChangePassword" account::change_password;
    Public "GetUser" account::get_user;
    Public "DeleteUser" account::delete_user;
    Public "GlobalSignOut" account::global_sign_out;
    Public "InitiateAuth" signin::initiate_auth;
    Public "RespondToAuthChallenge" signin::respond_to_auth_challenge;
    Public "GetTokensFromRefreshToken" signin::get_tokens_from_refresh_token;
    Public "RevokeToken" signin::revoke_token;

    Signed "AdminCreateUser" admin_users::create;
    Signed "AdminGetUser" admin_users::get;
    Signed "AdminConfirmSignUp" admin_users::confirm_sign_up;
    Signed "AdminSetUserPassword" admin_users::set_password;
    Signed "AdminResetUserPassword" admin_users::reset_password;
    Signed "AdminDeleteUser" admin_users::delete;
    Signed "AdminDisableUser" admin_users::disable;
    Signed "AdminEnableUser" admin_users::enable;
    Signed "AdminUpdateUserAttributes" admin_users::update_attributes;
    Signed "AdminUserGlobalSignOut" admin_users::sign_out;
    Signed "ListUsers" admin_users::list;

    Signed "AdminAddUserToGroup" admin_groups::add_user;
    Signed "AdminRemoveUserFromGroup" admin_groups::remove_user;
    Signed "AdminListGroupsForUser" admin_groups::of_user;
    Signed "CreateGroup" admin_groups::create;
    Signed "GetGroup" admin_groups::get;
    Signed "DeleteGroup" admin_groups::delete;
    Signed "ListGroups" admin_groups::list;
    Signed "ListUsersInGroup" admin_groups::users;

    Signed "CreateUserPool" admin_pools::create;
    Signed "DescribeUserPool" admin_pools::describe;
    Signed "ListUserPools" admin_pools::list;
    Signed "CreateUserPoolClient" admin_pools::create_client;
    Signed "DescribeUserPoolClient" admin_pools::describe_client;
    Signed "ListUserPoolClients" admin_pools::list_clients;
    Signed "DeleteUserPoolClient" admin_pools::delete_client;
};

/// Operations under [`OWN_PREFIX`].
const OWN_OPERATIONS: &[Operation] = table! {
    Signed "RotateKeys" admin_pools::rotate_keys;
    Signed "ListMessages" messages::list;
};

impl Operation {
    /// The operation that an `X-Amz-Target` names.
    pub(super) fn find(target: &str) -> Option<Self> {
        let (table, name) = match target.strip_prefix(TARGET_PREFIX) {
            Some(name) => (OPERATIONS, name),
            None => (OWN_OPERATIONS, target.strip_prefix(OWN_PREFIX)?),
        };
        table.iter().find(|operation| operation.name == name).copied()
    }

    /// Asks for a SigV4 `Authorization` where Cognito does. Whose it is does not matter here: the
    /// pool has no AWS accounts, and everybody on this machine may administer it.
    ///
    /// # Errors
    /// MissingAuthenticationTokenException, IncompleteSignatureException.
    pub(super) fn check_signature(self, authorization: Option<&str>) -> Result<(), Refusal> {
        if self.access == Access::Public {
            return Ok(());
        }
        let authorization = authorization
            .ok_or_else(|| Refusal::new(Exception::MissingAuthenticationToken, "Missing Authentication Token"))?;
        let parameters = authorization.strip_prefix("AWS4-HMAC-SHA256 ").unwrap_or_default();
        let parameter = |name: &str| {
            parameters.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let scope: Vec<&str> = parameter("Credential").split('/').collect();
        let scoped =
            matches!(scope.as_slice(), [key, _date, _region, "cognito-idp", "aws4_request"] if !key.is_empty());
        let signature = parameter("Signature");
        let signed = signature.len() == 64 && signature.bytes().all(|digit| digit.is_ascii_hexdigit());
        if scoped && signed && !parameter("SignedHeaders").is_empty() {
            return Ok(());
        }
        Err(Refusal::new(
            Exception::IncompleteSignature,
            "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters.",
        ))
    }
}

/// Runs an operation on the bytes of a request. Blocks, at times for a good part of a second.
///
/// # Errors
/// Whatever the operation refuses; SerializationException for what is not its request.
pub(super) fn run(service: &Service, operation: Operation, body: &[u8], now: Timestamp) -> Result<Vec<u8>, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    let request: Value = serde_json::from_slice(body)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| Refusal::new(Exception::Serialization, "The request body is not a JSON object."))?;
    let outcome = (operation.run)(service, without_nulls(request), now);
    match &outcome {
        Ok(_) => tracing::debug!(operation = operation.name, "the embedded pool did it"),
        Err(refusal) => {
            tracing::debug!(
                operation = operation.name,
                exception = refusal.exception.as_str(),
                "the embedded pool refused"
            );
        }
    }
    outcome
}

/// Reads the request, runs the operation and writes the reply: no bytes for `null`, as Cognito does
/// for operations without an output shape.
fn answer<Request: DeserializeOwned, Reply: Serialize>(
    service: &Service,
    request: Value,
    now: Timestamp,
    operation: fn(&Service, Request, Timestamp) -> Result<Reply, Refusal>,
) -> Result<Vec<u8>, Refusal> {
    let request = serde_json::from_value(request).map_err(|error| unreadable(&error))?;
    let reply = operation(service, request, now)?;
    let reply = serde_json::to_vec(&reply)
        .map_err(|_| Refusal::new(Exception::InternalError, "An internal error occurred."))?;
    Ok(if reply == b"null" { Vec::new() } else { reply })
}

/// A missing member is the caller's mistake in the terms of the API; anything else is not JSON of
/// the right shape. The text never repeats a value, which may be a password.
fn unreadable(error: &serde_json::Error) -> Refusal {
    let text = error.to_string();
    match text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        Some(member) => validate::missing(member),
        None => Refusal::new(Exception::Serialization, "A member of the request has the wrong type."),
    }
}

/// `null` is the same as absent, everywhere: JavaScript clients send it.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let present = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(present.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(target: &str) -> Option<&'static str> {
        Operation::find(target).map(|operation| operation.name)
    }

    #[test]
    fn a_target_needs_its_prefix() {
        assert_eq!(find("AWSCognitoIdentityProviderService.SignUp"), Some("SignUp"));
        assert_eq!(find("PortcullisPool.RotateKeys"), Some("RotateKeys"));
        for target in ["SignUp", "AWSCognitoIdentityProviderService.RotateKeys", "PortcullisPool.SignUp", ""] {
            assert_eq!(find(target), None, "{target}");
        }
    }

    #[test]
    fn administrators_sign_and_others_need_not() {
        let admin = Operation::find("AWSCognitoIdentityProviderService.AdminGetUser").unwrap();
        let public = Operation::find("AWSCognitoIdentityProviderService.GetUser").unwrap();
        let signature = "0".repeat(64);
        let good = format!(
            "AWS4-HMAC-SHA256 Credential=AKID/20261122/eu-west-1/cognito-idp/aws4_request, SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        assert!(public.check_signature(None).is_ok());
        assert!(admin.check_signature(Some(&good)).is_ok());
        let exception = |authorization| admin.check_signature(authorization).unwrap_err().exception;
        assert_eq!(exception(None), Exception::MissingAuthenticationToken);
        for bad in ["Bearer x", "AWS4-HMAC-SHA256 ", &good.replace("cognito-idp", "s3"), &good.replace("000", "xyz")] {
            assert_eq!(exception(Some(bad)), Exception::IncompleteSignature, "{bad}");
        }
    }

    #[test]
    fn nulls_vanish_at_every_depth() {
        let value = json!({ "a": null, "b": { "c": null, "d": 1 }, "e": [{ "f": null }] });
        assert_eq!(without_nulls(value), json!({ "b": { "d": 1 }, "e": [{}] }));
    }
}
