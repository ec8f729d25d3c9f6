//! Heads: of a request, written; of an answer, read.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use memchr::memchr_iter;

use super::body::Framing;

/// Bytes of an answer's head, and its lines.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;

/// The head of an answer, and what it says of the body behind it.
#[derive(Debug)]
pub(in super::super) struct Head {
    pub(in super::super) response: Response<()>,
    pub(in super::super) framing: Framing,
}

/// Writes the head of a request as HTTP/1.1 (RFC 9112 §3). Its headers frame its body already.
pub(super) fn write<B>(request: &Request<B>, out: &mut Vec<u8>) {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in request.headers() {
        write_line(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// One line of a head or of the trailers.
pub(super) fn write_line(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Takes the head of the answer to a `method` request off the front of `buffer`; `None` as long as
/// it is not complete. Interim answers are heads like any other. The answer's headers move into the
/// memory of `spare`.
///
/// # Errors
/// What is wrong with it, as soon as that can be told.
pub(super) fn take(
    buffer: &mut BytesMut,
    method: &Method,
    spare: &mut HeaderMap,
) -> Result<Option<Head>, &'static str> {
    // Whatever else speaks there says so in its first bytes, and then waits.
    const START: &[u8] = b"HTTP/1.";
    if !buffer.iter().zip(START).all(|(byte, expected)| byte == expected) {
        return Err("it is not HTTP/1");
    }
    match end(buffer) {
        Some(length) if length <= MAX_HEAD => parse(&buffer.split_to(length).freeze(), method, spare).map(Some),
        None if buffer.len() <= MAX_HEAD => Ok(None),
        _ => Err("it is too large"),
    }
}

/// The length of the head: up to the first empty line, whatever its line ends are.
fn end(bytes: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', bytes).find_map(|at| match bytes.get(at + 1..) {
        Some([b'\n', ..]) => Some(at + 2),
        Some([b'\r', b'\n', ..]) => Some(at + 3),
        _ => None,
    })
}

/// Reads a complete head. Values stay where they are and share its memory.
fn parse(head: &Bytes, method: &Method, spare: &mut HeaderMap) -> Result<Head, &'static str> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut lines) {
        // Two readings of where it ends would be two readings of what follows.
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err("it ends elsewhere"),
        Err(httparse::Error::TooManyHeaders) => return Err("it has too many lines"),
        Err(_) => return Err("it is malformed"),
    }
    let mut headers = std::mem::take(spare);
    headers.clear();
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_invalid| "a name is malformed")?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value));
        headers.append(name, value.map_err(|_invalid| "a value is malformed")?);
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("the status is malformed")?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let framing = framing(&headers, method, status, version)?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    Ok(Head { response, framing })
}

/// How the body ends (RFC 9112 §6.3).
fn framing(
    headers: &HeaderMap,
    method: &Method,
    status: StatusCode,
    version: Version,
) -> Result<Framing, &'static str> {
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if coded && version == Version::HTTP_10 {
        return Err("HTTP/1.0 has no transfer codings");
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if *method == Method::HEAD || bodiless || status.is_informational() {
        return Ok(Framing::Length(0));
    }
    if coded {
        // That it is this coding and no other is looked at with the rest of the head.
        return Ok(Framing::Chunked);
    }
    let mut length = None;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            let stated = decimal(member.trim_ascii()).ok_or("the length is malformed")?;
            if length.replace(stated).is_some_and(|before| before != stated) {
                return Err("there are two lengths");
            }
        }
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// Digits only, unlike `str::parse`, which takes a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &str, method: &Method) -> Result<Option<Head>, &'static str> {
        take(&mut BytesMut::from(bytes), method, &mut HeaderMap::new())
    }

    #[test]
    fn a_head_is_taken_whole_and_what_follows_stays() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 Fine\r\nx-a: 1\r\nX-A: 2\r\ncontent-length: 2\r\n\r\nhi");
        let head = take(&mut buffer, &Method::GET, &mut HeaderMap::new()).unwrap().unwrap();
        assert_eq!((head.response.status(), head.response.version()), (StatusCode::OK, Version::HTTP_11));
        let values: Vec<_> = head.response.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(head.framing, Framing::Length(2));
        assert_eq!(buffer, "hi");
    }

    #[test]
    fn bodies_end_as_rfc_9112_says() {
        for (method, bytes, expected) in [
            (Method::GET, "HTTP/1.1 200 \r\n\r\n", Ok(Framing::UntilClose)),
            (Method::GET, "HTTP/1.0 200 OK\r\n\r\n", Ok(Framing::UntilClose)),
            (Method::GET, "HTTP/1.1 200 OK\ncontent-length: 7\n\n", Ok(Framing::Length(7))),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ncontent-length: 7, 7\r\ncontent-length:7\r\n\r\n",
                Ok(Framing::Length(7)),
            ),
            (Method::GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Ok(Framing::Chunked)),
            (Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Ok(Framing::Length(0))),
            (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", Ok(Framing::Length(0))),
            (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", Ok(Framing::Length(0))),
            (Method::GET, "HTTP/1.1 103 Early Hints\r\ncontent-length: 7\r\n\r\n", Ok(Framing::Length(0))),
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 7, 8\r\n\r\n", Err("there are two lengths")),
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: -7\r\n\r\n", Err("the length is malformed")),
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n", Err("the length is malformed")),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
                Err("the length is malformed"),
            ),
        ] {
            assert_eq!(read(bytes, &method).map(|head| head.unwrap().framing), expected, "{bytes}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_at_once() {
        for bytes in ["S", "HTTP/2.0 200 OK\r\n", "HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n"] {
            assert!(read(bytes, &Method::GET).is_err(), "{bytes}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(MAX_HEAD));
        assert_eq!(read(&long, &Method::GET).unwrap_err(), "it is too large");
        let lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(read(&lines, &Method::GET).unwrap_err(), "it has too many lines");
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_how_a_head_arrives(
            text in prop_oneof!["HTTP/1[.][01] [0-9]{1,4} [a-z]{0,3}(\r?\n|\r\n[a-z]{1,3}: ?[ -~]{0,5}){0,4}\r\n\r\n", "[ -~\r\n]{0,30}"],
            cut in 0usize..40,
        ) {
            let whole = read(&text, &Method::GET).map(|head| head.map(|head| format!("{head:?}")));
            let mut buffer = BytesMut::from(text.get(..cut).unwrap_or_default());
            let mut pieces = take(&mut buffer, &Method::GET, &mut HeaderMap::new());
            if let Ok(None) = pieces {
                buffer.extend_from_slice(text.get(cut..).unwrap_or(&text).as_bytes());
                pieces = take(&mut buffer, &Method::GET, &mut HeaderMap::new());
            }
            prop_assert_eq!(whole, pieces.map(|head| head.map(|head| format!("{head:?}"))));
        }
    }
}
