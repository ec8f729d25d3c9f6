//! The one table from failure to answer.
//!
//! Whatever goes wrong in a request becomes a [`Problem`], and only this module knows which status,
//! text and headers the client gets for it (RFC 9457). The exact reason of a refusal stays inside:
//! it goes to the access line and to a metric label, never into the body.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::cognito::{self, Refusal};
use crate::http::{Body, BodyError};
use crate::limit::Exceeded;
use crate::token::{self, Reason};
use crate::{access, server, upstream};

/// Declares every code with its status and title, in the order of the contract.
macro_rules! codes {
    ($($variant:ident $code:literal $status:ident $title:literal)+) => {
        /// What the client is told: a stable word that programs act on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $code, "`: ", $title, ".")] $variant),+
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code as it stands in the body, in logs and in metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The HTTP status it comes with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// A short sentence, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }
        }
    };
}

codes! {
    RequestMalformed "request_malformed" BAD_REQUEST "The request is not valid HTTP"
    PathAmbiguous "path_ambiguous" BAD_REQUEST "The path can be read in more than one way"
    HeaderAmbiguous "header_ambiguous" BAD_REQUEST "A header or credential is there more than once"
    BodyInvalid "body_invalid" BAD_REQUEST "The body is not what this route takes"
    CodeMismatch "code_mismatch" BAD_REQUEST "The code is not right"
    CodeExpired "code_expired" BAD_REQUEST "The code is no longer valid"
    PasswordRejected "password_rejected" BAD_REQUEST "The password does not meet the policy"
    ChallengeInvalid "challenge_invalid" BAD_REQUEST "The answer does not fit the challenge"
    TokenMissing "token_missing" UNAUTHORIZED "A token is required"
    TokenInvalid "token_invalid" UNAUTHORIZED "The token is not accepted"
    TokenExpired "token_expired" UNAUTHORIZED "The token has expired"
    TokenRevoked "token_revoked" UNAUTHORIZED "The token has been revoked"
    CredentialsInvalid "credentials_invalid" UNAUTHORIZED "The username or the password is not right"
    SessionExpired "session_expired" UNAUTHORIZED "The sign-in has to start again"
    AccessDenied "access_denied" FORBIDDEN "The token does not give access to this"
    OriginDenied "origin_denied" FORBIDDEN "This origin may not send that request"
    ClaimUnrepresentable "claim_unrepresentable" FORBIDDEN "A claim cannot be passed on safely"
    AccountUnconfirmed "account_unconfirmed" FORBIDDEN "The account has to be confirmed first"
    PasswordResetRequired "password_reset_required" FORBIDDEN "The password has to be reset first"
    RouteUnknown "route_unknown" NOT_FOUND "There is nothing here"
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The method is not allowed here"
    RequestTimeout "request_timeout" REQUEST_TIMEOUT "The request took too long to arrive"
    UserExists "user_exists" CONFLICT "The username is taken"
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is too large"
    TargetTooLong "target_too_long" URI_TOO_LONG "The request target is too long"
    MediaTypeUnsupported "media_type_unsupported" UNSUPPORTED_MEDIA_TYPE "The body has a type that is not read here"
    Misdirected "misdirected" MISDIRECTED_REQUEST "The request came over the wrong connection"
    ConfigInvalid "config_invalid" UNPROCESSABLE_ENTITY "The configuration cannot be put in force"
    RateLimited "rate_limited" TOO_MANY_REQUESTS "Too many requests"
    HeadTooLarge "head_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE "The request head is too large"
    UpstreamUnreachable "upstream_unreachable" BAD_GATEWAY "The upstream cannot be reached"
    UpstreamInvalid "upstream_invalid" BAD_GATEWAY "The upstream's answer is not valid"
    ProviderError "provider_error" BAD_GATEWAY "The user pool failed"
    KeysUnavailable "keys_unavailable" SERVICE_UNAVAILABLE "The keys to verify this token cannot be had"
    StoreUnavailable "store_unavailable" SERVICE_UNAVAILABLE "The shared store cannot be reached"
    UpstreamUnavailable "upstream_unavailable" SERVICE_UNAVAILABLE "No server of the upstream is in use"
    ProviderThrottled "provider_throttled" SERVICE_UNAVAILABLE "The user pool asks to slow down"
    Overloaded "overloaded" SERVICE_UNAVAILABLE "There are too many connections"
    Draining "draining" SERVICE_UNAVAILABLE "The gateway takes no further requests"
    UpstreamTimeout "upstream_timeout" GATEWAY_TIMEOUT "The upstream took too long"
    ProviderTimeout "provider_timeout" GATEWAY_TIMEOUT "The user pool took too long"
    Internal "internal" INTERNAL_SERVER_ERROR "Something went wrong inside the gateway"
}

