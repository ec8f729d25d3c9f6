//! The cases of `conformance`, by section of RFC 9113.

use crate::support::h2::*;

/// What the gateway has to do.
#[derive(Debug)]
pub(super) enum Want {
    /// Stream 1 or the connection ends with one of these codes.
    Error(&'static [u32]),
    /// The connection ends with one of these codes.
    Fatal(&'static [u32]),
    /// Stream 1 is answered with this status.
    Status(u16),
    /// Nothing: the connection goes on.
    Alive,
}

use Want::{Alive, Error, Fatal, Status};

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) want: Want,
    /// Targets that the upstream may have seen.
    pub(super) upstream: &'static [&'static str],
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, want: Want) -> Case {
    let upstream: &[&str] = if matches!(want, Status(200)) { &["/"] } else { &[] };
    Case { name, bytes: bytes.into(), want, upstream }
}

/// The same for a case whose request has reached the upstream, which is right.
fn seen(name: &'static str, bytes: impl Into<Vec<u8>>, want: Want) -> Case {
    Case { upstream: &["/"], ..case(name, bytes, want) }
}

const PROTOCOL: &[u32] = &[code::PROTOCOL];
const SIZE: &[u32] = &[code::FRAME_SIZE];
const FLOW: &[u32] = &[code::FLOW_CONTROL];
const COMPRESSION: &[u32] = &[code::COMPRESSION];
/// RFC 9113 §5.1 leaves the choice where a frame comes for a stream that is over.
const OVER: &[u32] = &[code::STREAM_CLOSED, code::PROTOCOL];
/// §4.2 and §6 name two codes for a frame with a wrong length.
const LENGTH: &[u32] = &[code::FRAME_SIZE, code::PROTOCOL];

fn join<const N: usize>(frames: [Vec<u8>; N]) -> Vec<u8> {
    frames.concat()
}

/// A POST that is still open.
fn post(more: &[(&str, &str)]) -> Vec<u8> {
    headers(0, 1, &request("POST", "/", more))
}

/// A GET with these further fields.
fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    headers(END_STREAM, 1, &request("GET", "/", more))
}

/// HEADERS with exactly these fields.
fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(END_STREAM, 1, fields)
}

/// A GET whose last field has these bytes.
fn get_raw(name: &[u8], value: &[u8]) -> Vec<u8> {
    let block = [block(&request("GET", "/", &[])), literal(name, value)].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block)
}

/// A GET followed by these bytes of header block.
fn get_then(tail: &[u8]) -> Vec<u8> {
    let block = [block(&request("GET", "/", &[])), tail.to_vec()].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block)
}

pub(super) fn settings(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, payload(&[(id, value)]))
}

pub(super) fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code::CANCEL.to_be_bytes())
}

fn data(flags: u8, text: &str) -> Vec<u8> {
    frame(DATA, flags, 1, text)
}

