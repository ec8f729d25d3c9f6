//! Sign-up, its confirmation, and forgotten passwords: the routes that need no credential.

use std::sync::atomic::Ordering;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::members::{Members, invalid};
use super::{Auth, answer};
use crate::cognito::wire::CodeDeliveryDetails;
use crate::cognito::{Error, Refusal};
use crate::http::Body;
use crate::problem::{Code, Problem};

impl Auth {
    /// `username`, `password`, `email?`, `phone_number?`, `attributes?` → 201.
    pub(super) async fn register(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let username = members.username()?;
        let password = members.secret("password")?;
        let email = members.optional_text("email")?;
        let phone_number = members.optional_text("phone_number")?;
        let mut attributes = members.texts("attributes")?;
        members.finish()?;
        for (name, value) in [("email", &email), ("phone_number", &phone_number)] {
            if let Some(value) = value
                && attributes.insert(name.to_owned(), value.clone()).is_some()
            {
                return Err(invalid(format!("`{name}` is there twice, once in `attributes`")));
            }
        }
        // The order in which a caller would expect a code, not the pool's: nobody may see the pool's.
        let address = attributes.get("email").or_else(|| attributes.get("phone_number")).unwrap_or(&username);
        let typed = answer::typed_delivery(address);
        let outcome = {
            let username = username.clone();
            self.paced(self.ask(|client| async move { client.sign_up(&username, &password, &attributes).await })).await
        };
        let (confirmed, delivery) = match outcome {
            Ok(done) if self.config.hide_existing_users => {
                self.confirms_itself.store(done.confirmed, Ordering::Relaxed);
                (done.confirmed, typed)
            }
            Ok(done) => (done.confirmed, Some(answer::delivery(done.delivery.as_ref()))),
            // Mail fails only for users that are new. Whatever else is refused concerns the caller's
            // own input, or everybody.
            Err(error @ Error::Refused(Refusal::UserExists | Refusal::DeliveryFailed))
                if self.config.hide_existing_users =>
            {
                tracing::info!(reason = error.label(), "a sign-up was answered as if it had been new");
                (self.confirms_itself.load(Ordering::Relaxed), typed)
            }
            Err(error) => return Err(error.into()),
        };
        let delivery = delivery.filter(|_| !confirmed);
        let body = json!({"username": username, "confirmed": confirmed, "delivery": delivery});
        Ok(crate::http::json(StatusCode::CREATED, &body))
    }

    /// `username`, `code` → 200.
    pub(super) async fn confirm(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let username = members.username()?;
        let code = members.secret("code")?;
        members.finish()?;
        let work = self.ask(|client| async move { client.confirm_sign_up(&username, &code).await });
        self.paced(work).await.map_err(|error| self.wrong_code(error))?;
        Ok(crate::http::json(StatusCode::OK, &json!({"confirmed": true})))
    }

    /// `username` → 202.
    pub(super) async fn resend(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let username = members.username()?;
        members.finish()?;
        let name = username.clone();
        let outcome = self.paced(self.ask(|client| async move { client.resend_code(&name).await })).await;
        self.sent(&username, outcome)
    }

    /// `username` → 202.
    pub(super) async fn forgot(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let username = members.username()?;
        members.finish()?;
        let name = username.clone();
        let outcome = self.paced(self.ask(|client| async move { client.forgot_password(&name).await })).await;
        self.sent(&username, outcome)
    }

    /// `username`, `code`, `password` → 204.
    pub(super) async fn reset(&self, mut members: Members) -> Result<Response<Body>, Problem> {
        let username = members.username()?;
        let code = members.secret("code")?;
        let password = members.secret("password")?;
        members.finish()?;
        let work = self.ask(|client| async move { client.reset_password(&username, &code, &password).await });
        self.paced(work).await.map_err(|error| self.wrong_code(error))?;
        Ok(answer::no_content())
    }

    /// The answer to a request for a code. Hidden, it is the same whether a code was sent or not.
    fn sent(
        &self,
        username: &str,
        outcome: Result<Option<CodeDeliveryDetails>, Error>,
    ) -> Result<Response<Body>, Problem> {
        let delivery: Value = match outcome {
            Ok(_) if self.config.hide_existing_users => answer::hidden_delivery(username),
            Ok(details) => answer::delivery(details.as_ref()),
            Err(error) if self.hides(&error) => {
                tracing::info!(reason = error.label(), "a request for a code was answered as if one had been sent");
                answer::hidden_delivery(username)
            }
            Err(error) => return Err(error.into()),
        };
        Ok(crate::http::json(StatusCode::ACCEPTED, &json!({"delivery": delivery})))
    }

    /// A code that was not accepted. Hidden, every reason that has to do with the user is this one:
    /// there is no such user, the account is confirmed already, the code is too old.
    fn wrong_code(&self, error: Error) -> Problem {
        if self.hides(&error) {
            return Problem::from(Code::CodeMismatch).because(error.label());
        }
        match error {
            // Without hiding, a name that does not exist is not a matter of passwords here.
            Error::Refused(Refusal::UserUnknown | Refusal::Credentials | Refusal::Disabled) => {
                Problem::from(Code::CodeMismatch).because(error.label())
            }
            error => error.into(),
        }
    }
}
