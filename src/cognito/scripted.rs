//! A user pool for tests: a TCP server that answers each request as a closure says.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the script does with a request.
pub(crate) enum Reply {
    /// A status and a JSON body.
    Json(u16, serde_json::Value),
    /// These bytes, then the end of the connection.
    Raw(String),
    /// Nothing, with the connection kept open.
    Silence,
}

impl Reply {
    /// A refusal in the API's form.
    pub(crate) fn fault(kind: &str, message: &str) -> Self {
        Self::Json(400, serde_json::json!({"__type": kind, "message": message}))
    }

    /// A web page.
    pub(crate) fn page(status: u16) -> Self {
        let body = "<html>no</html>";
        Self::Raw(format!(
            "HTTP/1.1 {status} X\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The operation, from `X-Amz-Target`.
    pub(crate) operation: String,
    /// The JSON body.
    pub(crate) body: serde_json::Value,
}

/// The running server; it ends with the test's runtime.
pub(crate) struct Scripted {
    /// Its base URL.
    pub(crate) endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// Answers the n-th request (from 0) as `script` says.
    pub(crate) async fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (Arc::clone(&seen), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log)));
            }
        });
        Self { endpoint, seen }
    }

    /// What has arrived so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The operations that were asked for, in order.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.operation).collect()
    }
}

async fn serve<S: Fn(usize, &Seen) -> Reply>(mut stream: TcpStream, script: Arc<S>, log: Arc<Mutex<Vec<Seen>>>) {
    while let Some(seen) = read_request(&mut stream).await {
        let number = {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(seen.clone());
            log.len() - 1
        };
        match script(number, &seen) {
            Reply::Json(status, body) => {
                let body = body.to_string();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
            Reply::Raw(bytes) => {
                // The client may hang up early, when it has seen enough.
                let _written = stream.write_all(bytes.as_bytes()).await.is_ok();
                return;
            }
            Reply::Silence => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let field = |name: &str| {
        let (_, value) = head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| *n == name)?;
        Some(value.to_owned())
    };
    assert_eq!(head.lines().next(), Some("POST / HTTP/1.1"));
    assert_eq!(field("content-type").as_deref(), Some("application/x-amz-json-1.1"));
    let length: usize = field("content-length").unwrap().parse().unwrap();
    while bytes.len() < head_end + 4 + length {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the request broke off");
    }
    let body = serde_json::from_slice(&bytes[head_end + 4..]).unwrap();
    let target = field("x-amz-target").unwrap();
    let operation = target.strip_prefix("AWSCognitoIdentityProviderService.").unwrap().to_owned();
    Some(Seen { operation, body })
}
