//! RFC 6455, as far as a gateway between two ends has to know it: the values of the handshake, and
//! where one frame ends and the next one begins.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};

use crate::secret;

/// What every server adds to the key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The most that the text of a close frame may have beside its code (RFC 6455 §5.5).
const MAX_REASON: usize = 123;

/// The `Sec-WebSocket-Accept` that proves that a server has understood the handshake with this
/// `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
pub fn accept(key: &HeaderValue) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat()))
}

/// Whether this is a `Sec-WebSocket-Key`: 16 bytes as base64 (RFC 6455 §4.1).
pub fn is_key(key: &HeaderValue) -> bool {
    STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
}

/// Whether `Connection` says that `Upgrade` is meant (RFC 9110 §7.8).
pub fn names_upgrade(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter();
    let mut tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// A key for a handshake of our own.
pub fn random_key() -> HeaderValue {
    // Base64 is always a header value.
    HeaderValue::from_str(&STANDARD.encode(secret::random::<16>())).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A close frame from a server (RFC 6455 §5.5.1); the text is cut where it is too long.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
    let length = u8::try_from(2 + reason.len()).unwrap_or(2);
    [&[0x88, length], &code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// Follows the bytes of one direction from frame to frame (RFC 6455 §5.2). It judges nothing: what is
/// no WebSocket has boundaries somewhere, too, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames(State);

/// Before which byte of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The first one.
    #[default]
    Start,
    /// The one with the length, or what says where it stands.
    Length,
    /// So many bytes of a longer length.
    Extended { left: u8, size: u64, masked: bool },
    /// So many bytes of the mask.
    Mask { left: u8, size: u64 },
    /// So many bytes of the payload.
    Payload(u64),
}

impl Frames {
    /// Whether a frame of our own may be put in here.
    pub fn at_boundary(self) -> bool {
        self.0 == State::Start
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest);
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    /// How many of the next bytes belong to the present frame: none between two frames, and all of
    /// them where it ends behind them.
    pub fn left_of(mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !self.at_boundary() && !rest.is_empty() {
            let used = self.step(rest);
            rest = rest.get(used..).unwrap_or_default();
        }
        bytes.len() - rest.len()
    }

    /// Takes at least one byte and at most to the end of the frame; says how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some(byte) = bytes.first().copied() else { return 0 };
        let after_length = |size, masked| match (size, masked) {
            (_, true) => State::Mask { left: 4, size },
            (0, false) => State::Start,
            (size, false) => State::Payload(size),
        };
        let mut used = 1;
        self.0 = match self.0 {
            State::Start => State::Length,
            State::Length => match (byte & 0x7f, byte & 0x80 != 0) {
                (126, masked) => State::Extended { left: 2, size: 0, masked },
                (127, masked) => State::Extended { left: 8, size: 0, masked },
                (size, masked) => after_length(u64::from(size), masked),
            },
            State::Extended { left, size, masked } => match (left, size << 8 | u64::from(byte)) {
                (1, size) => after_length(size, masked),
                (left, size) => State::Extended { left: left - 1, size, masked },
            },
            State::Mask { left: 1, size: 0 } => State::Start,
            State::Mask { left: 1, size } => State::Payload(size),
            State::Mask { left, size } => State::Mask { left: left - 1, size },
            State::Payload(left) => {
                used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                match left - used as u64 {
                    0 => State::Start,
                    left => State::Payload(left),
                }
            }
        };
        used
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_key(&key) && is_key(&random_key()));
        assert_ne!(random_key(), random_key());
        for bad in ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZSE=", "*"] {
            assert!(!is_key(&HeaderValue::from_static(bad)), "{bad}");
        }
    }

    #[test]
    fn a_close_frame_has_code_and_text() {
        assert_eq!(close_frame(4401, "no"), [0x88, 4, 0x11, 0x31, b'n', b'o']);
        let long = close_frame(1000, &"ä".repeat(100));
        assert_eq!((long.len(), long[1]), (2 + 2 + 122, 124), "125 bytes at most, and no half letter");
    }

    #[test]
    fn a_length_that_nobody_can_send_has_no_end() {
        let mut frames = Frames::default();
        frames.feed(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.feed(&[0; 1000]);
        assert_eq!((frames.at_boundary(), frames.left_of(&[0; 50])), (false, 50));
    }

    /// A frame as it goes over the wire.
    fn frame(first: u8, payload: usize, mask: bool) -> Vec<u8> {
        let bit = if mask { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match payload {
            0..126 => bytes.push(bit | payload as u8),
            126..65_536 => {
                bytes.push(bit | 126);
                bytes.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(bit | 127);
                bytes.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(0xaa, if mask { 4 } else { 0 }));
        bytes.extend(std::iter::repeat_n(0x81, payload));
        bytes
    }

    proptest! {
        #[test]
        fn boundaries_are_found_however_the_bytes_are_cut(
            shapes in proptest::collection::vec(
                (any::<u8>(), prop_oneof![Just(0usize), 1usize..300, 65_530usize..65_540], any::<bool>()), 0..6),
            cuts in proptest::collection::vec(1usize..70_000, 0..8),
        ) {
            let frames: Vec<Vec<u8>> = shapes.iter().map(|(first, size, mask)| frame(*first, *size, *mask)).collect();
            let wire = frames.concat();
            let mut ends: Vec<usize> = vec![0];
            for frame in &frames {
                ends.push(ends[ends.len() - 1] + frame.len());
            }
            let (mut tracker, mut at) = (Frames::default(), 0);
            for cut in cuts.into_iter().chain([wire.len()]) {
                let next = (at + cut).min(wire.len());
                tracker.feed(&wire[at..next]);
                at = next;
                prop_assert_eq!(tracker.at_boundary(), ends.contains(&at));
                let end = ends.iter().find(|end| **end >= at).unwrap();
                prop_assert_eq!(at + tracker.left_of(&wire[at..]), *end);
            }
        }

        #[test]
        fn it_makes_no_difference_how_any_bytes_arrive(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1usize..50) {
            let (mut whole, mut pieces) = (Frames::default(), Frames::default());
            whole.feed(&bytes);
            bytes.chunks(size).for_each(|piece| pieces.feed(piece));
            prop_assert_eq!(whole, pieces);
            prop_assert!(whole.left_of(&bytes) <= bytes.len());
        }
    }
}
