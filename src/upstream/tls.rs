//! TLS to servers: whom we believe, and as whom we come.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::header::InvalidHeaderValue;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::ConnectError;
use super::http2;
use crate::certificates::{self, Certificate, Slot, provider};
use crate::clock::Timestamp;
use crate::config::{self, Place, Protocol, Servers, Transport};
use crate::outbound;

/// Why an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A host cannot stand in a header.
    #[error("the host cannot stand in a header")]
    Host(#[from] InvalidHeaderValue),
    /// A certificate, a key or authorities are no good.
    #[error(transparent)]
    File(#[from] certificates::Error),
    /// The cryptography does not take the whole.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// A host name that no certificate can have.
    #[error("`{0}` cannot be the name in a certificate")]
    Name(String),
}

/// What is the same for all `https://` servers of an upstream.
pub(super) struct Tls {
    config: config::UpstreamTls,
    protocol: Protocol,
    /// What handshakes begin with.
    rustls: ArcSwap<ClientConfig>,
    /// No handshake locks it.
    material: Mutex<Material>,
}

/// What the files were when they were good.
struct Material {
    /// Who vouches for servers, if not the machine's authorities.
    authorities: Option<Slot<Arc<RootCertStore>>>,
    client: Option<Slot<Certificate>>,
}

/// How TLS to one server begins.
pub(super) struct Towards {
    tls: Arc<Tls>,
    name: ServerName<'static>,
}

impl Tls {
    /// `None` when no server of the upstream needs it.
    pub(super) fn for_upstream(upstream: &config::Upstream) -> Result<Option<Arc<Self>>, BuildError> {
        match &upstream.servers {
            Servers::Http(servers) if servers.iter().any(|one| one.transport == Transport::Tls) => {}
            Servers::Http(_) | Servers::Whoami => return Ok(None),
        }
        let config = upstream.tls.clone();
        let read = |path| Slot::<Arc<RootCertStore>>::read(path, &Place::default());
        // Nothing is in use yet that one that has expired could take the place of.
        let client = |files| Slot::<Certificate>::read(files, None, Timestamp::from_seconds(0));
        let material = Material {
            authorities: config.ca.as_deref().map(read).transpose()?,
            client: config.client.as_ref().map(client).transpose()?,
        };
        let protocol = upstream.protocol;
        let rustls = ArcSwap::new(material.rustls(&config, protocol)?);
        Ok(Some(Arc::new(Self { config, protocol, rustls, material: Mutex::new(material) })))
    }

    /// The same for one server, by the name in its URL unless the configuration says another.
    pub(super) fn towards(self: &Arc<Self>, host: &str) -> Result<Towards, BuildError> {
        let name = self.config.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| BuildError::Name(name.to_owned()))?;
        Ok(Towards { tls: Arc::clone(self), name })
    }

    /// Takes over what changed in the files and is good, for new connections. Blocks while it reads.
    pub(super) fn refresh(&self, now: Timestamp) {
        // Nothing is half done when something panics: slots are replaced whole.
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        if !material.look(&self.config, now) {
            return;
        }
        match material.rustls(&self.config, self.protocol) {
            Ok(rustls) => self.rustls.store(rustls),
            Err(error) => tracing::error!(%error, "new TLS files cannot be used"),
        }
    }
}

impl Material {
    /// Reads the files again. Whether something is different now.
    fn look(&mut self, config: &config::UpstreamTls, now: Timestamp) -> bool {
        let mut changed = false;
        if let (Some(path), Some(slot)) = (&config.ca, &mut self.authorities) {
            changed |= slot.look(path, &Place::default());
        }
        if let (Some(files), Some(slot)) = (&config.client, &mut self.client) {
            changed |= slot.look(files, now);
        }
        changed
    }

    fn rustls(&self, config: &config::UpstreamTls, protocol: Protocol) -> Result<Arc<ClientConfig>, BuildError> {
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(BuildError::Tls)?;
        let builder = if config.danger_accept_invalid {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            let machines = || Arc::new(outbound::trust_anchors());
            builder.with_root_certificates(self.authorities.as_ref().map_or_else(machines, |own| Arc::clone(&own.good)))
        };
        let mut client = match &self.client {
            None => builder.with_no_client_auth(),
            Some(slot) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&slot.good.key))))
            }
        };
        let http1 = b"http/1.1".to_vec();
        client.alpn_protocols = match protocol {
            Protocol::Http1 => vec![http1],
            Protocol::Http2 => vec![http2::ALPN.to_vec()],
            Protocol::Auto => vec![http2::ALPN.to_vec(), http1],
        };
        Ok(Arc::new(client))
    }
}

impl Towards {
    /// Shakes hands.
    pub(super) async fn over(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
        let connector = TlsConnector::from(self.tls.rustls.load_full());
        connector.connect(self.name.clone(), stream).await.map_err(ConnectError::Tls)
    }
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
