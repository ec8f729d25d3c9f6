//! The frames of an HTTP/2 connection: what the counter lets through is what a plain count allows,
//! however the bytes are cut. The first byte says how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::server::fuzzing::frames;

const PREFACE: usize = 24;

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    // Floods are long, inputs are short: each is repeated behind one preface.
    let mut connection = vec![b'P'; PREFACE];
    for _ in 0..=usize::from(first & 0x0f) * 16 {
        connection.extend_from_slice(bytes);
    }
    let whole = frames(&connection, usize::MAX);
    let pieces = frames(&connection, usize::from(first >> 4) + 1);
    assert_eq!(whole.0, pieces.0, "how it is cut changes nothing");
    assert_eq!(whole, count(&connection[PREFACE..]));
    if whole.0.is_none() {
        assert_eq!(whole, pieces);
    }
});

/// The same, frame by frame.
fn count(mut bytes: &[u8]) -> (Option<&'static str>, bool) {
    let (mut control, mut resets, mut paid, mut block) = (1000i64, 500i64, 0usize, false);
    let mut cut = false;
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        match kind {
            0 if length > 0 => {
                paid += length;
                control = (control + (paid / 512) as i64).min(1000);
                paid %= 512;
            }
            0 if flags & 1 != 0 => {}
            1 | 9 => {
                block = flags & 4 == 0;
                if kind == 1 {
                    control = (control + 8).min(1000);
                }
            }
            3 => {
                if resets == 0 {
                    return (Some("reset"), in_head(block, kind, length));
                }
                resets -= 1;
                if control == 0 {
                    return (Some("control"), in_head(block, kind, length));
                }
                control -= 1;
            }
            _ => {
                if control == 0 {
                    return (Some("control"), in_head(block, kind, length));
                }
                control -= 1;
            }
        }
        cut = rest.len() < length && matches!(kind, 1 | 9);
        bytes = rest.get(length..).unwrap_or_default();
    }
    (None, block || cut)
}

/// Whether a head is on its way behind the frame that was one too many.
fn in_head(block: bool, kind: u8, length: usize) -> bool {
    block || (length > 0 && matches!(kind, 1 | 9))
}
