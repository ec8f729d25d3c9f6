//! A client that sends exactly the bytes it is given.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::reply::{Reply, check, parse};
use super::soon;

/// One connection to the gateway.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    /// Read, but not yet part of a reply.
    pending: Vec<u8>,
}

/// What a connection runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Stream for S {}

/// The connection ended before the reply did.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What had come of the reply.
    pub(crate) received: Vec<u8>,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap_or_else(|| panic!("nobody listens at {address}"))
    }

    /// Connects, unless nobody listens.
    pub(crate) async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = soon("a connection", TcpStream::connect(address)).await.ok()?;
        stream.set_nodelay(true).unwrap();
        Some(Self::over(stream))
    }

    /// A connection that is there already.
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), pending: Vec::new() }
    }

    /// Sends these bytes. A peer that has closed already is not a failure: its reply may be there.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _may_be_closed = soon("room to send", self.stream.write_all(bytes.as_ref())).await.is_ok();
    }

    /// Says that no more bytes will come, but goes on reading.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Sends a whole request and reads its reply; method and target are taken from the bytes.
    pub(crate) async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Reply {
        let request = request.as_ref();
        let line = String::from_utf8_lossy(request.split(|b| *b == b'\n').next().unwrap_or_default()).into_owned();
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        self.send(request).await;
        match self.next(method).await {
            Ok(reply) => {
                check(&reply, method, target, line.contains("HTTP/1.0"));
                assert!(self.pending.is_empty(), "bytes after the reply: {:?}", String::from_utf8_lossy(&self.pending));
                reply
            }
            Err(cut) => panic!("{line:?}: cut after {:?}", String::from_utf8_lossy(&cut.received)),
        }
    }

    /// Reads the next reply, to a request that was not HEAD.
    pub(crate) async fn read(&mut self) -> Reply {
        let reply = self.next("GET").await;
        let reply = reply.unwrap_or_else(|cut| panic!("cut after {:?}", String::from_utf8_lossy(&cut.received)));
        check(&reply, "", "", false);
        reply
    }

    /// Reads the next reply, or what there was of it.
    pub(crate) async fn next(&mut self, method: &str) -> Result<Reply, Cut> {
        let mut ended = false;
        loop {
            if let Some((reply, used)) = parse(&self.pending, method, ended) {
                self.pending.drain(..used);
                return Ok(reply);
            }
            if ended {
                return Err(Cut { received: std::mem::take(&mut self.pending) });
            }
            ended = !self.fill().await;
        }
    }

    /// Waits until this much of the next reply is there, and leaves it there.
    pub(crate) async fn peek(&mut self, bytes: &[u8]) {
        while super::reply::find(&self.pending, bytes).is_none() {
            let before = String::from_utf8_lossy(&self.pending).into_owned();
            assert!(self.fill().await, "closed before {:?}: {before:?}", String::from_utf8_lossy(bytes));
        }
    }

    /// Everything up to and with these bytes.
    pub(crate) async fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.peek(bytes).await;
        let end = super::reply::find(&self.pending, bytes).expect("it was seen") + bytes.len();
        self.pending.drain(..end).collect()
    }

    /// Everything until the gateway closes.
    pub(crate) async fn read_to_close(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.pending)
    }

    /// Everything, if the gateway has closed by now.
    pub(crate) async fn read_if_closed(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut chunk = [0; 4096];
            let read = tokio::select! {
                biased;
                read = self.stream.read(&mut chunk) => read,
                () = std::future::ready(()) => return None,
            };
            match read {
                Ok(read) if read > 0 => self.pending.extend_from_slice(&chunk[..read]),
                _ => return Some(std::mem::take(&mut self.pending)),
            }
        }
    }

    /// The gateway must close without another byte.
    pub(crate) async fn closed(&mut self) {
        let rest = self.read_to_close().await;
        assert!(rest.is_empty(), "bytes before the end: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Reads some more. False: the end, clean or not.
    async fn fill(&mut self) -> bool {
        self.pending.reserve(16 * 1024);
        soon("bytes or the end", self.stream.read_buf(&mut self.pending)).await.is_ok_and(|read| read > 0)
    }
}
