//! Why a call to the user pool failed, told apart as finely as anybody needs.
//!
//! The API has one status for every refusal and reuses `NotAuthorizedException` and
//! `InvalidParameterException` for a dozen different things, which only their texts tell apart. A
//! wrong password, a wrong client secret and an expired session must not look alike.

use std::time::Duration;

use super::srp;
use super::wire::Fault;

/// How much of the pool's own text is kept, for operators.
const TEXT_LIMIT: usize = 200;

/// Why a call gave no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: the request was never sent.
    #[error("the user pool cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// The connection ended too early: nobody knows whether the request was carried out.
    #[error("the connection to the user pool broke off")]
    Broken(#[source] reqwest::Error),
    /// Nor is it known here.
    #[error("the user pool did not answer in time")]
    Timeout,
    /// An answer that is not the API's: a proxy's page, a firewall's, an emulator's stack trace.
    #[error("the answer is not the user pool's (status {status})")]
    Foreign {
        /// The HTTP status.
        status: u16,
    },
    /// An answer beyond all measure.
    #[error("the user pool's answer is larger than {0} bytes")]
    TooLarge(usize),
    /// A success without what makes it one.
    #[error("the user pool's answer lacks {0}")]
    Incomplete(&'static str),
    /// `TooManyRequestsException`: the account's quota, not this user's.
    #[error("the user pool asks to slow down")]
    Throttled {
        /// What `Retry-After` said, if anything.
        retry_after: Option<Duration>,
    },
    /// The API said no.
    #[error("the user pool refused: {0}")]
    Refused(Refusal),
    /// The pool's side of SRP makes no sense.
    #[error("the password proof cannot be made: {0}")]
    Srp(#[from] srp::Error),
    /// The process is ending.
    #[error("the computation was stopped")]
    Stopped,
}

/// Declares the refusals with their label for logs and metrics.
macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident $label:literal)+) => {
        /// What the API refused, and why.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $($(#[doc = $doc])+ $variant,)+
            /// A parameter is wrong; with the API's text, without the values it quotes.
            Parameter(String),
            /// The password does not meet the policy; with the API's text.
            PasswordPolicy(String),
            /// The gateway's settings do not fit the pool's; with the API's text.
            Misconfigured(String),
            /// A type of refusal that is not known here.
            Other(String),
        }

        impl Refusal {
            /// A word for logs and metrics, from a closed set.
            pub const fn label(&self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                    Self::Parameter(_) => "parameter_invalid",
                    Self::PasswordPolicy(_) => "password_policy",
                    Self::Misconfigured(_) => "misconfigured",
                    Self::Other(_) => "other",
                }
            }
        }
    };
}

refusals! {
    /// The username or the password is wrong; also any further `NotAuthorizedException`.
    Credentials "credentials"
    /// No such user; only pools that do not hide it say so.
    UserUnknown "user_unknown"
    /// Too many wrong passwords: for a while none is accepted.
    LockedOut "locked_out"
    /// An administrator closed the account.
    Disabled "user_disabled"
    /// The password that an administrator set was not used in time.
    TemporaryPasswordExpired "temporary_password_expired"
    /// The sign-up is not confirmed. It does not mean that the password was right.
    Unconfirmed "user_unconfirmed"
    /// The password must be reset before the next sign-in.
    ResetRequired "password_reset_required"
    /// The session of a challenge is unknown, expired or used.
    Session "session"
    /// The code is wrong.
    CodeMismatch "code_mismatch"
    /// The code is too old, used, or none was sent.
    CodeExpired "code_expired"
    /// Too many attempts by or on this user: wait tens of minutes.
    AttemptsExceeded "attempts_exceeded"
    /// The username, or an e-mail address or phone number that must be unique, is taken.
    UserExists "user_exists"
    /// There is nothing to confirm any more.
    AlreadyConfirmed "already_confirmed"
    /// The pool does not let people sign themselves up.
    SignUpDisabled "sign_up_disabled"
    /// The user's state, or the lack of a verified address, does not allow a reset.
    ResetImpossible "reset_impossible"
    /// The new password was used before.
    PasswordReused "password_reused"
    /// The refresh token is not one of this client's.
    RefreshTokenInvalid "refresh_token_invalid"
    /// The refresh token is too old.
    RefreshTokenExpired "refresh_token_expired"
    /// The refresh token's family was revoked.
    RefreshTokenRevoked "refresh_token_revoked"
    /// A rotated refresh token came back: somebody may have stolen it.
    RefreshTokenReused "refresh_token_reused"
    /// Not a refresh token at all, or of another client.
    NotRevocable "not_revocable"
    /// The access token is not accepted by the API.
    AccessTokenInvalid "access_token_invalid"
    /// The remembered device is gone.
    DeviceUnknown "device_unknown"
    /// The pool's own trigger refused.
    TriggerRefused "trigger_refused"
    /// The pool's own trigger failed.
    TriggerFailed "trigger_failed"
    /// Mail or SMS could not be sent.
    DeliveryFailed "delivery_failed"
    /// `ForbiddenException`: the pool's web firewall.
    Firewall "firewall"
    /// The API does not know this operation: an emulator.
    OperationUnknown "operation_unknown"
    /// The API itself failed.
    Internal "internal"
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Parameter(text) | Self::Misconfigured(text) | Self::Other(text) => {
                write!(f, "{} ({text})", self.label())
            }
            _ => f.write_str(self.label()),
        }
    }
}