/// §4: frames and header blocks.
pub(super) fn frames() -> Vec<Case> {
    let whole = block(&request("GET", "/", &[]));
    let cut = whole.len() / 2;
    vec![
        case("4.1 a frame of an unknown type is ignored", join([frame(0x77, 0xff, 0, "x"), get(1, "/")]), Status(200)),
        case("4.1 undefined flags are ignored", frame(HEADERS, 0xc5 & !PADDED & !PRIORITIZED, 1, &whole), Status(200)),
        case("4.1 the reserved bit is ignored", frame(HEADERS, 5, 1 | 1 << 31, &whole), Status(200)),
        case("4.2 DATA of 16384 bytes", join([post(&[]), data(1, &"x".repeat(16384))]), Status(200)),
        case(
            "4.2 DATA larger than SETTINGS_MAX_FRAME_SIZE",
            join([post(&[]), data(1, &"x".repeat(16385))]),
            Error(SIZE),
        ),
        case("4.2 HEADERS larger than SETTINGS_MAX_FRAME_SIZE", get_with(&[("x", &"x".repeat(16385))]), Fatal(SIZE)),
        case("4.3 an index of zero", get_then(&[0x80]), Fatal(COMPRESSION_OR)),
        case("4.3 an index beyond both tables", get_then(&[0xff, 0x20]), Fatal(COMPRESSION_OR)),
        case("4.3 a literal that is cut off", get_then(&[0, 5, b'x']), Fatal(COMPRESSION_OR)),
        case(
            "4.3 a Huffman string with the EOS symbol",
            get_then(&[0, 1, b'x', 0x84, 255, 255, 255, 255]),
            Fatal(COMPRESSION_OR),
        ),
        case("4.3 a table size update behind a field", get_then(&[0x20]), Fatal(COMPRESSION_OR)),
        case(
            "4.3 a table larger than was allowed",
            frame(HEADERS, 5, 1, [&[0x3f, 0xe2, 0x1f], &whole[..]].concat()),
            Fatal(COMPRESSION_OR),
        ),
        case("4.3 a table size update in front", frame(HEADERS, 5, 1, [&[0x20], &whole[..]].concat()), Status(200)),
        case(
            "4.3 a block in two frames",
            join([frame(HEADERS, 1, 1, &whole[..cut]), frame(CONTINUATION, 4, 1, &whole[cut..])]),
            Status(200),
        ),
        case(
            "4.3 another frame amid a block",
            join([frame(HEADERS, 1, 1, &whole[..cut]), frame(PING, 0, 0, [0; 8])]),
            Fatal(PROTOCOL),
        ),
        case(
            "4.3 another stream amid a block",
            join([frame(HEADERS, 1, 1, &whole[..cut]), frame(CONTINUATION, 4, 3, &whole[cut..])]),
            Fatal(PROTOCOL),
        ),
        case(
            "5.5 an unknown frame amid a block",
            join([frame(HEADERS, 1, 1, &whole[..cut]), frame(0x77, 0, 1, "")]),
            Fatal(PROTOCOL),
        ),
    ]
}

/// `h2` says PROTOCOL_ERROR where RFC 9113 §4.3 names COMPRESSION_ERROR.
const COMPRESSION_OR: &[u32] = &[COMPRESSION[0], code::PROTOCOL];

/// §5: streams.
pub(super) fn streams() -> Vec<Case> {
    vec![
        case("5.1 DATA on an idle stream", data(1, "x"), Fatal(OVER)),
        case("5.1 RST_STREAM on an idle stream", reset(1), Fatal(PROTOCOL)),
        case("5.1 WINDOW_UPDATE on an idle stream", window(1, 1), Fatal(PROTOCOL)),
        case("5.1 CONTINUATION on an idle stream", frame(CONTINUATION, 4, 1, ""), Fatal(PROTOCOL)),
        seen("5.1 DATA after END_STREAM", join([get(1, "/"), data(1, "x")]), Error(OVER)),
        seen("5.1 HEADERS after END_STREAM", join([get(1, "/"), get(1, "/")]), Error(OVER)),
        case("5.1 DATA after RST_STREAM", join([post(&[]), reset(1), data(1, "x")]), Alive),
        case("5.1 HEADERS after RST_STREAM", join([post(&[]), reset(1), get(1, "/")]), Error(OVER)),
        seen("5.1 WINDOW_UPDATE after END_STREAM", join([get(1, "/"), window(1, 1)]), Status(200)),
        seen("5.1 PRIORITY on an idle stream", join([frame(PRIORITY, 0, 5, [0, 0, 0, 0, 9]), get(7, "/")]), Alive),
        case("5.1.1 a stream with an even number", get(2, "/"), Fatal(PROTOCOL)),
        Case {
            upstream: &["/five"],
            ..case("5.1.1 a stream with a lower number", join([get(5, "/five"), get(3, "/three")]), Fatal(OVER))
        },
        case(
            "5.3.2 a stream that depends on itself",
            frame(HEADERS, 0x25, 1, [&[0, 0, 0, 1, 0], &block(&request("GET", "/", &[]))[..]].concat()),
            Error(PROTOCOL),
        ),
        case("5.3.2 PRIORITY on itself", join([post(&[]), frame(PRIORITY, 0, 1, [0, 0, 0, 1, 0])]), Error(PROTOCOL)),
    ]
}

