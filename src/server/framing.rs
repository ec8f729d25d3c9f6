//! Where a request ends, decided before hyper sees a byte of it.
//!
//! hyper hides what a gateway must not let pass: it drops `Content-Length` beside
//! `Transfer-Encoding` and the `#…` of a target, and takes bare line feeds and missing or repeated
//! `Host` headers. So every byte from a client runs past a [`Tracker`] first. It parses each head
//! with hyper's own parser under stricter rules, follows the body to its end, and thus knows where
//! the next head begins, also when requests are pipelined. What it accepts, hyper reads the same
//! way; what it refuses, nobody reads.

use memchr::memchr_iter;

/// The longest request target, as other servers have it (nginx: 8k).
const MAX_TARGET: usize = 8 * 1024;
/// Lines that a parser has room for; the configured limit lies at or below it.
pub(crate) const MAX_HEADERS: usize = 256;
/// Chunk extensions carry nothing that anybody needs.
const MAX_CHUNK_EXTENSION: usize = 256;
/// All trailer lines of one body together.
const MAX_TRAILERS: usize = 8 * 1024;
/// What a trailer line counts for besides its bytes: with it there are fewer lines than hyper takes.
const TRAILER_LINE: usize = 32;

/// Why a request is refused before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not HTTP/1, or HTTP/1 that servers read differently. Says what.
    Malformed(&'static str),
    /// A header that must be single is there more often. Says which.
    Ambiguous(&'static str),
    /// More bytes or more lines than allowed.
    HeadTooLarge,
    /// The request line is too long.
    TargetTooLong,
    /// The head did not arrive in time.
    HeadTimeout,
    /// There are more connections than allowed.
    Overloaded,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes from the request line to the empty line.
    pub bytes: usize,
    /// Header lines, at most 256.
    pub lines: usize,
}

/// How the body that follows a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes, possibly none.
    Length(u64),
    /// RFC 9112 §7.1.
    Chunked,
}

/// Checks a complete head, from the request line to the empty line.
///
/// # Errors
/// When it is not exactly what RFC 9112 and RFC 9110 §7.2 ask for, or when servers are known to
/// read it differently.
pub fn vet(head: &[u8], limits: HeadLimits) -> Result<Framing, Refusal> {
    if head.len() > limits.bytes {
        return Err(Refusal::HeadTooLarge);
    }
    if memchr_iter(b'\n', head).any(|at| at.checked_sub(1).and_then(|at| head.get(at)) != Some(&b'\r')) {
        return Err(Refusal::Malformed("bare_lf"));
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(head).map_err(refusal_of)?.is_partial() {
        return Err(Refusal::Malformed("head"));
    }
    if request.headers.len() > limits.lines {
        return Err(Refusal::HeadTooLarge);
    }
    let method = request.method.unwrap_or_default();
    // Methods are case-sensitive, but not every backend knows: `post` must not get past a rule for `POST`.
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Refusal::Malformed("method"));
    }
    check_target(method, request.path.unwrap_or_default())?;
    framing(request.version == Some(1), request.headers)
}

/// Origin form, absolute form, or `*` with OPTIONS (RFC 9112 §3.2); CONNECT keeps its authority.
fn check_target(method: &str, target: &str) -> Result<(), Refusal> {
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    if target.contains('#') {
        return Err(Refusal::Malformed("fragment"));
    }
    let scheme = target.split_once("://").map(|(scheme, _)| scheme);
    let known = target.starts_with('/')
        || scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
        || (target == "*" && method == "OPTIONS")
        || method == "CONNECT";
    if known && is_readable(target) { Ok(()) } else { Err(Refusal::Malformed("target")) }
}

/// Whether hyper can make a URI of the target. Where it cannot, it answers by itself, with no body
/// and no access line.
fn is_readable(target: &str) -> bool {
    // Nearly every target is made of these, which may stand anywhere in a path and a query.
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@!$&'()*+,;=%?".contains(&byte);
    (target.starts_with('/') && target.bytes().all(is_usual)) || target.parse::<http::Uri>().is_ok()
}

