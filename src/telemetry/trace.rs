//! Request ids, and the W3C trace context that ties the lines of several services together.
//!
//! Neither is a secret: both come from a fast generator of the thread, which the operating system
//! seeds once, because asking it for every request would cost a system call each.

use std::cell::Cell;
use std::fmt;

use http::HeaderValue;

use crate::secret;

/// How one request is called in logs, in `X-Request-Id` and in problem bodies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    text: [u8; Self::LONGEST],
    length: u8,
}

impl RequestId {
    /// Longer ids of others are not continued.
    pub const LONGEST: usize = 64;

    /// A new id: 128 random bits as 26 lower-case letters and digits (Crockford's base 32).
    pub fn random() -> Self {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut bits = (u128::from(next_random()) << 64) | u128::from(next_random());
        let mut text = [0; Self::LONGEST];
        for slot in text.iter_mut().take(26) {
            *slot = ALPHABET.get((bits & 31) as usize).copied().unwrap_or(b'0');
            bits >>= 5;
        }
        Self { text, length: 26 }
    }

    /// The id that a trusted proxy gave the request, or `None` when it is empty, longer than 64
    /// bytes, or has other characters than letters, digits and `-_.:/+=@`.
    pub fn continued(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
        if bytes.is_empty() || !bytes.iter().all(fine) {
            return None;
        }
        let mut text = [0; Self::LONGEST];
        text.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { text, length: u8::try_from(bytes.len()).ok()? })
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        let bytes = self.text.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The id as a header's value.
    pub fn header_value(&self) -> HeaderValue {
        HeaderValue::from_str(self.as_str()).unwrap_or(HeaderValue::from_static(""))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a `traceparent` is not continued. The request then starts a trace of its own, and its
/// `tracestate` is dropped (W3C Trace Context §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not `version-trace-parent-flags` in lower-case hex of the right lengths.
    #[error("the traceparent is malformed")]
    Malformed,
    /// Version `ff`, which is reserved to be invalid.
    #[error("the traceparent has version ff")]
    Version,
    /// An id of zeros only.
    #[error("the traceparent has an id of zeros")]
    Zero,
}

/// The place of one hop in a trace: which trace, which span of it, and whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl TraceContext {
    /// The length of a `traceparent` of version 00.
    pub const LENGTH: usize = 55;

    /// The first span of a new trace that nobody records.
    pub fn random() -> Self {
        let trace_id = (u128::from(next_random()) << 64) | u128::from(next_random());
        // An id of zeros is invalid; it comes once in 2^128 calls.
        Self { trace_id: trace_id.max(1), span_id: new_span_id(), sampled: false }
    }

    /// Reads a `traceparent` (W3C Trace Context §3.2). A version above 00 is read as if it were 00;
    /// what follows its flags is ignored.
    ///
    /// # Errors
    /// When the value has to be ignored, see [`Invalid`].
    pub fn parse(value: &[u8]) -> Result<Self, Invalid> {
        let (head, rest) = value.split_at_checked(Self::LENGTH).ok_or(Invalid::Malformed)?;
        let mut fields = head.split(|byte| *byte == b'-');
        let mut field = |digits| hex(fields.next(), digits);
        let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        match version {
            0xff => return Err(Invalid::Version),
            0 if !rest.is_empty() => return Err(Invalid::Malformed),
            _ if !rest.is_empty() && !rest.starts_with(b"-") => return Err(Invalid::Malformed),
            _ => {}
        }
        if trace_id == 0 || span_id == 0 {
            return Err(Invalid::Zero);
        }
        let span_id = u64::try_from(span_id).map_err(|_| Invalid::Malformed)?;
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// The next span of the same trace: what the upstream is told.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: new_span_id(), ..self }
    }

    /// The trace's id: 32 hex digits.
    pub fn trace_id(self) -> TraceId {
        TraceId(self.trace_id)
    }

    /// Whether the caller records this trace.
    pub const fn is_sampled(self) -> bool {
        self.sampled
    }

