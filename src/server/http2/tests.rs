//! Deadlines and the end of a connection, on a paused clock. What frames do is in `tests/it/http2`.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::server::connection::LINGER;
use crate::server::connection::tests::{Echo, info, limits, run};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

struct Client {
    stream: DuplexStream,
    switch: watch::Sender<Lifecycle>,
    task: JoinHandle<()>,
    /// Whether PING is answered.
    responsive: bool,
    begun: Instant,
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// HEADERS of a request for `http://a/path`; 0x82 is GET, 0x83 POST.
fn head(flags: u8, stream: u8, method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    let block = [&[method, 0x86, 0x01, 1, b'a', 0x04, length], path.as_bytes()].concat();
    frame(HEADERS, flags, stream, &block)
}

impl Client {
    /// A connection behind its preface and a SETTINGS frame with this initial window.
    async fn begin(window: u32) -> Self {
        let mut client = Self::connect();
        client.send(PREFACE).await;
        let settings = [&[0, 4], &window.to_be_bytes()[..]].concat();
        client.send(&frame(SETTINGS, 0, 0, &settings)).await;
        client
    }

    /// A connection on which nothing was said.
    fn connect() -> Self {
        let (stream, server) = tokio::io::duplex(1 << 20);
        let (switch, lifecycle) = watch::channel(Lifecycle::Running);
        let task = tokio::task::spawn_local(serve(server, info(), Echo::new(&switch), limits(), lifecycle));
        Self { stream, switch, task, responsive: true, begun: Instant::now() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame that is about a stream or the end: its kind, its stream and its payload.
    async fn next(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            self.stream.read_exact(&mut payload).await.ok()?;
            match head[3] {
                PING if head[4] == 0 && self.responsive => {
                    // Whoever is gone does not take it.
                    self.stream.write_all(&frame(PING, 1, 0, &payload)).await.unwrap_or_default();
                }
                SETTINGS | PING | WINDOW_UPDATE => {}
                kind => return Some((kind, head[8], payload)),
            }
        }
    }

    /// Reads up to the end; returns the kinds of frames that came.
    async fn rest(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        while let Some((kind, ..)) = self.next().await {
            kinds.push(kind);
        }
        kinds
    }

    fn seconds(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }
}

#[test]
fn an_idle_connection_gets_a_goaway_and_ends() {
    run(async {
        let mut client = Client::begin(65_535).await;
        assert_eq!(client.next().await.unwrap().0, GOAWAY);
        assert_eq!(client.seconds(), 75);
        client.rest().await;
        assert!(client.seconds() <= 75 + LINGER.as_secs());
        client.task.await.unwrap();
    });
}

#[test]
fn the_idle_clock_starts_again_after_each_answer() {
    run(async {
        let mut client = Client::begin(65_535).await;
        for stream in [1, 3, 5] {
            tokio::time::timeout(Duration::from_secs(70), client.next()).await.unwrap_err();
            client.send(&head(5, stream, 0x82, "/early")).await;
            assert_eq!(client.next().await.unwrap().0, HEADERS);
        }
        assert_eq!(client.next().await.unwrap().0, GOAWAY);
        assert_eq!(client.seconds(), 3 * 70 + 75);
    });
}

#[test]
fn a_preface_has_to_come_in_time_and_whole() {
    for part in [0, 1, PREFACE.len() - 1] {
        run(async move {
            let mut client = Client::connect();
            client.send(&PREFACE[..part]).await;
            assert!(client.rest().await.is_empty());
            assert_eq!(client.seconds(), 10, "{part} bytes of it");
        });
    }
}

#[test]
fn a_client_that_answers_no_ping_is_gone() {
    run(async {
        let mut client = Client::begin(65_535).await;
        client.responsive = false;
        client.rest().await;
        assert_eq!(client.seconds(), (PING_EVERY + PING_WAIT).as_secs());
    });
}

#[test]
fn a_header_block_that_does_not_end_ends_the_connection() {
    run(async {
        let mut client = Client::begin(65_535).await;
        client.send(&head(1, 1, 0x82, "/")).await;
        assert!(client.rest().await.is_empty());
        assert_eq!(client.seconds(), 10);
        // Half a frame is a beginning as well.
        let mut client = Client::begin(65_535).await;
        client.send(&head(5, 1, 0x82, "/")[..12]).await;
        assert!(client.rest().await.is_empty());
        assert_eq!(client.seconds(), 10);
    });
}

#[test]
fn draining_answers_what_is_open_and_takes_nothing_new() {
    run(async {
        let mut client = Client::begin(65_535).await;
        client.send(&head(5, 1, 0x82, "/slow")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.switch.send(Lifecycle::Draining).unwrap();
        assert_eq!(client.next().await.unwrap().0, GOAWAY);
        let last = client.next().await.unwrap();
        assert_eq!((last.0, &last.2[..4]), (GOAWAY, &[0, 0, 0, 1][..]), "the second one names the last stream");
        client.send(&head(5, 3, 0x82, "/early")).await;
        let (kind, stream, _) = client.next().await.unwrap();
        assert_eq!((kind, stream), (HEADERS, 1), "the open one, and not the new one");
        assert_eq!(client.seconds(), 30);
        assert!(client.rest().await.is_empty());
        client.task.await.unwrap();
    });
}

#[test]
fn draining_does_not_wait_for_a_client_that_is_idle_and_silent() {
    run(async {
        let mut client = Client::begin(65_535).await;
        client.responsive = false;
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.switch.send(Lifecycle::Draining).unwrap();
        assert_eq!(client.rest().await, [GOAWAY]);
        assert_eq!(client.seconds(), 1 + LINGER.as_secs());
    });
}

#[test]
fn a_request_body_that_stalls_fails_alone() {
    run(async {
        let mut client = Client::begin(65_535).await;
        client.send(&head(4, 1, 0x83, "/")).await;
        client.send(&frame(DATA, 0, 1, b"abc")).await;
        assert_eq!(client.next().await.unwrap().0, HEADERS);
        assert_eq!(client.next().await.unwrap().2, b"the body stalled");
        assert_eq!(client.seconds(), 60);
        // Its stream is over, and nothing of the body is waited for.
        assert_eq!(client.next().await.unwrap().0, RST_STREAM);
        client.send(&head(5, 3, 0x82, "/early")).await;
        assert_eq!(client.next().await.unwrap().0, HEADERS);
    });
}

#[test]
fn an_answer_that_is_not_taken_is_withdrawn_alone() {
    run(async {
        let mut client = Client::begin(0).await;
        client.send(&head(4, 1, 0x83, "/")).await;
        client.send(&frame(DATA, 1, 1, b"abc")).await;
        assert_eq!(client.next().await.unwrap().0, HEADERS);
        let (kind, stream, code) = client.next().await.unwrap();
        assert_eq!((kind, stream, code.as_slice()), (RST_STREAM, 1, &[0, 0, 0, 8][..]), "CANCEL");
        assert_eq!(client.seconds(), 60);
        client.send(&head(5, 3, 0x82, "/early")).await;
        assert_eq!(client.next().await.unwrap().0, HEADERS);
    });
}

#[test]
fn stopping_a_connection_ends_its_requests() {
    run(async {
        let mut client = Client::begin(65_535).await;
        client.send(&head(5, 1, 0x82, "/slow")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.task.abort();
        assert!(client.rest().await.is_empty());
        assert_eq!(client.seconds(), 1);
    });
}
