//! One reply of the gateway, parsed minimally, and what must be true of every one.

use serde_json::Value;

/// Header or trailer fields in order, with names in lower case.
pub(crate) type Fields = Vec<(String, String)>;

/// How a reply's body was delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By its kind: HEAD, 204, 304.
    NoBody,
    /// By `Content-Length`.
    Length,
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// A parsed reply.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) headers: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    pub(crate) framing: Framing,
    /// Statuses of the 1xx replies before this one.
    pub(crate) interim: Vec<u16>,
}

impl Reply {
    /// The value of a header that stands there at most once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there more than once: {self:?}");
        value
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap_or_else(|_| panic!("not text: {self:?}"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {} {}", self.status, self.lossy()))
    }

    /// The `code` of a problem; empty for anything else.
    pub(crate) fn code(&self) -> String {
        if self.is_problem() { self.json()["code"].as_str().unwrap_or_default().to_owned() } else { String::new() }
    }

    /// Status and problem code must be these.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.lossy());
        self
    }

    /// Says whether the connection ends after this reply.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }

    /// Said by the gateway itself (or its built-in upstream), not by a scripted upstream.
    pub(crate) fn is_ours(&self) -> bool {
        !self.headers.iter().any(|(n, _)| n == "x-upstream")
    }

    fn is_problem(&self) -> bool {
        self.header("content-type") == Some("application/problem+json") && !self.body.is_empty()
    }

    fn lossy(&self) -> String {
        format!("{:?} {}", self.headers, String::from_utf8_lossy(&self.body))
    }
}

/// Reads one reply from the start of `bytes`: the reply and its length, or `None` when more bytes
/// are needed. `ended`: no more will come.
pub(crate) fn parse(bytes: &[u8], method: &str, ended: bool) -> Option<(Reply, usize)> {
    let mut interim = Vec::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let head_length = find(rest, b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&rest[..head_length]).into_owned();
        let (version, status, headers) = parse_head(&head);
        at += head_length;
        if (100..200).contains(&status) && status != 101 {
            interim.push(status);
            continue;
        }
        let mut reply =
            Reply { version, status, headers, body: vec![], trailers: vec![], framing: Framing::NoBody, interim };
        let body = &bytes[at..];
        let chunked = reply.header("transfer-encoding").is_some();
        if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            return Some((reply, at));
        } else if chunked {
            let (body, trailers, used) = parse_chunked(body)?;
            (reply.body, reply.trailers, reply.framing) = (body, trailers, Framing::Chunked);
            return Some((reply, at + used));
        } else if let Some(length) = reply.header("content-length") {
            let length: usize = length.parse().unwrap_or_else(|_| panic!("content-length: {length}"));
            let body = body.get(..length)?.to_vec();
            (reply.body, reply.framing) = (body, Framing::Length);
            return Some((reply, at + length));
        }
        (reply.body, reply.framing) = (body.to_vec(), Framing::Close);
        return ended.then_some((reply, bytes.len()));
    }
}

/// Chunked content from the start of `bytes`: the body, the trailers, the length. `None`: more is
/// needed.
pub(crate) fn parse_chunked(bytes: &[u8]) -> Option<(Vec<u8>, Fields, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line_length = find(&bytes[at..], b"\r\n")?;
        let line = String::from_utf8_lossy(&bytes[at..at + line_length]).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .unwrap_or_else(|_| panic!("chunk size {line:?}"));
        at += line_length + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        assert_eq!(bytes.get(at + size..at + size + 2)?, b"\r\n", "the end of a chunk");
        at += size + 2;
    }
    let mut trailers = Vec::new();
    loop {
        let line_length = find(&bytes[at..], b"\r\n")?;
        let line = String::from_utf8_lossy(&bytes[at..at + line_length]).into_owned();
        at += line_length + 2;
        if line.is_empty() {
            return Some((body, trailers, at));
        }
        trailers.push(parse_field(&line));
    }
}

/// One `name: value` line, with the name in lower case.
pub(crate) fn parse_field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a field: {line:?}"));
    (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned())
}

/// Where `needle` begins.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(head: &str) -> (String, u16, Fields) {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut words = status_line.splitn(3, ' ');
    let version = words.next().unwrap_or_default().to_owned();
    let status = words.next().and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("status line {status_line:?}"));
    (version, status, lines.map(parse_field).collect())
}