    /// The value to send, of version 00. Flags other than "sampled" are zero, as §3.2.2.3 asks of
    /// everybody who does not know them.
    pub fn header_value(self) -> HeaderValue {
        let mut text = [b'-'; Self::LENGTH];
        let (version, rest) = text.split_at_mut(3);
        let (trace, rest) = rest.split_at_mut(33);
        let (span, flags) = rest.split_at_mut(17);
        write_hex(version, 0, 2);
        write_hex(trace, self.trace_id, 32);
        write_hex(span, u128::from(self.span_id), 16);
        write_hex(flags, u128::from(self.sampled), 2);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// The id of a trace; prints as 32 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// The 32 digits as ASCII, without an allocation.
    pub fn digits(self) -> [u8; 32] {
        let mut text = [0; 32];
        write_hex(&mut text, self.0, 32);
        text
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Exactly `digits` lower-case hex digits as a number.
fn hex(field: Option<&[u8]>, digits: usize) -> Result<u128, Invalid> {
    let field = field.filter(|field| field.len() == digits).ok_or(Invalid::Malformed)?;
    field.iter().try_fold(0, |number: u128, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return Err(Invalid::Malformed),
        };
        Ok((number << 4) | u128::from(digit))
    })
}

/// Writes the low `digits` hex digits of `number` to the start of `text`.
fn write_hex(text: &mut [u8], number: u128, digits: u32) {
    for (slot, place) in text.iter_mut().zip((0..digits).rev()) {
        let digit = (number >> (4 * place) & 15) as u8;
        *slot = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
    }
}

/// A span's id: 64 random bits, not all zero.
fn new_span_id() -> u64 {
    next_random().max(1)
}

thread_local! {
    static STATE: Cell<[u64; 4]> = Cell::new(seed());
}

/// A start for the generator; all zeros, which would keep it at zero, are ruled out.
fn seed() -> [u64; 4] {
    let word = || u64::from_ne_bytes(secret::random());
    [word() | 1, word(), word(), word()]
}

/// The next 64 bits of xoshiro256++ (Blackman, Vigna: "Scrambled Linear Pseudorandom Number
/// Generators", 2021). Good for ids, not for secrets.
fn next_random() -> u64 {
    STATE.with(|state| {
        let [a, b, c, d] = state.get();
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c2, d2) = (c ^ a, d ^ b);
        state.set([a ^ d2, b ^ c2, c2 ^ (b << 17), d2.rotate_left(45)]);
        result
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_round_trips() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.trace_id().digits(), *b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled());
        assert_eq!(context.header_value(), EXAMPLE);
        let child = context.child();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_ne!(child, context, "a span of its own");
    }

    #[test]
    fn broken_values_are_not_continued() {
        let parse = |text: &str| TraceContext::parse(text.as_bytes()).unwrap_err();
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(parse(""), Invalid::Malformed);
        assert_eq!(parse(EXAMPLE.trim_end_matches('1')), Invalid::Malformed);
        assert_eq!(parse(&format!("{EXAMPLE}-")), Invalid::Malformed, "version 00 ends after the flags");
        assert_eq!(parse(&format!("01-{trace}-{span}-01x")), Invalid::Malformed);
        assert_eq!(parse(&EXAMPLE.to_uppercase()), Invalid::Malformed);
        assert_eq!(parse(&format!("00_{trace}-{span}-01")), Invalid::Malformed);
        assert_eq!(parse(&format!("00-{span}-{trace}-01")), Invalid::Malformed, "fields of swapped lengths");
        assert_eq!(parse(&format!("ff-{trace}-{span}-01")), Invalid::Version);
        assert_eq!(parse(&format!("00-{}-{span}-01", "0".repeat(32))), Invalid::Zero);
        assert_eq!(parse(&format!("00-{trace}-{}-01", "0".repeat(16))), Invalid::Zero);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_we_know_it() {
        let later = EXAMPLE.replacen("00-", "cc-", 1) + "-what-the-future-holds";
        assert_eq!(TraceContext::parse(later.as_bytes()).unwrap().header_value(), EXAMPLE);
        let flags = EXAMPLE.replace("-01", "-fe");
        assert!(!TraceContext::parse(flags.as_bytes()).unwrap().is_sampled());
    }

    #[test]
    fn new_ids_differ_and_have_their_shape() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| RequestId::random().to_string()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
        assert_ne!(TraceContext::random().trace_id(), TraceContext::random().trace_id());
        let elsewhere = std::thread::spawn(RequestId::random).join().unwrap();
        assert_ne!(elsewhere, RequestId::random(), "each thread has its own seed");
    }

    #[test]
    fn ids_of_others_are_continued_only_when_they_are_harmless() {
        let continued = |text: &str| RequestId::continued(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
        for fine in ["a", "Root=1-67891233-abcdef012345678912345678", "9b2f:7/x+y@z_.", &"x".repeat(64)] {
            assert_eq!(continued(fine).unwrap().as_str(), fine);
            assert_eq!(continued(fine).unwrap().header_value(), fine);
        }
        for bad in ["", " ", "a b", "a\"b", "a,b", "é", "a;b", &"x".repeat(65)] {
            assert_eq!(continued(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_can_be_read_again(trace_id in 1u128.., span_id in 1u64.., sampled: bool) {
            let context = TraceContext { trace_id, span_id, sampled };
            prop_assert_eq!(TraceContext::parse(context.header_value().as_bytes()), Ok(context));
        }

        #[test]
        fn no_bytes_make_the_parser_stumble(bytes: Vec<u8>, tail in "[0-9a-f-]{50,60}") {
            for bytes in [bytes.as_slice(), tail.as_bytes()] {
                if let Ok(context) = TraceContext::parse(bytes) {
                    prop_assert_eq!(TraceContext::parse(context.header_value().as_bytes()), Ok(context));
                }
            }
        }
    }
}