impl Code {
    /// What a client that speaks gRPC is told instead of the HTTP status. Where gRPC has a rule of its
    /// own for statuses that come from something in between ("HTTP to gRPC Status Code Mapping"), this
    /// is finer: it is the gateway that speaks, and it knows.
    pub fn grpc_status(self) -> u16 {
        match self.status() {
            StatusCode::UNAUTHORIZED => 16,
            StatusCode::FORBIDDEN => 7,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => 12,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => 4,
            StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 8,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => 13,
            _ => 2,
        }
    }
}

/// A failure on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What the client is told.
    pub code: Code,
    /// A sentence for the person who reads the answer. Never a secret, never an exact reason for
    /// refusing a credential.
    pub detail: Cow<'static, str>,
    /// The exact reason, for the access line and metrics only.
    pub reason: Cow<'static, str>,
    /// When it makes sense to try again.
    pub retry_after: Option<Duration>,
    /// The rate limit that was exceeded, for 429.
    pub exceeded: Option<Box<Exceeded>>,
    /// The methods that are allowed, for 405.
    pub allow: Option<String>,
    /// The connection cannot be used for another request.
    pub close: bool,
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self {
            code,
            detail: Cow::Borrowed(code.title()),
            reason: Cow::Borrowed(code.as_str()),
            retry_after: None,
            exceeded: None,
            allow: None,
            close: false,
        }
    }
}

/// What a client sent that never became a request. Whatever follows it on the connection is not read.
impl From<server::framing::Refusal> for Problem {
    fn from(refusal: server::framing::Refusal) -> Self {
        use server::framing::Refusal;
        let problem = match refusal {
            Refusal::Malformed(reason) => Self::from(Code::RequestMalformed).because(reason),
            Refusal::Ambiguous(header) => {
                Self::new(Code::HeaderAmbiguous, format!("There is more than one {header} header")).because(header)
            }
            Refusal::HeadTooLarge => Self::from(Code::HeadTooLarge),
            Refusal::TargetTooLong => Self::from(Code::TargetTooLong),
            Refusal::HeadTimeout => Self::from(Code::RequestTimeout).because("head"),
            Refusal::Overloaded => Self::from(Code::Overloaded),
        };
        Self { close: true, ..problem }
    }
}

impl From<access::Denial> for Problem {
    fn from(denial: access::Denial) -> Self {
        use access::{Denial, Refusal};
        let problem = match &denial {
            // A scheme that is not offered here counts as no credential (RFC 6750 §3.1).
            Denial::Missing | Denial::Refused(Refusal::Scheme) => Self::from(Code::TokenMissing),
            Denial::Refused(Refusal::Ambiguous) => Self::from(Code::HeaderAmbiguous),
            Denial::Refused(Refusal::Token(error)) => return (*error).into(),
            Denial::Lacking(_) => Self::from(Code::AccessDenied),
        };
        problem.because(denial.as_str())
    }
}

impl From<Exceeded> for Problem {
    fn from(exceeded: Exceeded) -> Self {
        let problem = Self::from(Code::RateLimited).because(exceeded.limit.by.as_str());
        Self { exceeded: Some(Box::new(exceeded)), ..problem.retry_after(exceeded.wait) }
    }
}

impl From<access::identity::Unrepresentable> for Problem {
    fn from(error: access::identity::Unrepresentable) -> Self {
        Self::from(Code::ClaimUnrepresentable).because(error.to_string())
    }
}

