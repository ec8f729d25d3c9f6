//! The path normalizer: what it lets through has one reading, and a second pass changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::path::normalize;

fuzz_target!(|path: &str| {
    let Ok(normal) = normalize(path) else { return };
    let text = &*normal.text;
    assert!(text.starts_with('/'));
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "only what may stand in a target: {text:?}");
    assert!(!text.contains('\\') && !text.contains('?') && !text.contains('#'));
    assert!(!text.contains("//"), "{text:?}");
    assert!(!text.split('/').any(|segment| segment == "." || segment == ".."), "{text:?}");
    assert_eq!(normalize(text).as_ref(), Ok(&normal), "a second pass reads the same");

    // A server that decodes once must not find another path below it.
    let decoded = decode(text);
    let segments = decoded.split(|byte| *byte == b'/');
    for segment in segments {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(name != b"." && name != b"..", "{text:?} hides a dot segment");
    }
    assert!(!decoded.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'), "{text:?}");
    if !normal.encoded_slash {
        let slashes = |path: &[u8]| path.iter().filter(|byte| **byte == b'/').count();
        assert_eq!(slashes(&decoded), slashes(text.as_bytes()), "{text:?} hides a slash");
    }
});

/// What a server makes of the escapes. A `%` without two digits is taken as it is.
fn decode(text: &str) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}
