//! The pools behind the HTTP server: what an operation works with.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::records::{Client, Group, Pool, Status, User};
use super::refusal::{Exception, Refusal};
use super::sessions::Sessions;
use super::store::{CLIENTS, FAMILIES, GROUPS, Lookup, POOLS, Store};
use super::{Error, directory, keys, password};
use crate::clock::Timestamp;
use crate::config;
use crate::secret::{Secret, random_id};

/// The state of all pools of one server. Its methods block; operations run on blocking threads.
pub(super) struct Service {
    pub store: Store,
    pub sessions: Sessions,
    /// Of this server, without a trailing slash.
    base_url: String,
    /// The region in the ids of pools that are created.
    pub region: String,
    rings: Mutex<HashMap<String, (String, Arc<keys::Ring>)>>,
}

impl Service {
    /// Opens the store and brings the configured pool about: keys, app clients, seed users. What is
    /// there already stays as it is.
    ///
    /// # Errors
    /// When the store or the key generator fails, or a seed user's password breaks the policy.
    pub(super) fn open(
        pool: &config::Pool,
        data: Option<&Path>,
        users: &[config::SeedUser],
        base_url: String,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let service = Self {
            store: Store::open(data)?,
            sessions: Sessions::default(),
            base_url,
            region: pool.id.region.clone(),
            rings: Mutex::default(),
        };
        service.ensure_pool(pool, now)?;
        for seed in users {
            service.ensure_user(&pool.id.to_string(), seed, now)?;
        }
        service.maintain(now)?;
        Ok(service)
    }

    /// The `iss` of a pool's tokens, and the URL below which its key set is.
    pub(super) fn issuer(&self, pool: &str) -> String {
        format!("{}/{pool}", self.base_url)
    }

    /// The keys of a pool. They are parsed once and again after each rotation.
    ///
    /// # Errors
    /// InternalErrorException when a stored key cannot be read.
    pub(super) fn ring(&self, pool: &Pool) -> Result<Arc<keys::Ring>, Refusal> {
        let newest = pool.keys.last().map(|key| key.kid.clone()).unwrap_or_default();
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ring)) = rings.get(&pool.id).filter(|(kid, _)| *kid == newest) {
            return Ok(Arc::clone(ring));
        }
        let ring = keys::Ring::load(pool).map_err(|error| {
            tracing::error!(%error, pool = pool.id, "the embedded pool cannot use its keys");
            Refusal::new(Exception::InternalError, "An internal error occurred.")
        })?;
        let ring = Arc::new(ring);
        rings.insert(pool.id.clone(), (newest, Arc::clone(&ring)));
        Ok(ring)
    }

    /// Gives a pool new signing keys; the old ones stay in the key set for a day.
    ///
    /// # Errors
    /// When the pool is unknown, or the store or the generator fails.
    pub(super) fn rotate(&self, id: &str, now: Timestamp) -> Result<(), Error> {
        self.store.write(|tables| {
            let mut pool = tables.get(POOLS, id)?.ok_or_else(|| Error::UnknownPool(id.to_owned()))?;
            keys::rotate(&mut pool, now)?;
            Ok(tables.put(POOLS, id, &pool)?)
        })
    }

    /// What has to be done from time to time: rotates keys that are old, forgets families of
    /// refresh tokens whose last access token has expired.
    ///
    /// # Errors
    /// When the store or the key generator fails.
    pub(super) fn maintain(&self, now: Timestamp) -> Result<(), Error> {
        let pools = self.store.read()?.scan(POOLS, "")?;
        for (id, _) in pools.iter().filter(|(_, pool)| keys::due(pool, now)) {
            self.rotate(id, now)?;
            tracing::info!(pool = %id, "the embedded pool has new signing keys");
        }
        let over = self.store.read()?.scan(FAMILIES, "")?.into_iter();
        let over = over.filter(|(_, family)| Timestamp::from_millis(family.expires).after(keys::OVERLAP) <= now);
        let over: Vec<String> = over.map(|(at, _)| at).collect();
        if over.is_empty() {
            return Ok(());
        }
        self.store.write(|tables| Ok(over.iter().try_for_each(|at| tables.remove(FAMILIES, at))?))
    }

    fn ensure_pool(&self, configured: &config::Pool, now: Timestamp) -> Result<(), Error> {
        let id = configured.id.to_string();
        self.store.write(|tables| {
            if tables.get(POOLS, &id)?.is_none() {
                let mut pool = new_pool(&id, &configured.name, now);
                keys::rotate(&mut pool, now)?;
                tables.put(POOLS, &id, &pool)?;
            }
            let further = configured.clients.iter().filter(|client| **client != configured.client_id);
            for client_id in std::iter::once(&configured.client_id).chain(further) {
                let existing = tables.get(CLIENTS, client_id)?;
                let mut client = existing.unwrap_or_else(|| configured_client(client_id, &id, &configured.name, now));
                client.pool.clone_from(&id);
                if *client_id == configured.client_id {
                    // The file has the last word on the secret that the gateway is going to use.
                    client.secret.clone_from(&configured.client_secret);
                }
                tables.put(CLIENTS, client_id, &client)?;
            }
            Ok(())
        })
    }

    fn ensure_user(&self, pool: &str, seed: &config::SeedUser, now: Timestamp) -> Result<(), Error> {
        let tables = self.store.read()?;
        let pool = tables.get(POOLS, pool)?.ok_or_else(|| Error::UnknownPool(pool.to_owned()))?;
        if directory::find_user(&tables, &pool, &seed.username)?.is_some() {
            return Ok(());
        }
        password::check_policy(&pool.policy, seed.password.expose())
            .map_err(|refusal| Error::SeedPassword(seed.username.clone(), refusal.text.into_owned()))?;
        let mut attributes = BTreeMap::new();
        if let Some(email) = &seed.email {
            attributes.insert("email".to_owned(), email.clone());
            attributes.insert("email_verified".to_owned(), "true".to_owned());
        }
        let mut user = User::new(&seed.username, Status::Confirmed, attributes, now);
        user.credentials = Some(password::credentials(&pool, &user.username, seed.password.expose()));
        user.groups.extend(seed.groups.iter().cloned());
        self.store.write(|tables| {
            for name in &seed.groups {
                let at = directory::key(&pool.id, name);
                if tables.get(GROUPS, &at)?.is_none() {
                    tables.put(GROUPS, &at, &new_group(name, now))?;
                }
            }
            Ok(directory::save_user(tables, &pool, &user)?)
        })
    }
}

/// A pool with the defaults of CreateUserPool, without keys.
pub(super) fn new_pool(id: &str, name: &str, now: Timestamp) -> Pool {
    Pool {
        id: id.to_owned(),
        name: name.to_owned(),
        created: now.millis(),
        policy: super::records::Policy::default(),
        email_alias: false,
        self_sign_up: true,
        keys: Vec::new(),
        token_key: Secret::new(random_id::<32>()),
        phantom_key: Secret::new(random_id::<32>()),
    }
}

/// A group without description.
pub(super) fn new_group(name: &str, now: Timestamp) -> Group {
    Group { name: name.to_owned(), description: None, precedence: None, created: now.millis(), modified: now.millis() }
}

/// An app client as the console makes one, with the flows that the gateway can use.
fn configured_client(id: &str, pool: &str, name: &str, now: Timestamp) -> Client {
    let flows = ["ALLOW_USER_SRP_AUTH", "ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"];
    Client {
        flows: flows.map(str::to_owned).to_vec(),
        hides_users: true,
        ..Client::new(id.to_owned(), pool, name, now)
    }
}
