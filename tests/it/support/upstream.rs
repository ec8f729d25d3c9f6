//! A scripted upstream: it keeps every byte it is sent, and says exactly what it is told to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::reply::{find, parse_chunked, parse_field};
use super::seen::{Seen, violation};
use super::soon;

/// Something a test opens when it is time to go on.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn passed(&self) {
        let mut state = self.0.subscribe();
        assert!(state.wait_for(|open| *open).await.is_ok(), "the gate itself holds the sender");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Wait(Gate),
    Close,
    Reset,
}

/// What the upstream does about one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer(Vec<Step>);

impl Answer {
    /// These bytes; then the connection waits for another request.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into())])
    }

    /// A plain 200.
    pub(crate) fn ok(body: &str) -> Self {
        Self::with(&format!("content-length: {}\r\n", body.len()), body)
    }

    /// A 200 with these header lines (each with its CRLF) and these bytes as its body.
    pub(crate) fn with(headers: &str, body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 200 OK\r\nX-Upstream: 1\r\n{headers}\r\n{body}"))
    }

    /// Nothing at all.
    pub(crate) fn nothing() -> Self {
        Self(vec![])
    }

    pub(crate) fn then(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Send(bytes.into()))
    }

    pub(crate) fn wait(self, gate: &Gate) -> Self {
        self.step(Step::Wait(gate.clone()))
    }

    pub(crate) fn close(self) -> Self {
        self.step(Step::Close)
    }

    /// Ends the connection with a RST.
    pub(crate) fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    fn step(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

#[derive(Debug, Default)]
struct Log {
    opened: usize,
    heads: usize,
    requests: Vec<Seen>,
    closed: Vec<usize>,
    /// What no gateway may send.
    violations: Vec<String>,
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

/// The server. Dropping it fails the test if it saw what no gateway may send.
pub(crate) struct Upstream {
    address: SocketAddr,
    log: Arc<watch::Sender<Log>>,
    read: AtomicUsize,
    accepting: tokio::task::JoinHandle<()>,
}

impl Upstream {
    /// Answers every request with a plain 200 that names its target.
    pub(crate) async fn start() -> Self {
        Self::scripted(|seen| Answer::ok(&format!("upstream saw {} {}", seen.method, seen.target))).await
    }

    /// Answers each request, once it is there as a whole, with what the script says.
    pub(crate) async fn scripted(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::launch(Arc::new(script), false).await
    }

    /// Answers as soon as the head is there, and reads the body, if there is one, afterwards.
    pub(crate) async fn hasty(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::launch(Arc::new(script), true).await
    }

    async fn launch(script: Arc<Script>, hasty: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(watch::Sender::new(Log::default()));
        let accepting = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let mut number = 0;
                    log.send_modify(|log| {
                        number = log.opened;
                        log.opened += 1;
                    });
                    let connection = Connection { number, stream, bytes: vec![], log: Arc::clone(&log), hasty };
                    tokio::spawn(connection.serve(Arc::clone(&script)));
                }
            }
        });
        Self { address, log, read: AtomicUsize::new(0), accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The section of the config that names this server.
    pub(crate) fn toml(&self, name: &str) -> String {
        format!("[upstream.{name}]\nservers = [\"http://{}\"]\n", self.address)
    }

    /// The next request that this method has not returned yet.
    pub(crate) async fn next_request(&self) -> Seen {
        let n = self.read.fetch_add(1, Ordering::Relaxed);
        self.when("a request at the upstream", |log| log.requests.len() > n).await;
        self.log.borrow().requests[n].clone()
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.log.borrow().requests.clone()
    }

    /// How many connections were opened so far.
    pub(crate) fn connections(&self) -> usize {
        self.log.borrow().opened
    }

    /// Waits until the heads of `n` requests were read.
    pub(crate) async fn heads(&self, n: usize) {
        self.when("a request head at the upstream", |log| log.heads >= n).await;
    }

    /// Waits until the gateway closed a connection.
    pub(crate) async fn closed(&self, connection: usize) {
        self.when("the end of an upstream connection", |log| log.closed.contains(&connection)).await;
    }

    /// No request may have come.
    #[track_caller]
    pub(crate) fn saw_nothing(&self) {
        let log = self.log.borrow();
        let heads: Vec<String> = log.requests.iter().map(Seen::text).collect();
        assert_eq!(log.heads, 0, "reached the upstream: {heads:?}");
    }

    /// Takes no further connections: they will be refused.
    pub(crate) async fn stop(&self) {
        self.accepting.abort();
        let refused = async || TcpStream::connect(self.address).await.is_err().then_some(());
        super::until("a refused connection", refused).await;
    }

    async fn when(&self, what: &str, event: impl FnMut(&Log) -> bool) {
        let mut log = self.log.subscribe();
        assert!(soon(what, log.wait_for(event)).await.is_ok());
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let violations = std::mem::take(&mut self.log.send_replace(Log::default()).violations);
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "reached the upstream: {violations:#?}");
        }
    }
}