/// RFC 9112 §6, without its lenient halves, and §3.2 for `Host`.
fn framing(http_11: bool, headers: &[httparse::Header<'_>]) -> Result<Framing, Refusal> {
    let (mut host, mut length, mut coding) = (None, None, None);
    for header in headers {
        // The three that matter are told apart by their length first: this runs for every request.
        let (slot, name) = match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => (&mut host, "host"),
            14 if header.name.eq_ignore_ascii_case("content-length") => (&mut length, "content-length"),
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => (&mut coding, "transfer-encoding"),
            _ => continue,
        };
        if slot.replace(header.value).is_some() {
            return Err(Refusal::Ambiguous(name));
        }
    }
    if host.is_none() && http_11 {
        return Err(Refusal::Malformed("host_missing"));
    }
    match (length, coding) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => Err(Refusal::Malformed("length_and_coding")),
        (Some(length), None) => parse_length(length).map(Framing::Length).ok_or(Refusal::Malformed("content_length")),
        (None, Some(coding)) if http_11 && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(Refusal::Malformed("transfer_encoding")),
    }
}

/// Digits only: no sign, no list, no blanks inside.
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// Checks the beginning of a head as far as hyper does: what hyper cannot read, it answers at once
/// by itself, with no body and no access line.
fn vet_beginning(head: &[u8]) -> Result<(), Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    httparse::Request::new(&mut headers).parse(head).map(|_| ()).map_err(refusal_of)
}

fn refusal_of(error: httparse::Error) -> Refusal {
    Refusal::Malformed(match error {
        httparse::Error::TooManyHeaders => return Refusal::HeadTooLarge,
        httparse::Error::HeaderName => "header_name",
        httparse::Error::HeaderValue => "header_value",
        httparse::Error::NewLine => "line_end",
        httparse::Error::Token => "request_line",
        httparse::Error::Version => "version",
        httparse::Error::Status => "head",
    })
}

/// Follows the bytes of one connection from message to message.
#[derive(Debug)]
pub struct Tracker {
    limits: HeadLimits,
    state: State,
    /// The part of a head that came in earlier reads; empty when heads arrive whole, as they do.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunk),
}

/// Inside a chunked body, named after what is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// A digit of the size, after so many.
    Size { size: u64, digits: u8 },
    /// A byte of the extension, after so many.
    Extension { size: u64, length: usize },
    /// The line feed that ends the size line.
    SizeLf { size: u64 },
    /// A byte of the data.
    Data { left: u64 },
    /// The carriage return behind the data.
    DataCr,
    /// The line feed behind the data.
    DataLf,
    /// A byte of the trailers. `line` is the length of the current line, `named` whether it has had
    /// its colon.
    Trailer { total: usize, line: usize, named: bool },
    /// The line feed that ends a trailer line, or the body if that line was empty.
    TrailerLf { total: usize, line: usize },
}

