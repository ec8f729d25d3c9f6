//! Servers behind TLS and behind unix sockets.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::UnixListener;
use tokio_rustls::TlsAcceptor;

use super::super::{BuildError, ConnectError};
use super::*;
use crate::certificates::Why;
use crate::clock::Timestamp;
use crate::config::{CertificateFiles, Place, Transport, UpstreamTls};

/// A certificate that vouches for itself, in files.
fn certificate(folder: &Path, name: &str) -> CertificateFiles {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let files = CertificateFiles { chain, key, place: Place::default() };
    std::fs::write(&files.chain, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    files
}

/// A TLS server with this certificate, which asks for one of `clients` if there are any.
fn server(files: &CertificateFiles, clients: Option<&CertificateFiles>) -> TlsAcceptor {
    server_of(files, clients, &["h2", "http/1.1"])
}

/// The same, which offers these protocols.
fn server_of(files: &CertificateFiles, clients: Option<&CertificateFiles>, protocols: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_file(&files.chain).unwrap()];
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&clients.chain).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// What comes of a request to a TLS server with these settings, and the SNI that it saw.
async fn outcome(acceptor: &TlsAcceptor, tls: UpstreamTls) -> (Result<String, Error>, Option<String>) {
    let script = Script::new();
    let gate = secure(&script, tls);
    outcome_of(&gate, &script, acceptor).await
}

/// An upstream at the script with these settings.
fn secure(script: &Script, tls: UpstreamTls) -> Gate {
    Gate::with(script, |config| {
        config.servers = Servers::Http(vec![Endpoint { transport: Transport::Tls, ..script.endpoint() }]);
        config.tls = tls;
    })
}

/// The same for a request of an upstream that is there, over a connection of its own.
async fn outcome_of(gate: &Gate, script: &Script, acceptor: &TlsAcceptor) -> (Result<String, Error>, Option<String>) {
    let (answer, name) = tokio::join!(gate.forward(get()), async {
        let stream = script.accept().await.stream;
        let mut stream = acceptor.accept(stream).await.ok()?;
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.ok().filter(|count| *count > 0)?;
        }
        stream.write_all(OK.as_bytes()).await.unwrap();
        name
    });
    let answer = match answer {
        Ok(answer) => Ok(text(answer).await),
        Err(error) => Err(error),
    };
    (answer, name)
}

#[test]
fn a_certificate_has_to_be_the_right_one() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let (by_address, by_name) = (certificate(folder.path(), "127.0.0.1"), certificate(folder.path(), "b.internal"));

        let trusting =
            |files: &CertificateFiles| UpstreamTls { ca: Some(files.chain.clone()), ..UpstreamTls::default() };
        let (answer, _) = outcome(&server(&by_address, None), trusting(&by_address)).await;
        assert_eq!(answer.unwrap(), "hi");

        let named = UpstreamTls { server_name: Some("b.internal".to_owned()), ..trusting(&by_name) };
        let (answer, name) = outcome(&server(&by_name, None), named).await;
        assert_eq!((answer.unwrap().as_str(), name.as_deref()), ("hi", Some("b.internal")));

        for tls in [trusting(&by_name), trusting(&by_address), UpstreamTls::default()] {
            let (answer, _) = outcome(&server(&by_name, None), tls).await;
            assert!(matches!(answer, Err(Error::Connect(ConnectError::Tls(_)))), "{answer:?}");
        }
        let anybody = UpstreamTls { danger_accept_invalid: true, ..UpstreamTls::default() };
        assert_eq!(outcome(&server(&by_name, None), anybody).await.0.unwrap(), "hi");
    });
}

/// What comes of a request to a server that offers these protocols.
async fn spoken(protocol: Protocol, files: &CertificateFiles, offered: &[&str]) -> Result<String, Error> {
    let script = Script::new();
    let gate = Gate::with(&script, |config| {
        config.servers = Servers::Http(vec![Endpoint { transport: Transport::Tls, ..script.endpoint() }]);
        config.tls = UpstreamTls { ca: Some(files.chain.clone()), ..UpstreamTls::default() };
        config.protocol = protocol;
    });
    let acceptor = server_of(files, None, offered);
    let serve = async {
        let mut stream = acceptor.accept(script.accept().await.stream).await.ok()?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut reply))) = connection.accept().await {
                assert_eq!(request.uri().scheme_str(), Some("https"));
                let mut body = reply.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"over h2"), true).unwrap();
            }
        } else {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.ok().filter(|count| *count > 0)?;
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
        Some(())
    };
    let ask = async {
        match gate.forward(get()).await {
            Ok(answer) => Ok(text(answer).await),
            Err(error) => Err(error),
        }
    };
    let served = async {
        serve.await;
        std::future::pending::<()>().await
    };
    tokio::select! { answer = ask => answer, () = served => unreachable!() }
}

