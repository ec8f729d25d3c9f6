//! Why an exchange with an upstream failed.

use std::io;

use crate::http::BodyError;

/// Why there is no answer. [`Error::reason`] is its name in metrics and in the access line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made: nothing was sent.
    #[error("the server cannot be reached")]
    Connect(#[source] ConnectError),
    /// The request was sent; the head of the answer did not come within `response_head`.
    #[error("the answer did not come in time")]
    HeadTimeout,
    /// The server took no byte of the request's body within `body_stall`.
    #[error("the server stopped reading the request")]
    BodyStalled,
    /// The client's own body broke off; the server saw a cut connection, never an end.
    #[error("the request broke off")]
    RequestBody(#[source] BodyError),
    /// The answer cannot be passed on.
    #[error("the answer is not valid")]
    Invalid(#[source] Invalid),
    /// The connection ended before a whole head. The request may have been acted on.
    #[error("the server closed the connection before it answered")]
    Closed(#[source] io::Error),
    /// The upstream has no server.
    #[error("the upstream has no server")]
    NoServer,
    /// The server has as many connections as it may have, and none was free in time. Says why.
    #[error("every connection is in use: {0}")]
    Busy(&'static str),
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Name look-up and connection together took longer than `connect`.
    #[error("no connection in time")]
    Timeout,
    /// Nobody listens there.
    #[error("the connection was refused")]
    Refused(#[source] io::Error),
    /// The name has no address.
    #[error("the name was not found")]
    Dns(#[source] io::Error),
    /// The server's certificate is not what it should be, or it speaks no TLS that we do.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// No route, no free port, no file descriptor and the like.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Its head is not HTTP, contradicts itself, or is larger than 64 KiB.
    #[error("the head cannot be read: {0}")]
    Head(&'static str),
    /// It switches protocols (RFC 9110 §15.2.2), which nobody asked for.
    #[error("it switches to another protocol unasked")]
    Upgrade,
    /// It switches to WebSocket in another way than RFC 6455 §4.2.2 asks for.
    #[error("it is no answer to a WebSocket handshake")]
    Handshake,
    /// It has a transfer coding besides `chunked`, which the client was not offered (RFC 9112 §6.1).
    #[error("its transfer coding is not chunked")]
    TransferEncoding,
}

impl Error {
    /// A fixed word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(ConnectError::Timeout) => "connect_timeout",
            Self::Connect(ConnectError::Refused(_)) => "connect_refused",
            Self::Connect(ConnectError::Dns(_)) => "connect_dns",
            Self::Connect(ConnectError::Tls(_)) => "connect_tls",
            Self::Connect(ConnectError::Io(_)) => "connect_failed",
            Self::HeadTimeout => "head_timeout",
            Self::BodyStalled => "body_stalled",
            Self::RequestBody(_) => "request_body",
            Self::Invalid(Invalid::Head(_)) => "invalid_head",
            Self::Invalid(Invalid::Upgrade) => "unasked_upgrade",
            Self::Invalid(Invalid::Handshake) => "invalid_handshake",
            Self::Invalid(Invalid::TransferEncoding) => "invalid_coding",
            Self::Closed(_) => "closed",
            Self::NoServer => "no_server",
            Self::Busy(why) => why,
        }
    }
}