impl From<upstream::Error> for Problem {
    fn from(error: upstream::Error) -> Self {
        use upstream::{ConnectError, Error};
        let code = match &error {
            Error::Connect(ConnectError::Timeout) | Error::HeadTimeout | Error::BodyStalled => Code::UpstreamTimeout,
            Error::Connect(
                ConnectError::Refused(_) | ConnectError::Dns(_) | ConnectError::Tls(_) | ConnectError::Io(_),
            )
            | Error::Closed(_) => Code::UpstreamUnreachable,
            Error::Invalid(_) => Code::UpstreamInvalid,
            Error::NoServer => Code::UpstreamUnavailable,
            Error::Busy(why) => {
                return Self::new(Code::UpstreamUnavailable, "Every connection to the upstream is in use")
                    .because(*why);
            }
            Error::RequestBody(error) => return (*error).into(),
        };
        Self::from(code).because(error.reason())
    }
}

/// A request body that did not come as it should. The rest of it is not read.
impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let problem = match error {
            BodyError::Client => Self::from(Code::RequestMalformed).because("body"),
            BodyError::TooLarge => Self::from(Code::BodyTooLarge),
            BodyError::Stalled => Self::from(Code::RequestTimeout).because("body"),
            BodyError::Upstream => Self::from(Code::UpstreamInvalid).because("body"),
            BodyError::Overdue => Self::from(Code::UpstreamTimeout).because("route_timeout"),
            BodyError::Unpermitted => Self::new(Code::TokenInvalid, "The permission ended").because("permission_ended"),
        };
        Self { close: true, ..problem }
    }
}

impl Problem {
    /// A problem with its own sentence for the client.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: detail.into(), ..Self::from(code) }
    }

    /// The same with the exact reason, for operators.
    #[must_use]
    pub fn because(self, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// The same with a `Retry-After`.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The answer: `application/problem+json` per RFC 9457, with the headers that the code calls for.
    pub fn response(&self, request_id: &str) -> Response<Body> {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.code.title(),
            "status": self.code.status().as_u16(),
            "code": self.code.as_str(),
            "detail": self.detail,
            "request_id": request_id,
        });
        let mut response = Response::new(Body::from(Bytes::from(body.to_string())));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some(Exceeded { limit, wait }) = self.exceeded.as_deref() {
            let (by, window) = (limit.by.as_str(), whole_seconds(limit.per));
            // The window is a whole number of seconds, and the quota what the rate allows in it.
            let quota = u128::from(limit.rate) * u128::from(window) * 1_000_000_000 / limit.per.as_nanos().max(1);
            let policy = format!("\"{by}\";q={quota};w={window}");
            let state = format!("\"{by}\";r=0;t={}", whole_seconds(*wait));
            for (name, text) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
                headers.extend(HeaderValue::from_str(&text).ok().map(|value| (name, value)));
            }
        }
        if let Some(allow) = self.allow.as_deref().and_then(|methods| HeaderValue::from_str(methods).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The answer for a client that speaks gRPC: all of it in the head (Trailers-Only of the gRPC protocol
    /// over HTTP/2), and always 200.
    pub fn grpc_response(&self) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        *response.headers_mut() = self.grpc_status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The trailers for such a client: `grpc-status`, and the sentence percent-encoded in `grpc-message`.
    pub fn grpc_status(&self) -> HeaderMap {
        /// Everything else of ASCII stands for itself ("Responses" of the gRPC protocol over HTTP/2).
        const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code.grpc_status()));
        let message = utf8_percent_encode(&self.detail, ENCODED).to_string();
        headers.extend(HeaderValue::try_from(message).ok().map(|message| (GRPC_MESSAGE, message)));
        headers
    }

    /// `WWW-Authenticate` of a 401 (RFC 6750 §3): what is wrong is said only when a token was sent.
    fn challenge(&self) -> Option<HeaderValue> {
        if self.code.status() != StatusCode::UNAUTHORIZED {
            return None;
        }
        Some(HeaderValue::from_static(match self.code {
            Code::TokenInvalid => {
                r#"Bearer realm="portcullis", error="invalid_token", error_description="The token is not accepted""#
            }
            Code::TokenExpired => {
                r#"Bearer realm="portcullis", error="invalid_token", error_description="The token has expired""#
            }
            Code::TokenRevoked => {
                r#"Bearer realm="portcullis", error="invalid_token", error_description="The token has been revoked""#
            }
            _ => r#"Bearer realm="portcullis""#,
        }))
    }
}

