//! Certificates for tests.

use std::path::Path;

use super::{Certificate, Slot};
use crate::clock::Timestamp;
use crate::config::{self, Place};

/// A self-signed certificate and its key, as PEM.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Issued {
    pub(crate) fn new(names: &[&str]) -> Self {
        Self::with(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub(crate) fn with(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        Self::of(rcgen::CertificateParams::new(names).unwrap(), algorithm)
    }

    pub(crate) fn of(wanted: rcgen::CertificateParams, algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        Self { chain: wanted.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    /// Writes both as `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> config::CertificateFiles {
        let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&chain, &self.chain).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        config::CertificateFiles { chain, key, place: Place::default() }
    }

    /// The same, loaded.
    pub(crate) fn certificate(&self, folder: &Path) -> Certificate {
        let config = self.write(folder, "site");
        Slot::<Certificate>::read(&config, None, Timestamp::from_seconds(0)).unwrap().good
    }
}
