//! Operations on one's own account: sign-up, forgotten passwords, profile.

use serde::Deserialize;
use serde_json::{Value, json};

use super::messages::{self, Destination, Purpose};
use super::records::{Client, Pool, Status, User};
use super::refusal::{Exception, Refusal};
use super::service::Service;
use super::validate::{Checks, Writer, attributes};
use super::{directory, names, password, tokens};
use crate::clock::Timestamp;
use crate::cognito::sign::secret_hash;
use crate::cognito::wire::{self, Attribute};
use crate::secret::Secret;

/// `API_SignUp`.
///
/// # Errors
/// UsernameExists, InvalidPassword, InvalidParameter, NotAuthorized.
pub(super) fn sign_up(service: &Service, request: wire::SignUp, now: Timestamp) -> Result<wire::SignUpReply, Refusal> {
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    check_secret_hash(&client, &request.username, request.secret_hash.as_ref())?;
    let password = request.password.as_ref().ok_or_else(|| super::validate::missing("Password"))?;
    Checks::default().username(&request.username).password("password", password.expose()).finish()?;
    if !pool.self_sign_up {
        return Err(Refusal::not_authorized("SignUp is not permitted for this user pool"));
    }
    if pool.email_alias && super::validate::is_email(&request.username) {
        let text = "Username cannot be of email format, since user pool is configured for email alias.";
        return Err(Refusal::invalid(text));
    }
    let attributes = attributes(request.user_attributes.as_deref().unwrap_or_default(), Writer::User)?;
    password::check_policy(&pool.policy, password.expose())?;
    let mut user = User::new(&request.username, Status::Unconfirmed, attributes, now);
    user.credentials = Some(password::credentials(&pool, &user.username, password.expose()));
    let to = Destination::unverified(&user);
    service.store.write(|tables| {
        if directory::find_user(tables, &pool, &user.username)?.is_some() {
            return Err(Refusal::new(Exception::UsernameExists, "User already exists"));
        }
        if let Some(to) = &to {
            user.confirmation = Some(messages::send_code(tables, &pool, &user, to, Purpose::SignUp, now)?);
        }
        directory::save_user(tables, &pool, &user)?;
        Ok(wire::SignUpReply {
            user_confirmed: false,
            user_sub: user.sub,
            code_delivery_details: to.map(|to| to.details()),
            session: None,
        })
    })
}

/// `API_ConfirmSignUp`.
///
/// # Errors
/// CodeMismatch, ExpiredCode, LimitExceeded, NotAuthorized for a user who is confirmed already,
/// AliasExists, UserNotFound unless the client hides who exists.
pub(super) fn confirm_sign_up(
    service: &Service,
    request: wire::ConfirmSignUp,
    now: Timestamp,
) -> Result<wire::ConfirmSignUpReply, Refusal> {
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    check_secret_hash(&client, &request.username, request.secret_hash.as_ref())?;
    Checks::default().username(&request.username).code(request.confirmation_code.expose()).finish()?;
    service.store.write(|tables| {
        let Some(mut user) = directory::find_user(tables, &pool, &request.username)? else {
            return Err(unknown_user(&client, Refusal::code_mismatch()));
        };
        if user.status != Status::Unconfirmed {
            let text = format!("User cannot be confirmed. Current status is {}", user.status.as_str());
            return Err(Refusal::not_authorized(text));
        }
        let redeemed = messages::redeem(&mut user.confirmation, request.confirmation_code.expose(), now);
        if let Ok(code) = &redeemed {
            user.attributes.insert(format!("{}_verified", code.attribute), "true".to_owned());
            user.status = Status::Confirmed;
            user.modified = now.millis();
            if directory::alias_taken(tables, &pool, &user)? {
                return Err(Refusal::new(Exception::AliasExists, "An account with the email already exists."));
            }
        }
        // A wrong answer is stored, too: it counts.
        directory::save_user(tables, &pool, &user)?;
        Ok::<_, Refusal>(redeemed.map(|_| wire::ConfirmSignUpReply { session: None }))
    })?
}

/// `API_ResendConfirmationCode`.
///
/// # Errors
/// InvalidParameter for a user who is confirmed already or cannot be reached, UserNotFound unless
/// the client hides who exists.
pub(super) fn resend_confirmation_code(
    service: &Service,
    request: wire::ResendConfirmationCode,
    now: Timestamp,
) -> Result<wire::CodeDelivery, Refusal> {
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    check_secret_hash(&client, &request.username, request.secret_hash.as_ref())?;
    Checks::default().username(&request.username).finish()?;
    service.store.write(|tables| {
        let found = directory::find_user(tables, &pool, &request.username)?;
        let Some(mut user) = found.filter(|user| user.enabled || !client.hides_users) else {
            return simulated_delivery(&client, &pool, &request.username);
        };
        if user.status != Status::Unconfirmed {
            return Err(Refusal::invalid("User is already confirmed."));
        }
        let to = Destination::unverified(&user)
            .ok_or_else(|| Refusal::invalid("Cannot resend codes. Auto verification not turned on."))?;
        user.confirmation = Some(messages::send_code(tables, &pool, &user, &to, Purpose::SignUp, now)?);
        directory::save_user(tables, &pool, &user)?;
        Ok(wire::CodeDelivery { code_delivery_details: Some(to.details()) })
    })
}

