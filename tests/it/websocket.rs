//! WebSockets: their handshake, what passes through them, and what ends them.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use portcullis::websocket::{accept, close_frame};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::h2::{self, DATA, END_STREAM, H2, HEADERS, Outcome};
use crate::support::{Client, FakePool, Portcullis, route, soon};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const HELLO: &[u8] = b"\x81\x85\0\0\0\0hello";

/// What a server has seen of its connections so far.
#[derive(Debug, Default)]
struct Log {
    heads: Vec<String>,
    /// What came behind the last head.
    bytes: Vec<u8>,
    closed: usize,
}

/// A server that answers a handshake with what it is told, and sends back whatever comes then.
struct Echo {
    address: SocketAddr,
    log: Arc<watch::Sender<Log>>,
}

impl Echo {
    /// One that takes every handshake.
    async fn start() -> Self {
        Self::answering(|head| switch(head, "")).await
    }

    async fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, log, answer) = (listener.local_addr().unwrap(), Arc::default(), Arc::new(answer));
        let echo = Self { address, log: Arc::clone(&log) };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    while !bytes.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let head = String::from_utf8(bytes).unwrap();
                    log.send_modify(|log| log.heads.push(head.clone()));
                    stream.write_all(answer(&head).as_bytes()).await.unwrap_or_default();
                    let mut piece = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut piece).await {
                        log.send_modify(|log| log.bytes.extend_from_slice(&piece[..read]));
                        stream.write_all(&piece[..read]).await.unwrap_or_default();
                    }
                    log.send_modify(|log| log.closed += 1);
                });
            }
        });
        echo
    }

    fn toml(&self) -> String {
        format!("[upstream.app]\nservers = [\"http://{}\"]\n", self.address)
    }

    fn head(&self) -> String {
        self.log.borrow().heads.last().cloned().expect("a handshake")
    }

    /// Waits until so many connections were closed.
    async fn closed(&self, connections: usize) {
        let mut log = self.log.subscribe();
        assert!(soon("the end of an upstream connection", log.wait_for(|log| log.closed >= connections)).await.is_ok());
    }
}

/// The 101 to a handshake, with these lines.
fn switch(head: &str, lines: &str) -> String {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut keys = fields.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let key = keys.next().map(|(_, key)| key);
    let accept = accept(&HeaderValue::from_str(key.unwrap_or_default().trim()).unwrap());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
    )
}

fn sections(pool: &FakePool, echo: &Echo, extra: &str) -> String {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";
    let socket = route("/ws", "app", "\"required\"") + "websocket = true\n" + extra;
    pool.toml("main") + "leeway = \"0s\"\n" + listener + &echo.toml() + &route("/*", "app", "\"required\"") + &socket
}

/// A gateway in front of it; WebSockets are at `/ws` alone.
async fn in_front_of(echo: &Echo, extra: &str) -> (FakePool, Portcullis) {
    let pool = FakePool::start().await;
    let gate = Portcullis::start(&sections(&pool, echo, extra)).await;
    (pool, gate)
}

/// The bytes of a handshake with these further lines.
fn handshake(target: &str, lines: &[(&str, &str)]) -> String {
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "GET {target} HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{lines}\r\n"
    )
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// An open WebSocket, and the head of the 101.
async fn open(gate: &Portcullis, token: &str) -> (Client, String) {
    let mut client = gate.raw().await;
    client.send(handshake("/ws", &[("Authorization", &bearer(token))])).await;
    let head = String::from_utf8(client.take(b"\r\n\r\n").await).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (client, head)
}

/// A good token that is good for this many seconds.
fn short(pool: &FakePool, seconds: i64) -> String {
    let now = pool.access_claims()["iat"].as_i64().unwrap();
    pool.access(json!({"exp": now + seconds}))
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_line_comes_at_the_end() {
    let echo = Echo::start().await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let (mut client, head) = open(&gate, &pool.access(json!({}))).await;
    let lines: Vec<String> = head.trim_end().lines().map(str::to_ascii_lowercase).collect();
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="] {
        assert_eq!(lines.iter().filter(|seen| *seen == line).count(), 1, "{head}");
    }
    let sent = echo.head().to_ascii_lowercase();
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-version: 13\r\n",
        "x-auth-username: sam\r\n",
    ] {
        assert!(sent.contains(line), "{sent}");
    }
    assert!(!sent.contains("authorization"), "{sent}");
    for _ in 0..3 {
        client.send(HELLO).await;
        client.take(HELLO).await;
    }
    let large = vec![7; 300_000];
    client.send(&large).await;
    client.take(&large).await;
    assert!(gate.access_lines().is_empty(), "it is not over");
    drop(client);
    echo.closed(1).await;
    let line = gate.access_line("/ws").await;
    let bytes = json!(3 * HELLO.len() + large.len());
    assert_eq!((&line["status"], &line["bytes_in"], &line["bytes_out"]), (&json!(101), &bytes, &bytes), "{line}");
    assert_eq!(line["subject"], "11111111-2222-4333-8444-555555555555");
    assert_eq!(gate.metric("portcullis_requests_in_flight").await, 0);
}

