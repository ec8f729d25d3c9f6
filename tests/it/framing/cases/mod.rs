//! The cases of `conformance`, by section of RFC 9112.

mod bodies;
mod heads;

pub(super) use bodies::{bodies, chunks, connections};
pub(super) use heads::{fields, lines, targets};

/// Some bytes, and what has to come of them. Bytes are written as characters below U+0100.
pub(in crate::framing) struct Case {
    pub(in crate::framing) name: &'static str,
    pub(in crate::framing) bytes: Vec<u8>,
    /// Method, status and problem code of each answer.
    pub(in crate::framing) answers: Vec<(&'static str, u16, &'static str)>,
    /// Whether the gateway ends the connection after them.
    pub(in crate::framing) closes: bool,
    /// Each request that the upstream sees, without what the gateway adds to every one.
    pub(in crate::framing) seen: Vec<String>,
}

impl Case {
    fn new(name: &'static str, text: &str) -> Self {
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        Self { name, bytes, answers: Vec::new(), closes: false, seen: Vec::new() }
    }

    fn then(mut self, method: &'static str, status: u16, code: &'static str) -> Self {
        self.answers.push((method, status, code));
        self
    }

    fn closing(self) -> Self {
        Self { closes: true, ..self }
    }
}

/// The upstream gets exactly these requests, and its answers come back in their order.
fn passes(name: &'static str, text: &str, seen: &[&str]) -> Case {
    let case = Case::new(name, text);
    let seen: Vec<String> = seen.iter().map(|&seen| seen.to_owned()).collect();
    let case =
        seen.iter().fold(case, |case, seen| case.then(if seen.starts_with("HEAD ") { "HEAD" } else { "GET" }, 200, ""));
    Case { seen, ..case }
}

/// Nobody can tell where the next request begins: one answer, and the end.
fn refused(name: &'static str, text: &str, status: u16, code: &'static str) -> Case {
    Case::new(name, text).then("GET", status, code).closing()
}

/// Not HTTP.
fn malformed(name: &'static str, text: &str) -> Case {
    refused(name, text, 400, "request_malformed")
}

/// Well framed, and the gateway answers it itself.
fn answered(name: &'static str, text: &str, status: u16, code: &'static str) -> Case {
    Case::new(name, text).then("GET", status, code)
}

/// A GET of this target.
fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n")
}

/// A GET with this further line.
fn with(line: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: gw\r\n{line}\r\n\r\n")
}

/// A POST with this line, and these bytes behind its head.
fn post(line: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: gw\r\n{line}\r\n\r\n{body}")
}

/// A POST with this chunked body.
fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

const SEEN: &str = "GET /x HTTP/1.1\r\nhost: gw\r\n\r\n";
