//! What a client's connection travels in, and which hosts it may ask for because of that.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;

/// What the bytes of a connection travel in.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Nothing: plain TCP.
    Plain,
    /// TLS, with what its handshake settled.
    Tls(Arc<TlsSession>),
    /// Plain TCP to an address whose every answer is a redirect to `https` at this port.
    Redirect(u16),
}

impl Transport {
    /// The session, where there is TLS.
    pub fn tls(&self) -> Option<&TlsSession> {
        match self {
            Self::Tls(session) => Some(session),
            Self::Plain | Self::Redirect(_) => None,
        }
    }
}

/// What a TLS handshake settled.
#[derive(Debug, Default)]
pub struct TlsSession {
    /// `1.2` or `1.3`, for the access log.
    pub version: &'static str,
    /// The verified client certificate, as a `Client-Cert` header has it (RFC 9440 §2.1).
    pub client_certificate: Option<HeaderValue>,
    /// Whom it was given to, in the form of [`crate::distinguished_name`].
    pub client_subject: Option<Arc<str>>,
    /// The hosts that may be asked for over this connection. Other certificates than those of its
    /// handshake may be in force by now, and other listeners.
    pub zone: Arc<ArcSwap<Zone>>,
}

/// The hosts of all listeners that ask the same of clients' certificates. A connection whose client
/// met the demands of one zone must not reach a host of another (RFC 9110 §7.4).
#[derive(Debug, Default)]
pub struct Zone {
    own: HostNames,
    foreign: HostNames,
}

impl Zone {
    /// From the names in the certificates of the zone, and from those in the certificates of all others.
    pub fn new(own: HostNames, foreign: HostNames) -> Self {
        Self { own, foreign }
    }

    /// Whether a host, in normal form, may be asked for here: it is one of the zone, or of none. As when
    /// a certificate is chosen, a name counts for more than a wildcard.
    pub fn contains(&self, host: &str) -> bool {
        // Mostly there is one zone, and nothing to look up.
        match self.foreign.covers(host) {
            None => true,
            foreign => self.own.covers(host) >= foreign,
        }
    }
}

/// Host names as certificates have them: exact, or `*.example.com` for one more label (RFC 9525 §6.3).
#[derive(Clone, Debug, Default)]
pub struct HostNames {
    exact: HashSet<String>,
    wildcard: HashSet<String>,
}

/// How a host is one of several names. The later counts for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cover {
    /// By a wildcard.
    Wildcard,
    /// By its own name.
    Exact,
}

impl HostNames {
    /// How a host in normal form is one of them, if it is.
    pub fn covers(&self, host: &str) -> Option<Cover> {
        if self.exact.contains(host) {
            return Some(Cover::Exact);
        }
        let wildcard =
            !self.wildcard.is_empty() && host.split_once('.').is_some_and(|(_, rest)| self.wildcard.contains(rest));
        wildcard.then_some(Cover::Wildcard)
    }
}

impl<'a> Extend<&'a str> for HostNames {
    fn extend<T: IntoIterator<Item = &'a str>>(&mut self, names: T) {
        for name in names {
            match name.strip_prefix("*.") {
                Some(rest) => self.wildcard.insert(rest.to_owned()),
                None => self.exact.insert(name.to_owned()),
            };
        }
    }
}

impl<'a> FromIterator<&'a str> for HostNames {
    fn from_iter<T: IntoIterator<Item = &'a str>>(names: T) -> Self {
        let mut all = Self::default();
        all.extend(names);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&'static str]) -> HostNames {
        names.iter().copied().collect()
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let names = names(&["example.com", "*.example.com"]);
        assert_eq!(names.covers("example.com"), Some(Cover::Exact));
        assert_eq!(names.covers("a.example.com"), Some(Cover::Wildcard));
        for other in ["a.b.example.com", "example.org", "com", "", "*.com", "aexample.com"] {
            assert_eq!(names.covers(other), None, "{other}");
        }
    }

    #[test]
    fn a_zone_has_its_own_hosts_and_those_of_nobody() {
        let zone = Zone::new(
            names(&["a.example", "*.shared.example"]),
            names(&["b.example", "x.shared.example", "*.shared.example", "a.example"]),
        );
        for (host, here) in [
            ("a.example", true),
            ("unknown.example", true),
            ("y.shared.example", true),
            ("x.shared.example", false),
            ("b.example", false),
        ] {
            assert_eq!(zone.contains(host), here, "{host}");
        }
        assert!(Zone::default().contains("b.example"), "one zone has every host");
    }
}
