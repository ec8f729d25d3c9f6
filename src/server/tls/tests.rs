use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::certificates::testing::Issued;
use crate::config::{ClientCa, Listener, Place};
use crate::http::TlsSession;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn listener(certificates: Vec<config::CertificateFiles>, client_auth: ClientAuth) -> Listener {
    let tls = config::Tls { certificates, client_auth, min_version: TlsVersion::V1_2 };
    Listener {
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into(),
        connections: None,
        proxy_protocol: false,
        h2c: false,
        tls: Some(tls),
        redirect_http_from: None,
    }
}

fn ca(folder: &Path, issued: &Issued) -> ClientCa {
    ClientCa { path: issued.write(folder, "ca").chain, place: Place::default() }
}

fn client(trusted: &[&Issued], shown: Option<&Issued>) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    for issued in trusted {
        roots.add(CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap()).unwrap();
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match shown {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = vec![CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

fn load(listeners: &[Listener]) -> Result<Arc<Tls>, Vec<Error>> {
    Ok(Arc::clone(Tls::prepare(listeners, None, NOW)?.tls()))
}

/// Shakes hands and lets one byte pass in each direction: only then has the client heard of what
/// the server has against it.
async fn shake(
    endpoint: &Endpoint,
    client: &Arc<rustls::ClientConfig>,
    name: &'static str,
) -> std::io::Result<(TlsSession, bool)> {
    let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 16);
    let server = async {
        let Shaken { mut stream, session, .. } = endpoint.accept(far).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        Ok(session)
    };
    let client = async {
        let connector = TlsConnector::from(Arc::clone(client));
        let mut stream = connector.connect(ServerName::try_from(name).unwrap(), near).await?;
        stream.read_u8().await?;
        Ok(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
    };
    tokio::try_join!(server, client)
}

#[tokio::test]
async fn the_certificate_is_that_of_the_name_and_new_files_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, other) = (Issued::new(&["a.example"]), Issued::new(&["b.example"]), Issued::new(&["b.example"]));
    let config = [listener(vec![a.write(folder.path(), "a"), b.write(folder.path(), "b")], ClientAuth::Off)];
    let tls = load(&config).unwrap();
    let [endpoint] = tls.endpoints() else { panic!("one listener") };
    let (knows_a, knows_b, knows_other) =
        (Arc::new(client(&[&a], None)), Arc::new(client(&[&b], None)), Arc::new(client(&[&other], None)));
    let (session, resumed) = shake(endpoint, &knows_a, "a.example").await.unwrap();
    assert_eq!((session.version, session.client_certificate, resumed), ("1.3", None, false));
    shake(endpoint, &knows_b, "b.example").await.unwrap();
    assert!(shake(endpoint, &knows_b, "a.example").await.is_err());
    assert!(shake(endpoint, &knows_a, "a.example").await.unwrap().1, "a ticket resumes without anything kept here");

    // Half of a replacement: the chain is new, the key is not.
    std::fs::write(folder.path().join("b.pem"), &other.chain).unwrap();
    for _ in 0..3 {
        tls.refresh(NOW);
        shake(endpoint, &knows_b, "b.example").await.unwrap();
    }
    std::fs::write(folder.path().join("b.key"), &other.key).unwrap();
    tls.refresh(NOW);
    shake(endpoint, &knows_other, "b.example").await.unwrap();
    shake(endpoint, &knows_a, "a.example").await.unwrap();
    std::fs::remove_file(folder.path().join("b.pem")).unwrap();
    tls.refresh(NOW);
    shake(endpoint, &knows_other, "b.example").await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_replaces_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let good = Issued::new(&["a.example"]);
    let tls = load(&[listener(vec![good.write(folder.path(), "a")], ClientAuth::Off)]).unwrap();
    assert!(tls.expired(NOW).is_empty());
    let mut wanted = rcgen::CertificateParams::new(vec!["new.example".to_owned()]).unwrap();
    wanted.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old = Issued::of(wanted, &rcgen::PKCS_ECDSA_P256_SHA256);
    let written = old.write(folder.path(), "a");
    tls.refresh(NOW);
    assert_eq!(tls.expiries().keys().map(|name| &**name).collect::<Vec<_>>(), ["a.example"]);
    // At a start there is no better one.
    let tls = load(&[listener(vec![written], ClientAuth::Off)]).unwrap();
    assert_eq!(tls.expiries().get("new.example").unwrap().seconds(), 1_577_836_800);
    assert!(matches!(&tls.expired(NOW)[..], [certificates::Error { why: Why::Expired, .. }]));
}

#[tokio::test]
async fn client_certificates_are_asked_for_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    let (site, person, stranger) = (Issued::new(&["a.example"]), Issued::new(&["person"]), Issued::new(&["stranger"]));
    let (with, without) = (Arc::new(client(&[&site], Some(&person))), Arc::new(client(&[&site], None)));
    let wrong = Arc::new(client(&[&site], Some(&stranger)));
    let ca = ca(folder.path(), &person);
    for (client_auth, anonymous) in
        [(ClientAuth::Optional(ca.clone()), true), (ClientAuth::Required(ca.clone()), false)]
    {
        let tls = load(&[listener(vec![site.write(folder.path(), "a")], client_auth.clone())]).unwrap();
        let endpoint = &tls.endpoints()[0];
        // Also when the first message comes in many records.
        let fragmented = |client: &Arc<rustls::ClientConfig>| {
            let mut client = rustls::ClientConfig::clone(client);
            client.max_fragment_size = Some(64);
            Arc::new(client)
        };
        shake(endpoint, &fragmented(&with), "a.example").await.unwrap();
        assert_eq!(shake(endpoint, &fragmented(&without), "a.example").await.is_ok(), anonymous, "{client_auth:?}");
        let (session, _) = shake(endpoint, &with, "a.example").await.unwrap();
        let header = session.client_certificate.unwrap();
        assert!(header.to_str().unwrap().starts_with(":MII"), "{header:?}");
        assert_eq!(shake(endpoint, &without, "a.example").await.is_ok(), anonymous, "{client_auth:?}");
        assert!(shake(endpoint, &wrong, "a.example").await.is_err(), "{client_auth:?}");

        // Whom nobody vouches for any more does not come back by an old ticket.
        let (session, resumed) = shake(endpoint, &with, "a.example").await.unwrap();
        assert!(resumed && session.client_certificate.is_some());
        std::fs::write(&ca.path, &stranger.chain).unwrap();
        tls.refresh(NOW);
        assert!(shake(endpoint, &with, "a.example").await.is_err());
        shake(endpoint, &wrong, "a.example").await.unwrap();
        std::fs::write(&ca.path, &person.chain).unwrap();
    }
}