#[tokio::test]
async fn an_upstream_that_leaves_takes_the_client_with_it_after_its_last_word() {
    let echo = Echo::answering(|head| switch(head, "") + "\u{1}last word").await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let (mut client, _) = open(&gate, &pool.access(json!({}))).await;
    client.take(b"\x01last word").await;
    client.finish().await;
    client.closed().await;
    echo.closed(1).await;
}

#[tokio::test]
async fn other_answers_are_ordinary_and_open_nothing() {
    let echo = Echo::answering(|_| "HTTP/1.1 403 No\r\nContent-Length: 2\r\nX-Upstream: 1\r\n\r\nno".to_owned()).await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let authorization = bearer(&pool.access(json!({})));
    let mut client = gate.raw().await;
    client.send(handshake("/ws", &[("Authorization", &authorization)])).await;
    let reply = client.read().await;
    assert_eq!((reply.status, reply.text().as_str()), (403, "no"));
    client.send(handshake("/ws", &[])).await;
    client.read().await.expect(401, "token_missing");
    assert_eq!(echo.log.borrow().heads.len(), 1);
}

#[tokio::test]
async fn a_101_that_is_no_answer_to_the_handshake_is_502() {
    let switched = |lines: &'static str| move |head: &str| switch(head, "").replace("Connection: Upgrade\r\n", lines);
    let other_key = |_: &str| switch("sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", "");
    for echo in [
        Echo::answering(switched("")).await,
        Echo::answering(other_key).await,
        Echo::answering(|head| switch(head, "Sec-WebSocket-Protocol: chat\r\n")).await,
    ] {
        let (pool, gate) = in_front_of(&echo, "").await;
        let authorization = bearer(&pool.access(json!({})));
        let mut client = gate.raw().await;
        client.send(handshake("/ws", &[("Authorization", &authorization)])).await;
        client.read().await.expect(502, "upstream_invalid");
        echo.closed(1).await;
    }
}

#[tokio::test]
async fn elsewhere_a_handshake_is_an_ordinary_request() {
    let plain = |_: &str| "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned();
    let echo = Echo::answering(plain).await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let authorization = bearer(&pool.access(json!({})));
    let mut client = gate.raw().await;
    let protocol = ("Sec-WebSocket-Protocol", "portcullis.bearer.x");
    client.send(handshake("/other", &[("Authorization", &authorization), protocol])).await;
    assert_eq!(client.read().await.status, 200);
    let sent = echo.head().to_ascii_lowercase();
    assert!(!sent.contains("upgrade") && !sent.contains("portcullis.bearer"), "{sent}");
    let h2c = handshake("/ws", &[("Authorization", &authorization)]).replace("Upgrade: websocket", "Upgrade: h2c");
    client.send(h2c).await;
    assert_eq!(client.read().await.status, 200);
    assert!(!echo.head().to_ascii_lowercase().contains("upgrade"), "{}", echo.head());
}

#[tokio::test]
async fn a_handshake_that_is_none_is_400() {
    let echo = Echo::start().await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let good = handshake("/ws", &[("Authorization", &bearer(&pool.access(json!({}))))]);
    for (from, to) in [
        ("Version: 13", "Version: 12"),
        (KEY, "c2hvcnQ="),
        ("GET", "POST"),
        ("Host: gw", "Host: gw\r\nContent-Length: 5"),
    ] {
        let mut client = gate.raw().await;
        let body = if to.contains("Length") { "hello" } else { "" };
        client.send(good.replacen(from, to, 1) + body).await;
        let reply = client.read().await;
        reply.expect(400, "request_malformed");
        assert_eq!(reply.header("sec-websocket-version"), from.contains("Version").then_some("13"), "{to}");
    }
    assert!(echo.log.borrow().heads.is_empty());
}

