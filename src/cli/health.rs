//! `portcullis health`: asks the running gateway whether it is ready, for `HEALTHCHECK`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// Why the gateway does not count as ready.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// The config lets the system choose the port, which nobody else knows.
    #[error("[admin] address has port 0: a health check needs a fixed one")]
    UnknownPort,
    /// There is no answer to be had.
    #[error("no answer from the admin listener at {0}: {1}")]
    Unreachable(SocketAddr, #[source] io::Error),
    /// What answers is not the admin listener.
    #[error("what answers at {0} is not the admin listener")]
    Foreign(SocketAddr),
    /// It says so itself.
    #[error("not ready: {0}")]
    NotReady(String),
}

/// How long the whole check may take.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read at most.
const ANSWER: u64 = 256 << 10;

/// Asks `GET /ready` at the admin address of the config, within `deadline`. Exit code 0 is for
/// `Ok`, 1 for everything else.
///
/// # Errors
/// With the one line that says why the gateway is not ready.
pub fn run(admin: SocketAddr, deadline: Duration) -> Result<(), Unhealthy> {
    if admin.port() == 0 {
        return Err(Unhealthy::UnknownPort);
    }
    let address = SocketAddr::new(reachable(admin.ip()), admin.port());
    let answer = ask(address, deadline).map_err(|error| Unhealthy::Unreachable(address, error))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(Unhealthy::Foreign(address))?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|head| head.split(' ').next());
    let view: Value = serde_json::from_str(body).map_err(|_| Unhealthy::Foreign(address))?;
    match (status, view.get("ready").and_then(Value::as_bool)) {
        (Some("200"), Some(true)) => Ok(()),
        (Some("503"), Some(false)) => Err(Unhealthy::NotReady(reasons(&view))),
        _ => Err(Unhealthy::Foreign(address)),
    }
}

/// An address that means "all of this machine's" is reached by loopback.
fn reachable(bound: IpAddr) -> IpAddr {
    match bound {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// One request, one answer. The standard library's sockets do: a health check runs every few
/// seconds for as long as the gateway does, and should cost next to nothing.
fn ask(address: SocketAddr, deadline: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + deadline;
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while answer.len() as u64 <= ANSWER {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a timed-out read is called differs between systems.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// The parts that are not ready, on one line.
fn reasons(view: &Value) -> String {
    let parts = view.get("parts").and_then(Value::as_array).into_iter().flatten();
    let not_ready = parts.filter(|part| part.get("ready") == Some(&Value::Bool(false)));
    let text = |part: &Value, member: &str| part.get(member).and_then(Value::as_str).unwrap_or("?").to_owned();
    let reasons: Vec<String> =
        not_ready.map(|part| format!("{}: {}", text(part, "name"), text(part, "reason"))).collect();
    if reasons.is_empty() { "no reason given".to_owned() } else { reasons.join("; ") }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with this, then closes it.
    fn check(answer: &'static str) -> Result<(), Unhealthy> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let outcome = run(address, Duration::from_secs(10));
        assert!(server.join().unwrap().starts_with("GET /ready HTTP/1.1\r\nHost: 127.0.0.1:"));
        outcome
    }

    fn why(outcome: Result<(), Unhealthy>) -> String {
        outcome.unwrap_err().to_string()
    }

    #[test]
    fn ready_is_ready() {
        check("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"ready\":true,\"parts\":[]}").unwrap();
    }

    #[test]
    fn the_line_names_each_part_that_is_not() {
        let body = concat!(
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            r#"{"ready":false,"parts":[{"name":"a","ready":true},"#,
            r#"{"name":"keys main","ready":false,"reason":"no key set"},{"name":"b","ready":false}]}"#
        );
        assert_eq!(why(check(body)), "not ready: keys main: no key set; b: ?");
    }

    #[test]
    fn something_else_on_the_port_is_not_the_gateway() {
        for foreign in [
            "",
            "220 mail.example.com ESMTP\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{\"ready\":false}",
        ] {
            assert!(why(check(foreign)).contains("is not the admin listener"), "{foreign:?}");
        }
    }

    #[test]
    fn nobody_there_and_nobody_answering() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(why(run(address, Duration::from_millis(50))).contains("timed out"));
        drop(listener);
        assert!(why(run(address, Duration::from_secs(10))).contains("refused"));
        let unknown = SocketAddr::new(address.ip(), 0);
        assert!(matches!(run(unknown, DEADLINE), Err(Unhealthy::UnknownPort)));
    }

    #[test]
    fn an_unspecified_address_is_asked_by_loopback() {
        let reached = |bound: &str| reachable(bound.parse().unwrap()).to_string();
        assert_eq!(["0.0.0.0", "::", "192.0.2.1"].map(reached), ["127.0.0.1", "::1", "192.0.2.1"]);
    }
}
