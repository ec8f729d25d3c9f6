//! Whether there is something new to read.
//!
//! What counts is content, not times: Kubernetes swaps symbolic links, editors write beside the file
//! and rename, others write in place. So the files are read again and their digests compared, every
//! [`INTERVAL`]; a change counts once two looks in a row, [`SETTLE`] apart, saw the same. A file that
//! somebody writes more slowly than that is read half-written; the half is then refused or, where it
//! makes sense on its own, used: whoever writes by hand should write beside the file and rename.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::sleep;

/// Between two looks.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// For this long a change must stand still.
pub const SETTLE: Duration = Duration::from_millis(250);

/// What the configuration file and the files of its secrets held at one time, as digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents(Vec<Seen>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    /// Bytes that are looked at.
    limit: u64,
    /// `None`: it could not be read.
    digest: Option<[u8; 32]>,
}

impl Contents {
    /// Of one file, of which everything was read.
    pub(super) fn of(path: &Path, bytes: Option<&[u8]>) -> Self {
        let mut contents = Self::default();
        contents.note(path, u64::MAX, bytes);
        contents
    }

    /// One more file, of which at most `limit` bytes were read.
    pub(super) fn note(&mut self, path: &Path, limit: u64, bytes: Option<&[u8]>) {
        self.0.push(Seen { path: path.to_owned(), limit, digest: bytes.map(sha256) });
    }

    /// The files of both.
    pub(super) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// What the same files hold now. Blocks while they are read.
    #[must_use]
    pub fn look_again(&self) -> Self {
        let look = |seen: &Seen| {
            let mut bytes = Vec::new();
            let read = File::open(&seen.path).and_then(|file| file.take(seen.limit).read_to_end(&mut bytes));
            Seen { digest: read.ok().map(|_| sha256(&bytes)), ..seen.clone() }
        };
        Self(self.0.iter().map(look).collect())
    }
}

/// Waits until `look` sees something else than what is `known`, and sees it again after [`SETTLE`].
pub async fn changed<F>(known: impl Fn() -> Contents, mut look: impl FnMut(Contents) -> F)
where
    F: Future<Output = Contents>,
{
    loop {
        sleep(INTERVAL).await;
        let before = known();
        let mut seen = look(before.clone()).await;
        while seen != before {
            sleep(SETTLE).await;
            let next = look(before.clone()).await;
            if next == seen {
                return;
            }
            seen = next;
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest_bytes = [0; 32];
    digest_bytes.copy_from_slice(digest(&SHA256, bytes).as_ref());
    digest_bytes
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;
    use crate::config;

    fn of(text: &str) -> Contents {
        Contents::of(Path::new("f"), Some(text.as_bytes()))
    }

    /// When a change is reported if successive looks see these texts, the last one for ever.
    async fn reported_after(looks: &[&str]) -> Duration {
        let (begun, index) = (Instant::now(), Cell::new(0));
        let look = |_| {
            let seen = looks[index.get().min(looks.len() - 1)];
            index.set(index.get() + 1);
            std::future::ready(of(seen))
        };
        changed(|| of("old"), look).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_when_it_stands_still() {
        assert_eq!(reported_after(&["new"]).await, INTERVAL + SETTLE);
        assert_eq!(reported_after(&["old", "old", "new"]).await, 3 * INTERVAL + SETTLE);
        assert_eq!(reported_after(&["n", "ne", "new"]).await, INTERVAL + 3 * SETTLE);
        // Written and taken back before it stood still.
        assert_eq!(reported_after(&["n", "old", "new"]).await, 2 * INTERVAL + 2 * SETTLE);
    }

    #[test]
    fn the_file_and_its_secrets_count_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (file, secret) = (folder.path().join("p.toml"), folder.path().join("secret"));
        let text = "version = 1\nlistener = [{ address = \"127.0.0.1:1\" }]\n\
             pool.main = { id = \"eu-west-1_AbC123xyz\", client_id = \"c\", client_secret = { file = \"secret\" } }\n";
        std::fs::write(&file, text).unwrap();
        std::fs::write(&secret, "one\n").unwrap();
        let (loaded, contents) = config::load_and_note(&file, &|_| None);
        assert!(loaded.is_ok());
        std::fs::write(folder.path().join("other"), "x").unwrap();
        // The same bytes in another file at this place are no change.
        std::fs::write(folder.path().join("beside"), text).unwrap();
        std::fs::rename(folder.path().join("beside"), &file).unwrap();
        assert_eq!(contents.look_again(), contents);
        std::fs::write(&secret, "two\n").unwrap();
        assert_ne!(contents.look_again(), contents);
        std::fs::write(&secret, "one\n").unwrap();
        std::fs::write(&file, "version = 2\n").unwrap();
        assert_ne!(contents.look_again(), contents);
    }

    #[test]
    fn what_cannot_be_used_is_not_looked_at_as_new_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let (file, secret) = (folder.path().join("p.toml"), folder.path().join("secret"));
        let absent = config::load_and_note(&file, &|_| None).1;
        assert_eq!(absent.look_again(), absent);
        for (text, key) in [("version = 2", "x"), ("not TOML", "x")] {
            std::fs::write(&file, text).unwrap();
            std::fs::write(&secret, key).unwrap();
            let (loaded, contents) = config::load_and_note(&file, &|_| None);
            assert!(loaded.is_err());
            assert_eq!(contents.look_again(), contents);
        }
        let pool = "version = 1\npool.main = { id = \"x\", client_secret = { file = \"secret\" } }\n";
        std::fs::write(&file, pool).unwrap();
        for bytes in [&b"\xff"[..], &[b'x'; 100_000]] {
            std::fs::write(&secret, bytes).unwrap();
            let contents = config::load_and_note(&file, &|_| None).1;
            assert_eq!(contents.look_again(), contents);
            std::fs::remove_file(&secret).unwrap();
            assert_ne!(contents.look_again(), contents);
        }
    }
}
