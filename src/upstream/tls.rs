//! TLS to servers: whom we believe, and as whom we come.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::InvalidHeaderValue;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::ConnectError;
use super::http2;
use crate::config::{self, Protocol, Servers, Transport};
use crate::outbound;

/// Why an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A host cannot stand in a header.
    #[error("the host cannot stand in a header")]
    Host(#[from] InvalidHeaderValue),
    /// A PEM file cannot be read, or has nothing of what it should have.
    #[error("{} cannot be used: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The client certificate and its key do not fit, or the cryptography does not take them.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// A host name that no certificate can have.
    #[error("`{0}` cannot be the name in a certificate")]
    Name(String),
}

/// What is the same for all `https://` servers of an upstream.
pub(super) struct Tls {
    connector: TlsConnector,
    server_name: Option<String>,
}

/// How TLS to one server begins.
pub(super) struct Towards {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// `None` when no server of the upstream needs it.
    pub(super) fn for_upstream(upstream: &config::Upstream) -> Result<Option<Self>, BuildError> {
        match &upstream.servers {
            Servers::Http(servers) if servers.iter().any(|one| one.transport == Transport::Tls) => {}
            Servers::Http(_) | Servers::Whoami => return Ok(None),
        }
        let tls = &upstream.tls;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(BuildError::Tls)?;
        let builder = if tls.danger_accept_invalid {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(tls.ca.as_deref().map_or_else(|| Ok(outbound::trust_anchors()), roots)?)
        };
        let mut client = match &tls.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let unusable = |error| unusable(&files.key, error);
                let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unusable)?;
                builder.with_client_auth_cert(certificates(&files.chain)?, key).map_err(BuildError::Tls)?
            }
        };
        let http1 = b"http/1.1".to_vec();
        client.alpn_protocols = match upstream.protocol {
            Protocol::Http1 => vec![http1],
            Protocol::Http2 => vec![http2::ALPN.to_vec()],
            Protocol::Auto => vec![http2::ALPN.to_vec(), http1],
        };
        Ok(Some(Self { connector: TlsConnector::from(Arc::new(client)), server_name: tls.server_name.clone() }))
    }

    /// The same for one server, by the name in its URL unless the configuration says another.
    pub(super) fn towards(&self, host: &str) -> Result<Towards, BuildError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| BuildError::Name(name.to_owned()))?;
        Ok(Towards { connector: self.connector.clone(), name })
    }
}

impl Towards {
    /// Shakes hands.
    pub(super) async fn over(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
        self.connector.connect(self.name.clone(), stream).await.map_err(ConnectError::Tls)
    }
}

/// The authorities in a PEM file.
fn roots(path: &Path) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    Ok(roots)
}

/// The certificates in a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let all = CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, error))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|error| unusable(path, error))?;
    if all.is_empty() { Err(unusable(path, "it has no certificate")) } else { Ok(all) }
}

fn unusable(path: &Path, why: impl ToString) -> BuildError {
    BuildError::File { path: path.to_owned(), why: why.to_string() }
}

/// Takes every certificate (`danger_accept_invalid`). Its owner has to prove all the same that the
/// key is there.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
