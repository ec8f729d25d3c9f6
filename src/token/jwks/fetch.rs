//! One fetch of a key set, with everything about it bounded.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use tokio::time::timeout;

use super::document::{DocumentError, MAX_DOCUMENT};
use crate::outbound::{ReadError, read_capped};

/// From the first byte sent to the last byte received, whatever the client allows.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a fetch brought no new key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the endpoint cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the endpoint did not answer in time")]
    Timeout,
    /// A redirect is one of them: the client follows none.
    #[error("the endpoint answered with status {0}")]
    Status(StatusCode),
    #[error("the answer cannot be read")]
    Read(#[source] ReadError),
    #[error("the answer is not a usable key set")]
    Document(#[source] DocumentError),
}

impl FetchError {
    /// The label of `jwks_fetch_total`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::Read(ReadError::TooLarge(_)) | Self::Document(DocumentError::TooLarge) => "too_large",
            Self::Read(ReadError::Broken(_)) => "broken",
            Self::Document(_) => "invalid",
        }
    }
}

/// The bytes that `url` answers with.
///
/// # Errors
/// When there is no complete answer with status 200 within 10 s and 256 KiB.
pub(super) async fn fetch(http: &reqwest::Client, url: &str) -> Result<Bytes, FetchError> {
    let answer = async {
        let request = http.get(url).header(header::ACCEPT, "application/json");
        let response = request.send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        read_capped(response, MAX_DOCUMENT).await.map_err(|error| match error {
            ReadError::Broken(cause) if cause.is_timeout() => FetchError::Timeout,
            other => FetchError::Read(other),
        })
    };
    timeout(DEADLINE, answer).await.unwrap_or(Err(FetchError::Timeout))
}

fn failed(error: reqwest::Error) -> FetchError {
    if error.is_timeout() { FetchError::Timeout } else { FetchError::Unreachable(error.without_url()) }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::super::super::testing::{self, NOW};
    use super::super::KeySet;
    use super::*;
    use crate::clock::Clock;
    use crate::outbound;
    use crate::telemetry::metrics::Metrics;

    fn client() -> reqwest::Client {
        outbound::client(Duration::from_millis(500), Duration::from_millis(500)).unwrap()
    }

    /// A server that answers every connection with these bytes, and closes it unless it is to hang.
    async fn serve(answer: Vec<u8>, hang: bool) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (answer, counter) = (answer.clone(), counter.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    // The client may have seen enough and gone.
                    if stream.write_all(&answer).await.is_ok() && hang {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        (address, requests)
    }

    fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
            .into_bytes()
    }

    async fn outcome(answer: Vec<u8>, hang: bool) -> Result<Bytes, &'static str> {
        let (address, _) = serve(answer, hang).await;
        let fetched = fetch(&client(), &format!("http://{address}/jwks.json")).await;
        fetched.map_err(|error| error.outcome())
    }

    #[tokio::test]
    async fn a_good_answer_is_returned_as_it_came() {
        let document = testing::jwks(&["k1"]);
        assert_eq!(outcome(answer("200 OK", "", &document), false).await, Ok(Bytes::from(document)));
    }

    #[tokio::test]
    async fn other_statuses_fail_whatever_their_body() {
        let document = testing::jwks(&["k1"]);
        for status in ["500 Internal Server Error", "404 Not Found", "201 Created", "206 Partial Content"] {
            assert_eq!(outcome(answer(status, "", &document), false).await, Err("status"), "{status}");
        }
    }

    #[tokio::test]
    async fn lesson_26_a_redirect_is_not_followed() {
        let (target, visits) = serve(answer("200 OK", "", &testing::jwks(&["k1"])), false).await;
        for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
            let location = format!("Location: http://{target}/jwks.json\r\n");
            assert_eq!(outcome(answer(status, &location, ""), false).await, Err("status"), "{status}");
        }
        assert_eq!(visits.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_huge_answer_is_cut() {
        let announced = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_DOCUMENT + 1);
        assert_eq!(outcome(announced.into_bytes(), true).await, Err("too_large"), "not even read");
        let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..5 {
            chunked.extend_from_slice(b"10000\r\n");
            chunked.extend_from_slice(&[b' '; 0x10000]);
            chunked.extend_from_slice(b"\r\n");
        }
        assert_eq!(outcome(chunked, true).await, Err("too_large"), "without an announcement");
    }

    #[tokio::test]
    async fn a_slow_or_broken_answer_fails() {
        assert_eq!(outcome(Vec::new(), true).await, Err("timeout"), "no answer");
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"keys\"".to_vec();
        assert_eq!(outcome(half.clone(), true).await, Err("timeout"), "half an answer");
        assert_eq!(outcome(half, false).await, Err("broken"));
        assert_eq!(outcome(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), false).await, Err("unreachable"), "not HTTP");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = fetch(&client(), &format!("http://{address}/")).await.unwrap_err();
        assert_eq!(error.outcome(), "unreachable");
    }

    #[tokio::test]
    async fn a_flood_over_real_sockets_causes_one_fetch_per_cooldown() {
        let (address, requests) = serve(answer("200 OK", "", &testing::jwks(&["k1"])), false).await;
        let mut pool = testing::pool();
        pool.jwks = format!("http://{address}/jwks.json");
        pool.keys.cooldown = Duration::from_millis(200);
        let runtime = tokio::runtime::Handle::current();
        let metrics = Arc::new(Metrics::new());
        let set = KeySet::start(Arc::new(pool), client(), Clock::manual(NOW), metrics, &runtime);
        set.ready().await;
        assert!(set.find("k1", NOW, Duration::ZERO).await.is_ok());
        let began = Instant::now();
        let mut asked = 0;
        while began.elapsed() < Duration::from_millis(700) {
            let wait = Duration::from_millis(asked % 7);
            let verdict = set.find(&format!("random-{asked}"), NOW, wait).await;
            assert!(verdict.is_err());
            asked += 1;
            tokio::task::yield_now().await;
        }
        let (allowed, made) = (2 + began.elapsed().as_millis() / 200 + 1, requests.load(Ordering::SeqCst));
        assert!(made as u128 <= allowed, "{made} fetches, {allowed} allowed");
        assert!(made >= 4, "{made} fetches: the set is refreshed for those who ask");
    }
}