impl Error {
    /// A word for logs and metrics, from a closed set.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "broken",
            Self::Timeout => "timeout",
            Self::Foreign { .. } => "foreign",
            Self::TooLarge(_) => "too_large",
            Self::Incomplete(_) => "incomplete",
            Self::Throttled { .. } => "throttled",
            Self::Refused(refusal) => refusal.label(),
            Self::Srp(_) => "srp",
            Self::Stopped => "stopped",
        }
    }

    /// The refusal, if it is one.
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether sending the request again may help and does no harm. `repeatable` says that it does
    /// none even if the first one was carried out.
    pub(super) const fn may_retry(&self, repeatable: bool) -> bool {
        match self {
            Self::Unreachable(_) | Self::Throttled { .. } => true,
            Self::Broken(_) | Self::Timeout | Self::Refused(Refusal::Internal) => repeatable,
            Self::Foreign { status } => repeatable && *status >= 500,
            Self::TooLarge(_) | Self::Incomplete(_) | Self::Refused(_) | Self::Srp(_) | Self::Stopped => false,
        }
    }
}

/// Reads an answer whose status is not a success. `header` is `x-amzn-errortype`.
pub(super) fn from_answer(status: u16, header: Option<&str>, retry_after: Option<Duration>, body: &[u8]) -> Error {
    let fault: Option<Fault> = serde_json::from_slice(body).ok();
    let message = fault.as_ref().and_then(|fault| fault.message.as_deref()).unwrap_or_default();
    let kind = fault.as_ref().and_then(|fault| fault.kind.as_deref()).or(header).map(short_kind);
    match kind {
        None | Some("") => Error::Foreign { status },
        Some("TooManyRequests" | "Throttling" | "RequestLimitExceeded") => Error::Throttled { retry_after },
        Some(kind) => Error::Refused(refusal(kind, message, status)),
    }
}

/// `aws.cognito#FooException:http://…` → `Foo`.
fn short_kind(kind: &str) -> &str {
    let kind = kind.split(':').next().unwrap_or_default();
    let kind = kind.rsplit('#').next().unwrap_or_default().trim();
    kind.strip_suffix("Exception").unwrap_or(kind)
}

