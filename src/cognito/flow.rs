//! What the calls are made for: one function per thing that a user does.
//!
//! SECRET_HASH always stands for the username in the same request ("Computing secret hash values");
//! answers to challenges carry the canonical username that the pool named, not what was typed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::wire::{
    Attribute, AuthReply, AuthenticationResult, CodeDeliveryDetails, ConfirmForgotPassword, ConfirmSignUp,
    ForgotPassword, GetTokensFromRefreshToken, GetUser, GetUserReply, GlobalSignOut, InitiateAuth, NewDeviceMetadata,
    Parameters, ResendConfirmationCode, RespondToAuthChallenge, RevokeToken, SignUp,
};
use super::{Client, Error, Refusal, sign, srp};
use crate::config::Flow;
use crate::secret::Secret;

/// The tokens of a finished sign-in or refresh.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// For APIs.
    pub access_token: Secret<String>,
    /// For the app itself.
    pub id_token: Option<Secret<String>>,
    /// Absent after a refresh without rotation: the one that was sent stays valid.
    pub refresh_token: Option<Secret<String>>,
    /// The access token's life in seconds; emulators leave it out.
    pub expires_in: Option<u64>,
    /// A pool that remembers devices met a new one.
    pub new_device: Option<NewDeviceMetadata>,
}

/// What the pool wants before it gives tokens.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// `NEW_PASSWORD_REQUIRED`, `SOFTWARE_TOKEN_MFA`, …
    pub name: String,
    /// Goes back with the answer.
    pub session: Option<Secret<String>>,
    /// Texts by name, some of them JSON.
    pub parameters: Parameters,
    /// `AvailableChallenges`, for a choice.
    pub available: Vec<String>,
    /// The username that the answer must carry.
    pub username: String,
}

/// Where a sign-in stands.
#[derive(Clone, Debug)]
pub enum Step {
    /// It is finished.
    Tokens(Tokens),
    /// It goes on.
    Challenge(Challenge),
}

/// A sign-up that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedUp {
    /// No code is needed.
    pub confirmed: bool,
    /// Where the code went.
    pub delivery: Option<CodeDeliveryDetails>,
}

impl Client {
    /// `SignUp`. Attributes are by the API's names.
    ///
    /// # Errors
    /// [`Refusal::UserExists`], [`Refusal::PasswordPolicy`], and whatever else [`Client::call`] returns.
    pub async fn sign_up(
        &self,
        username: &str,
        password: &Secret<String>,
        attributes: &BTreeMap<String, String>,
    ) -> Result<SignedUp, Error> {
        let attribute =
            |(name, value): (&String, &String)| Attribute { name: name.clone(), value: Some(value.clone()) };
        let request = SignUp {
            client_id: self.pool.client_id.clone(),
            secret_hash: self.secret_hash(username),
            username: username.to_owned(),
            password: Some(password.clone()),
            user_attributes: Some(attributes.iter().map(attribute).collect()),
        };
        let reply = self.call(&request).await?;
        Ok(SignedUp { confirmed: reply.user_confirmed, delivery: reply.code_delivery_details })
    }

    /// `ConfirmSignUp`.
    ///
    /// # Errors
    /// [`Refusal::CodeMismatch`], [`Refusal::CodeExpired`], [`Refusal::AlreadyConfirmed`], …
    pub async fn confirm_sign_up(&self, username: &str, code: &Secret<String>) -> Result<(), Error> {
        let request = ConfirmSignUp {
            client_id: self.pool.client_id.clone(),
            secret_hash: self.secret_hash(username),
            username: username.to_owned(),
            confirmation_code: code.clone(),
        };
        self.call(&request).await.map(|_reply| ())
    }

    /// `ResendConfirmationCode`.
    ///
    /// # Errors
    /// [`Refusal::AlreadyConfirmed`], [`Refusal::UserUnknown`], [`Refusal::AttemptsExceeded`], …
    pub async fn resend_code(&self, username: &str) -> Result<Option<CodeDeliveryDetails>, Error> {
        let request = ResendConfirmationCode {
            client_id: self.pool.client_id.clone(),
            secret_hash: self.secret_hash(username),
            username: username.to_owned(),
        };
        Ok(self.call(&request).await?.code_delivery_details)
    }