/// Seconds, rounded up, and at least one: who comes back then is not too early.
fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// draft-ietf-httpapi-ratelimit-headers-10 §3 and §4.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

impl From<token::Error> for Problem {
    fn from(error: token::Error) -> Self {
        let reason = match error {
            token::Error::Refused(reason) => reason,
            token::Error::KeysUnavailable => return Code::KeysUnavailable.into(),
        };
        let code = match reason {
            Reason::Expired => Code::TokenExpired,
            Reason::Revoked => Code::TokenRevoked,
            Reason::Malformed
            | Reason::TooLarge
            | Reason::Encrypted
            | Reason::Algorithm
            | Reason::CriticalHeader
            | Reason::KeyInHeader
            | Reason::Type
            | Reason::KeyIdMissing
            | Reason::WrongIssuer
            | Reason::UnknownKey
            | Reason::Signature
            | Reason::ClaimMissing
            | Reason::ClaimType
            | Reason::NotYetValid
            | Reason::IssuedInFuture
            | Reason::Lifetime
            | Reason::WrongUse
            | Reason::WrongClient => Code::TokenInvalid,
        };
        Self::from(code).because(reason.as_str())
    }
}

/// A user pool's refusals, as somebody may see them who knows which users exist. The identity routes
/// hide more.
impl From<cognito::Error> for Problem {
    fn from(error: cognito::Error) -> Self {
        use cognito::Error;
        let label = error.label();
        let problem = match error {
            Error::Refused(refusal) => return refusal.into(),
            Error::Timeout => Self::from(Code::ProviderTimeout),
            Error::Throttled { retry_after } => {
                Self::from(Code::ProviderThrottled).retry_after(retry_after.unwrap_or(THROTTLED))
            }
            Error::Unreachable(_)
            | Error::Broken(_)
            | Error::Foreign { .. }
            | Error::TooLarge(_)
            | Error::Incomplete(_)
            | Error::Srp(_) => Self::from(Code::ProviderError),
            Error::Stopped => Self::from(Code::Internal),
        };
        problem.because(label)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let label = refusal.label();
        let problem = match refusal {
            Refusal::Credentials | Refusal::UserUnknown | Refusal::Disabled => Self::from(Code::CredentialsInvalid),
            Refusal::LockedOut | Refusal::AttemptsExceeded => {
                Self::new(Code::RateLimited, "Too many attempts on this account").retry_after(LOCKED_OUT)
            }
            Refusal::TemporaryPasswordExpired | Refusal::ResetRequired => Self::from(Code::PasswordResetRequired),
            Refusal::Unconfirmed => Self::from(Code::AccountUnconfirmed),
            Refusal::Session => Self::from(Code::SessionExpired),
            Refusal::CodeMismatch => Self::from(Code::CodeMismatch),
            Refusal::CodeExpired => Self::from(Code::CodeExpired),
            Refusal::UserExists => Self::from(Code::UserExists),
            Refusal::AlreadyConfirmed => Self::new(Code::UserExists, "The account is confirmed already"),
            Refusal::SignUpDisabled => Self::new(Code::AccessDenied, "The user pool takes no sign-ups"),
            Refusal::ResetImpossible => Self::new(Code::BodyInvalid, "The password of this account cannot be reset"),
            Refusal::PasswordPolicy(text) if text.is_empty() => Self::from(Code::PasswordRejected),
            Refusal::PasswordPolicy(text) => Self::new(Code::PasswordRejected, text),
            Refusal::PasswordReused => Self::new(Code::PasswordRejected, "The password was used before"),
            Refusal::RefreshTokenInvalid | Refusal::RefreshTokenReused | Refusal::AccessTokenInvalid => {
                Self::from(Code::TokenInvalid)
            }
            Refusal::RefreshTokenExpired => Self::from(Code::TokenExpired),
            Refusal::RefreshTokenRevoked => Self::from(Code::TokenRevoked),
            Refusal::NotRevocable => Self::new(Code::BodyInvalid, "The token cannot be revoked"),
            Refusal::DeviceUnknown => Self::new(Code::BodyInvalid, "The device is not known"),
            Refusal::TriggerRefused => Self::new(Code::BodyInvalid, "The user pool's own rules refuse this"),
            Refusal::Parameter(_) => Self::new(Code::BodyInvalid, "The user pool does not accept a value"),
            Refusal::TriggerFailed
            | Refusal::DeliveryFailed
            | Refusal::Firewall
            | Refusal::OperationUnknown
            | Refusal::Internal
            | Refusal::Other(_) => Self::from(Code::ProviderError),
            // Never a 401: it is the operator who is wrong, not the user.
            Refusal::Misconfigured(_) => Self::from(Code::Internal),
        };
        problem.because(label)
    }
}