/// `API_ForgotPassword`. The present password goes on working until the code is used.
///
/// # Errors
/// NotAuthorized for a user who still has to replace a temporary password; UserNotFound,
/// InvalidParameter and NotAuthorized unless the client hides who exists.
pub(super) fn forgot_password(
    service: &Service,
    request: wire::ForgotPassword,
    now: Timestamp,
) -> Result<wire::CodeDelivery, Refusal> {
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    check_secret_hash(&client, &request.username, request.secret_hash.as_ref())?;
    Checks::default().username(&request.username).finish()?;
    service.store.write(|tables| {
        let Some(mut user) = directory::find_user(tables, &pool, &request.username)? else {
            return simulated_delivery(&client, &pool, &request.username);
        };
        match send_reset_code(tables, &pool, &mut user, now) {
            Ok(to) => Ok(wire::CodeDelivery { code_delivery_details: Some(to.details()) }),
            Err(refusal) if refusal.exception == Exception::InternalError || !client.hides_users => Err(refusal),
            Err(_) => simulated_delivery(&client, &pool, &request.username),
        }
    })
}

/// `API_ConfirmForgotPassword`.
///
/// # Errors
/// InvalidPassword, CodeMismatch, ExpiredCode, LimitExceeded, UserNotFound unless the client hides
/// who exists.
pub(super) fn confirm_forgot_password(
    service: &Service,
    request: wire::ConfirmForgotPassword,
    now: Timestamp,
) -> Result<wire::Empty, Refusal> {
    let tables = service.store.read()?;
    let (client, pool) = directory::client(&tables, &request.client_id)?;
    check_secret_hash(&client, &request.username, request.secret_hash.as_ref())?;
    Checks::default()
        .username(&request.username)
        .code(request.confirmation_code.expose())
        .password("password", request.password.expose())
        .finish()?;
    password::check_policy(&pool.policy, request.password.expose())?;
    // Computed before it is known whether it is needed, so that an unknown user takes as long.
    let username = directory::find_user(&tables, &pool, &request.username)?.map(|user| user.username);
    let username = username.unwrap_or_else(|| names::canonical(&request.username));
    let credentials = password::credentials(&pool, &username, request.password.expose());
    service.store.write(|tables| {
        let user = directory::find_user(tables, &pool, &username)?;
        let Some(mut user) = user.filter(|user| user.enabled || !client.hides_users) else {
            return Err(unknown_user(&client, Refusal::code_mismatch()));
        };
        let redeemed = messages::redeem(&mut user.reset, request.confirmation_code.expose(), now);
        if redeemed.is_ok() {
            set_password(&mut user, credentials, now);
        }
        directory::save_user(tables, &pool, &user)?;
        Ok::<_, Refusal>(redeemed.map(|_| wire::Empty {}))
    })?
}

/// The request of `API_ChangePassword`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangePassword {
    access_token: Secret<String>,
    previous_password: Option<Secret<String>>,
    proposed_password: Secret<String>,
}

/// `API_ChangePassword`.
///
/// # Errors
/// NotAuthorized for a bad token or a wrong password, InvalidPassword.
pub(super) fn change_password(service: &Service, request: ChangePassword, now: Timestamp) -> Result<Value, Refusal> {
    let caller = tokens::caller(service, &service.store.read()?, request.access_token.expose(), now)?;
    Checks::default().password("proposedPassword", request.proposed_password.expose()).finish()?;
    password::check_lock(&caller.user, now)?;
    let previous = request.previous_password.as_ref().map(|password| password.expose().as_str()).unwrap_or_default();
    let right = caller.user.credentials.is_none() || password::matches(caller.user.credentials.as_ref(), previous);
    if right {
        password::check_policy(&caller.pool.policy, request.proposed_password.expose())?;
    }
    let fresh = password::credentials(&caller.pool, &caller.user.username, request.proposed_password.expose());
    service.store.write(|tables| {
        let mut user = directory::user(tables, &caller.pool, &caller.user.username)?;
        if right {
            set_password(&mut user, fresh, now);
        } else {
            password::note_failure(&mut user, now);
        }
        directory::save_user(tables, &caller.pool, &user)?;
        Ok::<_, Refusal>(if right { Ok(json!({})) } else { Err(Refusal::credentials()) })
    })?
}

