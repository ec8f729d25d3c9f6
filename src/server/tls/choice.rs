//! Which certificate a client gets.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificates::Certificate;

/// The certificates of a listener, by name. There may be several for one name, of different kinds of
/// keys.
#[derive(Debug)]
pub(super) struct Choice {
    keys: Vec<Arc<CertifiedKey>>,
    /// Places in `keys`.
    exact: HashMap<String, Vec<usize>>,
    /// The same by what follows the `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Choice {
    pub(super) fn new<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> Self {
        let mut choice = Self { keys: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (at, certificate) in certificates.enumerate() {
            choice.keys.push(Arc::clone(&certificate.key));
            for name in &certificate.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut choice.wildcard, rest),
                    None => (&mut choice.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_default().push(at);
            }
        }
        choice
    }

    /// The first that the client can verify, of those with the exact name, else of those with a
    /// wildcard for it (RFC 9525 §6.3), else of all: then it is for the client to say whether it
    /// likes the name.
    fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let name = name.unwrap_or_default();
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        match self.exact.get(name).or_else(wildcard) {
            Some(places) => {
                let mut named = places.iter().filter_map(|at| self.keys.get(*at));
                let first = named.clone().next();
                named.find(fits).or(first)
            }
            None => self.keys.iter().find(fits).or(self.keys.first()),
        }
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has it in lower case and has made sure that it is a host name.
        self.find(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::testing::Issued;

    const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const ED25519: SignatureScheme = SignatureScheme::ED25519;

    fn chosen(choice: &Choice, name: Option<&str>, schemes: &[SignatureScheme]) -> usize {
        let found = choice.find(name, schemes).unwrap();
        choice.keys.iter().position(|key| Arc::ptr_eq(key, found)).unwrap()
    }

    #[test]
    fn exact_names_then_wildcards_then_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let make = |names: &[&str]| Issued::new(names).certificate(folder.path());
        let all = [make(&["first.example"]), make(&["*.example.org"]), make(&["app.example.org", "example.org"])];
        let choice = Choice::new(all.iter());
        for (name, expected) in [
            (Some("first.example"), 0),
            (Some("app.example.org"), 2),
            (Some("other.example.org"), 1),
            (Some("example.org"), 2),
            (Some("a.b.example.org"), 0),
            (Some("unknown.example"), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(&choice, name, &[ECDSA]), expected, "{name:?}");
        }
    }

    #[test]
    fn among_those_of_a_name_the_first_that_the_client_can_verify() {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            Issued::new(&["a.example"]).certificate(folder.path()),
            Issued::with(&["a.example"], &rcgen::PKCS_ED25519).certificate(folder.path()),
        ];
        let choice = Choice::new(all.iter());
        assert_eq!(chosen(&choice, Some("a.example"), &[ECDSA, ED25519]), 0);
        assert_eq!(chosen(&choice, Some("a.example"), &[ED25519]), 1);
        assert_eq!(chosen(&choice, None, &[ED25519]), 1);
        assert_eq!(
            chosen(&choice, Some("a.example"), &[SignatureScheme::RSA_PSS_SHA256]),
            0,
            "the handshake will fail"
        );
    }
}
