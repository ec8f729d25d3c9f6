//! The PROXY protocol on listeners: whose connection it is, and who may say so.

use std::path::Path;

use tempfile::tempdir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::support::{Certificate, Client, Portcullis, Reply, TlsClient, Upstream, route, until};

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n";
const TRUSTING: &str = "[server]\nworkers = 1\ndrain = \"2s\"\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n";
const LINE: &str = "PROXY TCP4 203.0.113.9 192.0.2.1 50000 8443\r\n";
/// The fixed part of version 2 up to the command.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &str = "GET /a HTTP/1.1\r\nHost: gw\r\n\r\n";

/// A gateway that takes PROXY headers from loopback, in front of a scripted upstream.
async fn stage(more: &str) -> (Portcullis, Upstream) {
    let upstream = Upstream::start().await;
    let toml = TRUSTING.to_owned() + more + LISTENER + &upstream.toml("app") + &route("/*", "app", "\"public\"");
    (Portcullis::start(&toml).await, upstream)
}

/// How many connections were refused for this reason.
async fn refused(gate: &Portcullis, reason: &str) -> u64 {
    let listener = gate.address();
    let series = format!("portcullis_proxy_refused_total{{listener=\"{listener}\",reason=\"{reason}\"}}");
    gate.metric(&series).await
}

/// Sends these bytes and then a request, over a connection of its own.
async fn ask(gate: &Portcullis, header: &[u8]) -> Reply {
    let mut client = gate.raw().await;
    client.send(header).await;
    client.exchange(GET).await
}

/// Version 2 of a client's connection over IPv6.
fn v2_tcp6() -> Vec<u8> {
    let mut addresses = [0; 36];
    addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    addresses[15] = 9;
    addresses[31] = 1;
    addresses[32..].copy_from_slice(&[0xc3, 0x50, 0x20, 0xfb]);
    [SIGNATURE, &[0x21, 0x21, 0, 36], &addresses].concat()
}

