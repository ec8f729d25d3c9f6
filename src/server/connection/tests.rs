use std::cell::Cell;

use tokio::io::DuplexStream;

use super::*;
use crate::http::{Body as OurBody, Transport};

/// Answers every request with its body (`/slow` after 30 s, `/early` without it, `/drain` after the
/// process has begun to drain), and refusals with their names.
pub(in crate::server) struct Echo {
    seen: Cell<usize>,
    switch: watch::Sender<Lifecycle>,
}

impl Echo {
    pub(in crate::server) fn new(switch: &watch::Sender<Lifecycle>) -> Rc<Self> {
        Rc::new(Self { seen: Cell::new(0), switch: switch.clone() })
    }
}

impl Service for Echo {
    type Client = ();
    type Body = OurBody;

    fn connected(&self, _info: ConnInfo) {}

    async fn call(self: Rc<Self>, _client: Rc<()>, request: Request<RequestBody>) -> Response<OurBody> {
        self.seen.set(self.seen.get() + 1);
        let mut response = Response::new(OurBody::Empty);
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        if request.uri().path() == "/drain" {
            self.switch.send_replace(Lifecycle::Draining);
        }
        if request.uri().path() == "/early" {
            return response;
        }
        match request.into_body().collect().await {
            Ok(body) => *response.body_mut() = body.to_bytes().into(),
            Err(error) => {
                *response.status_mut() = StatusCode::BAD_REQUEST;
                *response.body_mut() = Bytes::from(error.to_string()).into();
            }
        }
        response
    }

    fn refuse(&self, _client: &(), refusal: Refusal) -> Response<OurBody> {
        let mut response = Response::new(OurBody::from(Bytes::from(format!("{refusal:?}"))));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    }

    fn refuse_request<B>(&self, client: &(), _request: &Request<B>, refusal: Refusal) -> Response<OurBody> {
        self.refuse(client, refusal)
    }
}

/// Starts a connection; returns the client's end and the switch.
fn start() -> (DuplexStream, watch::Sender<Lifecycle>, tokio::task::JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (switch, lifecycle) = watch::channel(Lifecycle::Running);
    let service = Echo::new(&switch);
    (client, switch, tokio::task::spawn_local(serve(server, info(), service, limits(), lifecycle)))
}

pub(in crate::server) fn info() -> ConnInfo {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    ConnInfo { peer: address.into(), local: Some(address), listener: "test".into(), transport: Transport::Plain }
}

pub(in crate::server) fn limits() -> ConnectionLimits {
    ConnectionLimits {
        head: HeadLimits { bytes: 8192, lines: 100 },
        patience: Patience {
            idle: Duration::from_secs(75),
            request_head: Duration::from_secs(10),
            body_stall: Duration::from_secs(60),
        },
        handshake: Duration::from_secs(10),
        h2_streams: 128,
    }
}

/// Runs a test on a paused clock, where time passes only when everybody waits.
pub(in crate::server) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

async fn read_all(client: &mut DuplexStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text
}

#[test]
fn a_refused_request_behind_a_good_one_does_not_spoil_it() {
    run(async {
        let (mut client, _switch, _task) = start();
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /#x HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let text = read_all(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(text.contains("\r\n\r\nabcHTTP/1.1 400"), "{text}");
        assert!(text.ends_with("Malformed(\"fragment\")"), "{text}");
    });
}

#[test]
fn a_refusal_does_not_wait_longer_than_the_answer_before_it() {
    run(async {
        let (mut client, _switch, _task) = start();
        let begin = Instant::now();
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /#x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let text = read_all(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(text.ends_with("Malformed(\"fragment\")"), "{text}");
        assert_eq!(begin.elapsed().as_secs(), 30);
    });
}

