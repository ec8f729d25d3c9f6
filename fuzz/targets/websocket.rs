//! The bounds of WebSocket frames: the same however the bytes are cut, and those that a reader of whole
//! frames finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::websocket::Frames;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let mut pieces = Frames::default();
    for piece in bytes.chunks(usize::from(cut).max(1)) {
        pieces.feed(piece);
    }
    let mut whole = Frames::default();
    whole.feed(bytes);
    assert_eq!(whole, pieces);

    let (mut at, mut single) = (0, Frames::default());
    while let Some(length) = frame(bytes.get(at..).unwrap_or_default()) {
        assert!(single.at_boundary());
        single.feed(&bytes[at..at + 1]);
        assert_eq!(single.left_of(&bytes[at + 1..]), length - 1, "the frame at {at}");
        single.feed(&bytes[at + 1..at + length]);
        at += length;
    }
    assert_eq!(whole.at_boundary(), at == bytes.len());
});

/// The length of the frame that the bytes begin with (RFC 6455 §5.2), if it is there as a whole.
fn frame(bytes: &[u8]) -> Option<usize> {
    let second = *bytes.get(1)?;
    let (extended, size) = match second & 0x7f {
        126 => (2, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (8, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        size => (0, u64::from(size)),
    };
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    let length = usize::try_from(size).ok()?.checked_add(2 + extended + mask)?;
    (length <= bytes.len()).then_some(length)
}
