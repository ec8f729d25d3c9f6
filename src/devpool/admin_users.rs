//! Operations of administrators on users. They always tell the truth about who exists.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::messages::{self, Destination, Purpose};
use super::records::{Pool, Status, User};
use super::refusal::{Exception, Refusal};
use super::service::Service;
use super::store::{Lookup, USERS, Write};
use super::validate::{Checks, Writer, attributes};
use super::{account, directory, names, password};
use crate::clock::Timestamp;
use crate::cognito::wire::Attribute;
use crate::secret::Secret;

/// The request of operations that only name a user.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OneUser {
    user_pool_id: String,
    username: String,
}

/// The request of `API_AdminCreateUser`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateUser {
    user_pool_id: String,
    username: String,
    #[serde(default)]
    user_attributes: Vec<Attribute>,
    temporary_password: Option<Secret<String>>,
    message_action: Option<String>,
}

/// `API_AdminCreateUser`: the user has to replace the temporary password at the first sign-in.
///
/// # Errors
/// UsernameExists, InvalidPassword, InvalidParameter; for RESEND UserNotFound and
/// UnsupportedUserState.
pub(super) fn create(service: &Service, request: CreateUser, now: Timestamp) -> Result<Value, Refusal> {
    let action = request.message_action.as_deref();
    let checks = Checks::default().username(&request.username);
    match action {
        Some(action) => checks.one_of("messageAction", action, &["RESEND", "SUPPRESS"]).finish()?,
        None => checks.finish()?,
    }
    let pool = directory::pool(&service.store.read()?, &request.user_pool_id)?;
    let temporary = match &request.temporary_password {
        Some(password) => {
            Checks::default().password("temporaryPassword", password.expose()).finish()?;
            password::check_policy(&pool.policy, password.expose())?;
            password.clone()
        }
        None => Secret::from(names::temporary_password(pool.policy.minimum_length)),
    };
    let attributes = attributes(&request.user_attributes, Writer::Administrator)?;
    let username = names::canonical(&request.username);
    let credentials = password::credentials(&pool, &username, temporary.expose());
    service.store.write(|tables| {
        let mut user = match (directory::find_user(tables, &pool, &username)?, action) {
            (Some(user), Some("RESEND")) if user.status == Status::ForceChangePassword => user,
            (Some(_), Some("RESEND")) => {
                let text = "Resend not possible. The user is not in FORCE_CHANGE_PASSWORD state.";
                return Err(Refusal::new(Exception::UnsupportedUserState, text));
            }
            (None, Some("RESEND")) => return Err(Refusal::user_not_found()),
            (Some(_), _) => return Err(Refusal::new(Exception::UsernameExists, "User account already exists")),
            (None, _) => User::new(&username, Status::ForceChangePassword, attributes, now),
        };
        set_temporary(&pool, &mut user, credentials, now);
        if directory::alias_taken(tables, &pool, &user)? {
            return Err(Refusal::new(Exception::AliasExists, "An account with the email already exists."));
        }
        if let Some(to) = Destination::unverified(&user).filter(|_| action != Some("SUPPRESS")) {
            messages::send(tables, &pool, &user, &to, Purpose::Invitation, temporary.expose(), now)?;
        }
        directory::save_user(tables, &pool, &user)?;
        Ok(json!({ "User": description(&user) }))
    })
}

/// `API_AdminGetUser`.
///
/// # Errors
/// UserNotFound.
pub(super) fn get(service: &Service, request: OneUser, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let user = directory::user(&tables, &pool, &request.username)?;
    let mut reply = description(&user);
    if let Some(members) = reply.as_object_mut() {
        // The same list has another name here.
        let attributes = members.remove("Attributes").unwrap_or_default();
        members.insert("UserAttributes".to_owned(), attributes);
    }
    Ok(reply)
}

/// `API_AdminConfirmSignUp`. It verifies no address.
///
/// # Errors
/// UserNotFound, NotAuthorized for a user who is confirmed already.
pub(super) fn confirm_sign_up(service: &Service, request: OneUser, now: Timestamp) -> Result<Value, Refusal> {
    change(service, &request, now, |_, _, user| {
        if user.status != Status::Unconfirmed {
            let text = format!("User cannot be confirmed. Current status is {}", user.status.as_str());
            return Err(Refusal::not_authorized(text));
        }
        user.status = Status::Confirmed;
        user.confirmation = None;
        Ok(())
    })
}

/// The request of `API_AdminSetUserPassword`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SetPassword {
    #[serde(flatten)]
    who: OneUser,
    password: Secret<String>,
    #[serde(default)]
    permanent: bool,
}

