//! The PROXY header before a client's first byte. The first byte of the input says how it is cut.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use portcullis::server::proxy_protocol::{Header, LONGEST, Malformed, Progress, parse};

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else { return };
    let (outcome, taken) = read(bytes, usize::MAX);
    assert!(taken <= LONGEST);
    let (cut, taken_cut) = read(bytes, usize::from(*piece).max(1));
    match outcome {
        Ok(Progress::Complete(header)) => {
            assert_eq!((cut, taken_cut), (outcome, taken), "how it is cut changes nothing");
            assert_eq!(parse(&bytes[..taken]), outcome);
            if let Header::Tcp { source, destination } = header {
                // Version 1 can say all that there is to say. It maps no address to another family.
                let family = if source.is_ipv4() { 4 } else { 6 };
                assert_eq!(source.is_ipv4(), destination.is_ipv4());
                let ip = |address: SocketAddr| address.ip();
                let (from, to) = (source.port(), destination.port());
                let line = format!("PROXY TCP{family} {} {} {from} {to}\r\nGET", ip(source), ip(destination));
                assert_eq!(read(line.as_bytes(), usize::MAX), (outcome, line.len() - 3));
            }
        }
        Ok(Progress::Need(more)) => {
            assert!(more > 0 && taken == bytes.len());
            assert!(matches!(cut, Ok(Progress::Need(_))));
        }
        // Which of several mistakes is met first depends on how much there is to see.
        Err(_) => assert!(cut.is_err()),
    }
});

/// Reads as a connection does: what is needed, in pieces. Returns the outcome, and how many bytes were
/// taken.
fn read(bytes: &[u8], piece: usize) -> (Result<Progress, Malformed>, usize) {
    let mut taken = 0;
    loop {
        match parse(&bytes[..taken]) {
            Ok(Progress::Need(more)) if taken < bytes.len() => taken = (taken + more.min(piece)).min(bytes.len()),
            outcome => return (outcome, taken),
        }
    }
}
