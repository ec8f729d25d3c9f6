//! What is done with tokens that exist: signing out, and asking what they say.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use serde_json::json;

use super::members::Members;
use super::{Auth, answer};
use crate::access::authenticate::bearer;
use crate::access::{Denial, Principal, Refusal};
use crate::cognito::Error;
use crate::config::TokenUse;
use crate::http::Body;
use crate::problem::{Code, Problem};
use crate::secret::Secret;
use crate::store::Kind;
use crate::token::{Claims, Reason};

/// The longest life of an access token in any pool. A whole sign-in is refused for so long, because
/// its latest token may be much younger than the one that signed out.
const LONGEST_TOKEN: Duration = Duration::from_secs(24 * 60 * 60);

impl Auth {
    /// Bearer, `refresh_token?`, `everywhere?` → 204. What the gateway itself can do is done first,
    /// and is enough for the answer: signing out works while the user pool is away.
    pub(super) async fn logout(&self, headers: &HeaderMap, mut members: Members) -> Result<Response<Body>, Problem> {
        let refresh_token = members.optional_secret("refresh_token")?;
        let everywhere = members.flag("everywhere")?;
        members.finish()?;
        let token = bearer_of(headers)?.ok_or(Code::TokenMissing)?;
        let principal = self.verify(&token).await?;
        let verified = principal.verified();
        if verified.claims().token_use != TokenUse::Access {
            return Err(refused(Reason::WrongUse));
        }
        if verified.pool().name != self.config.pool {
            return Err(refused(Reason::WrongIssuer));
        }
        self.revoke(verified.claims(), verified.pool().leeway);
        let at_pool = self.ask(move |client| async move {
            // In this order: the pool refuses an access token whose family is revoked.
            if everywhere {
                note("GlobalSignOut", client.global_sign_out(&token).await);
            }
            if let Some(refresh_token) = refresh_token {
                note("RevokeToken", client.revoke(&refresh_token).await);
            }
            Ok(())
        });
        // Its outcome is in the log by now, and changes nothing.
        at_pool.await.unwrap_or_default();
        Ok(answer::no_content())
    }

    /// `token`, or Bearer → 200 with the claims, or 401.
    pub(super) async fn validate(&self, headers: &HeaderMap, mut members: Members) -> Result<Response<Body>, Problem> {
        let in_body = members.optional_secret("token")?;
        members.finish()?;
        let token = match (in_body, bearer_of(headers)?) {
            (Some(token), None) | (None, Some(token)) => token,
            (Some(_), Some(_)) => {
                return Err(Problem::new(Code::HeaderAmbiguous, "a token in the header and one in the body"));
            }
            (None, None) => return Err(Code::TokenMissing.into()),
        };
        let principal = self.verify(&token).await?;
        let claims = principal.verified().claims();
        let body = json!({
            "valid": true,
            "token_use": claims.token_use.as_str(),
            // Within the leeway a token may be over and still good.
            "expires_in": claims.exp.saturating_sub(self.clock.now().seconds()).max(0),
            "claims": claims.all(),
        });
        Ok(crate::http::json(StatusCode::OK, &body))
    }

    /// A good token of one of its pool's app clients that was not signed out.
    async fn verify(&self, token: &Secret<String>) -> Result<Arc<Principal>, Problem> {
        let principal = self.authenticator.principal(token.expose().as_bytes(), self.clock.now()).await?;
        let verified = principal.verified();
        if !verified.pool().clients.contains(&verified.claims().client) {
            return Err(refused(Reason::WrongClient));
        }
        Ok(principal)
    }

    fn revoke(&self, claims: &Claims, leeway: Duration) {
        let now = self.clock.now();
        match (&claims.origin_jti, &claims.jti) {
            (Some(origin), _) => {
                self.revoked.revoke(Kind::OriginJti, origin, now.after(LONGEST_TOKEN).after(leeway), now);
            }
            (None, Some(jti)) => {
                let left = u64::try_from(claims.exp.saturating_sub(now.seconds())).unwrap_or(0);
                // One second more, because `exp` is whole and the clock is not.
                self.revoked.revoke(Kind::Jti, jti, now.after(Duration::from_secs(left + 1)).after(leeway), now);
            }
            (None, None) => tracing::warn!("an access token without origin_jti and jti cannot be revoked"),
        }
    }
}

/// A sign-out that the pool did not carry out: it is valid here all the same.
fn note(operation: &'static str, outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        tracing::warn!(operation, reason = error.label(), %error, "signed out here, but not at the user pool");
    }
}

fn refused(reason: Reason) -> Problem {
    crate::token::Error::Refused(reason).into()
}

/// The token of the `Authorization` header. Another scheme is not ours.
fn bearer_of(headers: &HeaderMap) -> Result<Option<Secret<String>>, Problem> {
    match bearer(headers) {
        Ok(token) => Ok(token.map(|token| Secret::from(token.to_owned()))),
        Err(Refusal::Scheme) => Ok(None),
        Err(refusal) => Err(Denial::Refused(refusal).into()),
    }
}