#[test]
fn the_protocol_is_what_both_sides_want() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let own = certificate(folder.path(), "127.0.0.1");
        let both: &[&str] = &["http/1.1", "h2"];
        for (protocol, offered, expected) in [
            (Protocol::Http2, both, Some("over h2")),
            (Protocol::Http2, &["http/1.1"], None),
            (Protocol::Http2, &[], None),
            (Protocol::Auto, &["h2", "http/1.1"], Some("over h2")),
            (Protocol::Auto, both, Some("hi")),
            (Protocol::Auto, &["http/1.1"], Some("hi")),
            (Protocol::Auto, &[], Some("hi")),
            (Protocol::Http1, both, Some("hi")),
        ] {
            let answer = spoken(protocol, &own, offered).await;
            match expected {
                Some(text) => assert_eq!(answer.unwrap(), text, "{protocol:?} {offered:?}"),
                None => {
                    assert!(matches!(answer, Err(Error::Connect(ConnectError::Tls(_)))), "{protocol:?} {offered:?}")
                }
            }
        }
    });
}

#[test]
fn a_server_may_ask_who_comes() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let (own, client) = (certificate(folder.path(), "127.0.0.1"), certificate(folder.path(), "gateway"));
        let acceptor = server(&own, Some(&client));
        let nobody = UpstreamTls { ca: Some(own.chain.clone()), ..UpstreamTls::default() };
        let known = UpstreamTls { client: Some(client), ..nobody.clone() };
        assert_eq!(outcome(&acceptor, known).await.0.unwrap(), "hi");
        outcome(&acceptor, nobody).await.0.unwrap_err();
    });
}

#[test]
fn new_files_count_for_new_connections_and_bad_ones_change_nothing() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (certificate(folder.path(), "127.0.0.1"), certificate(&subfolder(&folder), "127.0.0.1"));
        let (client, next) = (certificate(folder.path(), "gateway"), certificate(&subfolder(&folder), "gateway"));
        let (before, after) = (server(&own, Some(&client)), server(&other, Some(&next)));
        let copy = |from: &Path, to: &Path| assert!(std::fs::copy(from, to).unwrap() > 0);
        let tls = UpstreamTls { ca: Some(own.chain.clone()), client: Some(client.clone()), ..UpstreamTls::default() };
        let script = Script::new();
        let gate = secure(&script, tls);
        let upstream = Arc::clone(&gate.upstream);
        let is_good = async |acceptor: &TlsAcceptor| outcome_of(&gate, &script, acceptor).await.0.is_ok();
        let now = Timestamp::from_seconds(1_800_000_000);
        assert!(upstream.has_certificates() && is_good(&before).await);

        // Half of a pair, garbage, and nothing at all.
        copy(&next.chain, &client.chain);
        std::fs::write(&own.chain, "garbage").unwrap();
        upstream.refresh_certificates(now);
        assert!(is_good(&before).await);
        std::fs::remove_file(&own.chain).unwrap();
        upstream.refresh_certificates(now);
        assert!(is_good(&before).await && !is_good(&after).await);

        copy(&other.chain, &own.chain);
        copy(&next.key, &client.key);
        upstream.refresh_certificates(now);
        assert!(is_good(&after).await && !is_good(&before).await);
    });
}

fn subfolder(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let path = folder.path().join("new");
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn who_speaks_no_tls_is_no_tls_server() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            config.servers = Servers::Http(vec![Endpoint { transport: Transport::Tls, ..script.endpoint() }]);
        });
        let (answer, ()) = tokio::join!(gate.forward(get()), async {
            script.accept().await.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Connect(ConnectError::Tls(_))), "{error:?}");
        assert_eq!(error.reason(), "connect_tls");
    });
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (certificate(folder.path(), "one"), certificate(folder.path(), "two"));
    let missing = folder.path().join("missing.pem");
    let built = |tls: UpstreamTls| {
        let script = on_worker(async { Script::new().endpoint() });
        let mut config = config::Upstream::clone(on_worker(async { Gate::to(&Script::new()) }).upstream.config());
        config.servers = Servers::Http(vec![Endpoint { transport: Transport::Tls, ..script }]);
        config.tls = tls;
        Upstream::new(Arc::new(config), &Metrics::new()).map(drop)
    };
    for ca in [&missing, &one.key] {
        let error = built(UpstreamTls { ca: Some(ca.clone()), ..UpstreamTls::default() }).unwrap_err();
        assert!(matches!(&error, BuildError::File(error) if error.path == *ca), "{error}");
    }
    let client = |chain: &CertificateFiles, key: &CertificateFiles| {
        let client = CertificateFiles { key: key.key.clone(), ..chain.clone() };
        built(UpstreamTls { client: Some(client), ..UpstreamTls::default() })
    };
    let mismatch = client(&one, &two).unwrap_err();
    assert!(matches!(&mismatch, BuildError::File(error) if matches!(error.why, Why::Mismatch)), "{mismatch}");
    client(&one, &one).unwrap();
}