#[tokio::test]
async fn lesson_37_nothing_passes_before_the_101() {
    let echo = Echo::start().await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let good = handshake("/ws", &[("Authorization", &bearer(&pool.access(json!({}))))]);
    let smuggled = b"GET /admin HTTP/1.1\r\nHost: gw\r\n\r\n".as_slice();
    for (number, early) in [HELLO, b"\x81", smuggled, b"GET /partial"].into_iter().enumerate() {
        let mut client = gate.raw().await;
        client.send([good.as_bytes(), early].concat()).await;
        let rest = client.read_to_close().await;
        assert!(!rest.windows(5).any(|window| window == b"hello"), "{:?}", String::from_utf8_lossy(&rest));
        echo.closed(number + 1).await;
    }
    assert_eq!(echo.log.borrow().bytes, b"", "tunneled before the 101");
}

#[tokio::test]
async fn browsers_bring_the_token_as_a_subprotocol() {
    let echo = Echo::answering(|head| {
        let chat = head.to_ascii_lowercase().contains("sec-websocket-protocol: chat\r\n");
        switch(head, if chat { "Sec-WebSocket-Protocol: chat\r\n" } else { "" })
    })
    .await;
    let (pool, gate) = in_front_of(&echo, "origins = [\"https://app.example\"]\n").await;
    let token = format!("portcullis.bearer.{}", pool.access(json!({})));
    let ask = async |lines: &[(&str, &str)]| {
        let mut client = gate.raw().await;
        client.send(handshake("/ws", lines)).await;
        client
    };
    let both = format!("{token}, chat");
    for (protocols, chosen) in [(&both, "chat"), (&token, token.as_str())] {
        for origin in ["http://gw", "https://app.example"] {
            let mut client = ask(&[("Sec-WebSocket-Protocol", protocols), ("Origin", origin)]).await;
            let head = String::from_utf8(client.take(b"\r\n\r\n").await).unwrap();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            let line = format!("sec-websocket-protocol: {chosen}\r\n");
            assert!(head.to_ascii_lowercase().contains(&line.to_ascii_lowercase()), "{head}");
            assert!(!echo.head().contains("portcullis.bearer"), "{}", echo.head());
            client.send(HELLO).await;
            client.take(HELLO).await;
        }
    }
    let seen = echo.log.borrow().heads.len();
    let evil = [("Sec-WebSocket-Protocol", token.as_str()), ("Origin", "https://evil.example")];
    ask(&evil).await.read().await.expect(403, "origin_denied");
    let two = [("Sec-WebSocket-Protocol", token.as_str()), ("Authorization", &bearer(&pool.access(json!({}))))];
    ask(&two).await.read().await.expect(400, "header_ambiguous");
    let twice = format!("{token}, {token}");
    ask(&[("Sec-WebSocket-Protocol", &twice)]).await.read().await.expect(400, "header_ambiguous");
    ask(&[("Sec-WebSocket-Protocol", "portcullis.bearer.x")]).await.read().await.expect(401, "token_invalid");
    assert_eq!(echo.log.borrow().heads.len(), seen);
}

#[tokio::test]
async fn it_ends_with_its_token_between_two_frames() {
    let echo = Echo::start().await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let token = short(&pool, 2);
    let (mut client, _) = open(&gate, &token).await;
    let (mut amid, _) = open(&gate, &token).await;
    client.send(HELLO).await;
    client.take(HELLO).await;
    // Half of a frame, whose other half comes when it is time to end.
    amid.send(&HELLO[..6]).await;
    amid.take(&HELLO[..6]).await;
    let close = close_frame(4401, "The permission ended");
    assert_eq!(client.read_to_close().await, close);
    assert_eq!(amid.read_to_close().await, b"", "no frame into a frame");
    echo.closed(2).await;
    assert_eq!(gate.access_line("/ws").await["reason"], "expired");
    assert_eq!(gate.metric("portcullis_streams_ended_total{reason=\"expired\"}").await, 2);
}

#[tokio::test]
async fn it_lives_through_reloads_until_one_forbids_it() {
    let (echo, folder) = (Echo::start().await, tempfile::tempdir().unwrap());
    let pool = FakePool::start().await;
    let gate = Portcullis::start_on_file(&sections(&pool, &echo, ""), folder.path()).await;
    let (mut client, _) = open(&gate, &pool.access(json!({}))).await;
    gate.reloaded(&sections(&pool, &echo, "timeout = \"1h\"\n")).await;
    client.send(HELLO).await;
    client.take(HELLO).await;
    gate.reloaded(&sections(&pool, &echo, "").replace("websocket = true", "websocket = false")).await;
    assert_eq!(client.read_to_close().await, close_frame(4401, "The permission ended"));
    assert_eq!(gate.access_line("/ws").await["reason"], "websocket");
}

