//! Certificates, keys and authorities: from files to what rustls works with, for listeners and for
//! upstreams, and new contents without a restart.

mod der;
mod slot;
#[cfg(test)]
pub(crate) mod testing;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::{self as crypto, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::config::{CertificateFiles, Place};
use slot::Digest;

pub(crate) use slot::Slot;

/// No chain and no list of authorities is larger.
const MOST: u64 = 4 << 20;

/// A file that TLS cannot be served with.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct Error {
    /// Which file.
    pub path: PathBuf,
    /// Where the configuration names it.
    pub place: Place,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is larger than any chain is.
    #[error("larger than 4 MiB")]
    TooLarge,
    /// It is no PEM file.
    #[error("not valid PEM")]
    Pem(#[source] pem::Error),
    /// There is none in it.
    #[error("has no certificate in PEM form")]
    NoCertificate,
    /// There is none in it that can be used; one under a password cannot.
    #[error("has no private key in PEM form that is not encrypted")]
    NoKey,
    /// A certificate in it is damaged.
    #[error("the certificate is damaged")]
    Damaged,
    /// Not RSA, ECDSA or Ed25519.
    #[error("a private key of a kind that TLS has no use for")]
    KeyKind(#[source] rustls::Error),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// A new certificate that is no good any more does not take the place of one that is.
    #[error("the certificate has expired")]
    Expired,
    /// It has certificates that cannot vouch for others.
    #[error("not usable as a certificate authority")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// What rustls signs with.
    pub(crate) key: Arc<CertifiedKey>,
    /// The host names it is for.
    pub(crate) names: Vec<String>,
    /// How metrics and logs call it: its first name, or else its file.
    pub(crate) label: Arc<str>,
    /// The last second of its life.
    pub(crate) not_after: Timestamp,
}

impl Certificate {
    /// Takes chain and key, which have to belong together.
    fn parse(files: &CertificateFiles, content: &Content) -> Result<Self, Error> {
        let of_chain = |why| Error { path: files.chain.clone(), place: files.place.clone(), why };
        let of_key = |why| Error { path: files.key.clone(), place: files.place.clone(), why };
        let chain = certificates(&content.first).map_err(of_chain)?;
        let key = PrivateKeyDer::from_pem_slice(&content.second).map_err(|error| match error {
            pem::Error::NoItemsFound => of_key(Why::NoKey),
            error => of_key(Why::Pem(error)),
        })?;
        let key = provider().key_provider.load_private_key(key).map_err(|error| of_key(Why::KeyKind(error)))?;
        let facts = chain.first().and_then(|first| der::facts(first)).ok_or_else(|| of_chain(Why::Damaged))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(of_key(Why::Mismatch)),
            Err(_) => return Err(of_chain(Why::Damaged)),
        }
        let file = || files.chain.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let label = facts.names.first().cloned().unwrap_or_else(file);
        Ok(Self { key: Arc::new(key), names: facts.names, label: label.into(), not_after: facts.not_after })
    }
}

/// Whom a certificate was given to, as text in the form that `access` rules are held against.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    der::subject(certificate).map(Arc::from)
}

/// Every certificate of the file has to be fit to vouch for others.
fn authorities(path: &Path, place: &Place, content: &Content) -> Result<Arc<RootCertStore>, Error> {
    let error = |why| Error { path: path.to_owned(), place: place.clone(), why };
    let mut store = RootCertStore::empty();
    for certificate in certificates(&content.first).map_err(error)? {
        store.add(certificate).map_err(|cause| error(Why::Authority(cause.into())))?;
    }
    Ok(Arc::new(store))
}

/// The one provider of cryptography for TLS. The first key exchange is also safe from those who
/// record today and have a quantum computer later.
pub(crate) fn provider() -> CryptoProvider {
    let exchanges: Vec<&'static dyn SupportedKxGroup> =
        vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    CryptoProvider { kx_groups: exchanges, ..crypto::default_provider() }
}

/// What stands in a file, or in two that belong together.
struct Content {
    first: Zeroizing<Vec<u8>>,
    second: Zeroizing<Vec<u8>>,
}

impl Content {
    /// Of a chain and its key.
    fn of_pair(files: &CertificateFiles) -> Result<Self, Error> {
        Ok(Self { first: read(&files.chain, &files.place)?, second: read(&files.key, &files.place)? })
    }

    fn of_one(path: &Path, place: &Place) -> Result<Self, Error> {
        Ok(Self { first: read(path, place)?, second: Zeroizing::default() })
    }

    /// Tells one content from another without keeping a key.
    fn digest(&self) -> Digest {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in [&self.first, &self.second] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }
}

fn read(path: &Path, place: &Place) -> Result<Zeroizing<Vec<u8>>, Error> {
    let error = |why| Error { path: path.to_owned(), place: place.clone(), why };
    let mut content = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut content));
    match read {
        Ok(length) if length as u64 > MOST => Err(error(Why::TooLarge)),
        Ok(_) => Ok(content),
        Err(cause) => Err(error(Why::Unreadable(cause))),
    }
}

/// The certificates of a PEM file, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Why> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(Why::Pem)?;
    if all.is_empty() { Err(Why::NoCertificate) } else { Ok(all) }
}
