//! Bodies, chunks, and connections.

use super::*;

/// §6: where a body ends.
pub(in crate::framing) fn bodies() -> Vec<Case> {
    let seen =
        |length: &str, body: &str| format!("POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n{body}");
    let length = |value: &str| post(&format!("Content-Length:{value}"), "abcde");
    let coding = |value: &str| post(&format!("Transfer-Encoding:{value}"), "0\r\n\r\n");
    let empty = "POST /x HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked";
    vec![
        passes("6.2 a length", &length(" 5"), &[&seen("5", "abcde")]),
        passes("6.2 a length of nothing", &post("Content-Length: 0", ""), &[&seen("0", "")]),
        passes("6.2 zeros in front", &length(" 005"), &[&seen("5", "abcde")]),
        passes("6.2 white space around it", &length("\t5 "), &[&seen("5", "abcde")]),
        malformed("6.2 an empty length", &length("")),
        malformed("6.2 a plus sign", &length(" +5")),
        malformed("6.2 a minus sign", &length(" -5")),
        malformed("6.2 hexadecimal", &length(" 0x5")),
        malformed("6.2 a fraction", &length(" 5.0")),
        malformed("6.2 an exponent", &length(" 5e0")),
        malformed("6.2 two numbers", &length(" 5 5")),
        malformed("6.3 a list of the same number", &length(" 5, 5")),
        malformed("6.3 a list of two numbers", &length(" 5, 6")),
        malformed("6.2 a list with nothing in it", &length(" 5,")),
        malformed("6.2 more digits than a number can have", &length(" 99999999999999999999")),
        malformed("6.2 a number above 64 bits", &length(" 18446744073709551621")),
        malformed("6.2 a quoted number", &length(" \"5\"")),
        refused(
            "6.3 the same length twice",
            &post("Content-Length: 5\r\nContent-Length: 5", "abcde"),
            400,
            "header_ambiguous",
        ),
        refused("6.3 two lengths", &post("Content-Length: 5\r\nContent-Length: 6", "abcde"), 400, "header_ambiguous"),
        malformed("6.3 length and coding", &post(both, "0\r\n\r\n")),
        malformed("6.3 coding and length", &post("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n")),
        passes("6.1 chunked", &coding(" chunked"), &[empty]),
        passes("6.1 chunked in any case", &coding(" cHuNkEd"), &[empty]),
        malformed("6.1 another coding", &coding(" gzip")),
        malformed("6.1 identity", &coding(" identity")),
        malformed("6.1 an empty coding", &coding("")),
        malformed("6.1 chunked behind another", &coding(" gzip, chunked")),
        malformed("6.1 chunked before another", &coding(" chunked, gzip")),
        malformed("6.1 chunked twice", &coding(" chunked, chunked")),
        malformed("6.1 a comma behind it", &coding(" chunked,")),
        malformed("6.1 a parameter", &coding(" chunked;q=1")),
        malformed("6.1 something before it", &coding(" xchunked")),
        malformed("6.1 something behind it", &coding(" chunkedx")),
        malformed("6.1 in quotes", &coding(" \"chunked\"")),
        malformed("6.1 a vertical tab before it", &coding(" \u{b}chunked")),
        refused(
            "6.1 two codings in two lines",
            &post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
            400,
            "header_ambiguous",
        ),
        malformed(
            "6.1 chunked in HTTP/1.0",
            "POST /x HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        passes(
            "6.1 an alias of the coding frames nothing",
            &post("Transfer_Encoding: chunked\r\nContent-Length: 5", "abcde"),
            &[&seen("5", "abcde")],
        ),
        passes(
            "6.2 an alias of the length frames nothing",
            &post("Content_Length: 99\r\nContent-Length: 5", "abcde"),
            &[&seen("5", "abcde")],
        ),
        passes(
            "6.3 no length is no body",
            "GET /x HTTP/1.1\r\nHost: gw\r\n\r\nGET /x HTTP/1.1\r\nHost: gw\r\n\r\n",
            &[SEEN, SEEN],
        ),
        passes(
            "6.3 a GET with a body",
            "GET /x HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\n\r\nabc",
            &["GET /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 3\r\n\r\nabc"],
        ),
        passes(
            "6.3 a body that looks like a request",
            &post("Content-Length: 32", &get("/next")),
            &[&seen("32", &get("/next"))],
        ),
        answered(
            "a length above the route's limit",
            "POST /small/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 1025\r\n\r\n",
            413,
            "body_too_large",
        )
        .closing(),
        passes(
            "RFC 9110 9.3.2 HEAD",
            "HEAD /x HTTP/1.1\r\nHost: gw\r\n\r\n",
            &["HEAD /x HTTP/1.1\r\nhost: gw\r\n\r\n"],
        ),
    ]
}