#[tokio::test]
async fn the_address_in_the_header_is_the_peers() {
    let (gate, upstream) = stage("").await;
    for (header, client, forwarded) in [
        (LINE.as_bytes().to_vec(), "203.0.113.9", "for=203.0.113.9"),
        (v2_tcp6(), "2001:db8::9", "for=\"[2001:db8::9]\""),
    ] {
        let mut connection = gate.raw().await;
        connection.send(&header).await;
        for path in [format!("/1/{client}"), format!("/2/{client}")] {
            let forged = "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.1.1.1\r\n";
            let reply = connection.exchange(format!("GET {path} HTTP/1.1\r\nHost: gw\r\n{forged}\r\n")).await;
            assert_eq!(reply.status, 200);
            let seen = upstream.next_request().await;
            assert_eq!(seen.header("x-forwarded-for"), Some(client), "a client is not a trusted proxy");
            assert_eq!(seen.header("x-real-ip"), Some(client));
            assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
            assert_eq!(seen.header("x-forwarded-port"), Some("8443"));
            assert_eq!(seen.header("forwarded"), Some(format!("{forwarded};host=\"gw\";proto=http").as_str()));
            assert_eq!(gate.access_line(&path).await["client"], client);
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_behind_the_header_is_believed_as_if_it_had_come_itself() {
    let (gate, upstream) = stage("").await;
    let mut client = gate.raw().await;
    client.send("PROXY TCP4 10.0.0.7 192.0.2.1 50000 443\r\n").await;
    let said = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(client.exchange(format!("GET /a HTTP/1.1\r\nHost: gw\r\n{said}\r\n")).await.status, 200);
    let seen = upstream.next_request().await;
    assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.9, 10.0.0.7"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(gate.access_line("/a").await["client"], "203.0.113.9");
}

#[tokio::test]
async fn a_header_that_names_nobody() {
    let (gate, upstream) = stage("").await;
    for (header, path, client) in [
        (b"PROXY UNKNOWN\r\n".to_vec(), "/unknown", "unknown"),
        ([SIGNATURE, &[0x21, 0x00, 0, 0]].concat(), "/unspecified", "unknown"),
        ([SIGNATURE, &[0x21, 0x31, 0, 216], &[b'/'; 216]].concat(), "/unix", "unknown"),
        ([SIGNATURE, &[0x20, 0x00, 0, 0]].concat(), "/local", "127.0.0.1"),
    ] {
        let mut connection = gate.raw().await;
        connection.send(&header).await;
        let claim = "X-Forwarded-For: 203.0.113.9\r\n";
        assert_eq!(connection.exchange(format!("GET {path} HTTP/1.1\r\nHost: gw\r\n{claim}\r\n")).await.status, 200);
        let seen = upstream.next_request().await;
        // The proxy that speaks for itself is a trusted one.
        let (claimed, expected) =
            if client == "unknown" { (None, client) } else { (Some("203.0.113.9, 127.0.0.1"), "203.0.113.9") };
        assert_eq!(seen.header("x-forwarded-for"), claimed, "{path}");
        assert_eq!(gate.access_line(path).await["client"], expected);
    }
}

#[tokio::test]
async fn split_and_glued_to_the_request_it_is_the_same_header() {
    let (gate, _upstream) = stage("").await;
    for header in [LINE.as_bytes().to_vec(), v2_tcp6()] {
        let mut split = gate.raw().await;
        for byte in &header {
            split.send([*byte]).await;
        }
        assert_eq!(split.exchange(GET).await.status, 200);
        let mut glued = gate.raw().await;
        glued.send([&header, GET.as_bytes(), GET.as_bytes()].concat()).await;
        assert_eq!((glued.read().await.status, glued.read().await.status), (200, 200));
    }
}

#[tokio::test]
async fn without_a_header_there_is_no_connection() {
    let (gate, upstream) = stage("[server.limits]\nhandshake = \"200ms\"\n").await;
    for (bytes, reason, count) in [
        (GET.as_bytes(), "missing", 1),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and the rest of a handshake", "missing", 2),
        (b"PROXY TCP4 999.0.0.1 192.0.2.1 1 2\r\n", "malformed", 1),
        (b"PROXY UNKNOWN without end", "late", 1),
        (SIGNATURE, "late", 2),
        (b"", "late", 3),
    ] {
        let mut client = gate.raw().await;
        client.send(bytes).await;
        client.closed().await;
        assert_eq!(refused(&gate, reason).await, count, "{:?}", String::from_utf8_lossy(bytes));
    }
    // A probe that connects and leaves is nothing to count.
    drop(gate.raw().await);
    assert_eq!(ask(&gate, LINE.as_bytes()).await.status, 200);
    // A second header is no request.
    ask(&gate, LINE.repeat(2).as_bytes()).await.expect(400, "request_malformed");
    assert_eq!(upstream.requests().len(), 1);
    until("all of them to be over", async || {
        let series = format!("portcullis_connections{{listener=\"{}\"}}", gate.address());
        (gate.metric(&series).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_not_heard() {
    let folder = tempdir().unwrap();
    let rest = LISTENER.to_owned() + &route("/*", "app", "\"public\"");
    let gate = Portcullis::start_on_file(&(TRUSTING.replace("127.0.0.0/8", "192.0.2.1") + &rest), folder.path()).await;
    for bytes in [LINE, GET] {
        let mut client = gate.raw().await;
        client.send(bytes).await;
        client.closed().await;
    }
    assert_eq!(refused(&gate, "untrusted").await, 2);
    gate.reloaded(&(TRUSTING.to_owned() + &rest)).await;
    assert_eq!(ask(&gate, LINE.as_bytes()).await.status, 200, "the next connection is held to the new file");
}

#[tokio::test]
async fn limits_count_the_client_and_not_the_proxy() {
    let limited = route("/*", "app", "\"public\"") + "limit = { rate = \"1/1h\", burst = 1, by = \"client\" }\n";
    let gate = Portcullis::start(&(TRUSTING.to_owned() + LISTENER + &limited)).await;
    assert_eq!(ask(&gate, LINE.as_bytes()).await.status, 200);
    ask(&gate, LINE.as_bytes()).await.expect(429, "rate_limited");
    assert_eq!(ask(&gate, &v2_tcp6()).await.status, 200);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_behind_its_header() {
    let (gate, _upstream) = stage("[server.limits]\nconnections = 1\n").await;
    let mut kept = gate.raw().await;
    kept.send(LINE).await;
    assert_eq!(kept.exchange(GET).await.status, 200);
    let mut surplus = gate.raw().await;
    surplus.send(LINE.replace("203.0.113.9", "203.0.113.10") + GET).await;
    surplus.read().await.expect(503, "overloaded");
    assert_eq!(gate.access_line("").await["client"], "203.0.113.10");
}

#[tokio::test]
async fn http2_begins_behind_it() {
    let toml = TRUSTING.to_owned() + LISTENER + "h2c = true\n" + &route("/*", "app", "\"public\"");
    let gate = Portcullis::start(&toml).await;
    let mut client = gate.raw().await;
    client.send(LINE.to_owned() + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    client.peek(b"\x04\0\0\0\0\0").await;
    assert_eq!(ask(&gate, LINE.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn on_a_unix_socket_the_header_gives_the_address_that_the_peer_has_not() {
    let folder = tempdir().unwrap();
    let toml = "[server]\nworkers = 1\ntrusted_proxies = [\"unix:\"]\n[[listener]]\naddress = \"unix:p.sock\"\nproxy_protocol = true\n";
    let gate = Portcullis::start_at(
        &(toml.to_owned() + &route("/*", "app", "\"public\"")),
        Path::new(folder.path()),
        portcullis::clock::Clock::System,
    )
    .await;
    let mut client = Client::over(UnixStream::connect(folder.path().join("p.sock")).await.unwrap());
    client.send(LINE).await;
    assert_eq!(client.exchange(GET).await.status, 200);
    assert_eq!(gate.access_line("/a").await["client"], "203.0.113.9");
}

#[tokio::test]
async fn tls_comes_behind_the_header_under_the_same_deadline() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let limits = "[server.limits]\nhandshake = \"500ms\"\n";
    let tls = format!(
        "[listener.tls]\ncertificates = [{}]\nredirect_http_from = \"127.0.0.1:0\"\n",
        site.write(folder.path(), "site")
    );
    let upstream = Upstream::start().await;
    let rest = upstream.toml("app") + &route("/*", "app", "\"public\"");
    let toml = TRUSTING.to_owned() + limits + LISTENER + &tls + &rest;
    let gate = Portcullis::start_at(&toml, folder.path(), portcullis::clock::Clock::System).await;
    let site = TlsClient::new(&[&site], None);

    for header in [LINE.as_bytes().to_vec(), v2_tcp6()] {
        let mut stream = TcpStream::connect(gate.address()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let mut client = site.over(stream, "app.example").await.unwrap();
        assert_eq!(client.exchange(GET.replace("gw", "app.example")).await.status, 200);
        let seen = upstream.next_request().await;
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.header("x-forwarded-port"), Some("8443"));
        assert_eq!(gate.access_line("/a").await["tls"], "1.3");
    }
    assert_eq!(gate.access_line("/a").await["client"], "203.0.113.9");

    // TLS where the header belongs, and a header within TLS: neither is one.
    assert!(site.try_connect(gate.address(), "app.example").await.is_err());
    assert_eq!(refused(&gate, "missing").await, 1);
    let mut stream = TcpStream::connect(gate.address()).await.unwrap();
    stream.write_all(LINE.as_bytes()).await.unwrap();
    let mut client = site.over(stream, "app.example").await.unwrap();
    client.send(LINE).await;
    client.read().await.expect(400, "request_malformed");

    // After a header a handshake has what is left of the time.
    let mut silent = gate.raw().await;
    silent.send(LINE).await;
    silent.closed().await;

    let mut redirected = Client::connect(gate.redirects()[0]).await;
    redirected.send(LINE).await;
    assert_eq!(redirected.exchange(GET).await.status, 308);
    let mut refused = Client::connect(gate.redirects()[0]).await;
    refused.send(GET).await;
    refused.closed().await;
}
