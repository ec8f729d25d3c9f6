//! The copy of a key set on disk: it lets the gateway start while the endpoint is down.
//!
//! The document is kept as it came and goes through the same parser again. The file says for which
//! address and issuers it is, so that a copy of another pool is never taken.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::document::{self, Document, DocumentError, MAX_DOCUMENT};
use crate::clock::Timestamp;
use crate::config::Pool;
use crate::json::{JsonError, strict_parse};
use crate::secret::random_id;

/// Largest file: a document whose every byte was escaped, and the rest.
const MAX_FILE: u64 = 6 * MAX_DOCUMENT as u64 + 64 * 1024;

/// The shape of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    url: String,
    issuers: Vec<String>,
    fetched_at_ms: u64,
    document: String,
}

/// Why a copy was not taken or not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("the file cannot be used")]
    Io(#[from] io::Error),
    #[error("the file is larger than {MAX_FILE} bytes")]
    TooLarge,
    #[error("the file is broken")]
    Json(#[from] JsonError),
    #[error("the file has another shape")]
    Shape(#[from] serde_json::Error),
    #[error("the file is of another version or for another pool")]
    OtherPool,
    #[error("the copy is from the future")]
    Future,
    #[error("the copied document is broken")]
    Document(#[from] DocumentError),
}

/// Reads the copy at `path`, and when it was fetched. `None`: there is none yet.
///
/// # Errors
/// When there is a file that is not a sound copy of this pool's key set.
pub(super) async fn read(path: &Path, pool: &Pool, now: Timestamp) -> Result<Option<(Document, Timestamp)>, DiskError> {
    let file = match File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(DiskError::TooLarge);
    }
    let stored: Stored = serde_json::from_value(strict_parse(&bytes, 4)?)?;
    if stored.version != 1 || stored.url != pool.jwks || stored.issuers != pool.issuers {
        return Err(DiskError::OtherPool);
    }
    let fetched = Timestamp::from_millis(stored.fetched_at_ms);
    // With such a date the copy would look fresh for longer than `stale`.
    if fetched > now {
        return Err(DiskError::Future);
    }
    Ok(Some((document::parse(stored.document.as_bytes())?, fetched)))
}

/// Replaces the copy at `path` at once: a reader sees the old file or the new one, whole.
///
/// # Errors
/// When the file system refuses; the old copy is still there then.
pub(super) async fn write(path: &Path, pool: &Pool, document: &str, now: Timestamp) -> Result<(), DiskError> {
    let stored = Stored {
        version: 1,
        url: pool.jwks.clone(),
        issuers: pool.issuers.clone(),
        fetched_at_ms: now.millis(),
        document: document.to_owned(),
    };
    let bytes = serde_json::to_vec(&stored)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).await?;
    }
    let temporary = temporary(path);
    let written = async {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        // Whoever may write this file may sign in as anybody.
        #[cfg(unix)]
        options.mode(0o600);
        let mut file = options.open(&temporary).await?;
        file.write_all(&bytes).await?;
        file.sync_all().await?;
        fs::rename(&temporary, path).await
    };
    if let Err(error) = written.await {
        // It may not have been made at all; the first error is the one that matters.
        let _removed = fs::remove_file(&temporary).await.is_ok();
        return Err(error.into());
    }
    Ok(())
}

/// A name beside `path` that no other process picks.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", random_id::<9>()));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::testing;
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/jwks.json");
        let pool = testing::pool();
        assert!(read(&path, &pool, testing::NOW).await.unwrap().is_none());

        for document in [testing::jwks(&["k1"]), testing::jwks(&["k1", "k2"])] {
            write(&path, &pool, &document, testing::NOW).await.unwrap();
            let (read, fetched) = read(&path, &pool, testing::NOW).await.unwrap().unwrap();
            assert_eq!(read, document::parse(document.as_bytes()).unwrap());
            assert_eq!(fetched, testing::NOW);
        }
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_sound_copy_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        let pool = testing::pool();
        write(&path, &pool, &testing::jwks(&["k1"]), testing::NOW).await.unwrap();
        let good = std::fs::read_to_string(&path).unwrap();

        let mut other = pool.clone();
        other.jwks.push('x');
        assert!(matches!(read(&path, &other, testing::NOW).await, Err(DiskError::OtherPool)));
        let mut other = pool.clone();
        other.issuers.pop();
        assert!(matches!(read(&path, &other, testing::NOW).await, Err(DiskError::OtherPool)));
        let earlier = Timestamp::from_millis(testing::NOW.millis() - 1);
        assert!(matches!(read(&path, &pool, earlier).await, Err(DiskError::Future)));

        let half = good.get(..good.len() / 2).unwrap().to_owned();
        for (text, what) in [
            (half, "cut off"),
            (String::new(), "empty"),
            (good.replace(r#""version":1"#, r#""version":2"#), "another version"),
            (good.replace(r#""version":1"#, r#""version":1,"more":1"#), "an unknown member"),
            (good.replace(r#""version":1"#, r#""version":1,"version":1"#), "a member twice"),
            (good.replace("RSA", "oct"), "no usable key"),
        ] {
            assert_ne!(text, good);
            std::fs::write(&path, text).unwrap();
            assert!(read(&path, &pool, testing::NOW.after(Duration::from_secs(1))).await.is_err(), "{what}");
        }
        std::fs::write(&path, vec![b' '; MAX_FILE as usize + 1]).unwrap();
        assert!(matches!(read(&path, &pool, testing::NOW).await, Err(DiskError::TooLarge)));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn only_the_owner_may_write_it() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        write(&path, &testing::pool(), &testing::jwks(&["k1"]), testing::NOW).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(folder.path(), &testing::pool(), "{}", testing::NOW).await.is_err(), "a folder is in the way");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
