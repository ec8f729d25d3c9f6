//! D and E. Sign-in, framing, and failing closed

use serde_json::json;

use super::Stage;
use crate::support::{KeyMode, Portcullis, Upstream, route};

#[tokio::test]
async fn lesson_28_open_redirects() {
    let stage = Stage::set().await;
    for next in ["/%09/evil.example", "//evil", "/\\evil", "https:evil", "https://badexample.com"] {
        for method in ["GET", "POST"] {
            let target = format!("/auth/login?next={next}");
            let headers = [("Content-Type", "application/json")];
            let reply = stage.gate.request(method, &target, &headers, if method == "POST" { "{}" } else { "" }).await;
            assert!(matches!(reply.status, 400 | 405), "{method} {target}: {}", reply.status);
            assert_eq!(reply.header("location"), None, "{method} {target}");
        }
    }
}

#[tokio::test]
async fn lesson_29_login_csrf() {
    let stage = Stage::set().await;
    let body = r#"{"username":"attacker","password":"Attacker-1"}"#;
    for content_type in
        ["text/plain", "multipart/form-data; boundary=x", "application/jsonx", "application/json, text/plain"]
    {
        let headers = [
            ("Origin", "https://evil.example"),
            ("Cookie", "__Host-pc_sid=attacker-chosen"),
            ("Content-Type", content_type),
        ];
        let reply = stage.gate.request("POST", "/auth/login", &headers, body).await;
        reply.expect(415, "media_type_unsupported");
    }
    stage.gate.request("POST", "/auth/login", &[], body).await.expect(415, "media_type_unsupported");
}

#[tokio::test]
async fn lesson_36_length_and_chunk_ambiguity() {
    let stage = Stage::set().await;
    let smuggled = "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: gw\r\n\r\n";
    for lines in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 7",
        "Content-Length: 6\r\nContent-Length: 6",
        "Content-Length: 6, 6",
        "Content-Length: +6",
        "Content-Length: -6",
        "Content-Length: 0x6",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding:",
    ] {
        let mut client = stage.gate.raw().await;
        client.send(format!("POST /public HTTP/1.1\r\nHost: gw\r\n{lines}\r\n\r\n{smuggled}")).await;
        let reply = client.read().await;
        let code = reply.code();
        assert!(
            reply.status == 400 && ["header_ambiguous", "request_malformed"].contains(&code.as_str()),
            "{lines:?}: {code}"
        );
        assert!(reply.closes(), "{lines:?}: what follows cannot be trusted");
        client.closed().await;
        stage.upstream.saw_nothing();
    }
    let old = format!("POST /public HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n{smuggled}");
    let mut client = stage.gate.raw().await;
    client.send(old).await;
    assert_eq!(client.read().await.status, 400, "HTTP/1.0 has no encodings");
    client.closed().await;
    stage.upstream.saw_nothing();
}

#[tokio::test]
async fn lesson_36_broken_chunks_end_the_connection() {
    let stage = Stage::set().await;
    for chunks in [
        "5\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "fffffffffffffffff\r\nx",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "G\r\n",
        "\r\n",
    ] {
        let mut client = stage.gate.raw().await;
        client.send(format!("POST /public HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /public/smuggled HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
        if let Ok(reply) = client.next("POST").await {
            reply.expect(400, "request_malformed");
        }
        client.closed().await;
        let targets: Vec<String> = stage.upstream.requests().into_iter().map(|seen| seen.target).collect();
        assert!(targets.is_empty(), "{chunks:?} let {targets:?} through as whole requests");
    }
}

#[tokio::test]
async fn lesson_40_no_failure_opens() {
    let stage = Stage::with("[pool.main.keys]\ncooldown = \"100ms\"\n").await;
    let odd = [b"GET /admin HTTP/1.1\r\nHost: gw\r\nX-Anything: ".as_slice(), b"\xff\xfe", b"\r\n\r\n"].concat();
    stage.refuses(odd, 401, "token_missing").await;
    for value in [b"Bearer \xff\xfe".as_slice(), b"Bearer", b"bearer  ", b"Bearer\tx"] {
        let request =
            [b"GET /optional/x HTTP/1.1\r\nHost: gw\r\nAuthorization: ".as_slice(), value, b"\r\n\r\n"].concat();
        let reply = stage.gate.raw().await.exchange(request).await;
        assert!(matches!(reply.status, 400 | 401), "{:?}: {}", String::from_utf8_lossy(value), reply.status);
        stage.upstream.saw_nothing();
    }
    // Keys that cannot be had: an unknown one is a 503, never a pass, and a known one goes on.
    stage.pool.endpoint.set(KeyMode::Answer(500, String::new(), vec![]));
    let unknown = crate::support::Key::nth(1).sign(&stage.pool.access_claims());
    stage.gate.get_as("/app", &unknown).await.expect(503, "keys_unavailable");
    stage.gate.get_as("/optional/x", &unknown).await.expect(503, "keys_unavailable");
    stage.upstream.saw_nothing();
    assert_eq!(stage.gate.get_as("/app", &stage.token()).await.status, 200);
}

#[tokio::test]
async fn lesson_40_a_pool_that_never_answered_opens_nothing() {
    let upstream = Upstream::start().await;
    let pool = crate::support::FakePool::start().await;
    let routes = route("/app/*", "app", "\"required\"") + &route("/optional/*", "app", "\"optional\"");
    let (good, toml) = (pool.access(json!({})), pool.toml("main") + &upstream.toml("app") + &routes);
    pool.endpoint.set(KeyMode::Answer(500, String::new(), vec![]));
    let gate = Portcullis::start(&toml).await;
    gate.get_as("/app", &good).await.expect(503, "keys_unavailable");
    gate.get_as("/optional/x", &good).await.expect(503, "keys_unavailable");
    assert_eq!(gate.admin_get("/ready").await.status, 503);
    upstream.saw_nothing();
}
