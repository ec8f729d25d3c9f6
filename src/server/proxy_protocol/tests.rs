use proptest::prelude::*;

use super::*;

/// Reads as a connection does: what is needed, in pieces of at most `piece`. Returns the outcome and how
/// many bytes were taken.
fn read(bytes: &[u8], piece: usize) -> (Result<Progress, Malformed>, usize) {
    let mut taken = 0;
    loop {
        match parse(&bytes[..taken]) {
            Ok(Progress::Need(more)) if taken < bytes.len() => {
                assert!(more > 0);
                taken = (taken + more.min(piece)).min(bytes.len());
            }
            outcome => return (outcome, taken),
        }
    }
}

fn tcp(source: &str, destination: &str) -> Header {
    Header::Tcp { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// Version 2 with this command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x20 | command, family][..], &length, rest].concat()
}

/// 203.0.113.9:50000 to 192.0.2.1:443.
const V4: &[u8] = &[203, 0, 113, 9, 192, 0, 2, 1, 0xc3, 0x50, 0x01, 0xbb];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

fn complete(bytes: &[u8]) -> Result<Header, Malformed> {
    match parse(bytes)? {
        Progress::Complete(header) => Ok(header),
        Progress::Need(more) => panic!("{more} more than {:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn version_1() {
    let line = |text: &str| complete(format!("PROXY {text}\r\n").as_bytes());
    assert_eq!(line("TCP4 203.0.113.9 192.0.2.1 50000 443"), Ok(tcp("203.0.113.9:50000", "192.0.2.1:443")));
    assert_eq!(line("TCP4 0.0.0.0 0.0.0.0 0 0"), Ok(tcp("0.0.0.0:0", "0.0.0.0:0")), "the shortest of IPv4");
    assert_eq!(line("TCP6 :: :: 0 0"), Ok(tcp("[::]:0", "[::]:0")), "the shortest of IPv6");
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = line(&format!("TCP6 {full} {full} 65535 65535"));
    assert_eq!(longest, Ok(tcp(&format!("[{full}]:65535"), &format!("[{full}]:65535"))));
    for unknown in ["UNKNOWN".to_owned(), format!("UNKNOWN {full} {full} 65535 65535"), "UNKNOWN what ever".to_owned()]
    {
        assert_eq!(line(&unknown), Ok(Header::Unknown));
    }
    assert_eq!(format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n").len(), LONGEST_LINE);
}

#[test]
fn lines_that_two_readers_would_read_differently_are_none() {
    for text in [
        "TCP4 203.0.113.9 192.0.2.1 50000",
        "TCP4 203.0.113.9 192.0.2.1 50000 443 1",
        "TCP4  203.0.113.9 192.0.2.1 50000 443",
        "TCP4 203.0.113.9 192.0.2.1 50000 443 ",
        "TCP4 203.0.113.009 192.0.2.1 50000 443",
        "TCP4 203.0.113 192.0.2.1 50000 443",
        "TCP4 2001:db8::1 2001:db8::2 50000 443",
        "TCP6 203.0.113.9 192.0.2.1 50000 443",
        "TCP6 [2001:db8::1] [2001:db8::2] 50000 443",
        "TCP6 fe80::1%eth0 fe80::2%eth0 50000 443",
        "TCP4 203.0.113.9 192.0.2.1 +50000 443",
        "TCP4 203.0.113.9 192.0.2.1 050000 443",
        "TCP4 203.0.113.9 192.0.2.1 65536 443",
        "TCP4 203.0.113.9 192.0.2.1 50000 -1",
        "TCP4\t203.0.113.9 192.0.2.1 50000 443",
        "tcp4 203.0.113.9 192.0.2.1 50000 443",
        "UDP4 203.0.113.9 192.0.2.1 50000 443",
        "UNKNOWNX and more of it",
        "TCP4 203.0.113.9\r192.0.2.1 50000 443",
        "TCP4 203.0.113.9 192.0.2.\u{e9} 50000 443",
    ] {
        assert_eq!(read(format!("PROXY {text}\r\n").as_bytes(), 1000).0, Err(Malformed::Line), "{text:?}");
    }
    assert_eq!(read(b"PROXY TCP4 203.0.113.9 192.0.2.1 50000 443\nGET", 1000).0, Err(Malformed::Line), "a bare LF");
    assert_eq!(read(format!("PROXY UNKNOWN{}", " x".repeat(60)).as_bytes(), 1000).0, Err(Malformed::Line), "no end");
    let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE));
    let (outcome, taken) = read(endless.as_bytes(), 1000);
    assert_eq!(outcome, Err(Malformed::Line));
    assert!(taken <= LONGEST_LINE);
}

#[test]
fn version_2() {
    assert_eq!(complete(&v2(1, 0x11, V4)), Ok(tcp("203.0.113.9:50000", "192.0.2.1:443")));
    let mut v6 = [0; 36];
    v6[..2].copy_from_slice(&[0x20, 0x01]);
    v6[31] = 1;
    v6[32..].copy_from_slice(&[0, 80, 1, 0]);
    assert_eq!(complete(&v2(1, 0x21, &v6)), Ok(tcp("[2001::]:80", "[::1]:256")));
    for local in [v2(0, 0, b""), v2(0, 0x11, V4), v2(0, 0xff, b"anything")] {
        assert_eq!(complete(&local), Ok(Header::Local));
    }
    for unknown in [v2(1, 0, b""), v2(1, 0, b"anything"), v2(1, 0x31, &[b'/'; 216])] {
        assert_eq!(complete(&unknown), Ok(Header::Unknown));
    }
}

#[test]
fn version_2_has_defined_kinds_and_lengths_that_agree() {
    for (bytes, why) in [
        ([SIGNATURE, &[0x11, 0x11, 0, 12][..], V4].concat(), Malformed::Version),
        ([SIGNATURE, &[0x31, 0x11, 0, 12][..], V4].concat(), Malformed::Version),
        (v2(2, 0x11, V4), Malformed::Kind),
        (v2(1, 0x12, V4), Malformed::Kind),
        (v2(1, 0x10, V4), Malformed::Kind),
        (v2(1, 0x32, &[0; 216]), Malformed::Kind),
        (v2(1, 0x41, V4), Malformed::Kind),
        (v2(1, 0x11, &V4[..11]), Malformed::Length),
        (v2(1, 0x21, &[0; 35]), Malformed::Length),
        (v2(1, 0x31, &[0; 215]), Malformed::Length),
        (v2(1, 0x11, &[V4, &[1]].concat()), Malformed::Length),
        (v2(1, 0x11, &[V4, &[1, 0, 2, 0]].concat()), Malformed::Length),
        (v2(1, 0x11, &[0; LONGEST]), Malformed::Length),
        ([v2(1, 0x11, V4), b"G".to_vec()].concat(), Malformed::Length),
    ] {
        assert_eq!(parse(&bytes), Err(why), "{bytes:?}");
    }
    let large = v2(1, 0x11, &[V4, &tlv(0x04, &[0; LONGEST - FIXED - 12 - 3])].concat());
    assert_eq!(large.len(), LONGEST);
    assert!(complete(&large).is_ok());
}

#[test]
fn a_checksum_is_that_of_the_whole_header_with_zeros_in_its_place() {
    // RFC 3720 §B.4.
    assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xff; 32].into_iter()), 0x62a8_ab43);
    assert_eq!(crc32c(0..32), 0x46dd_794e);

    let with = |sum: &[u8]| {
        let extensions = [tlv(0x01, b"http/1.1"), tlv(TLV_CRC32C, sum), tlv(0x04, b"")].concat();
        v2(1, 0x11, &[V4, &extensions].concat())
    };
    let sum = crc32c(with(&[0; 4]).into_iter());
    let mut good = with(&sum.to_be_bytes());
    assert!(complete(&good).is_ok());
    good[16] ^= 1;
    assert_eq!(complete(&good), Err(Malformed::Checksum), "another address");
    assert_eq!(complete(&with(&[0; 4])), Err(Malformed::Checksum));
    assert_eq!(complete(&with(&[0; 3])), Err(Malformed::Length));
}

