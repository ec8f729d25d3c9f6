//! Where a request ends, decided before hyper sees a byte of it.
//!
//! hyper hides what a gateway must not let pass: it drops `Content-Length` beside
//! `Transfer-Encoding` and the `#…` of a target, and takes bare line feeds and missing or repeated
//! `Host` headers. So every byte from a client runs past a [`Tracker`] first. It parses each head
//! with hyper's own parser under stricter rules, follows the body to its end, and thus knows where
//! the next head begins, also when requests are pipelined. What it accepts, hyper reads the same
//! way; what it refuses, nobody reads.

use std::mem::MaybeUninit;

use memchr::memchr_iter;

/// The longest request target, as other servers have it (nginx: 8k).
pub(crate) const MAX_TARGET: usize = 8 * 1024;
/// Lines that a parser has room for; the configured limit lies at or below it.
pub(crate) const MAX_HEADERS: usize = 256;
/// Empty lines before a request line, of which RFC 9112 §2.2 asks to skip one.
const MAX_EMPTY_LINES: u8 = 32;
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
    // Filling 8 KiB with empty headers first would cost as much as the parsing does.
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    if request.parse_with_uninit_headers(head, &mut headers).map_err(refusal_of)?.is_partial() {
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
    let is_web = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let known = target.starts_with('/')
        || target.split_once("://").is_some_and(|(scheme, _)| is_web(scheme))
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
fn vet_beginning(head: &[u8], limits: HeadLimits) -> Result<(), Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let headers = headers.get_mut(..limits.lines).unwrap_or_default();
    httparse::Request::new(headers).parse(head).map(|_| ()).map_err(refusal_of)
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
    /// Empty lines before the present head.
    empty_lines: u8,
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
        Self { limits, state: State::Head, partial: Vec::new(), empty_lines: 0 }
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
                [b'\n', ..] => return self.empty_line(1),
                [b'\r', b'\n', ..] => return self.empty_line(2),
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
            return if bytes.starts_with(b"\n") { self.empty_line(1) } else { Err(Refusal::Malformed("line_end")) };
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        let Some(end) = head_end(&self.partial, before.saturating_sub(3)) else {
            // Only the first piece: hyper parses that one and then waits for the end. Where empty lines
            // precede a piece of a single byte, it takes them for the end.
            if before <= 1 {
                vet_beginning(&self.partial, self.limits)?;
            }
            return if self.partial.len() > self.limits.bytes { Err(self.too_large()) } else { Ok(bytes.len()) };
        };
        let framing = vet(self.partial.get(..end).unwrap_or_default(), self.limits)?;
        // Large heads are rare: their memory is given back rather than kept for the connection's life.
        self.partial = Vec::new();
        self.begin_body(framing);
        Ok(end.saturating_sub(before))
    }

    /// Skips an empty line of so many bytes. hyper keeps them all.
    fn empty_line(&mut self, bytes: usize) -> Result<usize, Refusal> {
        self.empty_lines += 1;
        if self.empty_lines > MAX_EMPTY_LINES { Err(Refusal::Malformed("empty_lines")) } else { Ok(bytes) }
    }

    /// Which part of an unfinished head is too large.
    fn too_large(&self) -> Refusal {
        if memchr::memchr(b'\n', &self.partial).is_none() { Refusal::TargetTooLong } else { Refusal::HeadTooLarge }
    }

    fn begin_body(&mut self, framing: Framing) {
        self.empty_lines = 0;
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
mod tests;
