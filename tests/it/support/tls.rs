//! Certificates, and clients that speak TLS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::h2::H2;
use super::{Client, soon};

/// A self-signed certificate and its key, as PEM.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Certificate {
    /// A new one for these host names.
    pub(crate) fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// A new one that was given to this common name.
    pub(crate) fn of(name: &str) -> Self {
        let mut wanted = rcgen::CertificateParams::new(Vec::new()).unwrap();
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        wanted.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { chain: wanted.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    /// Writes `NAME.pem` and `NAME.key`, and says so in TOML.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> String {
        std::fs::write(folder.join(format!("{name}.pem")), &self.chain).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), &self.key).unwrap();
        format!("{{ chain = \"{name}.pem\", key = \"{name}.key\" }}")
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }

    /// Base64 of the certificate itself, as it stands in the PEM file.
    pub(crate) fn base64(&self) -> String {
        self.chain.lines().filter(|line| !line.starts_with("-----")).collect()
    }
}

/// Somebody who trusts these certificates, and may show one of its own.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    pub(crate) fn new(trusted: &[&Certificate], shown: Option<&Certificate>) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.der()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Self(Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![shown.der()], key).unwrap()
            }
        }))
    }

    async fn shake(&self, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        self.shake_over(TcpStream::connect(address).await?, name).await
    }

    async fn shake_over<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, name: &str) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        soon("a handshake", TlsConnector::from(Arc::clone(&self.0)).connect(name, stream)).await
    }

    /// Asks for `name` over a connection that is there already.
    pub(crate) async fn over<S>(&self, stream: S, name: &str) -> io::Result<Client>
    where
        S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
    {
        Ok(Client::over(self.shake_over(stream, name).await?))
    }

    /// Asks `address` for `name`.
    pub(crate) async fn try_connect(&self, address: SocketAddr, name: &str) -> io::Result<Client> {
        Ok(Client::over(self.shake(address, name).await?))
    }

    /// The same where it has to work.
    pub(crate) async fn connect(&self, address: SocketAddr, name: &str) -> Client {
        self.try_connect(address, name).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A connection that speaks HTTP/2 because ALPN said so; it has said nothing yet.
    pub(crate) async fn connect_h2(&self, address: SocketAddr, name: &str) -> H2 {
        let mut client = ClientConfig::clone(&self.0);
        client.alpn_protocols = vec![b"h2".to_vec()];
        let stream = Self(Arc::new(client)).shake(address, name).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        H2::over(stream)
    }

    /// Whether the handshake of a new connection went on with an earlier session.
    pub(crate) async fn resumes(&self, address: SocketAddr, name: &str) -> bool {
        let stream = self.shake(address, name).await.unwrap();
        stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}