    /// `ForgotPassword`.
    ///
    /// # Errors
    /// [`Refusal::ResetImpossible`], [`Refusal::UserUnknown`], [`Refusal::AttemptsExceeded`], …
    pub async fn forgot_password(&self, username: &str) -> Result<Option<CodeDeliveryDetails>, Error> {
        let request = ForgotPassword {
            client_id: self.pool.client_id.clone(),
            secret_hash: self.secret_hash(username),
            username: username.to_owned(),
        };
        Ok(self.call(&request).await?.code_delivery_details)
    }

    /// `ConfirmForgotPassword`.
    ///
    /// # Errors
    /// [`Refusal::CodeMismatch`], [`Refusal::CodeExpired`], [`Refusal::PasswordPolicy`], …
    pub async fn reset_password(
        &self,
        username: &str,
        code: &Secret<String>,
        password: &Secret<String>,
    ) -> Result<(), Error> {
        let request = ConfirmForgotPassword {
            client_id: self.pool.client_id.clone(),
            secret_hash: self.secret_hash(username),
            username: username.to_owned(),
            confirmation_code: code.clone(),
            password: password.clone(),
        };
        self.call(&request).await.map(|_reply| ())
    }

    /// Proves a password in the way that the configuration asks for. A device that the pool has
    /// forgotten is left out in a second try.
    ///
    /// # Errors
    /// [`Refusal::Credentials`], [`Refusal::Unconfirmed`], [`Refusal::ResetRequired`], …
    pub async fn sign_in(
        &self,
        username: &str,
        password: &Secret<String>,
        device_key: Option<&str>,
    ) -> Result<Step, Error> {
        match self.prove_password(username, password, device_key).await {
            Err(Error::Refused(Refusal::DeviceUnknown)) if device_key.is_some() => {
                self.prove_password(username, password, None).await
            }
            // No policy applies to a password that is only proven: emulators mean a wrong one by it.
            Err(Error::Refused(Refusal::PasswordPolicy(_))) => Err(Error::Refused(Refusal::Credentials)),
            outcome => outcome,
        }
    }

    /// Answers NEW_PASSWORD_REQUIRED. Attributes are by the API's names, without `userAttributes.`.
    ///
    /// # Errors
    /// [`Refusal::Session`], [`Refusal::PasswordPolicy`], …
    pub async fn answer_new_password(
        &self,
        username: &str,
        session: Option<Secret<String>>,
        new_password: &Secret<String>,
        attributes: &BTreeMap<String, String>,
    ) -> Result<Step, Error> {
        let responses = attributes.iter().fold(
            self.parameters(username, None).with("NEW_PASSWORD", new_password.clone()),
            |responses, (name, value)| responses.with(format!("userAttributes.{name}"), value.clone()),
        );
        self.respond("NEW_PASSWORD_REQUIRED", username, session, responses).await
    }

    /// Fresh tokens, by `GetTokensFromRefreshToken`, or by REFRESH_TOKEN_AUTH where the pool does not
    /// know that operation. The second way needs the real `username` if the app client has a secret.
    ///
    /// # Errors
    /// [`Refusal::RefreshTokenInvalid`] and its kin, …
    pub async fn refresh(&self, refresh_token: &Secret<String>, username: Option<&str>) -> Result<Tokens, Error> {
        if self.refresh_by_flow.load(Ordering::Relaxed) {
            return self.refresh_by_flow(refresh_token, username).await;
        }
        let request = GetTokensFromRefreshToken {
            client_id: self.pool.client_id.clone(),
            client_secret: self.pool.client_secret.clone(),
            refresh_token: refresh_token.clone(),
            device_key: None,
        };
        let error = match self.call(&request).await {
            Ok(reply) => return tokens(reply.authentication_result.ok_or(Error::Incomplete("tokens"))?),
            Err(error) => error,
        };
        if !may_lack_the_operation(&error) {
            return Err(error);
        }
        match self.refresh_by_flow(refresh_token, username).await {
            Ok(tokens) => {
                // Only a success shows that it was the operation that failed, and not the pool.
                self.refresh_by_flow.store(true, Ordering::Relaxed);
                Ok(tokens)
            }
            Err(Error::Refused(
                refusal @ (Refusal::RefreshTokenInvalid
                | Refusal::RefreshTokenExpired
                | Refusal::RefreshTokenRevoked
                | Refusal::Credentials),
            )) => Err(Error::Refused(refusal)),
            Err(_) => Err(error),
        }
    }

