//! Who is at the other end of a client's connection, and whose word about others counts.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// Where a client is, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// At an address. IPv4-mapped IPv6 addresses are IPv4 ones; `From` sees to that.
    Ip(IpAddr),
    /// On this machine, at the other end of a unix socket.
    Unix,
    /// Behind a proxy that did not say where.
    Unknown,
}

impl Peer {
    /// The address, where there is one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix | Self::Unknown => None,
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }
}

/// The octets of an IPv4 address.
impl From<[u8; 4]> for Peer {
    fn from(octets: [u8; 4]) -> Self {
        Self::Ip(octets.into())
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        address.ip().into()
    }
}

/// The address, `unix:` (as nginx has it) or `unknown` (as RFC 7239 §6.2 has it).
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ip(address) => address.serialize(serializer),
            Self::Unix | Self::Unknown => serializer.collect_str(self),
        }
    }
}

/// Peers whose word about other peers is believed. By default nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Those at an address in one of these.
    pub networks: Vec<IpNet>,
    /// Those at the other end of a unix socket.
    pub unix: bool,
}

impl TrustedProxies {
    /// Whether a peer is one of them. Of whom nothing is known never is.
    pub fn contains(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(address) => self.networks.iter().any(|network| network.contains(&address)),
            Peer::Unix => self.unix,
            Peer::Unknown => false,
        }
    }
}

/// The client: the peer, unless the peer is a trusted proxy; then the rightmost hop of
/// `X-Forwarded-For` that is not one. A hop that cannot be read ends the walk at the last one that
/// was vouched for.
pub fn client_addr(peer: Peer, headers: &HeaderMap, trusted: &TrustedProxies) -> Peer {
    let mut client = peer;
    if !trusted.contains(client) {
        return client;
    }
    let lines: Vec<&HeaderValue> = headers.get_all(&X_FORWARDED_FOR).iter().collect();
    for line in lines.iter().rev() {
        let Ok(line) = line.to_str() else { return client };
        for hop in line.rsplit(',') {
            let Some(address) = parse_hop(hop.trim()) else { return client };
            client = address.into();
            if !trusted.contains(client) {
                return client;
            }
        }
    }
    client
}

/// `X-Forwarded-For`, the de-facto list of hops.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One hop: an address, in brackets or not, with or without a port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    hop.parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|value| (X_FORWARDED_FOR, HeaderValue::from_static(value))).collect()
    }

    fn peer(address: &str) -> Peer {
        address.parse::<IpAddr>().unwrap().into()
    }

    fn trusted(unix: bool) -> TrustedProxies {
        TrustedProxies { networks: vec!["10.0.0.0/8".parse().unwrap()], unix }
    }

    #[test]
    fn forwarded_for_is_believed_from_trusted_peers_only_and_right_to_left() {
        let client = |address: &str, line: &'static str| {
            client_addr(peer(address), &headers(&[line]), &trusted(false)).to_string()
        };
        assert_eq!(client("192.0.2.1", "203.0.113.9"), "192.0.2.1", "an untrusted peer is the client");
        assert_eq!(client("10.0.0.1", "203.0.113.9"), "203.0.113.9");
        assert_eq!(client("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(client("10.0.0.1", "203.0.113.9, nonsense, 10.0.0.2"), "10.0.0.2", "the walk stops");
        assert_eq!(client("10.0.0.1", "[2001:db8::1]:443"), "2001:db8::1");
        assert_eq!(client("10.0.0.1", "203.0.113.9:1234"), "203.0.113.9");
        assert_eq!(client("::ffff:10.0.0.1", "203.0.113.9"), "203.0.113.9", "mapped addresses are IPv4");
        assert_eq!(client("10.0.0.1", "::ffff:203.0.113.9, ::ffff:10.0.0.2"), "203.0.113.9");
    }

    #[test]
    fn several_lines_are_one_list() {
        let two = headers(&["203.0.113.9", "10.0.0.7"]);
        assert_eq!(client_addr(peer("10.0.0.1"), &two, &trusted(false)), peer("203.0.113.9"));
    }

    #[test]
    fn a_unix_socket_is_trusted_only_when_it_is_named() {
        let client = |peer, unix, lines| client_addr(peer, &headers(lines), &trusted(unix)).to_string();
        assert_eq!(client(Peer::Unix, false, &["203.0.113.9"]), "unix:");
        assert_eq!(client(Peer::Unix, true, &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(Peer::Unix, true, &["203.0.113.9, unix:"]), "unix:", "a word that is no address");
        assert_eq!(client(Peer::Unix, true, &[]), "unix:");
        assert_eq!(client(Peer::Unknown, true, &["203.0.113.9"]), "unknown");
    }

    #[test]
    fn peers_are_written_as_text() {
        for (peer, text) in [(peer("::1"), "\"::1\""), (Peer::Unix, "\"unix:\""), (Peer::Unknown, "\"unknown\"")] {
            assert_eq!(serde_json::to_string(&peer).unwrap(), text);
        }
    }
}