/// What must be true of every reply to any request. `target` may be empty when it is not known.
pub(crate) fn check(reply: &Reply, method: &str, target: &str, http10: bool) {
    let say = |what: &str| panic!("{what}: {method} {target} -> {} {}", reply.status, reply.lossy());
    check_framing(reply, http10, &say);
    if !reply.is_ours() {
        return;
    }
    for (name, _) in &reply.headers {
        let leaks = ["server", "via", "x-powered-by", "set-cookie"].contains(&name.as_str())
            // Telling another proxy who is calling is what that route is for.
            || name.starts_with("x-auth-") && !target.starts_with("/auth/check")
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-amzn-");
        if leaks {
            say(&format!("{name} says too much"));
        }
    }
    let request_id = reply.header("x-request-id").unwrap_or_default();
    if request_id.is_empty() && (reply.status >= 400 || target.starts_with("/auth/")) {
        say("no X-Request-Id");
    }
    if reply.status >= 400 {
        check_problem(reply, method, request_id, &say);
    }
    if reply.status == 401
        && !reply.header("www-authenticate").is_some_and(|v| v.starts_with("Bearer realm=\"portcullis\""))
    {
        say("a 401 without a challenge");
    }
    // Keys are everybody's.
    let keys = target.ends_with("/jwks.json") && reply.status == 200;
    if target.starts_with("/auth/") && !keys && reply.header("cache-control") != Some("no-store") {
        say("an identity route's answer that may be stored");
    }
}

fn check_framing(reply: &Reply, http10: bool, say: &dyn Fn(&str)) {
    let count = |name: &str| reply.headers.iter().filter(|(n, _)| n == name).count();
    let (lengths, encodings) = (count("content-length"), count("transfer-encoding"));
    if lengths + encodings > 1 {
        say("more than one framing");
    }
    if encodings == 1 && (http10 || reply.header("transfer-encoding") != Some("chunked")) {
        say("an encoding that this client cannot read");
    }
    if reply.framing == Framing::Close && !http10 {
        say("a body that ends with the connection, for an HTTP/1.1 client");
    }
    if matches!(reply.status, 204) && lengths + encodings > 0 {
        say("a 204 with a framing");
    }
    if reply.version != "HTTP/1.1" && !(http10 && reply.version == "HTTP/1.0") {
        say("an unknown version");
    }
}

fn check_problem(reply: &Reply, method: &str, request_id: &str, say: &dyn Fn(&str)) {
    if reply.header("content-type") != Some("application/problem+json") {
        say("a failure that is not a problem");
    }
    if reply.header("cache-control") != Some("no-store") {
        say("a problem that may be stored");
    }
    if method == "HEAD" {
        return;
    }
    let body = reply.json();
    let mut members: Vec<&str> = body.as_object().map(|o| o.keys().map(String::as_str).collect()).unwrap_or_default();
    members.sort_unstable();
    if members != ["code", "detail", "request_id", "status", "title", "type"] {
        say("not the six members of a problem");
    }
    if body["request_id"] != request_id {
        say("two request ids");
    }
    let code = portcullis::problem::Code::ALL.iter().find(|code| body["code"] == code.as_str());
    if body["status"] != reply.status || code.is_none_or(|code| code.status().as_u16() != reply.status) {
        say("status and code do not fit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(bytes: &[u8]) -> Reply {
        parse(bytes, "GET", true).expect("a whole reply").0
    }

    #[test]
    fn a_reply_is_read_to_its_own_end_and_no_further() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 204";
        let (reply, used) = parse(bytes, "GET", false).unwrap();
        assert_eq!((reply.status, reply.text().as_str(), reply.interim.as_slice()), (200, "hi", &[100][..]));
        assert_eq!(&bytes[used..], b"HTTP/1.1 204");
        assert!(parse(&bytes[..60], "GET", false).is_none(), "half a reply is not one");
        let (head, used) = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", false).unwrap();
        assert_eq!((head.body.len(), used), (0, 38));
    }

    #[test]
    fn chunks_and_trailers_are_read() {
        let reply = reply(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
        );
        assert_eq!((reply.text().as_str(), reply.framing), ("abcde", Framing::Chunked));
        assert_eq!(reply.trailers, [("x-t".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn every_invariant_can_fail() {
        let problem =
            r#"{"type":"about:blank","title":"t","status":404,"code":"route_unknown","detail":"d","request_id":"r"}"#;
        let make = |headers: &str, body: &str| {
            reply(format!("HTTP/1.1 404 Not Found\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())
        };
        let fine = "x-request-id: r\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n";
        check(&make(fine, problem), "GET", "/", false);
        for (headers, body) in [
            (fine.replace("x-request-id: r", "x-other: r"), problem.to_owned()),
            (fine.replace("x-request-id: r", "x-request-id: other"), problem.to_owned()),
            (fine.replace("problem+", ""), problem.to_owned()),
            (fine.replace("no-store", "public"), problem.to_owned()),
            (format!("{fine}server: x\r\n"), problem.to_owned()),
            (format!("{fine}x-auth-subject: x\r\n"), problem.to_owned()),
            (format!("{fine}transfer-encoding: identity\r\n"), problem.to_owned()),
            (fine.to_owned(), problem.replace("\"status\":404", "\"status\":400")),
            (fine.to_owned(), problem.replace("route_unknown", "token_missing")),
            (fine.to_owned(), problem.replace("route_unknown", "made_up")),
            (fine.to_owned(), problem.replace("\"detail\":\"d\",", "")),
        ] {
            let outcome = std::panic::catch_unwind(|| check(&make(&headers, &body), "GET", "/", false));
            assert!(outcome.is_err(), "accepted: {headers} {body}");
        }
    }
}
