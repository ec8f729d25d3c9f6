//! Tokens: issued at sign-in and refresh, read where a client shows them, revoked by family.
//!
//! ID and access tokens have the claims of "Understanding user pool JSON web tokens" in the Amazon
//! Cognito developer guide. A refresh token is a JWE (RFC 7516) for nobody but this pool; it names
//! its family, and the family in the store says what it is still good for.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::records::{Client, Family, Pool, User};
use super::refusal::{Exception, Refusal};
use super::service::Service;
use super::store::{FAMILIES, Lookup, POOLS, Write};
use super::{directory, names};
use crate::clock::Timestamp;
use crate::cognito::wire::AuthenticationResult;
use crate::config::TokenUse;
use crate::secret::{Secret, random};

/// The one scope of access tokens that the API issues, and the one that its operations ask for.
const SCOPE: &str = "aws.cognito.signin.user.admin";

/// What a refresh token says, inside of its seal.
#[derive(Serialize, Deserialize)]
struct Refresh {
    sub: String,
    family: String,
    generation: u64,
}

/// A shown access token that is good, and whose it is.
pub(super) struct Caller {
    pub pool: Pool,
    pub user: User,
}

/// The tokens of a new sign-in, which starts a family.
///
/// # Errors
/// When the store or the keys fail.
pub(super) fn sign_in(
    service: &Service,
    transaction: &Write,
    pool: &Pool,
    client: &Client,
    user: &User,
    now: Timestamp,
) -> Result<AuthenticationResult, Refusal> {
    let family = Family {
        id: names::uuid(),
        client: client.id.clone(),
        username: user.username.clone(),
        signed_in: now.seconds(),
        expires: now.after(client.refresh_validity.duration()).millis(),
        revoked: false,
        generation: 0,
        grace_until: 0,
    };
    transaction.put(FAMILIES, &directory::family_key(&pool.id, &user.sub, &family.id), &family)?;
    let refresh = seal(pool, &Refresh { sub: user.sub.clone(), family: family.id.clone(), generation: 0 })?;
    Ok(AuthenticationResult { refresh_token: Some(refresh), ..issue(service, pool, client, user, &family, now)? })
}

/// New ID and access tokens for a refresh token; a new refresh token, too, if the client rotates
/// them. A rotated token that comes back after its grace has leaked: its family ends
/// (RFC 9700 §4.14.2).
///
/// # Errors
/// NotAuthorizedException with the text that says what is wrong, RefreshTokenReuseException.
pub(super) fn refresh(
    service: &Service,
    pool: &Pool,
    client: &Client,
    token: &str,
    now: Timestamp,
) -> Result<AuthenticationResult, Refusal> {
    let shown = open(pool, token).ok_or_else(|| Refusal::not_authorized("Invalid Refresh Token"))?;
    let Some(grace) = client.rotation_grace else {
        let (family, user) = live_family(&service.store.read()?, pool, client, &shown, now)?;
        return issue(service, pool, client, &user, &family, now);
    };
    let at = directory::family_key(&pool.id, &shown.sub, &shown.family);
    // A reused token changes the store although the answer is a refusal.
    service.store.write(|tables| {
        let (mut family, user) = live_family(tables, pool, client, &shown, now)?;
        let in_grace = shown.generation.checked_add(1) == Some(family.generation) && now.millis() < family.grace_until;
        if shown.generation == family.generation {
            family.generation += 1;
            family.grace_until = now.after(Duration::from_secs(grace)).millis();
        } else if !in_grace {
            tables.put(FAMILIES, &at, &Family { revoked: true, ..family })?;
            return Ok(Err(Refusal::new(Exception::RefreshTokenReuse, "Refresh token has been reused")));
        }
        tables.put(FAMILIES, &at, &family)?;
        let next = Refresh { generation: family.generation, ..shown };
        let tokens = issue(service, pool, client, &user, &family, now)?;
        Ok::<_, Refusal>(Ok(AuthenticationResult { refresh_token: Some(seal(pool, &next)?), ..tokens }))
    })?
}

