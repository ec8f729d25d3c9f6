//! Signing in: InitiateAuth and RespondToAuthChallenge, refreshing and revoking.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::account::check_secret_hash;
use super::records::{Client, Credentials, Pool, Status, User};
use super::refusal::{Exception, Refusal};
use super::service::Service;
use super::sessions::{Session, Step};
use super::store::Write;
use super::validate::Checks;
use super::{directory, names, password, tokens};
use crate::clock::Timestamp;
use crate::cognito::srp::{self, Identity, Number, ServerStart};
use crate::cognito::wire::{self, AuthReply, Parameters};
use crate::secret::{Secret, constant_time_eq, random, random_id};

/// How far the client's clock may be off in the timestamp that it signs.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// `AuthFlowType`.
const FLOWS: &[&str] = &[
    "USER_SRP_AUTH",
    "REFRESH_TOKEN_AUTH",
    "REFRESH_TOKEN",
    "CUSTOM_AUTH",
    "ADMIN_NO_SRP_AUTH",
    "USER_PASSWORD_AUTH",
    "ADMIN_USER_PASSWORD_AUTH",
    "USER_AUTH",
];

/// `API_InitiateAuth`.
///
/// # Errors
/// NotAuthorized for wrong credentials and bad refresh tokens, UserNotConfirmed whether or not the
/// password is right, InvalidParameter for a flow that is off, UserNotFound unless the client hides
/// who exists.
pub(super) fn initiate_auth(
    service: &Service,
    request: wire::InitiateAuth,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    Checks::default().one_of("authFlow", &request.auth_flow, FLOWS).finish()?;
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    let flow = match request.auth_flow.as_str() {
        "REFRESH_TOKEN" => "REFRESH_TOKEN_AUTH",
        other => other,
    };
    let rotated = flow == "REFRESH_TOKEN_AUTH" && client.rotation_grace.is_some();
    if flow.starts_with("ADMIN_") {
        return Err(Refusal::invalid("Initiate Auth method not supported."));
    }
    if !client.allows(flow) || rotated {
        return Err(Refusal::invalid(format!("{flow} flow not enabled for this client")));
    }
    let parameters = &request.auth_parameters;
    match flow {
        "USER_PASSWORD_AUTH" => with_password(service, &client, &pool, parameters, now),
        "USER_SRP_AUTH" => with_srp(service, &client, &pool, parameters, now),
        "REFRESH_TOKEN_AUTH" => with_refresh_token(service, &client, &pool, parameters, now),
        other => {
            let text = format!("The embedded pool does not implement {other}.");
            Err(Refusal::new(Exception::UnsupportedOperation, text))
        }
    }
}

/// `API_RespondToAuthChallenge`.
///
/// # Errors
/// NotAuthorized for a wrong password and for sessions that are unknown, used or expired;
/// InvalidPassword for a new password that breaks the policy.
pub(super) fn respond_to_auth_challenge(
    service: &Service,
    request: wire::RespondToAuthChallenge,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    let responses = &request.challenge_responses;
    let username = required(responses, "USERNAME")?;
    check_secret_hash(&client, username, secret_hash_of(responses).as_ref())?;
    match request.challenge_name.as_str() {
        "PASSWORD_VERIFIER" => prove(service, &client, &pool, responses, now),
        "NEW_PASSWORD_REQUIRED" => {
            let session = request.session.as_ref().ok_or_else(|| super::validate::missing("Session"))?;
            replace_password(service, &client, &pool, session.expose(), responses, now)
        }
        // No session of this pool waits for anything else.
        _ => Err(Refusal::not_authorized("Invalid session for the user.")),
    }
}

/// `API_GetTokensFromRefreshToken`.
///
/// # Errors
/// NotAuthorized for a bad token or client secret, RefreshTokenReuse.
pub(super) fn get_tokens_from_refresh_token(
    service: &Service,
    request: wire::GetTokensFromRefreshToken,
    now: Timestamp,
) -> Result<wire::TokensReply, Refusal> {
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    if !secret_fits(&client, request.client_secret.as_ref()) {
        return Err(Refusal::not_authorized(format!("Unable to verify secret for client {}", client.id)));
    }
    let result = tokens::refresh(service, &pool, &client, request.refresh_token.expose(), now)?;
    Ok(wire::TokensReply { authentication_result: Some(result) })
}

