//! The client's address from `X-Forwarded-For`, held against a slow reading of the same rule. The
//! first byte says whether the peer is trusted; the rest are the header's lines.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use http::header::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use portcullis::http::{X_FORWARDED_FOR, client_addr, is_trusted};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let peer = IpAddr::V4(Ipv4Addr::new(if first % 2 == 0 { 10 } else { 192 }, 0, 2, *first));
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n').take(8) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(X_FORWARDED_FOR, value);
    }
    let client = client_addr(peer, &headers, &trusted);
    assert_eq!(client, client.to_canonical());
    if !is_trusted(peer, &trusted) {
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
    let vouched: Vec<IpAddr> = hops.into_iter().map_while(|hop| hop).collect();
    let expected = vouched.iter().find(|hop| !is_trusted(**hop, &trusted)).or(vouched.last()).copied().unwrap_or(peer);
    assert_eq!(client, expected);
});

/// An address, `address:port`, `[address]` or `[address]:port`.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.parse::<IpAddr>().ok();
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    bare.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}