    /// `RevokeToken`: ends the family of a refresh token.
    ///
    /// # Errors
    /// [`Refusal::NotRevocable`], [`Refusal::Misconfigured`] when revocation is off for the client, …
    pub async fn revoke(&self, refresh_token: &Secret<String>) -> Result<(), Error> {
        let request = RevokeToken {
            client_id: self.pool.client_id.clone(),
            client_secret: self.pool.client_secret.clone(),
            token: refresh_token.clone(),
        };
        self.call(&request).await.map(|_reply| ())
    }

    /// `GlobalSignOut`: ends every session of the user.
    ///
    /// # Errors
    /// [`Refusal::AccessTokenInvalid`] when the token was revoked already, …
    pub async fn global_sign_out(&self, access_token: &Secret<String>) -> Result<(), Error> {
        self.call(&GlobalSignOut { access_token: access_token.clone() }).await.map(|_reply| ())
    }

    /// `GetUser`.
    ///
    /// # Errors
    /// [`Refusal::AccessTokenInvalid`], …
    pub async fn user(&self, access_token: &Secret<String>) -> Result<GetUserReply, Error> {
        self.call(&GetUser { access_token: access_token.clone() }).await
    }

    async fn prove_password(
        &self,
        username: &str,
        password: &Secret<String>,
        device_key: Option<&str>,
    ) -> Result<Step, Error> {
        match self.pool.flow {
            Flow::Password => {
                let parameters = self.parameters(username, device_key).with("PASSWORD", password.clone());
                step(self.initiate("USER_PASSWORD_AUTH", parameters).await?, username)
            }
            Flow::Srp => self.prove_by_srp(username, password, device_key).await,
        }
    }

    /// USER_SRP_AUTH and PASSWORD_VERIFIER.
    async fn prove_by_srp(
        &self,
        username: &str,
        password: &Secret<String>,
        device_key: Option<&str>,
    ) -> Result<Step, Error> {
        let start = self.compute(srp::ClientStart::random).await?;
        let parameters = self.parameters(username, device_key).with("SRP_A", start.srp_a());
        let reply = self.initiate("USER_SRP_AUTH", parameters).await?;
        if reply.challenge_name.as_deref() != Some("PASSWORD_VERIFIER") {
            return step(reply, username);
        }
        let canonical = canonical_username(&reply.challenge_parameters, username);
        let timestamp = srp::timestamp(self.clock.now());
        let (parameters, sent_at) = (reply.challenge_parameters, timestamp.clone());
        let secret_block = required(&parameters, "SECRET_BLOCK")?.to_owned();
        let (pool_name, password) = (self.pool.id.suffix.clone(), password.clone());
        let signature = self
            .compute(move || {
                let value = |name| parameters.get(name).ok_or(srp::Error::Malformed(name));
                let who = srp::Identity { pool_name: &pool_name, user_id: value("USER_ID_FOR_SRP")? };
                let (salt, srp_b, block) = (value("SALT")?, value("SRP_B")?, value("SECRET_BLOCK")?);
                start.respond(who, password.expose(), salt, srp_b, block, &sent_at)
            })
            .await?;
        let responses = self
            .parameters(&canonical, device_key)
            .with("PASSWORD_CLAIM_SECRET_BLOCK", secret_block)
            .with("PASSWORD_CLAIM_SIGNATURE", signature)
            .with("TIMESTAMP", timestamp);
        self.respond("PASSWORD_VERIFIER", &canonical, reply.session, responses).await
    }