/// `API_RevokeToken`.
///
/// # Errors
/// UnsupportedTokenType, UnsupportedOperation when the client has revocation off, Unauthorized for a
/// wrong client secret or another client's token.
pub(super) fn revoke_token(
    service: &Service,
    request: wire::RevokeToken,
    _now: Timestamp,
) -> Result<wire::Empty, Refusal> {
    let (client, pool) = directory::client(&service.store.read()?, &request.client_id)?;
    if !client.revocation {
        return Err(Refusal::new(Exception::UnsupportedOperation, "Token revocation is not enabled for this client"));
    }
    if !secret_fits(&client, request.client_secret.as_ref()) {
        return Err(Refusal::new(Exception::Unauthorized, "The client secret is missing or wrong"));
    }
    tokens::revoke(service, &pool, &client, request.token.expose())?;
    Ok(wire::Empty {})
}

/// USER_PASSWORD_AUTH.
fn with_password(
    service: &Service,
    client: &Client,
    pool: &Pool,
    parameters: &Parameters,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let username = required(parameters, "USERNAME")?;
    let password = required(parameters, "PASSWORD")?;
    check_secret_hash(client, username, secret_hash_of(parameters).as_ref())?;
    let user = directory::find_user(&service.store.read()?, pool, username)?;
    if let Some(user) = &user {
        check_state(user, now)?;
    }
    let matches = password::matches(user.as_ref().and_then(|user| user.credentials.as_ref()), password);
    conclude(service, client, pool, user, matches, now)
}

/// USER_SRP_AUTH. The answer for a user who does not exist has the same form, and is the same each
/// time as far as that can be seen.
fn with_srp(
    service: &Service,
    client: &Client,
    pool: &Pool,
    parameters: &Parameters,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let username = required(parameters, "USERNAME")?;
    let srp_a = required(parameters, "SRP_A")?;
    check_secret_hash(client, username, secret_hash_of(parameters).as_ref())?;
    // Multiples of N other than zero are refused with the proof.
    if !Number::from_hex(srp_a, "SRP_A").is_ok_and(|number| number != Number::from_bytes(&[])) {
        return Err(Refusal::invalid("Invalid SRP_A."));
    }
    let user = directory::find_user(&service.store.read()?, pool, username)?;
    if user.is_none() && !client.hides_users {
        return Err(Refusal::user_not_found());
    }
    let user_id = user.as_ref().map_or_else(|| names::canonical(username), |user| user.username.clone());
    let real = user.as_ref().and_then(|user| password::exchange(user.credentials.as_ref()?));
    let (salt, verifier) = real.or_else(|| password::phantom(pool, &user_id)).ok_or_else(Refusal::credentials)?;
    let start = ServerStart::random(&verifier).map_err(|_| Refusal::credentials())?;
    let secret_block = STANDARD.encode(random::<64>());
    let challenge_parameters = Parameters::default()
        .with("SALT", salt.to_hex())
        .with("SRP_B", start.srp_b())
        .with("SECRET_BLOCK", secret_block.clone())
        .with("USERNAME", user_id.clone())
        .with("USER_ID_FOR_SRP", user_id.clone());
    let step = Step::Proof { start, srp_a: srp_a.to_owned(), user_id, username: user.map(|user| user.username) };
    let expires = now.after(Duration::from_secs(60 * client.session_minutes));
    service.sessions.insert(secret_block, Session { client: client.id.clone(), expires, step }, now);
    Ok(AuthReply { challenge_name: Some("PASSWORD_VERIFIER".to_owned()), challenge_parameters, ..AuthReply::default() })
}

