//! The PROXY protocol, with which a proxy says whose connection it passes on ("The PROXY protocol,
//! versions 1 & 2", HAProxy Technologies, 2020; section numbers below are of that document).
//!
//! A pure function over bytes. It says how many more bytes the header has at least, so that whoever
//! reads them never takes one of what follows: a TLS handshake, or a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a complete header says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The proxy speaks for itself, for instance to see whether we are there (§2.2, LOCAL).
    Local,
    /// Somebody's connection, of whom the proxy does not say an address that means something here
    /// (§2.1 UNKNOWN, §2.2 AF_UNSPEC and AF_UNIX).
    Unknown,
    /// A client's connection over TCP.
    Tcp {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The start of a header, to which at least so many more bytes belong.
    Need(usize),
    /// A header, from the first byte to the last.
    Complete(Header),
}

/// Why bytes are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They begin with something else: the peer does not speak the protocol.
    #[error("no PROXY header")]
    Missing,
    /// A line of version 1 that does not end in time, has other fields, or other spellings of them.
    #[error("a line of version 1 that is none")]
    Line,
    /// Another version than 2 behind the signature of version 2.
    #[error("a version that is not known")]
    Version,
    /// A command, family or protocol of version 2 that is not defined, or is not for streams.
    #[error("a command or family that is not for TCP")]
    Kind,
    /// The lengths within a header of version 2 do not agree, or it is larger than [`LONGEST`].
    #[error("a header whose lengths do not agree")]
    Length,
    /// The checksum of a header of version 2 is that of another one.
    #[error("a wrong checksum")]
    Checksum,
}

/// Bytes of a header that is taken. The extensions in use take some hundreds.
pub const LONGEST: usize = 4096;

/// What no other protocol begins with (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2: signature, version and command, family, length.
const FIXED: usize = 16;
/// A line of version 1, with its CRLF (§2.1).
const LONGEST_LINE: usize = 107;
/// `PROXY UNKNOWN` and CRLF, the shortest header of all.
const SHORTEST: usize = 15;
/// The extension with a CRC32c (§2.2.3).
const TLV_CRC32C: u8 = 0x03;

/// Reads the first bytes of a connection.
///
/// Of `Need(n)`, the next `n` bytes may be read without taking any that does not belong to the header.
///
/// # Errors
/// When they cannot become a header.
pub fn parse(bytes: &[u8]) -> Result<Progress, Malformed> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted);
    if begins(SIGNATURE) {
        binary(bytes)
    } else if begins(b"PROXY ") {
        line(bytes)
    } else {
        Err(Malformed::Missing)
    }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some(shortest) = bytes.first_chunk::<SHORTEST>() else { return Ok(Progress::Need(SHORTEST - bytes.len())) };
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        // Two address fields of one character each, two ports, three blanks and the line's end.
        let least = match shortest.get(6..11) {
            Some(b"TCP4 ") => "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n".len(),
            Some(b"TCP6 ") => "PROXY TCP6 :: :: 0 0\r\n".len(),
            _ if shortest.get(6..13) == Some(b"UNKNOWN") => SHORTEST,
            _ => return Err(Malformed::Line),
        };
        let end = if bytes.ends_with(b"\r") { 1 } else { 2 };
        let more = least.saturating_sub(bytes.len()).max(end);
        return if bytes.len() + more > LONGEST_LINE { Err(Malformed::Line) } else { Ok(Progress::Need(more)) };
    };
    // What a reader that reads only what it needs never has behind the line.
    let text = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")).filter(|_| end + 1 == bytes.len());
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(Malformed::Line)?;
    if end + 1 > LONGEST_LINE {
        return Err(Malformed::Line);
    }
    let mut fields = text.split(' ').skip(1);
    let family = fields.next();
    if family == Some("UNKNOWN") {
        // What else stands in the line is to be ignored.
        return Ok(Progress::Complete(Header::Unknown));
    }
    let (Some(source), Some(destination), Some(from), Some(to), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed::Line);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(Into::into),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(Into::into),
            _ => None,
        }
    };
    let end_of = |host, port| Some(SocketAddr::new(address(host)?, decimal_port(port)?));
    match (end_of(source, from), end_of(destination, to)) {
        (Some(source), Some(destination)) => Ok(Progress::Complete(Header::Tcp { source, destination })),
        _ => Err(Malformed::Line),
    }
}

