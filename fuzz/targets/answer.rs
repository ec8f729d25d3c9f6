//! The answer of an upstream: where its head, its chunks and its trailers end, held against a plain
//! reading of RFC 9112. The first byte says what was asked and how the rest is cut into reads.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use portcullis::upstream::fuzzing::{Reading, answer};

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let method = if first & 0x80 == 0 { Method::GET } else { Method::HEAD };
    let whole = answer(&method, bytes, usize::MAX);
    let pieces = answer(&method, bytes, usize::from(first & 0x7f) + 1);
    if whole.refused {
        // In pieces less of it may have been taken before the offense, and sooner.
        assert!(pieces.refused, "how it is cut changes nothing: {pieces:?}");
        return;
    }
    assert_eq!(whole, pieces, "how it is cut changes nothing");

    let Some(head) = whole.head else { return };
    assert_eq!(end_of_lines(bytes), Some(head), "the first empty line ends the head");
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let has = |start: &str| text.lines().any(|line| line.starts_with(start));
    let status = text.split(' ').nth(1).unwrap_or_default();
    let bodiless = method == Method::HEAD || status.starts_with('1') || ["204", "304"].contains(&&status[..3]);
    if bodiless {
        assert!(whole.body.is_empty() && whole.may_end && whole.left == bytes.len() - head);
    } else if has("transfer-encoding:") {
        chunked(&bytes[head..], &whole);
    } else if has("content-length:") {
        assert_eq!(whole.body.len() + whole.left, bytes.len() - head);
        assert!(bytes[head..].starts_with(&whole.body));
    } else {
        assert_eq!(whole.body, &bytes[head..], "the body ends with the connection");
    }
});

/// Holds what was read against chunks that are read one line at a time.
fn chunked(bytes: &[u8], seen: &Reading) {
    let (mut rest, mut body) = (bytes, Vec::new());
    let ended = loop {
        let Some(at) = rest.iter().position(|byte| *byte == b'\n') else { break false };
        let line = rest[..at].strip_suffix(b"\r").expect("a size line ends with CRLF");
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).unwrap(), 16).expect("a size");
        rest = &rest[at + 1..];
        if size == 0 {
            break true;
        }
        let data = &rest[..rest.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        body.extend_from_slice(data);
        rest = &rest[data.len()..];
        if (data.len() as u64) < size || rest.len() < 2 {
            break false;
        }
        rest = rest.strip_prefix(b"\r\n").expect("a line end behind the data");
    };
    assert_eq!(seen.body, body, "the same bytes");
    if !ended {
        assert!(!seen.may_end, "it is not over");
        return;
    }
    // The empty line that ends the trailers may be the first one.
    let empty = rest.starts_with(b"\r\n").then_some(2).or(rest.starts_with(b"\n").then_some(1));
    let end = empty.or_else(|| end_of_lines(rest));
    assert_eq!(seen.may_end, end.is_some(), "the trailers end at their first empty line");
    if let Some(end) = end {
        assert_eq!(seen.left, rest.len() - end, "what follows is somebody else's");
        let lines = rest[..end].iter().filter(|byte| **byte == b'\n').count() - 1;
        assert_eq!(seen.trailers.len(), lines, "each line is a trailer");
    }
}

/// The length up to the first empty line, whatever line ends there are.
fn end_of_lines(bytes: &[u8]) -> Option<usize> {
    let ends = (0..bytes.len()).filter(|at| bytes[*at] == b'\n');
    ends.map(|at| at + 1).find_map(|next| match &bytes[next..] {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}