/// The family of a refresh token and its user, if the token is still good.
fn live_family(
    tables: &impl Lookup,
    pool: &Pool,
    client: &Client,
    shown: &Refresh,
    now: Timestamp,
) -> Result<(Family, User), Refusal> {
    let family = tables.get(FAMILIES, &directory::family_key(&pool.id, &shown.sub, &shown.family))?;
    // The family of a deleted user is deleted, too.
    let family = family.ok_or_else(|| Refusal::not_authorized("Refresh Token has been revoked"))?;
    if family.client != client.id {
        return Err(Refusal::not_authorized("Invalid Refresh Token"));
    }
    let user = directory::user_by_sub(tables, pool, &shown.sub)?.filter(|_| !family.revoked);
    let user = user.ok_or_else(|| Refusal::not_authorized("Refresh Token has been revoked"))?;
    if Timestamp::from_millis(family.expires) <= now {
        return Err(Refusal::not_authorized("Refresh Token has expired"));
    }
    if user.enabled { Ok((family, user)) } else { Err(Refusal::user_disabled()) }
}

/// The real name of the user whom a refresh token belongs to: what its SECRET_HASH is made of.
///
/// # Errors
/// NotAuthorizedException when it is none of this pool's tokens.
pub(super) fn refresh_username(tables: &impl Lookup, pool: &Pool, token: &str) -> Result<String, Refusal> {
    let invalid = || Refusal::not_authorized("Invalid Refresh Token");
    let shown = open(pool, token).ok_or_else(invalid)?;
    let family = tables.get(FAMILIES, &directory::family_key(&pool.id, &shown.sub, &shown.family))?;
    Ok(family.ok_or_else(invalid)?.username)
}

/// Revokes a refresh token with its whole family. Doing it again is fine.
///
/// # Errors
/// UnsupportedTokenTypeException for anything but a refresh token, UnauthorizedException for
/// another client's.
pub(super) fn revoke(service: &Service, pool: &Pool, client: &Client, token: &str) -> Result<(), Refusal> {
    let Some(shown) = open(pool, token) else {
        return Err(Refusal::new(Exception::UnsupportedTokenType, "Unsupported token type"));
    };
    let at = directory::family_key(&pool.id, &shown.sub, &shown.family);
    service.store.write(|tables| match tables.get(FAMILIES, &at)? {
        Some(family) if family.client != client.id => {
            Err(Refusal::new(Exception::Unauthorized, "The token was issued to another client"))
        }
        Some(family) => Ok(tables.put(FAMILIES, &at, &Family { revoked: true, ..family })?),
        None => Ok(()),
    })
}

/// Reads an access token that a client shows: signature, issuer, time, scope, and whether its
/// family and its user are still there.
///
/// # Errors
/// NotAuthorizedException with the text that says what is wrong, UserNotFoundException.
pub(super) fn caller(service: &Service, tables: &impl Lookup, token: &str, now: Timestamp) -> Result<Caller, Refusal> {
    let invalid = || Refusal::not_authorized("Invalid Access Token");
    let mut signed = None;
    for (id, pool) in tables.scan(POOLS, "")? {
        if let Some(claims) = service.ring(&pool)?.open(TokenUse::Access, token) {
            signed = Some((service.issuer(&id), pool, claims));
            break;
        }
    }
    let (issuer, pool, claims) = signed.ok_or_else(invalid)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&issuer) || text("token_use") != Some(TokenUse::Access.as_str()) {
        return Err(invalid());
    }
    if claims.get("exp").and_then(Value::as_i64).is_none_or(|exp| exp <= now.seconds()) {
        return Err(Refusal::not_authorized("Access Token has expired"));
    }
    if text("scope").is_none_or(|scopes| !scopes.split(' ').any(|scope| scope == SCOPE)) {
        return Err(Refusal::not_authorized("Access Token does not have required scopes"));
    }
    let sub = text("sub").ok_or_else(invalid)?;
    let user = directory::user_by_sub(tables, &pool, sub)?.ok_or_else(Refusal::user_not_found)?;
    if let Some(family) = text("origin_jti") {
        let family = tables.get(FAMILIES, &directory::family_key(&pool.id, sub, family))?;
        if family.is_none_or(|family| family.revoked) {
            return Err(Refusal::not_authorized("Access Token has been revoked"));
        }
    }
    if !user.enabled {
        return Err(Refusal::user_disabled());
    }
    Ok(Caller { pool, user })
}

