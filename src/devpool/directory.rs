//! Finding and keeping pools, app clients and users, with their indexes.

use super::names;
use super::records::{Client, Family, Group, Pool, User};
use super::refusal::Refusal;
use super::store::{CLIENTS, EMAILS, Error, FAMILIES, GROUPS, Lookup, POOLS, SUBS, USERS, Write};

/// The key of something that belongs to a pool.
pub(super) fn key(pool: &str, name: &str) -> String {
    format!("{pool}/{name}")
}

/// The pool with an id.
///
/// # Errors
/// ResourceNotFoundException.
pub(super) fn pool(tables: &impl Lookup, id: &str) -> Result<Pool, Refusal> {
    tables.get(POOLS, id)?.ok_or_else(|| Refusal::pool_not_found(id))
}

/// The app client with an id, and its pool.
///
/// # Errors
/// ResourceNotFoundException.
pub(super) fn client(tables: &impl Lookup, id: &str) -> Result<(Client, Pool), Refusal> {
    let client = tables.get(CLIENTS, id)?.ok_or_else(|| Refusal::client_not_found(id))?;
    let pool = pool(tables, &client.pool)?;
    Ok((client, pool))
}

/// All app clients of a pool.
///
/// # Errors
/// When the store fails.
pub(super) fn clients(tables: &impl Lookup, pool: &Pool) -> Result<Vec<Client>, Error> {
    let all = tables.scan(CLIENTS, "")?.into_iter().map(|(_, client)| client);
    Ok(all.filter(|client| client.pool == pool.id).collect())
}

/// The user whom somebody means who typed `name`: a user name in any case, or an alias.
///
/// # Errors
/// When the store fails.
pub(super) fn find_user(tables: &impl Lookup, pool: &Pool, name: &str) -> Result<Option<User>, Error> {
    let name = names::canonical(name);
    if let Some(user) = tables.get(USERS, &key(&pool.id, &name))? {
        return Ok(Some(user));
    }
    match tables.get(EMAILS, &key(&pool.id, &name))? {
        Some(username) => tables.get(USERS, &key(&pool.id, &username)),
        None => Ok(None),
    }
}

/// The same for those who may know: administrators.
///
/// # Errors
/// UserNotFoundException.
pub(super) fn user(tables: &impl Lookup, pool: &Pool, name: &str) -> Result<User, Refusal> {
    find_user(tables, pool, name)?.ok_or_else(Refusal::user_not_found)
}

/// The user with a `sub`.
///
/// # Errors
/// When the store fails.
pub(super) fn user_by_sub(tables: &impl Lookup, pool: &Pool, sub: &str) -> Result<Option<User>, Error> {
    match tables.get(SUBS, &key(&pool.id, sub))? {
        Some(username) => tables.get(USERS, &key(&pool.id, &username)),
        None => Ok(None),
    }
}

/// Whether another user has this one's verified e-mail address as an alias.
///
/// # Errors
/// When the store fails.
pub(super) fn alias_taken(tables: &impl Lookup, pool: &Pool, user: &User) -> Result<bool, Error> {
    let Some(alias) = user.alias().filter(|_| pool.email_alias) else { return Ok(false) };
    let owner = tables.get(EMAILS, &key(&pool.id, &alias))?;
    Ok(owner.is_some_and(|owner| owner != user.username))
}

/// Writes a new or changed user and everything by which they are found.
///
/// # Errors
/// When the store fails.
pub(super) fn save_user(transaction: &Write, pool: &Pool, user: &User) -> Result<(), Error> {
    let at = key(&pool.id, &user.username);
    if pool.email_alias {
        let before = transaction.get(USERS, &at)?.and_then(|before| before.alias());
        if let Some(old) = before.filter(|old| user.alias().as_ref() != Some(old)) {
            transaction.remove(EMAILS, &key(&pool.id, &old))?;
        }
        if let Some(alias) = user.alias() {
            transaction.put(EMAILS, &key(&pool.id, &alias), &user.username)?;
        }
    }
    transaction.put(SUBS, &key(&pool.id, &user.sub), &user.username)?;
    transaction.put(USERS, &at, user)
}