#[test]
fn a_unix_socket_is_a_server_like_others() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            let endpoint = Endpoint {
                transport: Transport::Unix(path.clone()),
                host: "localhost".to_owned(),
                port: 0,
                authority: "localhost".to_owned(),
                weight: 1,
            };
            config.servers = Servers::Http(vec![endpoint]);
            config.host = HostHeader::Server;
        });
        assert!(matches!(gate.forward(get()).await, Err(Error::Connect(ConnectError::Io(_)))), "nobody made it yet");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..2 {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut head).await.unwrap() > 0);
                }
                assert!(String::from_utf8(head).unwrap().contains("host: localhost\r\n"));
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        };
        let ask = async {
            for _ in 0..2 {
                assert_eq!(text(gate.forward(get()).await.unwrap()).await, "hi", "on one connection");
            }
        };
        tokio::join!(ask, serve);
        assert_eq!(gate.timing.borrow().server.as_deref(), Some(&*format!("unix:{}", path.display())));
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        let another = UnixListener::bind(&path).unwrap();
        drop(another);
        let error = gate.forward(get()).await.unwrap_err();
        assert!(matches!(error, Error::Connect(ConnectError::Refused(_))), "{error:?}");
    });
}

#[test]
fn a_slow_handshake_takes_nothing_from_the_wait_for_the_answer() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let files = certificate(folder.path(), "127.0.0.1");
        let (acceptor, script) = (server(&files, None), Script::new());
        let gate = Gate::with(&script, |config| {
            config.servers = Servers::Http(vec![Endpoint { transport: Transport::Tls, ..script.endpoint() }]);
            config.tls = UpstreamTls { ca: Some(files.chain.clone()), ..UpstreamTls::default() };
            config.response_head = Duration::from_millis(400);
        });
        let (answer, ()) = tokio::join!(gate.forward(get()), async {
            let stream = script.accept().await.stream;
            // Here the time itself is what is looked at: longer than the wait for the head may last.
            tokio::time::sleep(Duration::from_millis(600)).await;
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0);
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
    });
}

/// A body of so many pieces that tells how many were taken.
struct Counted {
    left: usize,
    taken: Rc<Cell<usize>>,
}

impl Counted {
    const PIECE: Bytes = Bytes::from_static(&[b'x'; 16 << 10]);
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        self.left = left;
        self.taken.set(self.taken.get() + 1);
        Poll::Ready(Some(Ok(Frame::data(Self::PIECE))))
    }
}

/// Uploads so many pieces to a TLS server that reads nothing until no more of them are taken. Gives
/// how many had been by then.
async fn upload(files: &CertificateFiles, pieces: usize) -> usize {
    let (acceptor, script) = (server(files, None), Script::new());
    let gate = Gate::with(&script, |config| {
        config.servers = Servers::Http(vec![Endpoint { transport: Transport::Tls, ..script.endpoint() }]);
        config.tls = UpstreamTls { ca: Some(files.chain.clone()), ..UpstreamTls::default() };
    });
    let taken = Rc::new(Cell::new(0));
    let mut put = Request::new(Counted { left: pieces, taken: Rc::clone(&taken) });
    *put.method_mut() = Method::PUT;
    let (answer, before) = tokio::join!(gate.forward(put), async {
        let mut stream = acceptor.accept(script.accept().await.stream).await.unwrap();
        let mut before = usize::MAX;
        while before != taken.get() {
            before = taken.get();
            // Nobody tells when a writer has come to a stop.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n0\r\n\r\n") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
        }
        stream.write_all(OK.as_bytes()).await.unwrap();
        before
    });
    assert_eq!(text(answer.unwrap()).await, "hi");
    before
}

/// TLS takes some more than the system does and keeps it: somebody has to hand it over, also when
/// nothing follows.
#[test]
fn the_end_of_an_upload_leaves_tls_when_the_system_takes_no_more() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let files = certificate(folder.path(), "127.0.0.1");
        let room = upload(&files, 4000).await;
        assert!((4..4000).contains(&room), "{room}");
        // What TLS keeps is less than five pieces: the end of some of these is among it.
        for fewer in 0..6 {
            upload(&files, room - fewer).await;
        }
    });
}