#[tokio::test]
async fn versions_and_protocols_are_those_that_are_offered() {
    let folder = tempfile::tempdir().unwrap();
    let site = Issued::new(&["a.example"]);
    let mut config = listener(vec![site.write(folder.path(), "a")], ClientAuth::Off);
    let only = |versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[u8]| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(site.chain.as_bytes()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider()));
        let mut client =
            builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(client)
    };
    let tls = load(std::slice::from_ref(&config)).unwrap();
    let endpoint = &tls.endpoints()[0];
    assert_eq!(shake(endpoint, &only(&[&TLS12], b"http/1.1"), "a.example").await.unwrap().0.version, "1.2");
    assert_eq!(shake(endpoint, &only(&[&TLS13], b"http/1.0"), "a.example").await.unwrap().0.version, "1.3");
    assert!(shake(endpoint, &only(&[&TLS13], b"imap"), "a.example").await.is_err());
    config.tls.as_mut().unwrap().min_version = TlsVersion::V1_3;
    let tls = load(&[config]).unwrap();
    assert!(shake(&tls.endpoints()[0], &only(&[&TLS12], b"http/1.1"), "a.example").await.is_err());
}

#[test]
fn every_bad_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Issued::new(&["a.example"]), Issued::new(&["b.example"]));
    let bad = |name: &str, chain: &str, key: &str| {
        Issued { chain: chain.to_owned(), key: key.to_owned() }.write(folder.path(), name)
    };
    let damaged = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let odd_key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    let mut missing = bad("missing", &a.chain, &a.key);
    missing.key = folder.path().join("nowhere.key");
    let authority = bad("authority", damaged, "");
    let ca = ClientCa { path: authority.chain, place: Place::default() };
    let first = vec![
        bad("mismatch", &a.chain, &b.key),
        bad("empty", "", &a.key),
        bad("keyless", &a.chain, &a.chain),
        bad("garbage", "-----BEGIN CERTIFICATE-----\n?\n", &a.key),
        bad("damaged", damaged, &a.key),
        bad("odd", &a.chain, odd_key),
    ];
    let listeners = [listener(first, ClientAuth::Off), listener(vec![missing], ClientAuth::Required(ca))];
    let found: Vec<String> = load(&listeners).unwrap_err().iter().map(ToString::to_string).collect();
    let expected = [
        "mismatch.key: the private key does not belong to the certificate",
        "empty.pem: has no certificate in PEM form",
        "keyless.key: has no private key in PEM form that is not encrypted",
        "garbage.pem: not valid PEM",
        "damaged.pem: the certificate is damaged",
        "odd.key: a private key of a kind that TLS has no use for",
        "nowhere.key: cannot be read: No such file or directory (os error 2)",
        "authority.pem: not usable as a certificate authority",
    ];
    let expected: Vec<String> = expected.iter().map(|line| format!("{}/{line}", folder.path().display())).collect();
    assert_eq!(found, expected);
}

#[test]
fn listeners_that_ask_differently_are_different_zones() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| vec![Issued::new(&[name]).write(folder.path(), name)];
    let ca = ca(folder.path(), &Issued::new(&["person"]));
    let tls = load(&[
        listener(make("public.example"), ClientAuth::Off),
        listener(make("also.example"), ClientAuth::Off),
        listener(make("inner.example"), ClientAuth::Required(ca)),
    ])
    .unwrap();
    let zones: Vec<_> = tls.endpoints().iter().map(|endpoint| endpoint.zone.load_full()).collect();
    for (host, expected) in [
        ("public.example", [true, true, false]),
        ("also.example", [true, true, false]),
        ("inner.example", [false, false, true]),
        ("unknown.example", [true, true, true]),
    ] {
        assert_eq!(zones.iter().map(|zone| zone.contains(host)).collect::<Vec<_>>(), expected, "{host}");
    }
}
