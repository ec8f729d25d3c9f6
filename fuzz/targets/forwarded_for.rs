//! The client's address from `X-Forwarded-For`, held against a slow reading of the same rule. The
//! first byte says whether the peer is trusted; the rest are the header's lines.
#![no_main]

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::http::{Peer, TrustedProxies, X_FORWARDED_FOR, client_addr};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let networks = vec!["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let trusted = TrustedProxies { networks, unix: true };
    let peer = match first % 4 {
        0 => Peer::Unix,
        1 => Peer::Unknown,
        2 => Peer::from([10, 0, 2, *first]),
        _ => Peer::from([192, 0, 2, *first]),
    };
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n').take(8) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(X_FORWARDED_FOR, value);
    }
    let client = client_addr(peer, &headers, &trusted);
    assert_eq!(client.ip(), client.ip().map(|address| address.to_canonical()));
    if !trusted.contains(peer) {
        assert_eq!(client, peer, "nobody else is believed");
        return;
    }

    // All hops as one list, nearest first, each with what it says or `None` where that is no address.
    let mut hops = Vec::new();
    for line in headers.get_all(X_FORWARDED_FOR).iter().collect::<Vec<_>>().into_iter().rev() {
        match line.to_str() {
            Ok(line) => hops.extend(line.split(',').rev().map(|hop| address(hop.trim()))),
            Err(_) => hops.push(None),
        }
    }
    let vouched: Vec<Peer> = hops.into_iter().map_while(|hop| hop).map(Peer::Ip).collect();
    let expected = vouched.iter().find(|hop| !trusted.contains(**hop)).or(vouched.last()).copied().unwrap_or(peer);
    assert_eq!(client, expected);
});

/// An address, `address:port`, `[address]` or `[address]:port`.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.parse::<IpAddr>().ok();
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    bare.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}