/// `API_GetUser`.
///
/// # Errors
/// NotAuthorized for a token that is bad, expired or revoked, UserNotFound.
pub(super) fn get_user(
    service: &Service,
    request: wire::GetUser,
    now: Timestamp,
) -> Result<wire::GetUserReply, Refusal> {
    let caller = tokens::caller(service, &service.store.read()?, request.access_token.expose(), now)?;
    Ok(wire::GetUserReply {
        user_attributes: attribute_list(&caller.user),
        username: caller.user.username,
        preferred_mfa_setting: None,
        user_mfa_setting_list: None,
    })
}

/// The request of `API_DeleteUser`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteUser {
    access_token: Secret<String>,
}

/// `API_DeleteUser`.
///
/// # Errors
/// NotAuthorized for a bad token.
pub(super) fn delete_user(service: &Service, request: DeleteUser, now: Timestamp) -> Result<Value, Refusal> {
    service.store.write(|tables| {
        let caller = tokens::caller(service, tables, request.access_token.expose(), now)?;
        directory::remove_user(tables, &caller.pool, &caller.user)?;
        Ok(Value::Null)
    })
}

/// `API_GlobalSignOut`.
///
/// # Errors
/// NotAuthorized for a bad token.
pub(super) fn global_sign_out(
    service: &Service,
    request: wire::GlobalSignOut,
    now: Timestamp,
) -> Result<wire::Empty, Refusal> {
    service.store.write(|tables| {
        let caller = tokens::caller(service, tables, request.access_token.expose(), now)?;
        directory::sign_out(tables, &caller.pool, &caller.user)?;
        Ok(wire::Empty {})
    })
}

/// Sends a code with which the user can set a new password, and stores it.
///
/// # Errors
/// NotAuthorized when the user is disabled or has to replace a temporary password, InvalidParameter
/// when they cannot be reached.
pub(super) fn send_reset_code(
    tables: &super::store::Write,
    pool: &Pool,
    user: &mut User,
    now: Timestamp,
) -> Result<Destination, Refusal> {
    if !user.enabled {
        return Err(Refusal::user_disabled());
    }
    if user.status == Status::ForceChangePassword {
        return Err(Refusal::not_authorized("User password cannot be reset in the current state."));
    }
    let unreachable = "Cannot reset password for the user as there is no registered/verified email or phone_number";
    let to = Destination::verified(user).ok_or_else(|| Refusal::invalid(unreachable))?;
    user.reset = Some(messages::send_code(tables, pool, user, &to, Purpose::PasswordReset, now)?);
    directory::save_user(tables, pool, user)?;
    Ok(to)
}

/// A password that the user chose: it is permanent, and the count of wrong ones starts again.
pub(super) fn set_password(user: &mut User, credentials: super::records::Credentials, now: Timestamp) {
    user.credentials = Some(credentials);
    user.temporary_until = None;
    user.reset = None;
    user.failures = 0;
    user.modified = now.millis();
    if user.status != Status::Unconfirmed {
        user.status = Status::Confirmed;
    }
}

/// The attributes of a user as the API lists them, `sub` first.
pub(super) fn attribute_list(user: &User) -> Vec<Attribute> {
    let sub = Attribute { name: "sub".to_owned(), value: Some(user.sub.clone()) };
    let others = user.attributes.iter();
    let others = others.map(|(name, value)| Attribute { name: name.clone(), value: Some(value.clone()) });
    std::iter::once(sub).chain(others).collect()
}

/// SECRET_HASH of a request, over the user name in the same request ("Computing secret hash
/// values" in the Amazon Cognito developer guide).
///
/// # Errors
/// NotAuthorizedException when the client has a secret and the hash is missing or wrong.
pub(super) fn check_secret_hash(client: &Client, username: &str, sent: Option<&Secret<String>>) -> Result<(), Refusal> {
    let Some(secret) = &client.secret else { return Ok(()) };
    let id = &client.id;
    let Some(sent) = sent else {
        let text = format!("Client {id} is configured with secret but SECRET_HASH was not received");
        return Err(Refusal::not_authorized(text));
    };
    if *sent != secret_hash(secret, username, id) {
        return Err(Refusal::not_authorized(format!("Unable to verify secret hash for client {id}")));
    }
    Ok(())
}

/// What is answered about a user who does not exist.
fn unknown_user(client: &Client, hidden: Refusal) -> Refusal {
    if client.hides_users {
        return hidden;
    }
    Refusal::new(Exception::UserNotFound, "Username/client id combination not found.")
}

fn simulated_delivery(client: &Client, pool: &Pool, username: &str) -> Result<wire::CodeDelivery, Refusal> {
    if !client.hides_users {
        return Err(unknown_user(client, Refusal::user_not_found()));
    }
    let details = messages::simulated(pool, &names::canonical(username));
    Ok(wire::CodeDelivery { code_delivery_details: Some(details) })
}
