//! Calls that Portcullis itself makes: to the user pool and to its key endpoint.
//!
//! One way to build the client, so that no call can follow a redirect, use a proxy from the
//! environment, speak unverified TLS, or read without bounds.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::RootCertStore;

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed before the end of the body.
    #[error("the answer broke off")]
    Broken(#[source] reqwest::Error),
    /// The body is larger than it may be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// A client whose every request ends within `total`, and whose connect step ends within `connect`.
///
/// # Errors
/// When the TLS configuration cannot be built.
pub fn client(connect: Duration, total: Duration) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust_anchors())
        .with_no_client_auth();
    #[expect(clippy::disallowed_methods, reason = "the one place that builds a client")]
    let builder = reqwest::Client::builder();
    Ok(builder
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .connect_timeout(connect)
        .timeout(total)
        .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
        .build()?)
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// When the connection breaks or the body is longer; nothing beyond the limit is kept.
pub async fn read_capped(mut response: reqwest::Response, limit: usize) -> Result<Bytes, ReadError> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(ReadError::TooLarge(limit));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Broken)? {
        if body.len() + chunk.len() > limit {
            return Err(ReadError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The machine's certificate authorities, or Mozilla's where the machine has none.
pub fn trust_anchors() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a certificate store of this machine could not be read");
    }
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
