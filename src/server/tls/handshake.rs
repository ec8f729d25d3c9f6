//! From a socket to a TLS stream.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustls::{ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Endpoint, HTTP2};
use crate::certificates::subject;
use crate::http::TlsSession;

/// A connection whose handshake is done.
pub(crate) struct Shaken<I> {
    pub(crate) stream: TlsStream<I>,
    pub(crate) session: TlsSession,
    /// ALPN chose HTTP/2 (RFC 9113 §3.2).
    pub(crate) http2: bool,
}

impl Endpoint {
    /// Shakes hands; whoever calls it sets a deadline for the whole.
    ///
    /// # Errors
    /// When the client speaks no TLS, none that is offered, or shows no certificate that is asked for.
    pub(crate) async fn accept<I: AsyncRead + AsyncWrite + Unpin>(&self, stream: I) -> io::Result<Shaken<I>> {
        let stream = TlsAcceptor::from(self.rustls.load_full()).accept(stream).await?;
        let (_, connection) = stream.get_ref();
        let session = TlsSession {
            version: version(connection),
            client_certificate: client_certificate(connection),
            client_subject: connection.peer_certificates().and_then(|chain| subject(chain.first()?)),
            zone: Arc::clone(&self.zone),
        };
        let http2 = connection.alpn_protocol() == Some(HTTP2);
        Ok(Shaken { stream, session, http2 })
    }
}

fn version(connection: &ServerConnection) -> &'static str {
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        // No other is ever offered.
        _ => "1.3",
    }
}

/// `:BASE64:` (RFC 9440 §2.1). rustls has verified it, or there is none.
fn client_certificate(connection: &ServerConnection) -> Option<HeaderValue> {
    let certificate = connection.peer_certificates()?.first()?;
    HeaderValue::from_str(&format!(":{}:", STANDARD.encode(certificate))).ok()
}
