//! One file, or a piece of memory, in which everything of the embedded pools stands.
//!
//! Every change is one redb transaction: it is there whole or not at all, also after `kill -9`.
//! Values are JSON, so that a later version can add members with defaults; `FORMAT` changes only
//! when old values could not be read any more.

use std::fs::OpenOptions;
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::{Client, Family, Group, Message, Pool, User};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process works on the file; two at once would not see each other's changes.
    #[error("{0} is in use by another process: the embedded pool's data belongs to one process at a time")]
    InUse(PathBuf),
    /// The file is not a database, or is damaged.
    #[error("{path} is not a readable pool database; move it away to start with an empty pool")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// The file cannot be made or opened.
    #[error("{path} cannot be opened")]
    Open {
        /// The file or its directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file was written by a version of Portcullis that stores other values.
    #[error("the pool database has format {found}, this version reads format {FORMAT}")]
    Format {
        /// The number in the file.
        found: u32,
    },
    /// Reading or writing failed.
    #[error("the pool database failed")]
    Database(#[source] Box<redb::Error>),
    /// A stored value is not what it should be.
    #[error("a value in the pool database cannot be read")]
    Value(#[from] serde_json::Error),
}

/// The format of the values in the file.
const FORMAT: u32 = 1;

/// Bytes of the file that are kept in memory at most; redb would take a gigabyte.
const CACHE: usize = 8 << 20;

/// A table of records of one type, by text keys.
pub(super) struct Table<T> {
    name: &'static str,
    record: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T> Table<T> {
    const fn new(name: &'static str) -> Self {
        Self { name, record: PhantomData }
    }

    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.name)
    }
}

/// What holds for the file: `format`.
const META: Table<u32> = Table::new("meta");
/// User pools by id.
pub(super) const POOLS: Table<Pool> = Table::new("pools");
/// App clients by id.
pub(super) const CLIENTS: Table<Client> = Table::new("clients");
/// Users by `pool/canonical name`.
pub(super) const USERS: Table<User> = Table::new("users");
/// Canonical names by `pool/sub`.
pub(super) const SUBS: Table<String> = Table::new("subs");
/// Canonical names by `pool/verified e-mail address`, in pools where it is an alias.
pub(super) const EMAILS: Table<String> = Table::new("emails");
/// Groups by `pool/name`.
pub(super) const GROUPS: Table<Group> = Table::new("groups");
/// Families of refresh tokens by `pool/sub/origin_jti`.
pub(super) const FAMILIES: Table<Family> = Table::new("families");
/// Sent messages by a number that grows.
pub(super) const MESSAGES: Table<Message> = Table::new("messages");

/// The database.
pub(super) struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes the file, readable by its owner only since it holds signing keys; without a
    /// path everything stays in memory.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let database = match path {
            Some(path) => open_file(path)?,
            None => Database::builder().create_with_backend(InMemoryBackend::new()).map_err(failed)?,
        };
        let store = Self { database };
        store.write(|transaction| {
            let format = transaction.get(META, "format")?.unwrap_or(FORMAT);
            if format != FORMAT {
                return Err(Error::Format { found: format });
            }
            transaction.put(META, "format", &FORMAT)?;
            // A read transaction cannot open a table that was never made.
            transaction.make(POOLS)?;
            transaction.make(CLIENTS)?;
            transaction.make(USERS)?;
            transaction.make(SUBS)?;
            transaction.make(EMAILS)?;
            transaction.make(GROUPS)?;
            transaction.make(FAMILIES)?;
            transaction.make(MESSAGES)
        })?;
        Ok(store)
    }

    /// A consistent view of the present state.
    pub(super) fn read(&self) -> Result<Read, Error> {
        Ok(Read(self.database.begin_read().map_err(failed)?))
    }

    /// Runs `change` in a transaction, which is on disk when this returns `Ok` and never happened
    /// when it returns `Err`. Changes wait for each other.
    pub(super) fn write<R, E: From<Error>>(&self, change: impl FnOnce(&Write) -> Result<R, E>) -> Result<R, E> {
        let transaction = Write(self.database.begin_write().map_err(failed)?);
        let result = change(&transaction)?;
        transaction.0.commit().map_err(failed)?;
        Ok(result)
    }
}

/// What can be asked inside of a transaction of either kind.
pub(super) trait Lookup {
    /// The record under a key.
    fn get<T: DeserializeOwned>(&self, table: Table<T>, key: &str) -> Result<Option<T>, Error>;
    /// All records whose keys start with `prefix`, in the order of the keys.
    fn scan<T: DeserializeOwned>(&self, table: Table<T>, prefix: &str) -> Result<Vec<(String, T)>, Error>;
}

/// A read transaction.
pub(super) struct Read(ReadTransaction);

impl Lookup for Read {
    fn get<T: DeserializeOwned>(&self, table: Table<T>, key: &str) -> Result<Option<T>, Error> {
        get(&self.0.open_table(table.definition()).map_err(failed)?, key)
    }

    fn scan<T: DeserializeOwned>(&self, table: Table<T>, prefix: &str) -> Result<Vec<(String, T)>, Error> {
        scan(&self.0.open_table(table.definition()).map_err(failed)?, prefix)
    }
}

/// A write transaction.
pub(super) struct Write(WriteTransaction);