/// A port without signs and leading zeros, of which other readers make something else.
fn decimal_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Progress, Malformed> {
    // One byte before the fixed part is whole, version 1 is out of the question.
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        let known = if bytes.len() < SHORTEST { SHORTEST } else { FIXED };
        return Ok(Progress::Need(known - bytes.len()));
    };
    let [.., version_and_command, family, high, low] = *fixed;
    if version_and_command >> 4 != 2 {
        return Err(Malformed::Version);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > LONGEST {
        return Err(Malformed::Length);
    }
    match length.checked_sub(rest.len()) {
        Some(0) => {}
        Some(more) => return Ok(Progress::Need(more)),
        None => return Err(Malformed::Length),
    }
    let (header, addresses) = match (version_and_command & 0x0f, family) {
        // What stands behind these is to be ignored, and its size need not be known.
        (0, _) => return Ok(Progress::Complete(Header::Local)),
        (1, 0x00) => return Ok(Progress::Complete(Header::Unknown)),
        (1, 0x11) => (tcp4(rest), 12),
        (1, 0x21) => (tcp6(rest), 36),
        (1, 0x31) => (Some(Header::Unknown), 216),
        _ => return Err(Malformed::Kind),
    };
    let (Some(header), Some(extensions)) = (header, rest.get(addresses..)) else { return Err(Malformed::Length) };
    check_extensions(extensions, bytes)?;
    Ok(Progress::Complete(header))
}

fn tcp4(rest: &[u8]) -> Option<Header> {
    let ([a, b, c, d, e, f, g, h], rest) = rest.split_first_chunk()?;
    let [i, j, k, l, ..] = *rest else { return None };
    Some(Header::Tcp {
        source: SocketAddr::from(([*a, *b, *c, *d], u16::from_be_bytes([i, j]))),
        destination: SocketAddr::from(([*e, *f, *g, *h], u16::from_be_bytes([k, l]))),
    })
}

fn tcp6(rest: &[u8]) -> Option<Header> {
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let [i, j, k, l, ..] = *rest else { return None };
    Some(Header::Tcp {
        source: SocketAddr::from((*source, u16::from_be_bytes([i, j]))),
        destination: SocketAddr::from((*destination, u16::from_be_bytes([k, l]))),
    })
}

/// Whether the extensions fill the header to its last byte, and a checksum among them is right.
fn check_extensions(extensions: &[u8], header: &[u8]) -> Result<(), Malformed> {
    let mut left = extensions;
    while let Some(([kind, high, low], rest)) = left.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = rest.split_at_checked(length).ok_or(Malformed::Length)?;
        if *kind == TLV_CRC32C {
            let sum = value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Length)?;
            // It was made with zeros in its own place.
            let at = header.len() - behind.len() - value.len();
            let zeroed = |(index, byte): (usize, &u8)| if (at..at + value.len()).contains(&index) { 0 } else { *byte };
            if crc32c(header.iter().enumerate().map(zeroed)) != sum {
                return Err(Malformed::Checksum);
            }
        }
        left = behind;
    }
    if left.is_empty() { Ok(()) } else { Err(Malformed::Length) }
}

/// CRC32c (RFC 3720 §B.4), bit by bit: a header is short and there is one a connection.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let each = |sum: u32, byte: u8| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 })
    };
    !bytes.fold(u32::MAX, each)
}

#[cfg(test)]
mod tests;