struct Connection {
    number: usize,
    stream: TcpStream,
    bytes: Vec<u8>,
    log: Arc<watch::Sender<Log>>,
    hasty: bool,
}

impl Connection {
    async fn serve(mut self, script: Arc<Script>) {
        while let Some(head) = self.head().await {
            self.log.send_modify(|log| log.heads += 1);
            let answer = if self.hasty { Some(script(&head)) } else { None };
            if let Some(answer) = &answer
                && !self.perform(answer).await
            {
                break;
            }
            let Some(seen) = self.body(head).await else { break };
            let answer = if self.hasty { None } else { Some(script(&seen)) };
            self.log.send_modify(|log| log.requests.push(seen));
            if let Some(answer) = answer
                && !self.perform(&answer).await
            {
                break;
            }
        }
        // First the socket, then the news: who waits for it may rely on it.
        drop(self.stream);
        self.log.send_modify(|log| log.closed.push(self.number));
    }

    /// Carries the steps out. False: the connection is over.
    async fn perform(&mut self, answer: &Answer) -> bool {
        for step in &answer.0 {
            match step {
                Step::Send(bytes) => {
                    if self.stream.write_all(bytes).await.is_err() {
                        return false;
                    }
                }
                Step::Wait(gate) => loop {
                    tokio::select! {
                        () = gate.passed() => break,
                        more = fill(&mut self.stream, &mut self.bytes) => if !more { return false },
                    }
                },
                Step::Close => return false,
                Step::Reset => {
                    let _best_effort = self.stream.set_zero_linger().is_ok();
                    return false;
                }
            }
        }
        true
    }

    /// Reads a request head; the body's bytes stay where they are.
    async fn head(&mut self) -> Option<Seen> {
        let end = loop {
            match find(&self.bytes, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if !fill(&mut self.stream, &mut self.bytes).await => return None,
                None => {}
            }
        };
        let raw: Vec<u8> = self.bytes.drain(..end).collect();
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target) = (word(), word());
        let headers = lines.map(parse_field).collect();
        let seen = Seen { connection: self.number, method, target, headers, body: vec![], trailers: vec![], raw };
        if let Some(violation) = violation(&seen) {
            let report = format!("{violation}: {:?}", seen.text());
            self.log.send_modify(|log| log.violations.push(report));
        }
        Some(seen)
    }

    /// Reads the body that the head announces.
    async fn body(&mut self, mut seen: Seen) -> Option<Seen> {
        let chunked = seen.headers.iter().any(|(name, _)| name == "transfer-encoding");
        let length = seen.headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap_or_default());
        loop {
            let used = if chunked {
                parse_chunked(&self.bytes).map(|(body, trailers, used)| {
                    (seen.body, seen.trailers) = (body, trailers);
                    used
                })
            } else {
                self.bytes.get(..length).map(|body| {
                    seen.body = body.to_vec();
                    length
                })
            };
            if let Some(used) = used {
                seen.raw.extend(self.bytes.drain(..used));
                return Some(seen);
            }
            if !fill(&mut self.stream, &mut self.bytes).await {
                return None;
            }
        }
    }
}

/// Reads some more. False: the end.
async fn fill(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    bytes.reserve(16 * 1024);
    stream.read_buf(bytes).await.is_ok_and(|read| read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::Client;

    #[tokio::test]
    async fn what_was_sent_is_what_is_seen_and_what_is_scripted_is_what_comes_back() {
        let upstream = Upstream::start().await;
        let mut client = Client::connect(upstream.address()).await;
        let reply = client.exchange("POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "upstream saw POST /a?b"));
        let seen = upstream.next_request().await;
        assert_eq!((seen.body.as_slice(), seen.header("host"), seen.connection), (&b"abc"[..], Some("h"), 0));
        assert!(seen.text().ends_with("Content-Length: 3\r\n\r\nabc"));
        let chunked = "PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\n";
        client.exchange(chunked).await;
        let seen = upstream.next_request().await;
        assert_eq!((seen.body.as_slice(), seen.trailers.len(), seen.connection), (&b"hi"[..], 1, 0));
        drop(client);
        upstream.closed(0).await;
        assert_eq!(upstream.requests().len(), 2);
    }

    #[tokio::test]
    async fn gates_hasty_answers_and_ends_are_carried_out() {
        let gate = Gate::new();
        let script = {
            let gate = gate.clone();
            move |_: &Seen| Answer::with("content-length: 9\r\n", "half").wait(&gate).reset()
        };
        let upstream = Upstream::hasty(script).await;
        let mut client = Client::connect(upstream.address()).await;
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n").await;
        client.peek(b"half").await;
        assert!(upstream.requests().is_empty(), "its body never came");
        gate.open();
        let cut = client.next("GET").await.expect_err("less than announced");
        assert!(cut.received.ends_with(b"half"));
        upstream.stop().await;
        assert!(TcpStream::connect(upstream.address()).await.is_err());
    }
}