/// PASSWORD_VERIFIER. A wrong proof uses the session up: the next guess has to start again.
fn prove(
    service: &Service,
    client: &Client,
    pool: &Pool,
    responses: &Parameters,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let typed = required(responses, "USERNAME")?;
    let secret_block = required(responses, "PASSWORD_CLAIM_SECRET_BLOCK")?;
    let signature = required(responses, "PASSWORD_CLAIM_SIGNATURE")?;
    let timestamp = required(responses, "TIMESTAMP")?;
    let session = service.sessions.take(secret_block, &client.id, now)?;
    let Step::Proof { start, srp_a, user_id, username } = session.step else {
        return Err(Refusal::not_authorized("Invalid session for the user."));
    };
    let tables = service.store.read()?;
    let user = username.map(|username| directory::find_user(&tables, pool, &username)).transpose()?.flatten();
    let same_user = names::canonical(typed) == user_id
        || directory::find_user(&tables, pool, typed)?.is_some_and(|typed| typed.username == user_id);
    let signed = srp::parse_timestamp(timestamp).map_err(|_| Refusal::invalid("Invalid TIMESTAMP."))?;
    if !same_user || now.since(signed).max(signed.since(now)) > SKEW {
        return Err(Refusal::credentials());
    }
    if let Some(user) = &user {
        check_state(user, now)?;
    }
    let who = Identity { pool_name: pool.suffix(), user_id: &user_id };
    let matches = start.verify(who, &srp_a, secret_block, timestamp, signature).is_ok();
    conclude(service, client, pool, user, matches, now)
}

/// NEW_PASSWORD_REQUIRED. A password that breaks the policy leaves the session as it was.
fn replace_password(
    service: &Service,
    client: &Client,
    pool: &Pool,
    id: &str,
    responses: &Parameters,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let typed = required(responses, "USERNAME")?;
    let password = required(responses, "NEW_PASSWORD")?;
    let list = responses.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("userAttributes.")?.to_owned();
        Some(wire::Attribute { name, value: Some(value.to_owned()) })
    });
    let attributes = super::validate::attributes(&list.collect::<Vec<_>>(), super::validate::Writer::User)?;
    Checks::default().password("newPassword", password).finish()?;
    let policy = password::check_policy(&pool.policy, password);
    let session = service.sessions.take(id, &client.id, now)?;
    let Step::NewPassword { username } = &session.step else {
        return Err(Refusal::not_authorized("Invalid session for the user."));
    };
    if let Err(refusal) = policy {
        service.sessions.insert(id.to_owned(), session, now);
        return Err(refusal);
    }
    let tables = service.store.read()?;
    if directory::find_user(&tables, pool, typed)?.is_none_or(|user| user.username != *username) {
        return Err(Refusal::not_authorized("Invalid session for the user."));
    }
    let credentials = password::credentials(pool, username, password);
    service.store.write(|tables| {
        let mut user = directory::user(tables, pool, username)?;
        if user.status != Status::ForceChangePassword || !user.enabled {
            return Err(Refusal::not_authorized("Invalid session for the user."));
        }
        for (name, value) in attributes {
            let before = user.attributes.insert(name.clone(), value.clone());
            if matches!(name.as_str(), "email" | "phone_number") && before != Some(value) {
                user.attributes.insert(format!("{name}_verified"), "false".to_owned());
            }
        }
        super::account::set_password(&mut user, credentials, now);
        directory::save_user(tables, pool, &user)?;
        signed_in(service, tables, client, pool, &user, now)
    })
}

/// REFRESH_TOKEN_AUTH.
fn with_refresh_token(
    service: &Service,
    client: &Client,
    pool: &Pool,
    parameters: &Parameters,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let token = required(parameters, "REFRESH_TOKEN")?;
    if client.secret.is_some() {
        let username = tokens::refresh_username(&service.store.read()?, pool, token)?;
        let hash = secret_hash_of(parameters);
        let wrong = format!("SecretHash does not match for the client: {}", client.id);
        check_secret_hash(client, &username, hash.as_ref())
            .map_err(|refusal| if hash.is_some() { Refusal::not_authorized(wrong) } else { refusal })?;
    }
    let result = tokens::refresh(service, pool, client, token, now)?;
    Ok(AuthReply { authentication_result: Some(result), ..AuthReply::default() })
}