/// When the user pool names no time, its quota is one of requests a second.
const THROTTLED: Duration = Duration::from_secs(1);
/// The longest that a user pool keeps an account shut after wrong passwords.
const LOCKED_OUT: Duration = Duration::from_secs(15 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::first;

    #[test]
    fn every_401_names_the_realm_and_only_sent_tokens_get_an_error() {
        for code in Code::ALL.iter().filter(|code| code.status() == StatusCode::UNAUTHORIZED) {
            let response = Problem::from(*code).response("r");
            let challenge = first(response.headers(), &header::WWW_AUTHENTICATE).unwrap().to_str().unwrap();
            assert!(challenge.starts_with(r#"Bearer realm="portcullis""#), "{challenge}");
            let token_was_sent = matches!(code, Code::TokenInvalid | Code::TokenExpired | Code::TokenRevoked);
            assert_eq!(challenge.contains("invalid_token"), token_was_sent, "{code:?}");
        }
    }

    #[test]
    fn grpc_has_a_status_for_every_code_and_a_message_in_ascii() {
        for (code, status) in [
            (Code::TokenExpired, "16"),
            (Code::AccessDenied, "7"),
            (Code::UpstreamUnreachable, "14"),
            (Code::UpstreamUnavailable, "14"),
            (Code::UpstreamTimeout, "4"),
            (Code::RouteUnknown, "12"),
            (Code::RateLimited, "8"),
        ] {
            let response = Problem::from(code).grpc_response();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(first(response.headers(), &GRPC_STATUS).unwrap(), status, "{code:?}");
        }
        assert!(Code::ALL.iter().all(|code| (1..=16).contains(&code.grpc_status())));
        let trailers = Problem::new(Code::Internal, "100 % sûr\n").grpc_status();
        assert_eq!(first(&trailers, &GRPC_MESSAGE).unwrap(), "100 %25 s%C3%BBr%0A");
    }

    #[test]
    fn the_body_has_the_members_of_the_contract_and_no_reason() {
        let problem = Problem::from(Code::TokenInvalid).because("signature");
        let response = problem.response("abc");
        let Body::Full(bytes) = response.into_body() else { panic!("a problem has a body") };
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        for member in ["type", "title", "status", "code", "detail", "request_id"] {
            assert!(body.get(member).is_some(), "{member}");
        }
        assert!(!body.to_string().contains("signature"));
    }

    #[test]
    fn a_rate_limit_says_what_it_is_and_when_to_come_back() {
        use crate::config::{Limit, LimitBy};
        for (rate, per, wait, policy, state, retry) in [
            (100, 1000, 1, "\"client\";q=100;w=1", "\"client\";r=0;t=1", "1"),
            (10, 300_000, 29_001, "\"client\";q=10;w=300", "\"client\";r=0;t=30", "30"),
            (1, 100, 99, "\"client\";q=10;w=1", "\"client\";r=0;t=1", "1"),
        ] {
            let limit = Limit { rate, per: Duration::from_millis(per), burst: 5, by: LimitBy::Client };
            let problem = Problem::from(Exceeded { limit, wait: Duration::from_millis(wait) });
            assert_eq!((problem.code, &*problem.reason), (Code::RateLimited, "client"));
            let response = problem.response("r");
            let header = |name: HeaderName| first(response.headers(), &name).unwrap().to_str().unwrap();
            assert_eq!(header(RATE_LIMIT_POLICY), policy);
            assert_eq!((header(RATE_LIMIT), header(header::RETRY_AFTER)), (state, retry));
        }
    }
}