/// By the exception's name without its suffix, and its text where the name says too little.
fn refusal(kind: &str, message: &str, status: u16) -> Refusal {
    match kind {
        "NotAuthorized" => not_authorized(message),
        "InvalidParameter" | "Serialization" | "Validation" => invalid_parameter(message),
        "ResourceNotFound" if mentions(message, "device") => Refusal::DeviceUnknown,
        "UserNotFound" => Refusal::UserUnknown,
        "UserNotConfirmed" => Refusal::Unconfirmed,
        "PasswordResetRequired" => Refusal::ResetRequired,
        "CodeMismatch" | "EnableSoftwareTokenMFA" => Refusal::CodeMismatch,
        "ExpiredCode" => Refusal::CodeExpired,
        "LimitExceeded" | "TooManyFailedAttempts" => Refusal::AttemptsExceeded,
        "UsernameExists" | "AliasExists" => Refusal::UserExists,
        "InvalidPassword" => Refusal::PasswordPolicy(excerpt(message)),
        "PasswordHistoryPolicyViolation" => Refusal::PasswordReused,
        "RefreshTokenReuse" => Refusal::RefreshTokenReused,
        "UnsupportedTokenType" | "Unauthorized" => Refusal::NotRevocable,
        "UserLambdaValidation" => Refusal::TriggerRefused,
        "UnexpectedLambda" | "InvalidLambdaResponse" => Refusal::TriggerFailed,
        "CodeDeliveryFailure"
        | "InvalidSmsRoleAccessPolicy"
        | "InvalidSmsRoleTrustRelationship"
        | "InvalidEmailRoleAccessPolicy" => Refusal::DeliveryFailed,
        "Forbidden" => Refusal::Firewall,
        "UnknownOperation" | "Unsupported" => Refusal::OperationUnknown,
        "ResourceNotFound"
        | "InvalidUserPoolConfiguration"
        | "UnsupportedOperation"
        | "FeatureUnavailableInTier"
        | "OperationNotEnabled" => Refusal::Misconfigured(excerpt(message)),
        "InternalError" | "InternalServer" | "InternalFailure" | "ServiceUnavailable" => Refusal::Internal,
        _ if status >= 500 => Refusal::Internal,
        // The name comes from the network: it goes to the log, never into a label.
        other => Refusal::Other(excerpt(other)),
    }
}

fn not_authorized(message: &str) -> Refusal {
    let says = |text| mentions(message, text);
    if says("secret") {
        return Refusal::Misconfigured(excerpt(message));
    }
    if says("refresh token") {
        return match () {
            () if says("expired") => Refusal::RefreshTokenExpired,
            () if says("revoked") => Refusal::RefreshTokenRevoked,
            () => Refusal::RefreshTokenInvalid,
        };
    }
    if says("access token") {
        return Refusal::AccessTokenInvalid;
    }
    if says("attempts exceeded") {
        return Refusal::LockedOut;
    }
    if says("temporary password") {
        return Refusal::TemporaryPasswordExpired;
    }
    if says("session") {
        return Refusal::Session;
    }
    if says("user is disabled") {
        return Refusal::Disabled;
    }
    if says("status is confirmed") {
        return Refusal::AlreadyConfirmed;
    }
    if says("cannot be reset") {
        return Refusal::ResetImpossible;
    }
    if says("signup is not permitted") {
        return Refusal::SignUpDisabled;
    }
    Refusal::Credentials
}

fn invalid_parameter(message: &str) -> Refusal {
    let says = |text| mentions(message, text);
    if says("flow not enabled") {
        return Refusal::Misconfigured(excerpt(message));
    }
    if says("already confirmed") {
        return Refusal::AlreadyConfirmed;
    }
    if says("no registered/verified") {
        return Refusal::ResetImpossible;
    }
    if says("refresh token") || says("'refreshtoken'") {
        return Refusal::RefreshTokenInvalid;
    }
    // "Value 'alice smith' at 'username' failed …" quotes what a person typed.
    if says("value '") {
        return Refusal::Parameter("a value does not satisfy its constraint".to_owned());
    }
    Refusal::Parameter(excerpt(message))
}

fn mentions(message: &str, text: &str) -> bool {
    message.to_ascii_lowercase().contains(text)
}