/// `API_AdminSetUserPassword`: a permanent password confirms the user, another one is temporary.
///
/// # Errors
/// UserNotFound, InvalidPassword.
pub(super) fn set_password(service: &Service, request: SetPassword, now: Timestamp) -> Result<Value, Refusal> {
    Checks::default().password("password", request.password.expose()).finish()?;
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.who.user_pool_id)?;
    let username = directory::user(&tables, &pool, &request.who.username)?.username;
    password::check_policy(&pool.policy, request.password.expose())?;
    let credentials = password::credentials(&pool, &username, request.password.expose());
    change(service, &request.who, now, |_, pool, user| {
        if request.permanent {
            user.status = Status::Confirmed;
            account::set_password(user, credentials, now);
        } else {
            set_temporary(pool, user, credentials, now);
        }
        Ok(())
    })
}

/// `API_AdminResetUserPassword`: the user cannot sign in until the code is used.
///
/// # Errors
/// UserNotFound, InvalidParameter when the user cannot be reached.
pub(super) fn reset_password(service: &Service, request: OneUser, now: Timestamp) -> Result<Value, Refusal> {
    change(service, &request, now, |tables, pool, user| {
        account::send_reset_code(tables, pool, user, now)?;
        user.status = Status::ResetRequired;
        Ok(())
    })
}

/// `API_AdminDeleteUser`.
///
/// # Errors
/// UserNotFound.
pub(super) fn delete(service: &Service, request: OneUser, _now: Timestamp) -> Result<Value, Refusal> {
    service.store.write(|tables| {
        let pool = directory::pool(tables, &request.user_pool_id)?;
        let user = directory::user(tables, &pool, &request.username)?;
        directory::remove_user(tables, &pool, &user)?;
        Ok(Value::Null)
    })
}

/// `API_AdminDisableUser`: ends all sessions, too.
///
/// # Errors
/// UserNotFound.
pub(super) fn disable(service: &Service, request: OneUser, now: Timestamp) -> Result<Value, Refusal> {
    change(service, &request, now, |tables, pool, user| {
        user.enabled = false;
        Ok(directory::sign_out(tables, pool, user)?)
    })
}

/// `API_AdminEnableUser`.
///
/// # Errors
/// UserNotFound.
pub(super) fn enable(service: &Service, request: OneUser, now: Timestamp) -> Result<Value, Refusal> {
    change(service, &request, now, |_, _, user| {
        user.enabled = true;
        Ok(())
    })
}

/// The request of `API_AdminUpdateUserAttributes`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateAttributes {
    #[serde(flatten)]
    who: OneUser,
    user_attributes: Vec<Attribute>,
}

/// `API_AdminUpdateUserAttributes`. A changed address is unverified unless the request says
/// otherwise.
///
/// # Errors
/// UserNotFound, InvalidParameter, AliasExists.
pub(super) fn update_attributes(
    service: &Service,
    request: UpdateAttributes,
    now: Timestamp,
) -> Result<Value, Refusal> {
    let attributes = attributes(&request.user_attributes, Writer::Administrator)?;
    change(service, &request.who, now, |tables, pool, user| {
        for name in ["email", "phone_number"] {
            if attributes.get(name).is_some_and(|value| user.attributes.get(name) != Some(value)) {
                user.attributes.insert(format!("{name}_verified"), "false".to_owned());
            }
        }
        user.attributes.extend(attributes);
        if directory::alias_taken(tables, pool, user)? {
            return Err(Refusal::new(Exception::AliasExists, "An account with the email already exists."));
        }
        Ok(())
    })
}

/// `API_AdminUserGlobalSignOut`.
///
/// # Errors
/// UserNotFound.
pub(super) fn sign_out(service: &Service, request: OneUser, now: Timestamp) -> Result<Value, Refusal> {
    change(service, &request, now, |tables, pool, user| Ok(directory::sign_out(tables, pool, user)?))
}

/// The request of `API_ListUsers`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListUsers {
    user_pool_id: String,
    limit: Option<u64>,
    pagination_token: Option<String>,
    filter: Option<String>,
}

/// `API_ListUsers`, in the order of user names.
///
/// # Errors
/// InvalidParameter for a filter outside of the grammar.
pub(super) fn list(service: &Service, request: ListUsers, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let filter = request.filter.as_deref().filter(|text| !text.trim().is_empty()).map(Filter::parse).transpose()?;
    let users = tables.scan(USERS, &directory::key(&pool.id, ""))?.into_iter().map(|(_, user)| user);
    let users = users.filter(|user| filter.as_ref().is_none_or(|filter| filter.fits(user))).map(|user| {
        let shown = description(&user);
        (user.username, shown)
    });
    let (page, next) = page(users, request.limit, request.pagination_token.as_deref())?;
    Ok(with_next(json!({ "Users": page }), "PaginationToken", next))
}

