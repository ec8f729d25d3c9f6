//! Operations of administrators on pools and app clients.

use serde::Deserialize;
use serde_json::{Value, json};

use super::admin_users::{date, page, with_next};
use super::records::{Client, Policy, Pool, Unit, Validity};
use super::refusal::{Exception, Refusal};
use super::service::{Service, new_pool};
use super::store::{CLIENTS, Lookup, POOLS, USERS};
use super::validate::Checks;
use super::{Error, directory, keys, names};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// The flows that can be switched on. Some of them are accepted for the sake of scripts that list
/// them; using one is then an UnsupportedOperationException.
const FLOWS: &[&str] = &[
    "ALLOW_USER_SRP_AUTH",
    "ALLOW_USER_PASSWORD_AUTH",
    "ALLOW_REFRESH_TOKEN_AUTH",
    "ALLOW_CUSTOM_AUTH",
    "ALLOW_ADMIN_USER_PASSWORD_AUTH",
    "ALLOW_USER_AUTH",
    "ADMIN_NO_SRP_AUTH",
    "CUSTOM_AUTH_FLOW_ONLY",
    "USER_PASSWORD_AUTH",
];

/// The request of `API_CreateUserPool`, as far as this pool has a choice.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreatePool {
    pool_name: String,
    policies: Option<Policies>,
    #[serde(default)]
    alias_attributes: Vec<String>,
    #[serde(default)]
    username_attributes: Vec<String>,
    admin_create_user_config: Option<AdminCreateUserConfig>,
    mfa_configuration: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Policies {
    password_policy: Option<PasswordPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PasswordPolicy {
    minimum_length: u64,
    require_uppercase: bool,
    require_lowercase: bool,
    require_numbers: bool,
    require_symbols: bool,
    temporary_password_validity_days: u64,
}

impl Default for PasswordPolicy {
    /// A policy that is given is the whole policy: what it leaves out is off.
    fn default() -> Self {
        Self {
            minimum_length: 8,
            require_uppercase: false,
            require_lowercase: false,
            require_numbers: false,
            require_symbols: false,
            temporary_password_validity_days: 7,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AdminCreateUserConfig {
    #[serde(default)]
    allow_admin_create_user_only: bool,
}

/// The request of operations that only name a pool.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OnePool {
    user_pool_id: String,
    max_results: Option<u64>,
    next_token: Option<String>,
}

/// The request of `API_ListUserPools`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListPools {
    max_results: u64,
    next_token: Option<String>,
}

/// `API_CreateUserPool`.
///
/// # Errors
/// InvalidParameter for what the embedded pool cannot be.
pub(super) fn create(service: &Service, request: CreatePool, now: Timestamp) -> Result<Value, Refusal> {
    Checks::default().length("poolName", &request.pool_name, 1, 128).finish()?;
    if !request.username_attributes.is_empty() {
        return Err(Refusal::invalid("The embedded pool does not implement UsernameAttributes; use AliasAttributes."));
    }
    if request.alias_attributes.iter().any(|alias| alias != "email") {
        return Err(Refusal::invalid("The embedded pool implements no other alias attribute than email."));
    }
    if request.mfa_configuration.as_deref().is_some_and(|mfa| mfa != "OFF") {
        return Err(Refusal::invalid("The embedded pool does not implement MFA."));
    }
    let mut pool = new_pool(&names::pool_id(&service.region), &request.pool_name, now);
    pool.email_alias = !request.alias_attributes.is_empty();
    pool.self_sign_up = !request.admin_create_user_config.is_some_and(|config| config.allow_admin_create_user_only);
    if let Some(policy) = request.policies.and_then(|policies| policies.password_policy) {
        Checks::default().range("policies.passwordPolicy.minimumLength", policy.minimum_length, 6, 99).finish()?;
        pool.policy = Policy {
            minimum_length: usize::try_from(policy.minimum_length).unwrap_or(8),
            uppercase: policy.require_uppercase,
            lowercase: policy.require_lowercase,
            numbers: policy.require_numbers,
            symbols: policy.require_symbols,
            temporary_days: policy.temporary_password_validity_days.clamp(1, 365),
        };
    }
    keys::rotate(&mut pool, now).map_err(|error| internal(&error))?;
    service.store.write(|tables| {
        tables.put(POOLS, &pool.id, &pool)?;
        Ok(json!({ "UserPool": shown(&pool, 0) }))
    })
}

/// `API_DescribeUserPool`.
///
/// # Errors
/// ResourceNotFound.
pub(super) fn describe(service: &Service, request: OnePool, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let users = tables.scan(USERS, &directory::key(&pool.id, ""))?.len();
    Ok(json!({ "UserPool": shown(&pool, users) }))
}

/// `API_ListUserPools`.
///
/// # Errors
/// InvalidParameter for a number of results outside of 1 to 60.
pub(super) fn list(service: &Service, request: ListPools, _now: Timestamp) -> Result<Value, Refusal> {
    Checks::default().range("maxResults", request.max_results, 1, 60).finish()?;
    let pools = service.store.read()?.scan(POOLS, "")?.into_iter().map(|(id, pool)| {
        let entry = json!({
            "Id": id, "Name": pool.name, "CreationDate": date(pool.created), "LastModifiedDate": date(pool.created),
        });
        (id, entry)
    });
    let (page, next) = page(pools, Some(request.max_results), request.next_token.as_deref())?;
    Ok(with_next(json!({ "UserPools": page }), "NextToken", next))
}

/// `PortcullisPool.RotateKeys`: new signing keys now; the old ones stay in the key set for a day.
///
/// # Errors
/// ResourceNotFound.
pub(super) fn rotate_keys(service: &Service, request: OnePool, now: Timestamp) -> Result<Value, Refusal> {
    directory::pool(&service.store.read()?, &request.user_pool_id)?;
    service.rotate(&request.user_pool_id, now).map_err(|error: Error| internal(&error))?;
    Ok(json!({}))
}

/// The request of `API_CreateUserPoolClient`, as far as this pool has a choice.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateClient {
    user_pool_id: String,
    client_name: String,
    #[serde(default)]
    generate_secret: bool,
    client_secret: Option<Secret<String>>,
    refresh_token_validity: Option<u64>,
    access_token_validity: Option<u64>,
    id_token_validity: Option<u64>,
    token_validity_units: Option<ValidityUnits>,
    explicit_auth_flows: Option<Vec<String>>,
    prevent_user_existence_errors: Option<String>,
    enable_token_revocation: Option<bool>,
    auth_session_validity: Option<u64>,
    refresh_token_rotation: Option<Rotation>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ValidityUnits {
    access_token: Option<Unit>,
    id_token: Option<Unit>,
    refresh_token: Option<Unit>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rotation {
    feature: String,
    #[serde(default)]
    retry_grace_period_seconds: u64,
}

/// The request of operations that name an app client.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OneClient {
    user_pool_id: String,
    client_id: String,
}

/// `API_CreateUserPoolClient`, with the defaults of the API.
///
/// # Errors
/// InvalidParameter, ResourceNotFound for the pool.
pub(super) fn create_client(service: &Service, request: CreateClient, now: Timestamp) -> Result<Value, Refusal> {
    let mut checks = Checks::default().length("clientName", &request.client_name, 1, 128);
    for flow in request.explicit_auth_flows.iter().flatten() {
        checks = checks.one_of("explicitAuthFlows", flow, FLOWS);
    }
    if let Some(errors) = &request.prevent_user_existence_errors {
        checks = checks.one_of("preventUserExistenceErrors", errors, &["LEGACY", "ENABLED"]);
    }
    if let Some(rotation) = &request.refresh_token_rotation {
        checks = checks.one_of("refreshTokenRotation.feature", &rotation.feature, &["ENABLED", "DISABLED"]).range(
            "refreshTokenRotation.retryGracePeriodSeconds",
            rotation.retry_grace_period_seconds,
            0,
            60,
        );
    }
    if let Some(secret) = &request.client_secret {
        checks = checks.length("clientSecret", secret.expose(), 24, 64);
    }
    let mut client = Client::new(names::client_id(), &request.user_pool_id, &request.client_name, now);
    let units = request.token_validity_units.unwrap_or_default();
    let set = |validity: &mut Validity, number: Option<u64>, unit: Option<Unit>| {
        validity.unit = unit.unwrap_or(validity.unit);
        // 0 means the default, which is a number of hours or days, whatever the unit.
        if let Some(number) = number.filter(|number| *number > 0) {
            validity.number = number;
        }
    };
    set(&mut client.access_validity, request.access_token_validity, units.access_token);
    set(&mut client.id_validity, request.id_token_validity, units.id_token);
    set(&mut client.refresh_validity, request.refresh_token_validity, units.refresh_token);
    let session = request.auth_session_validity.unwrap_or(client.session_minutes);
    checks
        .range("accessTokenValidity", client.access_validity.duration().as_secs(), 300, 86_400)
        .range("idTokenValidity", client.id_validity.duration().as_secs(), 300, 86_400)
        .range("refreshTokenValidity", client.refresh_validity.duration().as_secs(), 3600, 315_360_000)
        .range("authSessionValidity", session, 3, 15)
        .finish()?;
    client.session_minutes = session;
    client.secret = match request.client_secret {
        None if request.generate_secret => Some(Secret::from(names::client_secret())),
        given => given,
    };
    client.flows = request.explicit_auth_flows.unwrap_or(client.flows);
    client.hides_users = request.prevent_user_existence_errors.as_deref() == Some("ENABLED");
    client.revocation = request.enable_token_revocation.unwrap_or(true);
    let rotation = request.refresh_token_rotation.filter(|rotation| rotation.feature == "ENABLED");
    client.rotation_grace = rotation.map(|rotation| rotation.retry_grace_period_seconds);
    service.store.write(|tables| {
        directory::pool(tables, &client.pool)?;
        tables.put(CLIENTS, &client.id, &client)?;
        Ok(json!({ "UserPoolClient": shown_client(&client) }))
    })
}

/// `API_DescribeUserPoolClient`.
///
/// # Errors
/// ResourceNotFound.
pub(super) fn describe_client(service: &Service, request: OneClient, _now: Timestamp) -> Result<Value, Refusal> {
    let client = client_of(&service.store.read()?, &request)?;
    Ok(json!({ "UserPoolClient": shown_client(&client) }))
}

/// `API_ListUserPoolClients`.
///
/// # Errors
/// ResourceNotFound for the pool.
pub(super) fn list_clients(service: &Service, request: OnePool, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let clients = directory::clients(&tables, &pool)?.into_iter().map(|client| {
        let entry = json!({ "ClientId": client.id, "UserPoolId": client.pool, "ClientName": client.name });
        (client.id, entry)
    });
    let (page, next) = page(clients, request.max_results, request.next_token.as_deref())?;
    Ok(with_next(json!({ "UserPoolClients": page }), "NextToken", next))
}

/// `API_DeleteUserPoolClient`.
///
/// # Errors
/// ResourceNotFound.
pub(super) fn delete_client(service: &Service, request: OneClient, _now: Timestamp) -> Result<Value, Refusal> {
    service.store.write(|tables| {
        let client = client_of(tables, &request)?;
        tables.remove(CLIENTS, &client.id)?;
        Ok(Value::Null)
    })
}

fn client_of(tables: &impl Lookup, request: &OneClient) -> Result<Client, Refusal> {
    let pool = directory::pool(tables, &request.user_pool_id)?;
    let (client, _) = directory::client(tables, &request.client_id)?;
    if client.pool == pool.id { Ok(client) } else { Err(Refusal::client_not_found(&request.client_id)) }
}

/// `API_UserPoolType`.
fn shown(pool: &Pool, users: usize) -> Value {
    let region = pool.id.split('_').next().unwrap_or_default();
    let aliases: &[&str] = if pool.email_alias { &["email"] } else { &[] };
    json!({
        "Id": pool.id,
        "Name": pool.name,
        "Arn": format!("arn:aws:cognito-idp:{region}:000000000000:userpool/{}", pool.id),
        "CreationDate": date(pool.created),
        "LastModifiedDate": date(pool.created),
        "Policies": { "PasswordPolicy": {
            "MinimumLength": pool.policy.minimum_length,
            "RequireUppercase": pool.policy.uppercase,
            "RequireLowercase": pool.policy.lowercase,
            "RequireNumbers": pool.policy.numbers,
            "RequireSymbols": pool.policy.symbols,
            "TemporaryPasswordValidityDays": pool.policy.temporary_days,
        } },
        "AutoVerifiedAttributes": ["email", "phone_number"],
        "AliasAttributes": aliases,
        "UsernameConfiguration": { "CaseSensitive": false },
        "MfaConfiguration": "OFF",
        "EstimatedNumberOfUsers": users,
        "AdminCreateUserConfig": { "AllowAdminCreateUserOnly": !pool.self_sign_up },
        "AccountRecoverySetting": { "RecoveryMechanisms": [
            { "Priority": 1, "Name": "verified_email" }, { "Priority": 2, "Name": "verified_phone_number" },
        ] },
        "UserPoolTier": "ESSENTIALS",
    })
}

/// `API_UserPoolClientType`, the secret included, as the real one does.
fn shown_client(client: &Client) -> Value {
    let mut shown = json!({
        "UserPoolId": client.pool,
        "ClientName": client.name,
        "ClientId": client.id,
        "CreationDate": date(client.created),
        "LastModifiedDate": date(client.modified),
        "RefreshTokenValidity": client.refresh_validity.number,
        "AccessTokenValidity": client.access_validity.number,
        "IdTokenValidity": client.id_validity.number,
        "TokenValidityUnits": {
            "AccessToken": client.access_validity.unit,
            "IdToken": client.id_validity.unit,
            "RefreshToken": client.refresh_validity.unit,
        },
        "ExplicitAuthFlows": client.flows,
        "PreventUserExistenceErrors": if client.hides_users { "ENABLED" } else { "LEGACY" },
        "EnableTokenRevocation": client.revocation,
        "AuthSessionValidity": client.session_minutes,
        "AllowedOAuthFlowsUserPoolClient": false,
    });
    if let Some(members) = shown.as_object_mut() {
        members.extend(client.secret.as_ref().map(|secret| ("ClientSecret".to_owned(), json!(secret.expose()))));
        members.extend(client.rotation_grace.map(|seconds| {
            let rotation = json!({ "Feature": "ENABLED", "RetryGracePeriodSeconds": seconds });
            ("RefreshTokenRotation".to_owned(), rotation)
        }));
    }
    shown
}

fn internal(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "the embedded pool could not make keys");
    Refusal::new(Exception::InternalError, "An internal error occurred.")
}