/// An ID and an access token of a family.
fn issue(
    service: &Service,
    pool: &Pool,
    client: &Client,
    user: &User,
    family: &Family,
    now: Timestamp,
) -> Result<AuthenticationResult, Refusal> {
    let mut common = Map::new();
    common.insert("sub".to_owned(), json!(user.sub));
    common.insert("iss".to_owned(), json!(service.issuer(&pool.id)));
    common.insert("event_id".to_owned(), json!(names::uuid()));
    common.insert("auth_time".to_owned(), json!(family.signed_in));
    common.insert("iat".to_owned(), json!(now.seconds()));
    if client.revocation {
        common.insert("origin_jti".to_owned(), json!(family.id));
    }
    if !user.groups.is_empty() {
        common.insert("cognito:groups".to_owned(), json!(user.groups));
    }
    let sign = |token_use: TokenUse, life: Duration, own: Value| {
        let mut claims = common.clone();
        claims.insert("token_use".to_owned(), json!(token_use.as_str()));
        claims.insert("exp".to_owned(), json!(now.after(life).seconds()));
        claims.insert("jti".to_owned(), json!(names::uuid()));
        if let Value::Object(own) = own {
            claims.extend(own);
        }
        let token = service.ring(pool)?.sign(token_use, &Value::Object(claims));
        token.map(Secret::from).map_err(|error| {
            tracing::error!(%error, "the embedded pool could not sign a token");
            Refusal::new(Exception::InternalError, "An internal error occurred.")
        })
    };
    let access = json!({ "client_id": client.id, "scope": SCOPE, "username": user.username });
    let mut id = Map::new();
    for (name, value) in &user.attributes {
        // Strings all of them, except for the two that Cognito makes booleans.
        let value = if name.ends_with("_verified") { json!(value == "true") } else { json!(value) };
        id.insert(name.clone(), value);
    }
    id.insert("aud".to_owned(), json!(client.id));
    id.insert("cognito:username".to_owned(), json!(user.username));
    Ok(AuthenticationResult {
        access_token: Some(sign(TokenUse::Access, client.access_validity.duration(), access)?),
        id_token: Some(sign(TokenUse::Id, client.id_validity.duration(), Value::Object(id))?),
        expires_in: Some(client.access_validity.duration().as_secs()),
        token_type: Some("Bearer".to_owned()),
        refresh_token: None,
        new_device_metadata: None,
    })
}

/// The protected header of every refresh token: `eyJ…`, as clients expect it to begin.
const HEADER: &str = r#"{"alg":"dir","enc":"A256GCM"}"#;

/// JWE compact serialization with direct encryption (RFC 7516 §7.1, RFC 7518 §4.5).
fn seal(pool: &Pool, refresh: &Refresh) -> Result<Secret<String>, Refusal> {
    let failed = || Refusal::new(Exception::InternalError, "An internal error occurred.");
    let header = URL_SAFE_NO_PAD.encode(HEADER);
    let nonce: [u8; NONCE_LEN] = random();
    let mut text = serde_json::to_vec(refresh).map_err(|_| failed())?;
    let tag = token_key(pool)
        .ok_or_else(failed)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header.as_bytes()), &mut text)
        .map_err(|_| failed())?;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Ok(Secret::from(format!("{header}..{}.{}.{}", encode(&nonce), encode(&text), encode(tag.as_ref()))))
}

/// What [`seal`] sealed; `None` for anything else.
fn open(pool: &Pool, token: &str) -> Option<Refresh> {
    let mut parts = token.split('.');
    let header = parts.next()?;
    let _no_encrypted_key = parts.next().filter(|part| part.is_empty())?;
    let mut decoded = parts.map(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let (nonce, mut text, tag) = (decoded.next()??, decoded.next()??, decoded.next()??);
    if decoded.next().is_some() {
        return None;
    }
    text.extend(tag);
    let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
    let text = token_key(pool)?.open_in_place(nonce, Aad::from(header.as_bytes()), &mut text).ok()?;
    serde_json::from_slice(text).ok()
}

fn token_key(pool: &Pool) -> Option<LessSafeKey> {
    let key = Secret::new(URL_SAFE_NO_PAD.decode(pool.token_key.expose()).ok()?);
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::pool;
    use super::*;

    #[test]
    fn a_refresh_token_opens_in_its_own_pool_only() {
        let own = pool();
        let refresh = Refresh { sub: "s".to_owned(), family: "f".to_owned(), generation: 3 };
        let token = seal(&own, &refresh).unwrap();
        assert!(token.expose().starts_with("eyJ") && token.expose().split('.').count() == 5);
        assert!(open(&own, token.expose()).is_some_and(|read| read.family == "f" && read.generation == 3));
        assert!(open(&pool(), token.expose()).is_none(), "another pool has another key");
        assert!(open(&own, &format!("{}A", token.expose())).is_none());
        assert!(open(&own, &format!("{}.AA", token.expose())).is_none());
        assert!(open(&own, "").is_none());
    }
}
