//! An upstream that speaks HTTP/2 with prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::soon;

/// A request, and where its answer goes.
pub(crate) type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// The server. Its connections go on by themselves, and end when it is dropped.
pub(crate) struct H2Upstream {
    address: SocketAddr,
    requests: Mutex<mpsc::UnboundedReceiver<Asked>>,
    accepting: JoinHandle<()>,
}

impl H2Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, requests) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let asked = asked.clone();
                connections.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok(request)) = connection.accept().await {
                        if asked.send(request).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, requests: Mutex::new(requests), accepting }
    }

    /// The section of the config that names this server.
    pub(crate) fn toml(&self, name: &str) -> String {
        format!("[upstream.{name}]\nservers = [\"http://{}\"]\nprotocol = \"h2\"\n", self.address)
    }

    /// The next request.
    pub(crate) async fn next(&self) -> Asked {
        let mut requests = self.requests.lock().await;
        soon("a request at the upstream", requests.recv()).await.expect("it accepts until it is dropped")
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads a body to its end: its bytes, and its trailers.
pub(crate) async fn read(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = soon("the rest of a body", body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, body.trailers().await?.unwrap_or_default()))
}