/// One page of entries that are sorted by their names. The token for the next page is the last
/// name on this one.
///
/// # Errors
/// InvalidParameter for a limit above 60.
pub(super) fn page(
    entries: impl Iterator<Item = (String, Value)>,
    limit: Option<u64>,
    after: Option<&str>,
) -> Result<(Vec<Value>, Option<String>), Refusal> {
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(60);
    Checks::default().range("limit", limit, 0, 60).finish()?;
    let mut rest = entries.skip_while(|(name, _)| after.is_some_and(|after| name.as_str() <= after)).peekable();
    let (mut page, mut last) = (Vec::new(), None);
    while page.len() < usize::try_from(limit).unwrap_or(60) {
        let Some((name, entry)) = rest.next() else { break };
        page.push(entry);
        last = Some(name);
    }
    let next = last.filter(|_| rest.peek().is_some());
    Ok((page, next))
}

/// A reply with the token for the next page, if there is one.
pub(super) fn with_next(mut reply: Value, member: &str, next: Option<String>) -> Value {
    if let (Some(members), Some(next)) = (reply.as_object_mut(), next) {
        members.insert(member.to_owned(), Value::String(next));
    }
    reply
}

/// `API_UserType`.
pub(super) fn description(user: &User) -> Value {
    json!({
        "Username": user.username,
        "Attributes": account::attribute_list(user),
        "UserCreateDate": date(user.created),
        "UserLastModifiedDate": date(user.modified),
        "Enabled": user.enabled,
        "UserStatus": user.status.as_str(),
    })
}

/// A time as the API has it: seconds since the epoch, with a fraction.
pub(super) fn date(millis: u64) -> Value {
    json!(Duration::from_millis(millis).as_secs_f64())
}

fn set_temporary(pool: &Pool, user: &mut User, credentials: super::records::Credentials, now: Timestamp) {
    user.status = Status::ForceChangePassword;
    user.credentials = Some(credentials);
    user.temporary_until = Some(now.after(Duration::from_secs(pool.policy.temporary_days * 86_400)).millis());
    user.failures = 0;
    user.modified = now.millis();
}

/// Changes one user; the reply is an empty object.
fn change(
    service: &Service,
    who: &OneUser,
    now: Timestamp,
    change: impl FnOnce(&Write, &Pool, &mut User) -> Result<(), Refusal>,
) -> Result<Value, Refusal> {
    service.store.write(|tables| {
        let pool = directory::pool(tables, &who.user_pool_id)?;
        let mut user = directory::user(tables, &pool, &who.username)?;
        change(tables, &pool, &mut user)?;
        user.modified = now.millis();
        directory::save_user(tables, &pool, &user)?;
        Ok(json!({}))
    })
}

/// The one clause that ListUsers filters by: `name = "value"` or `name ^= "prefix"`.
struct Filter {
    name: String,
    prefix: bool,
    value: String,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let invalid = || Refusal::invalid("Error while parsing filter.");
        let (name, rest) = text.split_once('=').ok_or_else(invalid)?;
        let (name, prefix) = name.strip_suffix('^').map_or((name, false), |name| (name, true));
        let value = rest.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(invalid)?;
        let name = name.trim().trim_matches('"');
        let known = [
            "username",
            "email",
            "phone_number",
            "name",
            "given_name",
            "family_name",
            "preferred_username",
            "cognito:user_status",
            "status",
            "sub",
        ];
        if !known.contains(&name) {
            return Err(invalid());
        }
        Ok(Self { name: name.to_owned(), prefix, value: value.replace("\\\"", "\"") })
    }

    fn fits(&self, user: &User) -> bool {
        let actual = match self.name.as_str() {
            "username" => Some(user.username.as_str()),
            "sub" => Some(user.sub.as_str()),
            "cognito:user_status" => Some(user.status.as_str()),
            "status" => Some(if user.enabled { "Enabled" } else { "Disabled" }),
            other => user.attributes.get(other).map(String::as_str),
        };
        let (Some(actual), wanted) = (actual.map(str::to_lowercase), self.value.to_lowercase()) else { return false };
        if self.prefix { actual.starts_with(&wanted) } else { actual == wanted }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_filter_has_one_clause() {
        let attributes = BTreeMap::from([("email".to_owned(), "Alice@example.com".to_owned())]);
        let user = User::new("alice", Status::Confirmed, attributes, Timestamp::from_seconds(1));
        let fits = |text: &str| Filter::parse(text).unwrap().fits(&user);
        assert!(fits(r#"email = "alice@example.com""#) && fits(r#"username ^= "al""#) && fits(r#"status="Enabled""#));
        assert!(fits(r#"cognito:user_status = "confirmed""#));
        assert!(!fits(r#"email = "alice""#) && !fits(r#"name = "x""#));
        for text in ["", "email", "email = alice", r#"secret = "x""#] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let entries = || ["a", "b", "c"].map(|name| (name.to_owned(), json!(name))).into_iter();
        let (first, next) = page(entries(), Some(2), None).unwrap();
        assert_eq!((first, next.as_deref()), (vec![json!("a"), json!("b")], Some("b")));
        let (second, next) = page(entries(), Some(2), next.as_deref()).unwrap();
        assert_eq!((second, next), (vec![json!("c")], None));
        assert!(page(entries(), Some(61), None).is_err());
    }
}