#[test]
fn another_protocol_is_told_at_its_first_other_byte() {
    for (bytes, first_other) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3),
        (b"\x16\x03\x01", 1),
        (b"PROXZ TCP4 ", 5),
        (b"proxy TCP4 ", 1),
        (b"\r\nGET / HTTP/1.1\r\n", 3),
        (b"\r\n\r\n\0\r\nQUIT\r", 12),
    ] {
        for cut in 0..bytes.len() {
            let expected = if cut < first_other { Ok(Progress::Need(SHORTEST - cut)) } else { Err(Malformed::Missing) };
            assert_eq!(parse(&bytes[..cut]), expected, "{:?}", String::from_utf8_lossy(&bytes[..cut]));
        }
    }
}

fn headers() -> impl Strategy<Value = (Vec<u8>, Header)> {
    let ports = (any::<u16>(), any::<u16>());
    let addresses = prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ];
    let extensions = proptest::collection::vec((4_u8.., proptest::collection::vec(any::<u8>(), 0..40)), 0..4);
    (addresses, ports, extensions, any::<bool>()).prop_map(|((a, b), (from, to), extensions, binary)| {
        let header = Header::Tcp { source: SocketAddr::new(a, from), destination: SocketAddr::new(b, to) };
        let family = if a.is_ipv4() { 4 } else { 6 };
        if !binary {
            return (format!("PROXY TCP{family} {a} {b} {from} {to}\r\n").into_bytes(), header);
        }
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        let extensions = extensions.iter().flat_map(|(kind, value)| tlv(*kind, value)).collect();
        let rest = [octets(a), octets(b), ports, extensions].concat();
        (v2(1, if family == 4 { 0x11 } else { 0x21 }, &rest), header)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut_and_nothing_behind_it(
        (bytes, header) in headers(),
        behind in proptest::collection::vec(any::<u8>(), 0..200),
        piece in 1_usize..50,
    ) {
        let all = [bytes.as_slice(), &behind].concat();
        prop_assert_eq!(read(&all, piece), (Ok(Progress::Complete(header)), bytes.len()));
        prop_assert_eq!(read(&all, usize::MAX), (Ok(Progress::Complete(header)), bytes.len()));
    }

    #[test]
    fn no_bytes_make_it_panic_take_too_much_or_wait_for_nothing(
        start in prop_oneof![Just(&b""[..]), Just(&b"PROXY "[..]), Just(&b"PROXY TCP4 "[..]), Just(&b"PROXY TCP6 ::"[..]),
                             Just(&b"PROXY UNKNOWN"[..]), Just(&SIGNATURE[..]), Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..])],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        piece in 1_usize..20,
    ) {
        let bytes = [start, &rest].concat();
        let (whole, taken) = read(&bytes, usize::MAX);
        let (cut, _) = read(&bytes, piece);
        prop_assert_eq!(whole.is_err(), cut.is_err());
        prop_assert!(taken <= LONGEST);
        if let Ok(Progress::Need(more)) = whole {
            prop_assert!(more > 0 && taken == bytes.len());
        }
    }
}
