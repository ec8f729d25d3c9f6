//! What was read from files, and how new contents take its place.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;

use super::{Certificate, Content, Error, Why, authorities};
use crate::clock::Timestamp;
use crate::config::{CertificateFiles, Place};

/// SHA-256 of contents.
pub(super) type Digest = [u8; 32];

/// A thing from files, and what is known of the files' contents.
#[derive(Clone, Debug)]
pub(crate) struct Slot<T> {
    /// The thing.
    pub(crate) good: T,
    digest: Digest,
    /// A content that was refused, and whether the log has it. A file that is being replaced beside
    /// another does not fit for a moment: only what is still so at the next look is worth a line.
    refused: Option<(Option<Digest>, bool)>,
}

impl Slot<Certificate> {
    /// Reads a certificate and its key. What is `in_use` goes on while the contents are the same.
    ///
    /// # Errors
    /// When they are no good; or have expired, and would take the place of what is in use.
    pub(crate) fn read(files: &CertificateFiles, in_use: Option<&Self>, now: Timestamp) -> Result<Self, Error> {
        let content = Content::of_pair(files)?;
        let good = match in_use {
            Some(slot) if slot.digest == content.digest() => slot.good.clone(),
            Some(_) => replacement(files, &content, now)?,
            None => Certificate::parse(files, &content)?,
        };
        Ok(Self { good, digest: content.digest(), refused: None })
    }

    /// Reads them again, and takes what is new and good. Whether there was such.
    pub(crate) fn look(&mut self, files: &CertificateFiles, now: Timestamp) -> bool {
        self.replace(&files.chain, Content::of_pair(files), |content| replacement(files, content, now))
    }
}

impl Slot<Arc<RootCertStore>> {
    /// Reads the authorities in a file.
    ///
    /// # Errors
    /// When it has none, or one that cannot vouch for others.
    pub(crate) fn read(path: &Path, place: &Place) -> Result<Self, Error> {
        let content = Content::of_one(path, place)?;
        Ok(Self { good: authorities(path, place, &content)?, digest: content.digest(), refused: None })
    }

    /// Reads them again, and takes what is new and good. Whether there was such.
    pub(crate) fn look(&mut self, path: &Path, place: &Place) -> bool {
        self.replace(path, Content::of_one(path, place), |content| authorities(path, place, content))
    }

    /// Whether both were read from the same content.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl<T> Slot<T> {
    /// Takes what is good. Of what is not, a line says so the second time.
    fn replace(
        &mut self,
        path: &Path,
        read: Result<Content, Error>,
        parse: impl FnOnce(&Content) -> Result<T, Error>,
    ) -> bool {
        let digest = read.as_ref().ok().map(Content::digest);
        if digest == Some(self.digest) {
            self.refused = None;
            return false;
        }
        if self.refused == Some((digest, true)) {
            return false;
        }
        match read.and_then(|content| Ok((parse(&content)?, content.digest()))) {
            Ok((good, digest)) => {
                tracing::info!(path = %path.display(), "new TLS files are in use");
                *self = Self { good, digest, refused: None };
                true
            }
            Err(error) => {
                let again = self.refused == Some((digest, false));
                if again {
                    tracing::warn!(%error, "new TLS files are refused; the old ones stay in use");
                }
                self.refused = Some((digest, again));
                false
            }
        }
    }
}

/// What takes the place of a certificate that is in use.
fn replacement(files: &CertificateFiles, content: &Content, now: Timestamp) -> Result<Certificate, Error> {
    let new = Certificate::parse(files, content)?;
    let expired = || Error { path: files.chain.clone(), place: files.place.clone(), why: Why::Expired };
    if new.not_after < now { Err(expired()) } else { Ok(new) }
}
