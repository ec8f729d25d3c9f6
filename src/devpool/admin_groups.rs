//! Operations of administrators on groups.

use serde::Deserialize;
use serde_json::{Value, json};

use super::admin_users::{date, description, page, with_next};
use super::directory;
use super::records::{Group, Pool};
use super::refusal::{Exception, Refusal};
use super::service::{Service, new_group};
use super::store::{GROUPS, Lookup, USERS};
use super::validate::Checks;
use crate::clock::Timestamp;

/// The request of operations on a user and a group.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Membership {
    user_pool_id: String,
    username: String,
    group_name: String,
}

/// The request of operations that only name a group.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OneGroup {
    user_pool_id: String,
    group_name: String,
    limit: Option<u64>,
    next_token: Option<String>,
}

/// The request of `API_CreateGroup`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateGroup {
    user_pool_id: String,
    group_name: String,
    description: Option<String>,
    precedence: Option<u64>,
}

/// The request of `API_ListGroups` and, with a user, of `API_AdminListGroupsForUser`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListGroups {
    user_pool_id: String,
    username: Option<String>,
    limit: Option<u64>,
    next_token: Option<String>,
}

/// `API_AdminAddUserToGroup`. Tokens have the group from the next sign-in or refresh on.
///
/// # Errors
/// UserNotFound, ResourceNotFound for the group.
pub(super) fn add_user(service: &Service, request: Membership, now: Timestamp) -> Result<Value, Refusal> {
    change_membership(service, &request, true, now)
}

/// `API_AdminRemoveUserFromGroup`.
///
/// # Errors
/// UserNotFound, ResourceNotFound for the group.
pub(super) fn remove_user(service: &Service, request: Membership, now: Timestamp) -> Result<Value, Refusal> {
    change_membership(service, &request, false, now)
}

/// `API_AdminListGroupsForUser`.
///
/// # Errors
/// UserNotFound.
pub(super) fn of_user(service: &Service, request: ListGroups, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let username = request.username.as_deref().ok_or_else(|| super::validate::missing("Username"))?;
    let user = directory::user(&tables, &pool, username)?;
    let groups = tables.scan(GROUPS, &directory::key(&pool.id, ""))?.into_iter().map(|(_, group)| group);
    let groups = groups.filter(|group| user.groups.contains(&group.name));
    let (page, next) = page(
        groups.map(|group| (group.name.clone(), shown(&pool, &group))),
        request.limit,
        request.next_token.as_deref(),
    )?;
    Ok(with_next(json!({ "Groups": page }), "NextToken", next))
}

/// `API_CreateGroup`.
///
/// # Errors
/// GroupExists, InvalidParameter.
pub(super) fn create(service: &Service, request: CreateGroup, now: Timestamp) -> Result<Value, Refusal> {
    Checks::default().length("groupName", &request.group_name, 1, 128).finish()?;
    service.store.write(|tables| {
        let pool = directory::pool(tables, &request.user_pool_id)?;
        let at = directory::key(&pool.id, &request.group_name);
        if tables.get(GROUPS, &at)?.is_some() {
            return Err(Refusal::new(Exception::GroupExists, "A group with the name already exists."));
        }
        let group = Group {
            description: request.description,
            precedence: request.precedence,
            ..new_group(&request.group_name, now)
        };
        tables.put(GROUPS, &at, &group)?;
        Ok(json!({ "Group": shown(&pool, &group) }))
    })
}

/// `API_GetGroup`.
///
/// # Errors
/// ResourceNotFound.
pub(super) fn get(service: &Service, request: OneGroup, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    Ok(json!({ "Group": shown(&pool, &directory::group(&tables, &pool, &request.group_name)?) }))
}

/// `API_DeleteGroup`: its users are no longer in it.
///
/// # Errors
/// ResourceNotFound.
pub(super) fn delete(service: &Service, request: OneGroup, _now: Timestamp) -> Result<Value, Refusal> {
    service.store.write(|tables| {
        let pool = directory::pool(tables, &request.user_pool_id)?;
        let group = directory::group(tables, &pool, &request.group_name)?;
        for (_, mut user) in tables.scan(USERS, &directory::key(&pool.id, ""))? {
            if user.groups.remove(&group.name) {
                directory::save_user(tables, &pool, &user)?;
            }
        }
        tables.remove(GROUPS, &directory::key(&pool.id, &group.name))?;
        Ok(Value::Null)
    })
}

/// `API_ListGroups`.
///
/// # Errors
/// ResourceNotFound for the pool.
pub(super) fn list(service: &Service, request: ListGroups, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let groups = tables.scan(GROUPS, &directory::key(&pool.id, ""))?.into_iter();
    let groups = groups.map(|(_, group)| (group.name.clone(), shown(&pool, &group)));
    let (page, next) = page(groups, request.limit, request.next_token.as_deref())?;
    Ok(with_next(json!({ "Groups": page }), "NextToken", next))
}

/// `API_ListUsersInGroup`.
///
/// # Errors
/// ResourceNotFound.
pub(super) fn users(service: &Service, request: OneGroup, _now: Timestamp) -> Result<Value, Refusal> {
    let tables = service.store.read()?;
    let pool = directory::pool(&tables, &request.user_pool_id)?;
    let group = directory::group(&tables, &pool, &request.group_name)?;
    let users = tables.scan(USERS, &directory::key(&pool.id, ""))?.into_iter().map(|(_, user)| user);
    let users = users.filter(|user| user.groups.contains(&group.name)).map(|user| {
        let shown = description(&user);
        (user.username, shown)
    });
    let (page, next) = page(users, request.limit, request.next_token.as_deref())?;
    Ok(with_next(json!({ "Users": page }), "NextToken", next))
}

fn change_membership(service: &Service, request: &Membership, member: bool, now: Timestamp) -> Result<Value, Refusal> {
    service.store.write(|tables| {
        let pool = directory::pool(tables, &request.user_pool_id)?;
        let mut user = directory::user(tables, &pool, &request.username)?;
        let group = directory::group(tables, &pool, &request.group_name)?;
        let changed = if member { user.groups.insert(group.name) } else { user.groups.remove(&group.name) };
        if changed {
            user.modified = now.millis();
            directory::save_user(tables, &pool, &user)?;
        }
        Ok(Value::Null)
    })
}

/// `API_GroupType`.
fn shown(pool: &Pool, group: &Group) -> Value {
    let mut shown = json!({
        "GroupName": group.name,
        "UserPoolId": pool.id,
        "CreationDate": date(group.created),
        "LastModifiedDate": date(group.modified),
    });
    if let Some(members) = shown.as_object_mut() {
        members.extend(group.description.as_ref().map(|text| ("Description".to_owned(), json!(text))));
        members.extend(group.precedence.map(|number| ("Precedence".to_owned(), json!(number))));
    }
    shown
}