/// §6: the frames' definitions.
pub(super) fn definitions() -> Vec<Case> {
    let whole = block(&request("GET", "/", &[]));
    let padded = [&[3], &whole[..], &[0; 3]].concat();
    let prioritized = [&[0x80, 0, 0, 0, 16], &whole[..]].concat();
    vec![
        case("6.1 DATA on stream 0", frame(DATA, 1, 0, "x"), Fatal(PROTOCOL)),
        case(
            "6.1 padding as long as the frame",
            join([post(&[]), frame(DATA, 9, 1, [5, 0, 0, 0, 0])]),
            Error(PROTOCOL),
        ),
        case("6.1 padded DATA", join([post(&[]), frame(DATA, 9, 1, [2, b'x', 0, 0])]), Status(200)),
        case("6.2 HEADERS on stream 0", frame(HEADERS, 5, 0, &whole), Fatal(PROTOCOL)),
        case(
            "6.2 padding longer than the block",
            frame(HEADERS, 13, 1, [&[255], &whole[..]].concat()),
            Fatal(PROTOCOL),
        ),
        case("6.2 padded HEADERS", frame(HEADERS, 13, 1, padded), Status(200)),
        case("6.2 HEADERS with a priority", frame(HEADERS, 0x25, 1, prioritized), Status(200)),
        case("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, [0; 5]), Fatal(PROTOCOL)),
        case("6.3 PRIORITY of four bytes", join([post(&[]), frame(PRIORITY, 0, 1, [0; 4])]), Error(LENGTH)),
        case("6.4 RST_STREAM on stream 0", reset(0), Fatal(PROTOCOL)),
        case("6.4 RST_STREAM of three bytes", join([post(&[]), frame(RST_STREAM, 0, 1, [0; 3])]), Fatal(LENGTH)),
        case("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, ""), Fatal(PROTOCOL)),
        case("6.5 SETTINGS of five bytes", frame(SETTINGS, 0, 0, [0; 5]), Fatal(LENGTH)),
        case("6.5 an acknowledgment with a payload", frame(SETTINGS, ACK, 0, [0; 6]), Fatal(LENGTH)),
        case("6.5.2 ENABLE_PUSH of 2", settings(2, 2), Fatal(PROTOCOL)),
        case("6.5.2 a window of 2^31", settings(4, 1 << 31), Fatal(&[code::FLOW_CONTROL, code::PROTOCOL])),
        case("6.5.2 a frame size below the least", settings(5, 16383), Fatal(PROTOCOL)),
        case("6.5.2 a frame size above the most", settings(5, 1 << 24), Fatal(PROTOCOL)),
        case("6.5.2 an unknown setting", join([settings(0x7777, 1), get(1, "/")]), Status(200)),
        case(
            "6.6 PUSH_PROMISE from a client",
            frame(PUSH_PROMISE, 4, 1, [&[0, 0, 0, 2], &whole[..]].concat()),
            Fatal(PROTOCOL),
        ),
        case("6.7 PING of seven bytes", frame(PING, 0, 0, [0; 7]), Fatal(LENGTH)),
        case("6.7 PING on a stream", frame(PING, 0, 1, [0; 8]), Fatal(PROTOCOL)),
        case("6.7 an acknowledgment nobody asked for", frame(PING, ACK, 0, [1; 8]), Alive),
        case("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), Fatal(PROTOCOL)),
        seen("6.8 GOAWAY behind a request", join([get(1, "/"), frame(GOAWAY, 0, 0, [0; 8])]), Status(200)),
        case("6.9 WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, [0; 3]), Fatal(LENGTH)),
        case("6.9 WINDOW_UPDATE by nothing", window(0, 0), Fatal(PROTOCOL)),
        case("6.9 WINDOW_UPDATE by nothing on a stream", join([post(&[]), window(1, 0)]), Error(PROTOCOL)),
        case("6.9.1 a window of the connection above 2^31-1", window(0, (1 << 31) - 1), Fatal(FLOW)),
        case("6.9.1 a window of a stream above 2^31-1", join([post(&[]), window(1, (1 << 31) - 1)]), Error(FLOW)),
        case(
            "6.10 CONTINUATION behind a whole block",
            join([post(&[]), frame(CONTINUATION, 4, 1, "")]),
            Fatal(PROTOCOL),
        ),
        case(
            "6.10 CONTINUATION on stream 0",
            join([frame(HEADERS, 1, 1, &whole), frame(CONTINUATION, 4, 0, "")]),
            Fatal(PROTOCOL),
        ),
    ]
}

/// §8: requests.
pub(super) fn requests() -> Vec<Case> {
    let pseudo = |name: &str| request("GET", "/", &[]).into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| {
        only(
            &request("GET", "/", &[])
                .into_iter()
                .map(|field| if field.0 == name { (name, value) } else { field })
                .collect::<Vec<_>>(),
        )
    };
    let twice =
        |name: &'static str, value: &'static str| only(&[&[(name, value)], &request("GET", "/", &[])[..]].concat());
    vec![
        case("8.1 trailers", join([post(&[]), data(0, "x"), headers(1, 1, &[("x-sum", "1")])]), Status(200)),
        case(
            "8.1 trailers that do not end the stream",
            join([post(&[]), data(0, "x"), headers(0, 1, &[("x-sum", "1")])]),
            Error(PROTOCOL),
        ),
        // The RFC asks for an error here. `h2` drops the pseudo-header, so that nobody can be misled.
        case(
            "8.1 a pseudo-header in trailers",
            join([post(&[]), data(0, "x"), headers(1, 1, &[(":path", "/admin")])]),
            Status(200),
        ),
        case(
            "8.1.1 a body shorter than announced",
            join([post(&[("content-length", "5")]), data(1, "abc")]),
            Error(PROTOCOL),
        ),
        case(
            "8.1.1 a body longer than announced",
            join([post(&[("content-length", "2")]), data(1, "abc")]),
            Error(PROTOCOL),
        ),
        case("8.1.1 a body announced and absent", get_with(&[("content-length", "5")]), Error(PROTOCOL)),
        case(
            "8.1.1 two lengths",
            join([post(&[("content-length", "3"), ("content-length", "4")]), data(1, "abc")]),
            Error(PROTOCOL),
        ),
        case(
            "8.1.1 the same length twice",
            join([post(&[("content-length", "3"), ("content-length", "3")]), data(1, "abc")]),
            Status(400),
        ),
        case("8.1.1 a length with a sign", join([post(&[("content-length", "+3")]), data(1, "abc")]), Error(PROTOCOL)),
        case("8.1.1 the length that comes", join([post(&[("content-length", "3")]), data(1, "abc")]), Status(200)),
        case("8.2 a name in upper case", get_with(&[("X-Upper", "1")]), Error(PROTOCOL)),
        case("8.2.1 a name with a blank", get_with(&[("x y", "1")]), Error(PROTOCOL)),
        case("8.2.1 a name with a colon", get_with(&[("x:y", "1")]), Error(PROTOCOL)),
        case("8.2.1 an empty name", get_with(&[("", "1")]), Error(PROTOCOL)),
        case("8.2.1 a name with a line end", get_raw(b"x\r\ny", b"1"), Error(PROTOCOL)),
        case("8.2.1 a value with a line end", get_raw(b"x", b"a\r\nx-auth-subject: root"), Error(PROTOCOL)),
        case("8.2.1 a value with a line feed", get_raw(b"x", b"a\nb"), Error(PROTOCOL)),
        case("8.2.1 a value with NUL", get_raw(b"x", b"a\0b"), Error(PROTOCOL)),
        case("8.2.1 a value that begins with a blank", get_with(&[("x", " a")]), Status(400)),
        case("8.2.1 a value that ends with a tab", get_with(&[("x", "a\t")]), Status(400)),
        case("8.2.2 connection", get_with(&[("connection", "close")]), Error(PROTOCOL)),
        case("8.2.2 keep-alive", get_with(&[("keep-alive", "5")]), Error(PROTOCOL)),
        case("8.2.2 proxy-connection", get_with(&[("proxy-connection", "x")]), Error(PROTOCOL)),
        case(
            "8.2.2 transfer-encoding",
            join([post(&[("transfer-encoding", "chunked")]), data(1, "0\r\n\r\n")]),
            Error(PROTOCOL),
        ),
        case("8.2.2 upgrade", get_with(&[("upgrade", "websocket")]), Error(PROTOCOL)),
        case("8.2.2 te with another coding", get_with(&[("te", "trailers, gzip")]), Error(PROTOCOL)),
        case("8.2.2 te: trailers", get_with(&[("te", "trailers")]), Status(200)),
        case("8.2.3 cookies in crumbs", get_with(&[("cookie", "a=1"), ("cookie", "b=2")]), Status(200)),
        case("8.3 an unknown pseudo-header", twice(":unknown", "1"), Error(PROTOCOL)),
        case("8.3 a pseudo-header of answers", twice(":status", "200"), Error(PROTOCOL)),
        case(
            "8.3 a pseudo-header behind a field",
            only(&[&pseudo(":path")[..], &[("x", "1"), (":path", "/")]].concat()),
            Error(PROTOCOL),
        ),
        case("8.3.1 :method twice", twice(":method", "GET"), Error(PROTOCOL)),
        case("8.3.1 :scheme twice", twice(":scheme", "http"), Error(PROTOCOL)),
        case("8.3.1 :path twice", twice(":path", "/"), Error(PROTOCOL)),
        case("8.3.1 :authority twice", twice(":authority", "gw"), Error(PROTOCOL)),
        case("8.3.1 no :method", only(&pseudo(":method")), Error(PROTOCOL)),
        case("8.3.1 no :scheme", only(&pseudo(":scheme")), Error(PROTOCOL)),
        case("8.3.1 no :path", only(&pseudo(":path")), Error(PROTOCOL)),
        case("8.3.1 no :authority and no host", only(&pseudo(":authority")), Status(400)),
        case(
            "8.3.1 a host instead of :authority",
            only(&[&pseudo(":authority")[..], &[("host", "gw")]].concat()),
            Status(200),
        ),
        case("8.3.1 an empty :path", with(":path", ""), Error(PROTOCOL)),
        case("8.3.1 a :path without a slash", with(":path", "admin"), Error(PROTOCOL)),
        case("8.3.1 a :path that is a query", with(":path", "?x"), Status(400)),
        case("8.3.1 a :path with a blank", with(":path", "/a b"), Error(PROTOCOL)),
        case("8.3.1 a :path with a line end", with(":path", "/ HTTP/1.1\r\nx: y"), Error(PROTOCOL)),
        case("8.3.1 * without OPTIONS", with(":path", "*"), Status(400)),
        case("8.3.1 :method with a blank", with(":method", "GET /admin? HTTP/1.1"), Error(PROTOCOL)),
        case("8.3.1 :method in lower case", with(":method", "get"), Status(400)),
        case("8.3.1 an empty :method", with(":method", ""), Error(PROTOCOL)),
        case("8.3.1 a :scheme of another kind", with(":scheme", "ftp"), Status(400)),
        case("8.3.1 a :scheme that is none", with(":scheme", "http://x/"), Error(PROTOCOL)),
        case("8.3.1 https from a proxy in front", with(":scheme", "https"), Status(200)),
        case("8.3.1 :authority with a user", with(":authority", "u@gw"), Status(400)),
        case("8.3.1 an empty :authority", with(":authority", ""), Error(PROTOCOL)),
        case("8.3.1 :authority and another host", get_with(&[("host", "admin.example")]), Status(400)),
        case("8.3.1 :authority and the same host", get_with(&[("host", "GW:80")]), Status(200)),
        case("8.3.1 two hosts", get_with(&[("host", "gw"), ("host", "gw")]), Status(400)),
        case("8.5 CONNECT", only(&[(":method", "CONNECT"), (":authority", "gw:443")]), Status(405)),
        case("8.5 CONNECT with a :path", with(":method", "CONNECT"), Error(PROTOCOL)),
        case(
            "8.5 extended CONNECT on a route that takes no WebSockets (RFC 8441)",
            only(&[&[(":protocol", "websocket")], &request("CONNECT", "/", &[])[..]].concat()),
            Status(405),
        ),
    ]
}