impl Lookup for Write {
    fn get<T: DeserializeOwned>(&self, table: Table<T>, key: &str) -> Result<Option<T>, Error> {
        get(&self.0.open_table(table.definition()).map_err(failed)?, key)
    }

    fn scan<T: DeserializeOwned>(&self, table: Table<T>, prefix: &str) -> Result<Vec<(String, T)>, Error> {
        scan(&self.0.open_table(table.definition()).map_err(failed)?, prefix)
    }
}

impl Write {
    /// Sets the record under a key.
    pub(super) fn put<T: Serialize>(&self, table: Table<T>, key: &str, record: &T) -> Result<(), Error> {
        let bytes = serde_json::to_vec(record)?;
        let mut open = self.0.open_table(table.definition()).map_err(failed)?;
        open.insert(key, bytes.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Removes the record under a key, if there is one.
    pub(super) fn remove<T>(&self, table: Table<T>, key: &str) -> Result<(), Error> {
        let mut open = self.0.open_table(table.definition()).map_err(failed)?;
        open.remove(key).map_err(failed)?;
        Ok(())
    }

    fn make<T>(&self, table: Table<T>) -> Result<(), Error> {
        self.0.open_table(table.definition()).map_err(failed)?;
        Ok(())
    }
}

fn get<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, Error> {
    let Some(value) = table.get(key).map_err(failed)? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(value.value())?))
}

fn scan<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    prefix: &str,
) -> Result<Vec<(String, T)>, Error> {
    let mut found = Vec::new();
    for entry in table.range(prefix..).map_err(failed)? {
        let (key, value) = entry.map_err(failed)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_owned(), serde_json::from_slice(value.value())?));
    }
    Ok(found)
}

fn open_file(path: &Path) -> Result<Database, Error> {
    let cannot = |source| Error::Open { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(cannot)?;
    }
    // Made here, because redb would make it readable for everybody.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(cannot)?;
    let damaged = |source| Error::Damaged { path: path.to_owned(), source: Box::new(source) };
    // Without the check redb trusts the structure of its pages, and panics over broken ones.
    let opened = Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true).create(path);
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Error::InUse(path.to_owned()),
        other => damaged(other.into()),
    })
}

fn failed(error: impl Into<redb::Error>) -> Error {
    Error::Database(Box::new(error.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_failed_change_leaves_nothing_behind() {
        let store = Store::open(None).unwrap();
        let outcome: Result<(), Error> = store.write(|transaction| {
            transaction.put(SUBS, "p/1", &"alice".to_owned())?;
            Err(Error::Format { found: 9 })
        });
        assert!(outcome.is_err());
        assert_eq!(store.read().unwrap().get(SUBS, "p/1").unwrap(), None);
    }

    #[test]
    fn a_scan_ends_where_the_prefix_ends() {
        let store = Store::open(None).unwrap();
        store
            .write(|transaction| {
                ["p/2", "p/1", "p0/1", "q/1"].iter().try_for_each(|key| transaction.put(SUBS, key, &"x".to_owned()))
            })
            .unwrap();
        let keys: Vec<String> =
            store.read().unwrap().scan(SUBS, "p/").unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["p/1", "p/2"]);
    }

    #[test]
    fn records_outlive_the_process_and_the_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/pool.redb");
        let store = Store::open(Some(&path)).unwrap();
        store.write(|transaction| transaction.put(SUBS, "p/1", &"alice".to_owned())).unwrap();
        drop(store);
        let store = Store::open(Some(&path)).unwrap();
        assert_eq!(store.read().unwrap().get(SUBS, "p/1").unwrap().as_deref(), Some("alice"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.redb");
        let _first = Store::open(Some(&path)).unwrap();
        assert!(matches!(Store::open(Some(&path)), Err(Error::InUse(_))));
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.redb");
        std::fs::write(&path, "not a database".repeat(1000)).unwrap();
        assert!(matches!(Store::open(Some(&path)), Err(Error::Damaged { .. })));
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("not a database"));
    }

    #[test]
    fn a_file_that_was_cut_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.redb");
        drop(Store::open(Some(&path)).unwrap());
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let Err(error) = Store::open(Some(&path)) else { panic!("half a file is not a pool") };
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    }

    #[test]
    fn a_file_with_broken_bytes_is_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.redb");
        let store = Store::open(Some(&path)).unwrap();
        let fill = |transaction: &Write| {
            (0..200).try_for_each(|number| transaction.put(SUBS, &format!("p/{number}"), &"x".repeat(50)))
        };
        store.write(fill).unwrap();
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for start in (0..whole.len()).step_by(whole.len() / 100) {
            let mut bytes = whole.clone();
            bytes.iter_mut().skip(start).take(16).for_each(|byte| *byte ^= 0xff);
            std::fs::write(&path, &bytes).unwrap();
            match Store::open(Some(&path)) {
                Ok(store) => assert_eq!(store.read().unwrap().scan(SUBS, "").unwrap().len(), 200, "at {start}"),
                Err(Error::Damaged { .. }) => refused += 1,
                Err(other) => panic!("at {start}: {other:?}"),
            }
        }
        assert!(refused > 10, "{refused}");
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.redb");
        let store = Store::open(Some(&path)).unwrap();
        store.write(|transaction| transaction.put(META, "format", &2)).unwrap();
        drop(store);
        assert!(matches!(Store::open(Some(&path)), Err(Error::Format { found: 2 })));
    }
}