/// §7.1: chunks.
pub(in crate::framing) fn chunks() -> Vec<Case> {
    let head = "POST /x HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n";
    let seen = |body: &str| format!("{head}{body}");
    let abc = seen("3\r\nabc\r\n0\r\n\r\n");
    let extension = |length: usize| chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(length)));
    // The answer to what was whole by then does not come: the body broke off.
    let broken = |name, body: &str| malformed(name, &chunked(body));
    vec![
        passes("7.1 a chunk", &chunked("3\r\nabc\r\n0\r\n\r\n"), &[&abc]),
        passes("7.1 zeros in front of the size", &chunked("0003\r\nabc\r\n000\r\n\r\n"), &[&abc]),
        passes(
            "7.1 digits in both cases",
            &chunked("A\r\n0123456789\r\n0\r\n\r\n"),
            &[&seen("a\r\n0123456789\r\n0\r\n\r\n")],
        ),
        passes("7.1.1 an extension", &chunked("3;a=b;c=\"d e\"\r\nabc\r\n0;f\r\n\r\n"), &[&abc]),
        passes("7.1.1 an extension of 256 bytes", &extension(256), &[&abc]),
        malformed("7.1.1 an extension of 257 bytes", &extension(257)),
        broken("7.1.1 a line feed alone behind an extension", "3;a\nabc\r\n0\r\n\r\n"),
        broken("7.1.1 a carriage return in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        broken("7.1.1 a NUL in an extension", "3;a\0\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 no size", "\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 an extension without a size", ";a\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 a plus sign", "+3\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 a minus sign", "-3\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 a space before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 a space behind the size", "3 \r\nabc\r\n0\r\n\r\n"),
        broken("7.1 no digit", "g\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 a size above 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 17 digits", "00000000000000003\r\nabc\r\n0\r\n\r\n"),
        broken("7.1 a line feed alone behind the size", "3\nabc\r\n0\r\n\r\n"),
        broken("7.1 a carriage return alone behind the size", "3\rabc\r\n0\r\n\r\n"),
        broken("7.1 a line feed alone behind the data", "3\r\nabc\n0\r\n\r\n"),
        broken("7.1 nothing behind the data", "3\r\nabc0\r\n\r\n"),
        broken("7.1 more data than the size says", "3\r\nabcd\r\n0\r\n\r\n"),
        broken("7.1 a line feed alone ends the body", "3\r\nabc\r\n0\r\n\n"),
        passes("7.1.2 trailers", &chunked("0\r\nX-T: a\r\n\r\n"), &[&seen("0\r\nx-t: a\r\n\r\n")]),
        passes(
            "7.1.2 trailers that frame",
            &chunked("0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nHost: y\r\n\r\n"),
            &[&seen("0\r\n\r\n")],
        ),
        broken("7.1.2 a trailer without a colon", "0\r\nX\r\n\r\n"),
        broken("7.1.2 a trailer without a name", "0\r\n: x\r\n\r\n"),
        broken("7.1.2 a space before the colon of a trailer", "0\r\nX : y\r\n\r\n"),
        broken("7.1.2 a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"),
        broken("7.1.2 a line feed alone behind a trailer", "0\r\nX: y\n\r\n"),
        broken("7.1.2 a NUL in a trailer", "0\r\nX: a\0b\r\n\r\n"),
        broken("7.1.2 trailers of more than 8 KiB", &format!("0\r\nX: {}\r\n\r\n", "y".repeat(8200))),
        passes(
            "7.1 what follows the last chunk is a request",
            &(chunked("3\r\nabc\r\n0\r\n\r\n") + &get("/x")),
            &[&abc, SEEN],
        ),
    ]
}

/// §9: connections.
pub(in crate::framing) fn connections() -> Vec<Case> {
    let old = |line: &str| format!("GET /x HTTP/1.0\r\nHost: gw\r\n{line}\r\n");
    let twice = get("/x") + &get("/x");
    let behind = |first: String, second: &str| first + second;
    vec![
        passes("9.3.2 requests in a row", &get("/x").repeat(3), &[SEEN, SEEN, SEEN]),
        passes("9.3 HTTP/1.0 ends", &old(""), &[SEEN]).closing(),
        passes("9.3 HTTP/1.0 that asks to go on", &old("Connection: keep-alive\r\n"), &[SEEN]),
        passes("9.6 close", &with("Connection: close"), &[SEEN]).closing(),
        passes("9.6 close among others", &with("Connection: x, CLOSE"), &[SEEN]).closing(),
        passes("9.6 close wins", &with("Connection: keep-alive, close"), &[SEEN]).closing(),
        passes("9.6 what follows close is not read", &behind(with("Connection: close"), &twice), &[SEEN]).closing(),
        passes("9.3.2 a bad one behind a good one", &behind(get("/x"), "GET /y\r\n\r\n"), &[SEEN])
            .then("GET", 400, "request_malformed")
            .closing(),
        passes("9.3.2 a good one behind one that is refused by its path", &behind(get("//y"), ""), &[]).then(
            "GET",
            400,
            "path_ambiguous",
        ),
        malformed("9.3.2 what follows a bad one is not read", &behind("GET /y\r\n\r\n".to_owned(), &twice)),
        passes(
            "9.3.2 a request behind a body",
            &behind(post("Content-Length: 3", "abc"), &get("/x")),
            &["POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 3\r\n\r\nabc", SEEN],
        ),
        passes(
            "2.2 an empty line behind a body",
            &behind(post("Content-Length: 3", "abc"), &format!("\r\n{}", get("/x"))),
            &["POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 3\r\n\r\nabc", SEEN],
        ),
        passes(
            "RFC 9110 10.1.1 Expect with the body at hand",
            &post("Expect: 100-continue\r\nContent-Length: 3", "abc"),
            &["POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 3\r\n\r\nabc"],
        ),
        passes("RFC 9110 10.1.1 Expect without a body", &with("Expect: 100-continue"), &[SEEN]),
        passes("RFC 9110 10.1.1 Expect in HTTP/1.0", &old("Expect: 100-continue\r\n"), &[SEEN]).closing(),
        passes(
            "RFC 9110 9.3.8 TRACE",
            "TRACE /x HTTP/1.1\r\nHost: gw\r\n\r\n",
            &["TRACE /x HTTP/1.1\r\nhost: gw\r\n\r\n"],
        ),
    ]
}