    /// REFRESH_TOKEN_AUTH.
    async fn refresh_by_flow(&self, refresh_token: &Secret<String>, username: Option<&str>) -> Result<Tokens, Error> {
        let parameters = Parameters::default().with("REFRESH_TOKEN", refresh_token.clone());
        let parameters = match (&self.pool.client_secret, username) {
            (None, _) => parameters,
            (Some(secret), Some(username)) => {
                parameters.with("SECRET_HASH", sign::secret_hash(secret, username, &self.pool.client_id))
            }
            (Some(_), None) => return Err(Error::Incomplete("GetTokensFromRefreshToken")),
        };
        let reply = self.initiate("REFRESH_TOKEN_AUTH", parameters).await?;
        tokens(reply.authentication_result.ok_or(Error::Incomplete("tokens"))?)
    }

    async fn initiate(&self, flow: &str, parameters: Parameters) -> Result<AuthReply, Error> {
        let request = InitiateAuth {
            client_id: self.pool.client_id.clone(),
            auth_flow: flow.to_owned(),
            auth_parameters: parameters,
            session: None,
        };
        self.call(&request).await
    }

    async fn respond(
        &self,
        challenge: &str,
        username: &str,
        session: Option<Secret<String>>,
        responses: Parameters,
    ) -> Result<Step, Error> {
        let request = RespondToAuthChallenge {
            client_id: self.pool.client_id.clone(),
            challenge_name: challenge.to_owned(),
            challenge_responses: responses,
            session,
        };
        step(self.call(&request).await?, username)
    }

    /// What every flow and every answer starts with.
    fn parameters(&self, username: &str, device_key: Option<&str>) -> Parameters {
        let mut parameters = Parameters::default().with("USERNAME", username.to_owned());
        if let Some(hash) = self.secret_hash(username) {
            parameters = parameters.with("SECRET_HASH", hash);
        }
        if let Some(key) = device_key {
            parameters = parameters.with("DEVICE_KEY", key.to_owned());
        }
        parameters
    }

    /// Sent only by clients that have a secret: what a surplus hash does is not specified.
    fn secret_hash(&self, username: &str) -> Option<Secret<String>> {
        let secret = self.pool.client_secret.as_ref()?;
        Some(sign::secret_hash(secret, username, &self.pool.client_id))
    }

    /// Runs milliseconds of arithmetic away from the async threads, a few at a time.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, srp::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.computations.acquire().await.map_err(|_closed| Error::Stopped)?;
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_stopped| Error::Stopped)??)
    }
}

fn step(reply: AuthReply, username: &str) -> Result<Step, Error> {
    if let Some(result) = reply.authentication_result {
        return tokens(result).map(Step::Tokens);
    }
    let name = reply.challenge_name.ok_or(Error::Incomplete("tokens or a challenge"))?;
    Ok(Step::Challenge(Challenge {
        name,
        session: reply.session,
        username: canonical_username(&reply.challenge_parameters, username),
        parameters: reply.challenge_parameters,
        available: reply.available_challenges.unwrap_or_default(),
    }))
}

fn tokens(result: AuthenticationResult) -> Result<Tokens, Error> {
    Ok(Tokens {
        access_token: result.access_token.ok_or(Error::Incomplete("an access token"))?,
        id_token: result.id_token,
        refresh_token: result.refresh_token,
        expires_in: result.expires_in,
        new_device: result.new_device_metadata,
    })
}

/// In pools where people sign in with an e-mail address, the name that counts is another one.
fn canonical_username(parameters: &Parameters, known: &str) -> String {
    parameters.get("USERNAME").or_else(|| parameters.get("USER_ID_FOR_SRP")).unwrap_or(known).to_owned()
}

fn required<'a>(parameters: &'a Parameters, name: &'static str) -> Result<&'a str, Error> {
    parameters.get(name).ok_or(Error::Incomplete(name))
}

/// Emulators answer an operation that they lack in many ways, among them a page with status 500.
const fn may_lack_the_operation(error: &Error) -> bool {
    matches!(error, Error::Refused(Refusal::OperationUnknown) | Error::Foreign { status: 404 | 405 | 500 | 501 })
}
