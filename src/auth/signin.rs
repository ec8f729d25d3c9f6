//! Signing in: password, challenge, refresh.

use http::Response;

use super::members::Members;
use super::{Auth, answer, sessions};
use crate::cognito::{Error, Refusal, Step, Tokens};
use crate::http::Body;
use crate::problem::{Code, Problem};
use crate::secret::Secret;

impl Auth {
    /// `username`, `password`, `device_key?` → tokens or a challenge.
    pub(super) async fn login(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let username = members.username()?;
        let password = members.secret("password")?;
        let device_key = members.optional_text("device_key")?;
        members.finish()?;
        let work = self.ask(|client| async move { client.sign_in(&username, &password, device_key.as_deref()).await });
        let step = self.paced(work).await.map_err(|error| match error.refusal() {
            // The pool says so only when it matters to the one who signs in, who is stuck otherwise.
            Some(Refusal::ResetRequired) => error.into(),
            Some(_) if self.hides(&error) => Problem::from(Code::CredentialsInvalid).because(error.label()),
            _ => error.into(),
        })?;
        self.next(step).await
    }

    /// `session` and the answer that the challenge takes → tokens or the next challenge.
    pub(super) async fn challenge(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let session = members.secret("session")?;
        let new_password = members.optional_secret("new_password")?;
        let attributes = members.texts("attributes")?;
        let other = [members.optional_secret("code")?, members.optional_secret("choice")?];
        let credential = members.take("credential");
        members.finish()?;
        let now = self.clock.now();
        let pending = self.sessions.open(session.expose(), now).map_err(expired)?;
        let (true, Some(new_password), [None, None], None) =
            (pending.challenge == "NEW_PASSWORD_REQUIRED", new_password, other, credential)
        else {
            return Err(Code::ChallengeInvalid.into());
        };
        self.sessions.charge(&pending, now).map_err(expired)?;
        let (username, session) = (pending.username.clone(), pending.session.clone());
        let outcome =
            self.ask(|client| async move {
                client.answer_new_password(&username, session, &new_password, &attributes).await
            })
            .await;
        match outcome {
            Ok(step) => {
                self.sessions.spend(&pending);
                self.next(step).await
            }
            Err(error) => {
                if !was_judged(&error) {
                    self.sessions.refund(&pending);
                }
                Err(match error {
                    // The password was right a moment ago: it is the sign-in that is over.
                    Error::Refused(Refusal::Credentials | Refusal::UserUnknown | Refusal::Disabled) => {
                        Problem::from(Code::SessionExpired).because(error.label())
                    }
                    error => error.into(),
                })
            }
        }
    }

    /// `refresh_token` → tokens.
    pub(super) async fn refresh(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let refresh_token = members.secret("refresh_token")?;
        members.finish()?;
        let holder = self.holders.of(&refresh_token);
        let sent = refresh_token.clone();
        let outcome = self.ask(|client| async move { client.refresh(&refresh_token, holder.as_deref()).await }).await;
        let tokens = outcome.map_err(|error| match error {
            // No password is involved: these are about the token, or whom it belongs to.
            Error::Refused(Refusal::Credentials | Refusal::UserUnknown | Refusal::Disabled | Refusal::Parameter(_)) => {
                Problem::from(Code::TokenInvalid).because(error.label())
            }
            error => error.into(),
        })?;
        self.note_holder(&tokens, Some(&sent)).await;
        Ok(answer::tokens(&tokens, self.expires_in(&tokens).await))
    }

    async fn next(&self, step: Step) -> Result<Response<Body>, Problem> {
        match step {
            Step::Tokens(tokens) => {
                self.note_holder(&tokens, None).await;
                Ok(answer::tokens(&tokens, self.expires_in(&tokens).await))
            }
            Step::Challenge(challenge) => {
                let sealed = self.sessions.seal(&challenge, self.clock.now());
                let sealed = sealed.map_err(|sessions::Dead| Problem::from(Code::Internal).because("seal"))?;
                Ok(answer::challenge(&challenge, &sealed))
            }
        }
    }

    /// Remembers whose refresh token was handed out, where a refresh may have to say it.
    async fn note_holder(&self, tokens: &Tokens, sent: Option<&Secret<String>>) {
        if self.client.pool().client_secret.is_none() {
            return;
        }
        if let Ok(principal) =
            self.authenticator.principal(tokens.access_token.expose().as_bytes(), self.clock.now()).await
        {
            self.holders.note(tokens, sent, principal.verified().claims());
        }
    }

    /// The access token's remaining life in seconds: as the pool says, or, where an emulator says
    /// nothing, as the token itself says once it is verified.
    async fn expires_in(&self, tokens: &Tokens) -> Option<u64> {
        if tokens.expires_in.is_some() {
            return tokens.expires_in;
        }
        let now = self.clock.now();
        let principal = self.authenticator.principal(tokens.access_token.expose().as_bytes(), now).await.ok()?;
        u64::try_from(principal.verified().claims().exp - now.seconds()).ok()
    }
}

/// Whether the pool looked at the answer and found it wrong.
const fn was_judged(error: &Error) -> bool {
    matches!(
        error,
        Error::Refused(
            Refusal::CodeMismatch
                | Refusal::CodeExpired
                | Refusal::PasswordPolicy(_)
                | Refusal::PasswordReused
                | Refusal::Parameter(_)
        )
    )
}

fn expired(_: sessions::Dead) -> Problem {
    Code::SessionExpired.into()
}