#[test]
fn a_broken_chunk_ends_the_request_it_belongs_to() {
    run(async {
        let (mut client, _switch, _task) = start();
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc").await.unwrap();
        let text = read_all(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 400"), "{text}");
        assert!(text.ends_with("the client's body broke off"), "{text}");
    });
}

#[test]
fn a_slow_head_is_answered_with_a_timeout_and_an_idle_connection_is_closed() {
    run(async {
        let (mut client, _switch, _task) = start();
        let begin = Instant::now();
        client.write_all(b"GET / HTT").await.unwrap();
        assert!(read_all(&mut client).await.ends_with("HeadTimeout"));
        assert_eq!(begin.elapsed().as_secs(), 10);
        let (mut client, _switch, _task) = start();
        let begin = Instant::now();
        assert_eq!(read_all(&mut client).await, "");
        assert_eq!(begin.elapsed().as_secs(), 75);
    });
}

#[test]
fn the_idle_clock_starts_again_after_each_answer() {
    run(async {
        let (mut client, _switch, _task) = start();
        let begin = Instant::now();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(70)).await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        }
        let text = read_all(&mut client).await;
        assert_eq!(text.matches("200 OK").count(), 3);
        assert_eq!(begin.elapsed().as_secs(), 3 * 70 + 75);
    });
}

#[test]
fn a_request_body_that_stalls_fails_and_closes() {
    run(async {
        let (mut client, _switch, _task) = start();
        let begin = Instant::now();
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
        assert!(read_all(&mut client).await.ends_with("the body stalled"));
        assert_eq!(begin.elapsed().as_secs(), 60);
    });
}

#[test]
fn a_client_that_is_answered_before_the_end_of_its_body_gets_to_send_on_for_a_while() {
    run(async {
        let (mut client, _switch, task) = start();
        client.write_all(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n").await.unwrap();
        let mut sent = 0;
        while client.write_all(&[b'x'; 60_000]).await.is_ok() && sent < 20 {
            sent += 1;
        }
        assert_eq!(sent, 20, "nobody reads what is sent");
        assert!(read_all(&mut client).await.starts_with("HTTP/1.1 200 OK"));
        let begin = Instant::now();
        task.await.unwrap();
        assert_eq!(begin.elapsed(), LINGER, "it ends although the client does not");
    });
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    run(async {
        let (mut client, _switch, task) = start();
        let big = "x".repeat(60_000);
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{big}", big.len());
        for _ in 0..2 {
            client.write_all(request.as_bytes()).await.unwrap();
        }
        let begin = Instant::now();
        task.await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 60);
    });
}

#[test]
fn draining_closes_idle_connections_at_once() {
    run(async {
        let (mut client, switch, task) = start();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).await.unwrap();
        switch.send(Lifecycle::Draining).unwrap();
        let begin = Instant::now();
        task.await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 0);
    });
}

#[test]
fn an_answer_that_ends_while_draining_begins_says_that_the_connection_closes() {
    run(async {
        let (mut client, _switch, task) = start();
        client.write_all(b"GET /drain HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let answer = read_all(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"), "{answer}");
        task.await.unwrap();
    });
}

#[test]
fn a_malformed_head_behind_a_slow_answer_is_refused_by_us_however_it_arrives() {
    for bad in [
        "\n\n\nxx\n\nGET",
        "\r\n\r\nx\u{1}x\r\n\r\nGET",
        "\r\nGET /\u{1} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nx y: z\r\n\r\n",
    ] {
        let cuts = (0..=bad.len()).flat_map(|one| (one..=bad.len()).map(move |two| [one, two]));
        let cuts = cuts.flat_map(|[one, two]| (two..=bad.len()).map(move |three| [one, two, three]));
        for [one, two, three] in cuts.filter(|[one, _, three]| three - one <= 4) {
            run(async move {
                let (mut client, _switch, task) = start();
                client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                let bytes = bad.as_bytes();
                for piece in [&bytes[..one], &bytes[one..two], &bytes[two..three], &bytes[three..]] {
                    // The last ones come when the answer is out, and maybe the refusal, too.
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    if client.write_all(piece).await.is_err() {
                        break;
                    }
                }
                let answers = read_all(&mut client).await;
                let (slow, refused) = answers.split_once("\r\n\r\n").unwrap();
                assert!(slow.starts_with("HTTP/1.1 200 OK"), "{bad:?} {one} {two} {three}: {answers}");
                assert!(refused.contains("\r\n\r\nMalformed("), "{bad:?} {one} {two} {three}: {answers}");
                task.await.unwrap();
            });
        }
    }
}
