//! How the pool says no: Cognito's exceptions, with the texts that clients match on
//! (not specified, but reported from the real service by their users).

use std::borrow::Cow;

use http::StatusCode;

use super::store;

/// Declares the exceptions; their names on the wire end in `Exception`.
macro_rules! exceptions {
    ($($variant:ident $status:ident)+) => {
        /// The name of an exception, "Amazon Cognito user pools API Reference, Common Error Types"
        /// and the Errors section of each action.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Exception {
            $($variant),+
        }

        impl Exception {
            /// As in `__type`.
            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => concat!(stringify!($variant), "Exception")),+ }
            }

            /// Every fault of the client is 400, whatever it is.
            pub(super) const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }
        }
    };
}

exceptions! {
    AliasExists BAD_REQUEST
    CodeMismatch BAD_REQUEST
    ExpiredCode BAD_REQUEST
    Forbidden FORBIDDEN
    GroupExists BAD_REQUEST
    IncompleteSignature BAD_REQUEST
    InternalError INTERNAL_SERVER_ERROR
    InvalidParameter BAD_REQUEST
    InvalidPassword BAD_REQUEST
    LimitExceeded BAD_REQUEST
    MissingAuthenticationToken BAD_REQUEST
    NotAuthorized BAD_REQUEST
    PasswordResetRequired BAD_REQUEST
    RefreshTokenReuse BAD_REQUEST
    ResourceNotFound BAD_REQUEST
    Serialization BAD_REQUEST
    Unauthorized BAD_REQUEST
    UnknownOperation BAD_REQUEST
    UnsupportedOperation BAD_REQUEST
    UnsupportedTokenType BAD_REQUEST
    UnsupportedUserState BAD_REQUEST
    UserNotConfirmed BAD_REQUEST
    UserNotFound BAD_REQUEST
    UsernameExists BAD_REQUEST
}

/// An exception and its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", .exception.as_str())]
pub(super) struct Refusal {
    pub exception: Exception,
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// Any exception with any text.
    pub(super) fn new(exception: Exception, text: impl Into<Cow<'static, str>>) -> Self {
        Self { exception, text: text.into() }
    }

    pub(super) fn not_authorized(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Exception::NotAuthorized, text)
    }

    pub(super) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Exception::InvalidParameter, text)
    }

    pub(super) fn unknown_operation() -> Self {
        Self::new(Exception::UnknownOperation, "The requested operation is not known here.")
    }

    /// Unknown user and wrong password alike.
    pub(super) fn credentials() -> Self {
        Self::not_authorized("Incorrect username or password.")
    }

    pub(super) fn user_not_found() -> Self {
        Self::new(Exception::UserNotFound, "User does not exist.")
    }

    pub(super) fn user_not_confirmed() -> Self {
        Self::new(Exception::UserNotConfirmed, "User is not confirmed.")
    }

    pub(super) fn user_disabled() -> Self {
        Self::not_authorized("User is disabled.")
    }

    pub(super) fn reset_required() -> Self {
        Self::new(Exception::PasswordResetRequired, "Password reset required for the user")
    }

    pub(super) fn code_mismatch() -> Self {
        Self::new(Exception::CodeMismatch, "Invalid verification code provided, please try again.")
    }

    pub(super) fn code_expired() -> Self {
        Self::new(Exception::ExpiredCode, "Invalid code provided, please request a code again.")
    }

    pub(super) fn attempt_limit() -> Self {
        Self::new(Exception::LimitExceeded, "Attempt limit exceeded, please try after some time.")
    }

    pub(super) fn missing_parameter(name: &str) -> Self {
        Self::invalid(format!("Missing required parameter {name}"))
    }

    pub(super) fn client_not_found(id: &str) -> Self {
        Self::new(Exception::ResourceNotFound, format!("User pool client {id} does not exist."))
    }

    pub(super) fn pool_not_found(id: &str) -> Self {
        Self::new(Exception::ResourceNotFound, format!("User pool {id} does not exist."))
    }

    pub(super) fn group_not_found() -> Self {
        Self::new(Exception::ResourceNotFound, "Group not found.")
    }
}

/// The caller learns nothing of what is broken here; whoever runs the pool reads it in the log.
impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "the embedded pool's store failed");
        Self::new(Exception::InternalError, "An internal error occurred.")
    }
}
