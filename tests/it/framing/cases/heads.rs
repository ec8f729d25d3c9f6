//! Request lines, targets, hosts and fields.

use super::*;

/// §2 and §3: what a message is made of, and the request line.
pub(in crate::framing) fn lines() -> Vec<Case> {
    let empty = |lines: usize| "\r\n".repeat(lines) + &get("/x");
    vec![
        passes("2.1 a request", &get("/x"), &[SEEN]),
        malformed("2.2 a line feed alone ends the request line", "GET /x HTTP/1.1\nHost: gw\r\n\r\n"),
        malformed("2.2 a line feed alone ends a field", "GET /x HTTP/1.1\r\nHost: gw\nX: y\r\n\r\n"),
        malformed("2.2 a line feed alone ends the head", "GET /x HTTP/1.1\r\nHost: gw\r\n\n"),
        malformed("2.2 line feeds alone everywhere", "GET /x HTTP/1.1\nHost: gw\n\n"),
        malformed("2.2 a carriage return alone ends the request line", "GET /x HTTP/1.1\rHost: gw\r\n\r\n"),
        malformed("2.2 a carriage return alone in the target", "GET /x\ry HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("2.2 two carriage returns", "GET /x HTTP/1.1\r\r\nHost: gw\r\n\r\n"),
        passes("2.2 an empty line before the request", &empty(1), &[SEEN]),
        passes("2.2 32 empty lines before the request", &empty(32), &[SEEN]),
        malformed("2.2 33 empty lines before the request", &empty(33)),
        malformed("2.2 a space before the first field", "GET /x HTTP/1.1\r\n Host: gw\r\nHost: gw\r\n\r\n"),
        malformed("2.2 a tab before the first field", "GET /x HTTP/1.1\r\n\tX: y\r\nHost: gw\r\n\r\n"),
        malformed("2.2 a byte order mark", &format!("\u{ef}\u{bb}\u{bf}{}", get("/x"))),
        malformed("2.2 a TLS client", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}"),
        malformed("2.3 the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        malformed("2.3 HTTP/1.2", "GET /x HTTP/1.2\r\nHost: gw\r\n\r\n"),
        malformed("2.3 HTTP/0.9", "GET /x HTTP/0.9\r\nHost: gw\r\n\r\n"),
        malformed("2.3 HTTP/3", "GET /x HTTP/3\r\nHost: gw\r\n\r\n"),
        malformed("2.3 HTTP/1.10", "GET /x HTTP/1.10\r\nHost: gw\r\n\r\n"),
        malformed("2.3 HTTP/01.1", "GET /x HTTP/01.1\r\nHost: gw\r\n\r\n"),
        malformed("2.3 lower case", "GET /x http/1.1\r\nHost: gw\r\n\r\n"),
        malformed("2.3 another protocol", "GET /x ICAP/1.0\r\nHost: gw\r\n\r\n"),
        malformed("2.3 no version", "GET /x\r\nHost: gw\r\n\r\n"),
        malformed("3 a space behind the version", "GET /x HTTP/1.1 \r\nHost: gw\r\n\r\n"),
        malformed("3 a space before the method", " GET /x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3 two spaces before the target", "GET  /x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3 two spaces behind the target", "GET /x  HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3 a tab between the words", "GET\t/x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3 a form feed between the words", "GET\u{c}/x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3 a second request line", "GET /x HTTP/1.1 GET /y HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3 no target", "GET HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3.1 no method", " /x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3.1 a method that is no token", "GE(T /x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3.1 a NUL in the method", "GE\0T /x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3.1 a method in lower case", "get /x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        passes(
            "3.1 a method that nobody knows",
            "M-SEARCH /x HTTP/1.1\r\nHost: gw\r\n\r\n",
            &["M-SEARCH /x HTTP/1.1\r\nhost: gw\r\n\r\n"],
        ),
        refused("3 a request line without end", &format!("GET /{}", "x".repeat(33_000)), 414, "target_too_long"),
        refused("3 a target of more than 8 KiB", &get(&format!("/{}", "x".repeat(8192))), 414, "target_too_long"),
    ]
}

/// §3.2 and RFC 9110 §7.2: the target, and the host.
pub(in crate::framing) fn targets() -> Vec<Case> {
    let seen = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: gw\r\n\r\n");
    let host = |value: &str| format!("GET /x HTTP/1.1\r\n{value}\r\n\r\n");
    let seen_host = |value: &str| format!("GET /x HTTP/1.1\r\nhost: {value}\r\n\r\n");
    vec![
        passes("3.2.1 a query", &get("/x?a=b&c=%20?/"), &[&seen("/x?a=b&c=%20?/")]),
        passes("3.2.1 an empty query", &get("/x?"), &[&seen("/x?")]),
        passes("3.2.1 escapes of what needs none", &get("/%78%2e%7E"), &[&seen("/x.~")]),
        passes("3.2.1 escapes in lower case", &get("/%c3%b6"), &[&seen("/%C3%B6")]),
        passes("3.2.1 bytes above ASCII", &get("/\u{c3}\u{b6}"), &[&seen("/%C3%B6")]),
        malformed("3.2.1 a fragment", &get("/x#y")),
        malformed("3.2.1 a NUL", &get("/x\0y")),
        malformed("3.2.1 a DEL", &get("/x\u{7f}y")),
        malformed("3.2.1 no slash", &get("x")),
        malformed("3.2.1 a query alone", &get("?x")),
        answered("3.2.1 two slashes", &get("//x"), 400, "path_ambiguous"),
        answered("3.2.1 a dot segment", &get("/x/../y"), 400, "path_ambiguous"),
        answered("3.2.1 a backslash", &get("/x\\y"), 400, "path_ambiguous"),
        answered("3.2.1 half an escape", &get("/x%2"), 400, "path_ambiguous"),
        passes("3.2.2 the absolute form", &get("http://gw/x?y"), &[&seen("/x?y")]),
        passes("3.2.2 in capitals", &get("HTTP://GW/x"), &[&seen("/x")]),
        passes("3.2.2 without a path", &get("http://gw"), &[&seen("/")]),
        passes("3.2.2 without a path, with a query", &get("http://gw?y"), &[&seen("/?y")]),
        malformed("3.2.2 and another Host", "GET http://other/x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        malformed("3.2.2 and another port in Host", "GET http://gw:81/x HTTP/1.1\r\nHost: gw:82\r\n\r\n"),
        malformed("3.2.2 without Host", "GET http://gw/x HTTP/1.1\r\n\r\n"),
        malformed("3.2.2 of another scheme", &get("ftp://gw/x")),
        malformed("3.2.2 without a host", &get("http:///x")),
        malformed("3.2.2 with a user name", &get("http://user@gw/x")),
        malformed("3.2.2 with half a bracket", &get("http://[::1/x")),
        refused("3.2.3 CONNECT", "CONNECT gw:443 HTTP/1.1\r\nHost: gw:443\r\n\r\n", 405, "method_not_allowed"),
        malformed("3.2.3 the authority form of another method", &get("gw:80")),
        malformed("3.2.4 the asterisk of another method", &get("*")),
        malformed("3.2.4 an asterisk and more", "OPTIONS *x HTTP/1.1\r\nHost: gw\r\n\r\n"),
        answered(
            "3.2.4 OPTIONS *, which no route has",
            "OPTIONS * HTTP/1.1\r\nHost: gw\r\n\r\n",
            400,
            "path_ambiguous",
        ),
        malformed("3.2 no Host", "GET /x HTTP/1.1\r\n\r\n"),
        refused("3.2 two Hosts", &host("Host: gw\r\nHost: gw"), 400, "header_ambiguous"),
        refused("3.2 two Hosts that differ in case", &host("Host: gw\r\nhOST: other"), 400, "header_ambiguous"),
        malformed("3.2 an empty Host", &host("Host:")),
        malformed("3.2 two names in one Host", &host("Host: gw, other")),
        malformed("3.2 two names with a space", &host("Host: gw other")),
        malformed("3.2 a path in Host", &host("Host: gw/x")),
        malformed("3.2 a user name in Host", &host("Host: user@gw")),
        malformed("3.2 a port that is none", &host("Host: gw:http")),
        malformed("3.2 a port above the highest", &host("Host: gw:65536")),
        malformed("3.2 half a bracket", &host("Host: [::1")),
        malformed("3.2 bytes above ASCII", &host("Host: g\u{f6}w")),
        passes("3.2 a port", &host("Host: gw:8080"), &[&seen_host("gw:8080")]),
        passes("3.2 an address in brackets", &host("Host: [::1]:80"), &[&seen_host("[::1]:80")]),
        passes("3.2 a name in any case", &host("hOsT: GW"), &[&seen_host("GW")]),
    ]
}

/// §5: fields.
pub(in crate::framing) fn fields() -> Vec<Case> {
    let seen = |line: &str| format!("GET /x HTTP/1.1\r\nhost: gw\r\n{line}\r\n\r\n");
    let many = |lines: usize| (0..lines).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let large = |bytes: usize| format!("x: {}", "y".repeat(bytes));
    vec![
        passes("5 a field", &with("X-Field: a b"), &[&seen("x-field: a b")]),
        passes("5 no space before the value", &with("X:y"), &[&seen("x: y")]),
        passes("5.1 white space around the value", &with("X: \t y\t "), &[&seen("x: y")]),
        passes("5 an empty value", &with("X:"), &[&seen("x: ")]),
        passes("5 a tab in the value", &with("X: a\tb"), &[&seen("x: a\tb")]),
        passes("5.5 bytes above ASCII in the value", &with("X: \u{ff}\u{80}"), &[&seen("x: \u{ff}\u{80}")]),
        passes("5 colons in the value", &with("X: a:b: c"), &[&seen("x: a:b: c")]),
        passes(
            "5.2 the same name twice stays in order",
            &with("X: b\r\nY: c\r\nX: a"),
            &[&seen("x: b\r\nx: a\r\ny: c")],
        ),
        passes("5 every token character in a name", &with("!#$%&'*+-.^`|~aZ09: y"), &[&seen("!#$%&'*+-.^`|~az09: y")]),
        malformed("5.1 a space before the colon", &with("X : y")),
        malformed("5.1 a tab before the colon", &with("X\t: y")),
        malformed("5.1 a space before the colon of a framing field", &post("Content-Length : 3", "abc")),
        malformed("5.1 a space inside the name", &with("X Y: z")),
        malformed("5.1 no name", &with(": y")),
        malformed("5.1 no colon", &with("X")),
        malformed("5.1 a name that is no token", &with("X(Y): z")),
        malformed("5.1 a quoted name", &with("\"X\": z")),
        malformed("5.1 bytes above ASCII in the name", &with("X\u{e9}: y")),
        malformed("5.1 a NUL in the name", &with("X\0: y")),
        malformed("5.2 a folded line with a space", &with("X: a\r\n b")),
        malformed("5.2 a folded line with a tab", &with("X: a\r\n\tb")),
        malformed("5.2 a folded empty line", &with("X: a\r\n \r\nY: b")),
        malformed("5.2 a folded framing field", &post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n")),
        malformed("5.5 a NUL in the value", &with("X: a\0b")),
        malformed("5.5 a carriage return in the value", &with("X: a\rb")),
        malformed("5.5 a vertical tab in the value", &with("X: a\u{b}b")),
        malformed("5.5 a DEL in the value", &with("X: a\u{7f}b")),
        passes("5.4 as many fields as allowed", &with(many(99).trim_end()), &[&seen(many(99).trim_end())]),
        refused("5.4 one field more", &with(many(100).trim_end()), 431, "head_too_large"),
        passes("5.4 a large field", &with(&large(32_000)), &[&seen(&large(32_000))]),
        refused("5.4 a field of more than 32 KiB", &with(&large(33_000)), 431, "head_too_large"),
        passes(
            "RFC 9110 7.6.1 a nominated field",
            &with("Connection: x-a, X-B\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3"),
            &[&seen("x-c: 3")],
        ),
        passes(
            "RFC 9110 7.6.1 fields of this hop",
            &with("Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nX: y"),
            &[&seen("x: y")],
        ),
        passes("RFC 9110 7.8 Upgrade", &with("Connection: upgrade\r\nUpgrade: h2c"), &[SEEN]),
        passes("RFC 9110 7.8 Upgrade that Connection does not name", &with("Upgrade: websocket"), &[SEEN]),
    ]
}