fn excerpt(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: &str, message: &str) -> Refusal {
        let body = serde_json::json!({"__type": kind, "message": message}).to_string();
        match from_answer(400, None, None, body.as_bytes()) {
            Error::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_of_not_authorized_are_told_apart() {
        let misconfigured = |text: &str| Refusal::Misconfigured(text.to_owned());
        for (text, expected) in [
            ("Incorrect username or password.", Refusal::Credentials),
            ("Password attempts exceeded", Refusal::LockedOut),
            ("User is disabled.", Refusal::Disabled),
            ("Invalid session for the user.", Refusal::Session),
            ("Invalid session for the user, session is expired.", Refusal::Session),
            ("Invalid session for the user, session can only be used once.", Refusal::Session),
            ("Invalid Refresh Token", Refusal::RefreshTokenInvalid),
            ("Refresh Token has expired", Refusal::RefreshTokenExpired),
            ("Refresh Token has been revoked", Refusal::RefreshTokenRevoked),
            ("Invalid Access Token", Refusal::AccessTokenInvalid),
            ("Access Token has been revoked", Refusal::AccessTokenInvalid),
            ("User cannot be confirmed. Current status is CONFIRMED", Refusal::AlreadyConfirmed),
            ("User password cannot be reset in the current state.", Refusal::ResetImpossible),
            (
                "Temporary password has expired and must be reset by an administrator.",
                Refusal::TemporaryPasswordExpired,
            ),
            ("SignUp is not permitted for this user pool", Refusal::SignUpDisabled),
            ("Unable to verify secret hash for client c", misconfigured("Unable to verify secret hash for client c")),
            (
                "SecretHash does not match for the client: c",
                misconfigured("SecretHash does not match for the client: c"),
            ),
            ("anything else", Refusal::Credentials),
        ] {
            assert_eq!(refused("NotAuthorizedException", text), expected, "{text}");
        }
        let missing = "Client c is configured with secret but SECRET_HASH was not received";
        assert_eq!(refused("NotAuthorizedException", missing), misconfigured(missing));
    }

    #[test]
    fn texts_of_invalid_parameter_are_told_apart_and_values_are_not_kept() {
        assert_eq!(refused("InvalidParameterException", "User is already confirmed."), Refusal::AlreadyConfirmed);
        assert!(matches!(
            refused("InvalidParameterException", "USER_PASSWORD_AUTH flow not enabled for this client"),
            Refusal::Misconfigured(_)
        ));
        let no_address = "Cannot reset password for the user as there is no registered/verified email or phone_number";
        assert_eq!(refused("InvalidParameterException", no_address), Refusal::ResetImpossible);
        let quoted = refused("InvalidParameterException", "1 error: Value 'my secret' at 'username' failed");
        assert!(!quoted.to_string().contains("my secret"), "{quoted}");
        let long = refused("InvalidParameterException", &"x\n".repeat(10_000));
        assert_eq!(long, Refusal::Parameter("x".repeat(TEXT_LIMIT)));
    }

    #[test]
    fn the_type_is_found_wherever_it_stands() {
        for (header, body) in [
            (None, r#"{"__type":"CodeMismatchException"}"#),
            (None, r#"{"__type":"com.amazonaws#CodeMismatchException:https://x/"}"#),
            (Some("CodeMismatchException:"), r#"{"message":"m"}"#),
            (Some("CodeMismatchException"), "not json"),
        ] {
            let error = from_answer(400, header, None, body.as_bytes());
            assert_eq!(error.refusal(), Some(&Refusal::CodeMismatch), "{body}");
        }
    }

    #[test]
    fn what_is_not_the_api_is_called_foreign() {
        for body in ["<html>500</html>", "", "[]", "null", r#"{"error":"x"}"#] {
            assert!(matches!(from_answer(500, None, None, body.as_bytes()), Error::Foreign { status: 500 }), "{body}");
        }
    }

    #[test]
    fn retries_are_only_for_what_cannot_do_harm() {
        let internal = from_answer(500, None, None, br#"{"__type":"InternalErrorException"}"#);
        let throttled = from_answer(400, None, None, br#"{"__type":"TooManyRequestsException"}"#);
        let limited = from_answer(400, None, None, br#"{"__type":"LimitExceededException"}"#);
        let page = from_answer(403, None, None, b"<html>");
        assert_eq!([internal.may_retry(true), internal.may_retry(false)], [true, false]);
        assert_eq!([throttled.may_retry(true), throttled.may_retry(false)], [true, true]);
        assert_eq!([limited.may_retry(true), page.may_retry(true)], [false, false]);
        assert_eq!([Error::Timeout.may_retry(true), Error::Timeout.may_retry(false)], [true, false]);
    }

    #[test]
    fn an_unknown_type_goes_to_the_log_but_not_into_a_label() {
        let refusal = refused("SomethingNewException", "m");
        assert_eq!((refusal.label(), refusal.to_string().as_str()), ("other", "other (SomethingNew)"));
    }
}