/// What keeps a user from trying a password at all. Cognito tells who is not confirmed before it
/// looks at the password, and declares that intended; so does this pool.
fn check_state(user: &User, now: Timestamp) -> Result<(), Refusal> {
    if !user.enabled {
        return Err(Refusal::user_disabled());
    }
    if user.status == Status::Unconfirmed {
        return Err(Refusal::user_not_confirmed());
    }
    password::check_lock(user, now)
}

/// What follows a password that was tried: a refusal, a challenge or tokens.
fn conclude(
    service: &Service,
    client: &Client,
    pool: &Pool,
    tried: Option<User>,
    matches: bool,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let Some(tried) = tried else {
        return Err(if client.hides_users { Refusal::credentials() } else { Refusal::user_not_found() });
    };
    service.store.write(|tables| {
        let mut user = directory::user(tables, pool, &tried.username)?;
        if !matches {
            password::note_failure(&mut user, now);
            directory::save_user(tables, pool, &user)?;
            let told = user.status == Status::ResetRequired && !client.hides_users;
            return Ok(Err(if told { Refusal::reset_required() } else { Refusal::credentials() }));
        }
        let same = |before: &Credentials, after: &Credentials| {
            constant_time_eq(before.hash.expose().as_bytes(), after.hash.expose().as_bytes())
        };
        if !tried.credentials.as_ref().zip(user.credentials.as_ref()).is_some_and(|(before, after)| same(before, after))
        {
            // The password was changed while this one was being checked.
            return Ok(Err(Refusal::credentials()));
        }
        if user.failures > 0 {
            user.failures = 0;
            directory::save_user(tables, pool, &user)?;
        }
        Ok::<_, Refusal>(match user.status {
            Status::Confirmed => signed_in(service, tables, client, pool, &user, now),
            Status::ForceChangePassword => new_password_required(service, client, &user, now),
            Status::ResetRequired => Err(Refusal::reset_required()),
            Status::Unconfirmed => Err(Refusal::user_not_confirmed()),
        })
    })?
}

fn signed_in(
    service: &Service,
    tables: &Write,
    client: &Client,
    pool: &Pool,
    user: &User,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    let result = tokens::sign_in(service, tables, pool, client, user, now)?;
    Ok(AuthReply { authentication_result: Some(result), ..AuthReply::default() })
}

fn new_password_required(
    service: &Service,
    client: &Client,
    user: &User,
    now: Timestamp,
) -> Result<AuthReply, Refusal> {
    if user.temporary_until.is_some_and(|until| Timestamp::from_millis(until) <= now) {
        let text = "Temporary password has expired and must be reset by an administrator.";
        return Err(Refusal::not_authorized(text));
    }
    let id = random_id::<48>();
    let expires = now.after(Duration::from_secs(60 * client.session_minutes));
    let step = Step::NewPassword { username: user.username.clone() };
    service.sessions.insert(id.clone(), Session { client: client.id.clone(), expires, step }, now);
    let attributes = serde_json::to_string(&user.attributes).unwrap_or_else(|_| "{}".to_owned());
    Ok(AuthReply {
        challenge_name: Some("NEW_PASSWORD_REQUIRED".to_owned()),
        session: Some(Secret::from(id)),
        challenge_parameters: Parameters::default()
            .with("USER_ID_FOR_SRP", user.username.clone())
            .with("userAttributes", attributes)
            // Text of a JSON list, which clients parse without looking.
            .with("requiredAttributes", "[]".to_owned()),
        ..AuthReply::default()
    })
}

fn required<'a>(parameters: &'a Parameters, name: &str) -> Result<&'a str, Refusal> {
    parameters.get(name).filter(|value| !value.is_empty()).ok_or_else(|| Refusal::missing_parameter(name))
}

fn secret_hash_of(parameters: &Parameters) -> Option<Secret<String>> {
    parameters.get("SECRET_HASH").map(|hash| Secret::from(hash.to_owned()))
}

/// Whether a raw client secret is the right one; a client without one needs none.
fn secret_fits(client: &Client, sent: Option<&Secret<String>>) -> bool {
    client.secret.as_ref().is_none_or(|secret| sent == Some(secret))
}