impl Tracker {
    /// A tracker at the start of a connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self { limits, state: State::Head, partial: Vec::new() }
    }

    /// Whether the last byte was inside a body, so that a refusal concerns the request that is
    /// already being answered.
    pub fn in_body(&self) -> bool {
        self.state != State::Head
    }

    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    /// When a message is refused: with the number of bytes before the offense that may still be
    /// read. Nothing after it may ever be read.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), (usize, Refusal)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let done = bytes.len() - rest.len();
            let used = match self.state {
                State::Head => self.head(rest),
                State::Length(left) => Ok(self.length(left, rest)),
                State::Chunked(chunk) => self.chunked(chunk, rest),
            };
            rest = rest.get(used.map_err(|refusal| (done, refusal))?..).unwrap_or_default();
        }
        Ok(())
    }

    /// Looks for the end of the head; returns how many bytes belong to it.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        if self.partial.is_empty() {
            // Empty lines before a request line are skipped (RFC 9112 §2.2), also when they come alone.
            match bytes {
                [b'\n', ..] => return Ok(1),
                [b'\r', b'\n', ..] => return Ok(2),
                [b'\r', _, ..] => return Err(Refusal::Malformed("line_end")),
                _ => {}
            }
            if let Some(end) = head_end(bytes, 0) {
                self.begin_body(vet(bytes.get(..end).unwrap_or_default(), self.limits)?);
                return Ok(end);
            }
        }
        if self.partial == b"\r" {
            self.partial = Vec::new();
            return if bytes.starts_with(b"\n") { Ok(1) } else { Err(Refusal::Malformed("line_end")) };
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        let Some(end) = head_end(&self.partial, before.saturating_sub(3)) else {
            // Only the first piece: hyper parses that one and then waits for the end.
            if before == 0 {
                vet_beginning(bytes)?;
            }
            return if self.partial.len() > self.limits.bytes { Err(self.too_large()) } else { Ok(bytes.len()) };
        };
        let framing = vet(self.partial.get(..end).unwrap_or_default(), self.limits)?;
        // Large heads are rare: their memory is given back rather than kept for the connection's life.
        self.partial = Vec::new();
        self.begin_body(framing);
        Ok(end.saturating_sub(before))
    }

    /// Which part of an unfinished head is too large.
    fn too_large(&self) -> Refusal {
        if memchr::memchr(b'\n', &self.partial).is_none() { Refusal::TargetTooLong } else { Refusal::HeadTooLarge }
    }

    fn begin_body(&mut self, framing: Framing) {
        self.state = match framing {
            Framing::Length(0) => State::Head,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunk::Size { size: 0, digits: 0 }),
        };
    }

    fn length(&mut self, left: u64, bytes: &[u8]) -> usize {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.state = match left - used as u64 {
            0 => State::Head,
            left => State::Length(left),
        };
        used
    }

    fn chunked(&mut self, chunk: Chunk, bytes: &[u8]) -> Result<usize, Refusal> {
        if let Chunk::Data { left } = chunk {
            let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.state = State::Chunked(match left - used as u64 {
                0 => Chunk::DataCr,
                left => Chunk::Data { left },
            });
            return Ok(used);
        }
        let Some(byte) = bytes.first() else { return Ok(0) };
        self.state = next_chunk_state(chunk, *byte).ok_or(Refusal::Malformed("chunk"))?;
        Ok(1)
    }
}

/// One step through the framing bytes of a chunked body; `None` refuses the byte.
fn next_chunk_state(chunk: Chunk, byte: u8) -> Option<State> {
    Some(State::Chunked(match (chunk, byte) {
        (Chunk::Size { size, digits: 0..16 }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit = u64::from(char::from(byte).to_digit(16)?);
            let Chunk::Size { digits, .. } = chunk else { return None };
            Chunk::Size { size: size.checked_mul(16)?.checked_add(digit)?, digits: digits + 1 }
        }
        (Chunk::Size { size, digits: 1.. }, b';') => Chunk::Extension { size, length: 0 },
        (Chunk::Size { size, digits: 1.. }, b'\r') => Chunk::SizeLf { size },
        (Chunk::Extension { size, .. }, b'\r') => Chunk::SizeLf { size },
        (Chunk::Extension { size, length: length @ 0..MAX_CHUNK_EXTENSION }, b'\t' | 0x20..=0x7e) => {
            Chunk::Extension { size, length: length + 1 }
        }
        (Chunk::SizeLf { size: 0 }, b'\n') => Chunk::Trailer { total: 0, line: 0, named: false },
        (Chunk::SizeLf { size }, b'\n') => Chunk::Data { left: size },
        (Chunk::DataCr, b'\r') => Chunk::DataLf,
        (Chunk::DataLf, b'\n') => Chunk::Size { size: 0, digits: 0 },
        (Chunk::Trailer { total, line: 0, .. }, b'\r') => Chunk::TrailerLf { total, line: 0 },
        (Chunk::Trailer { total, line, named: true }, b'\r') => Chunk::TrailerLf { total, line },
        (Chunk::Trailer { total, line: line @ 1.., named: false }, b':') => {
            Chunk::Trailer { total, line: line + 1, named: true }
        }
        (Chunk::Trailer { total: total @ 0..MAX_TRAILERS, line, named: false }, byte) if is_token(byte) => {
            let more = if line == 0 { TRAILER_LINE } else { 1 };
            Chunk::Trailer { total: total + more, line: line + 1, named: false }
        }
        (Chunk::Trailer { total: total @ 0..MAX_TRAILERS, line, named: true }, b'\t' | 0x20..=0x7e | 0x80..) => {
            Chunk::Trailer { total: total + 1, line: line + 1, named: true }
        }
        (Chunk::TrailerLf { line: 0, .. }, b'\n') => return Some(State::Head),
        (Chunk::TrailerLf { total, .. }, b'\n') => Chunk::Trailer { total, line: 0, named: false },
        _ => return None,
    }))
}