#[tokio::test]
async fn a_listener_that_drains_says_goodbye() {
    let (echo, folder) = (Echo::start().await, tempfile::tempdir().unwrap());
    let pool = FakePool::start().await;
    let toml = sections(&pool, &echo, "");
    let gate = Portcullis::start_on_file(&toml, folder.path()).await;
    let (mut client, _) = open(&gate, &pool.access(json!({}))).await;
    let elsewhere = std::net::TcpListener::bind(("127.0.0.2", 0)).unwrap().local_addr().unwrap();
    gate.reloaded(&toml.replace("127.0.0.1:0\"\nh2c", &format!("{elsewhere}\"\nh2c"))).await;
    assert_eq!(client.read_to_close().await, close_frame(1001, "Going away"));
    assert_eq!(gate.access_line("/ws").await["reason"], "draining");
}

#[tokio::test]
async fn quiet_and_overlong_ones_end() {
    let echo = Echo::start().await;
    let (pool, gate) = in_front_of(&echo, "websocket_idle = \"300ms\"\n").await;
    let (mut client, _) = open(&gate, &pool.access(json!({}))).await;
    assert_eq!(client.read_to_close().await, close_frame(1001, "Going away"));
    assert_eq!(gate.access_line("/ws").await["reason"], "idle");
    let (pool, gate) = in_front_of(&echo, "timeout = \"300ms\"\n").await;
    let (mut client, _) = open(&gate, &pool.access(json!({}))).await;
    assert_eq!(client.read_to_close().await, close_frame(1001, "Going away"));
    assert_eq!(gate.access_line("/ws").await["reason"], "route_timeout");
}

/// An extended CONNECT (RFC 8441 §5.1).
fn connect(stream: u32, path: &str, token: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let authorization = bearer(token);
    let pseudo = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "gw")];
    let rest = [(":path", path), ("sec-websocket-version", "13"), ("authorization", &authorization)];
    h2::headers(0, stream, &pseudo.iter().chain(&rest).chain(more).copied().collect::<Vec<_>>())
}

#[tokio::test]
async fn extended_connect_opens_one_over_http_2() {
    let echo = Echo::start().await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let mut client = H2::open(gate.address()).await;
    client.send(connect(1, "/ws", &pool.access(json!({})), &[])).await;
    let head = client.until(HEADERS).await.unwrap();
    assert!(!head.has(END_STREAM));
    let sent = echo.head().to_ascii_lowercase();
    assert!(sent.starts_with("get /ws http/1.1\r\n") && sent.contains("upgrade: websocket\r\n"), "{sent}");
    client.send(h2::frame(DATA, 0, 1, HELLO)).await;
    assert_eq!(client.until(DATA).await.unwrap().payload, HELLO);
    // Other streams of the connection do not mind.
    client.send(connect(3, "/ws", &short(&pool, 2), &[])).await;
    client.send(h2::frame(DATA, END_STREAM, 1, HELLO)).await;
    echo.closed(1).await;
    let Outcome::Answer { status, body, .. } = client.outcome(3).await else { panic!("no answer") };
    assert_eq!(
        (status, body.as_bytes()),
        (200, String::from_utf8_lossy(&close_frame(4401, "The permission ended")).as_bytes())
    );
    let line = gate.access_line("/ws").await;
    assert_eq!((&line["method"], &line["status"]), (&json!("CONNECT"), &json!(200)), "{line}");
    assert!(client.is_alive().await);
}

#[tokio::test]
async fn extended_connect_opens_nothing_where_there_is_none() {
    let echo = Echo::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned()).await;
    let (pool, gate) = in_front_of(&echo, "").await;
    let (mut client, token) = (H2::open(gate.address()).await, pool.access(json!({})));
    let mut status = async |stream: u32, bytes: Vec<u8>| client.exchange(bytes, stream).await.status();
    assert_eq!(status(1, connect(1, "/other", &token, &[])).await, 405, "a route without");
    assert_eq!(status(3, connect(3, "/ws", "x", &[])).await, 401);
    assert_eq!(status(5, connect(5, "/ws", &token, &[])).await, 502, "a 200 would be taken for a WebSocket");
    assert_eq!(status(7, connect(7, "/ws", &token, &[("sec-websocket-key", KEY)])).await, 400);
    let other = [
        (":method", "CONNECT"),
        (":protocol", "connect-udp"),
        (":scheme", "http"),
        (":authority", "gw"),
        (":path", "/ws"),
    ];
    assert_eq!(status(9, h2::headers(0, 9, &other)).await, 405);
}