/// Removes a user, their aliases and their tokens.
///
/// # Errors
/// When the store fails.
pub(super) fn remove_user(transaction: &Write, pool: &Pool, user: &User) -> Result<(), Error> {
    if let Some(alias) = user.alias().filter(|_| pool.email_alias) {
        transaction.remove(EMAILS, &key(&pool.id, &alias))?;
    }
    for (at, _) in families(transaction, pool, user)? {
        transaction.remove(FAMILIES, &at)?;
    }
    transaction.remove(SUBS, &key(&pool.id, &user.sub))?;
    transaction.remove(USERS, &key(&pool.id, &user.username))
}

/// The key of a family of refresh tokens.
pub(super) fn family_key(pool: &str, sub: &str, family: &str) -> String {
    format!("{pool}/{sub}/{family}")
}

/// Revokes every token of a user.
///
/// # Errors
/// When the store fails.
pub(super) fn sign_out(transaction: &Write, pool: &Pool, user: &User) -> Result<(), Error> {
    for (at, family) in families(transaction, pool, user)? {
        if !family.revoked {
            transaction.put(FAMILIES, &at, &Family { revoked: true, ..family })?;
        }
    }
    Ok(())
}

/// A group of a pool.
///
/// # Errors
/// ResourceNotFoundException.
pub(super) fn group(tables: &impl Lookup, pool: &Pool, name: &str) -> Result<Group, Refusal> {
    tables.get(GROUPS, &key(&pool.id, name))?.ok_or_else(Refusal::group_not_found)
}

fn families(tables: &impl Lookup, pool: &Pool, user: &User) -> Result<Vec<(String, Family)>, Error> {
    tables.scan(FAMILIES, &family_key(&pool.id, &user.sub, ""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::keys;
    use super::super::records::Status;
    use super::super::store::Store;
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_user_is_found_by_name_in_any_case_by_sub_and_by_alias() {
        let store = Store::open(None).unwrap();
        let pool = Pool { email_alias: true, ..keys::tests::pool() };
        let attributes = BTreeMap::from(
            [("email", "A@Example.com"), ("email_verified", "true")].map(|(name, value)| (name.into(), value.into())),
        );
        let mut user = User::new("Alice", Status::Confirmed, attributes, Timestamp::from_seconds(1));
        store.write(|transaction| save_user(transaction, &pool, &user)).unwrap();
        let tables = store.read().unwrap();
        let found = |name: &str| find_user(&tables, &pool, name).unwrap().map(|user| user.sub);
        assert_eq!(found("ALICE").as_ref(), Some(&user.sub));
        assert_eq!(found("a@example.COM").as_ref(), Some(&user.sub));
        assert_eq!(found("bob"), None);
        assert!(user_by_sub(&tables, &pool, &user.sub).unwrap().is_some());

        let other = User { username: "bob".to_owned(), ..user.clone() };
        assert!(alias_taken(&tables, &pool, &other).unwrap());
        assert!(!alias_taken(&tables, &pool, &user).unwrap());

        user.attributes.insert("email".to_owned(), "new@example.com".to_owned());
        store.write(|transaction| save_user(transaction, &pool, &user)).unwrap();
        let tables = store.read().unwrap();
        assert!(find_user(&tables, &pool, "a@example.com").unwrap().is_none(), "the old alias is gone");
        assert!(find_user(&tables, &pool, "new@example.com").unwrap().is_some());

        store.write(|transaction| remove_user(transaction, &pool, &user)).unwrap();
        let tables = store.read().unwrap();
        assert!(find_user(&tables, &pool, "new@example.com").unwrap().is_none());
        assert!(user_by_sub(&tables, &pool, &user.sub).unwrap().is_none());
    }
}