/// A character of a header's name (RFC 9110 §5.6.2).
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// The index behind the empty line that ends a head, looking from `from` on. A line feed alone also
/// ends a line here: such a head is refused, but it must end somewhere.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr_iter(b'\n', bytes.get(from..)?).map(|at| at + from + 1).find_map(|after| match bytes.get(after..)? {
        [b'\n', ..] => Some(after + 1),
        [b'\r', b'\n', ..] => Some(after + 2),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 4096, lines: 20 };

    fn vet_lines(text: &str) -> Result<Framing, Refusal> {
        vet(text.replace('\n', "\r\n").as_bytes(), LIMITS)
    }

    #[test]
    fn framing_is_what_the_head_says_and_nothing_else() {
        assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\n\n"), Ok(Framing::Length(0)));
        assert_eq!(vet_lines("GET / HTTP/1.0\n\n"), Ok(Framing::Length(0)));
        assert_eq!(vet_lines("POST / HTTP/1.1\nhost: a\ncontent-length: 10\n\n"), Ok(Framing::Length(10)));
        assert_eq!(vet_lines("POST / HTTP/1.1\nhost: a\nTransfer-Encoding: Chunked\n\n"), Ok(Framing::Chunked));
        assert_eq!(vet_lines("GET http://a/b HTTP/1.1\nHost: a\n\n"), Ok(Framing::Length(0)));
        assert_eq!(vet_lines("OPTIONS * HTTP/1.1\nHost: a\n\n"), Ok(Framing::Length(0)));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let post = |lines: &str| vet_lines(&format!("POST / HTTP/1.1\nHost: a\n{lines}\n\n"));
        let malformed = |reason| Err(Refusal::Malformed(reason));
        assert_eq!(post("Content-Length: 6\nTransfer-Encoding: chunked"), malformed("length_and_coding"));
        assert_eq!(post("Content-Length: 6\nContent-Length: 6"), Err(Refusal::Ambiguous("content-length")));
        assert_eq!(post("Host: b"), Err(Refusal::Ambiguous("host")));
        assert_eq!(
            post("Transfer-Encoding: chunked\nTransfer-Encoding: chunked"),
            Err(Refusal::Ambiguous("transfer-encoding"))
        );
        for value in ["", "+6", "-1", "6, 6", "0x6", "6 6", "99999999999999999999"] {
            assert_eq!(post(&format!("Content-Length: {value}")), malformed("content_length"), "{value}");
        }
        for value in ["gzip, chunked", "chunked, chunked", "identity", "chunked;q=1", "xchunked", ""] {
            assert_eq!(post(&format!("Transfer-Encoding: {value}")), malformed("transfer_encoding"), "{value}");
        }
        assert_eq!(vet_lines("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n"), malformed("transfer_encoding"));
        assert_eq!(vet_lines("GET / HTTP/1.1\n\n"), malformed("host_missing"));
        assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\n: x\n\n"), malformed("header_name"));
        assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\nX : x\n\n"), malformed("header_name"));
        assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\nX: a\n b\n\n"), malformed("header_name"), "obs-fold");
        assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\nX: a\0b\n\n"), malformed("header_value"));
        assert_eq!(vet_lines("GET / HTTP/2.0\nHost: a\n\n"), malformed("version"));
        assert_eq!(vet_lines("GET  / HTTP/1.1\nHost: a\n\n"), malformed("request_line"));
        assert_eq!(vet_lines("get / HTTP/1.1\nHost: a\n\n"), malformed("method"));
        assert_eq!(vet_lines("GET /admin#.png HTTP/1.1\nHost: a\n\n"), malformed("fragment"));
        assert_eq!(vet_lines("GET admin HTTP/1.1\nHost: a\n\n"), malformed("target"));
        assert_eq!(vet_lines("GET * HTTP/1.1\nHost: a\n\n"), malformed("target"));
        assert_eq!(vet_lines("GET ftp://a/ HTTP/1.1\nHost: a\n\n"), malformed("target"));
        for target in ["/<", "/a`", "/a?\"", "http://", "http:///a", "http://[::1/a"] {
            assert_eq!(vet_lines(&format!("GET {target} HTTP/1.1\nHost: a\n\n")), malformed("target"), "{target}");
        }
        assert_eq!(vet(b"GET / HTTP/1.1\nHost: a\r\n\r\n", LIMITS), malformed("bare_lf"));
        let wide = HeadLimits { bytes: 100_000, lines: 20 };
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
        assert_eq!(vet(long.as_bytes(), wide), Err(Refusal::TargetTooLong));
        assert_eq!(
            vet_lines(&format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(20))),
            Err(Refusal::HeadTooLarge)
        );
        assert_eq!(
            vet_lines(&format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(300))),
            Err(Refusal::HeadTooLarge)
        );
        assert_eq!(post(&format!("X: {}", "y".repeat(4096))), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn a_refusal_keeps_what_came_before_it() {
        let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let both = [&good[..], b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let mut tracker = Tracker::new(LIMITS);
        assert_eq!(tracker.feed(&both), Err((good.len(), Refusal::Malformed("fragment"))));
        assert!(!tracker.in_body());
    }

    #[test]
    fn empty_lines_before_a_request_are_skipped_however_they_arrive() {
        let stream = b"\r\n\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for size in 1..stream.len() {
            let mut tracker = Tracker::new(LIMITS);
            for piece in stream.chunks(size) {
                assert_eq!(tracker.feed(piece), Ok(()), "in pieces of {size}");
            }
        }
        for size in 1..3 {
            let mut tracker = Tracker::new(LIMITS);
            let refused = b"\rGET ".chunks(size).find_map(|piece| tracker.feed(piece).err());
            assert_eq!(refused, Some((0, Refusal::Malformed("line_end"))), "hyper would refuse it without a word");
        }
    }

    #[test]
    fn a_head_is_refused_at_its_first_piece_where_hyper_would_refuse_it() {
        for (piece, reason) in [
            (&b"GET / HTTP/1.1\r\nHo/t: a\r\nX: "[..], "header_name"),
            (b"GET /\x0b", "request_line"),
            (b"GET / HTTP/1.3\r", "version"),
        ] {
            assert_eq!(Tracker::new(LIMITS).feed(piece), Err((0, Refusal::Malformed(reason))));
        }
    }

    #[test]
    fn a_head_that_never_ends_is_too_large() {
        let mut tracker = Tracker::new(LIMITS);
        let outcome = (0..5000).map(|_| tracker.feed(b"x")).find(Result::is_err);
        assert_eq!(outcome, Some(Err((0, Refusal::TargetTooLong))));
        let mut tracker = Tracker::new(LIMITS);
        tracker.feed(b"GET / HTTP/1.1\r\nX: ").unwrap();
        let outcome = (0..5000).map(|_| tracker.feed(b"x")).find(Result::is_err);
        assert_eq!(outcome, Some(Err((0, Refusal::HeadTooLarge))));
    }

    #[test]
    fn chunked_bodies_are_strict() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let feed =
            |body: &str| Tracker::new(LIMITS).feed(format!("{head}{body}GET / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        for fine in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "3;a=b\r\nabc\r\n0\r\nX: y\r\nZ: w\r\n\r\n",
            "00A\r\n0123456789\r\n000\r\n\r\n",
        ] {
            assert_eq!(feed(fine), Ok(()), "{fine:?}");
        }
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
        let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000));
        for bad in [
            "3\nabc\r\n0\r\n\r\n",
            "\r\n",
            "g\r\n",
            "3 \r\nabc\r\n",
            "-1\r\n",
            "3\r\nabcd\r\n",
            "11111111111111111\r\n",
            ";x\r\n",
            "3;a\x01\r\nabc\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            "0\r\n: y\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\nX: y\r\n folded\r\n\r\n",
            "0\r\nX\r\n\r\n",
            &"0\r\n".chars().chain("a:\r\n".repeat(300).chars()).collect::<String>(),
            &long,
            &trailers,
        ] {
            assert!(matches!(feed(bad), Err((_, Refusal::Malformed("chunk")))), "{bad:?}");
        }
    }

    /// A request that the tracker accepts, with the number of its bytes.
    fn request() -> impl Strategy<Value = String> {
        let chunk = ("[0-9a-z]{1,20}", prop_oneof![Just(""), Just(";x=y")])
            .prop_map(|(data, ext)| format!("{:x}{ext}\r\n{data}\r\n", data.len()));
        prop_oneof![
            Just("GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
            "[a-z\r\n]{1,40}"
                .prop_map(|b| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{b}", b.len())),
            proptest::collection::vec(chunk, 0..4).prop_map(|chunks| format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\nA: b\r\n\r\n",
                chunks.concat()
            )),
        ]
    }

    proptest! {
        #[test]
        fn boundaries_do_not_depend_on_how_the_bytes_arrive(requests in proptest::collection::vec(request(), 1..5), cuts in proptest::collection::vec(1usize..30, 1..40)) {
            let stream = requests.concat() + "GET /#refused HTTP/1.1\r\nHost: a\r\n\r\n";
            let last = stream.len() - "GET /#refused HTTP/1.1\r\nHost: a\r\n\r\n".len();
            let mut tracker = Tracker::new(LIMITS);
            let (mut position, mut cuts, mut refused) = (0, cuts.iter().cycle(), false);
            while position < stream.len() {
                let end = (position + cuts.next().unwrap()).min(stream.len());
                if let Err((good, refusal)) = tracker.feed(&stream.as_bytes()[position..end]) {
                    prop_assert_eq!(refusal, Refusal::Malformed("fragment"));
                    prop_assert!(position + good >= last, "refused at {} instead of after {}", position + good, last);
                    refused = true;
                    break;
                }
                position = end;
            }
            prop_assert!(refused, "the offense must be found at the right boundary");
        }

        #[test]
        fn a_target_that_is_accepted_is_one_for_hyper(target in "(/|http://|https://a|HTTP://[::1]|\\*)?[ -~]{0,12}", method in "GET|OPTIONS|CONNECT") {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            if vet(head.as_bytes(), LIMITS).is_ok() {
                prop_assert!(target.parse::<http::Uri>().is_ok(), "{}", target);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut tracker = Tracker::new(LIMITS);
            if let Err((good, _)) = tracker.feed(&bytes) {
                prop_assert!(good <= bytes.len());
            }
        }

        #[test]
        fn a_chunk_size_that_is_accepted_is_what_the_parser_of_hyper_reads(line in "[0-9a-fA-F;= \r\n]{1,20}") {
            let text = format!("{line}\r\n");
            let mut state = State::Chunked(Chunk::Size { size: 0, digits: 0 });
            for (index, byte) in text.bytes().enumerate() {
                let State::Chunked(chunk) = state else { break };
                match next_chunk_state(chunk, byte) {
                    None => break,
                    Some(State::Chunked(Chunk::Data { left })) => {
                        prop_assert_eq!(httparse::parse_chunk_size(text.as_bytes()), Ok(httparse::Status::Complete((index + 1, left))));
                        break;
                    }
                    Some(State::Chunked(Chunk::Trailer { .. })) => {
                        prop_assert_eq!(httparse::parse_chunk_size(text.as_bytes()), Ok(httparse::Status::Complete((index + 1, 0))));
                        break;
                    }
                    Some(next) => state = next,
                }
            }
        }
    }
}
