//! Request lines and header sections.

use super::in_front_of;
use crate::support::Upstream;

/// Sends each request over a connection of its own; the answer must be this problem, the
/// connection must end, and nothing may reach the upstream.
async fn all_refused(requests: &[String], status: u16, code: &str) {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    for request in requests {
        let shown: String = request.chars().take(120).collect();
        let mut client = gate.raw().await;
        client.send(request).await;
        let reply = client.read().await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{shown:?}");
        assert!(reply.closes(), "{shown:?}: what follows cannot be trusted");
        client.closed().await;
    }
    upstream.saw_nothing();
}

#[tokio::test]
async fn heads_that_are_not_http_are_refused_and_the_connection_ends() {
    let with = |line: &str| format!("GET / HTTP/1.1\r\nHost: gw\r\n{line}\r\n\r\n");
    let mut requests: Vec<String> = [
        "GET / HTTP/1.1\nHost: gw\n\n",
        "GET / HTTP/1.1\r\nHost: gw\n\r\n",
        "GET / HTTP/1.1\r\nHost: gw\r\n\n",
        "GET / HTTP/1.1\rHost: gw\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: gw\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: gw\r\n\r\n",
        "GET / http/1.1\r\nHost: gw\r\n\r\n",
        "GET /\r\nHost: gw\r\n\r\n",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: gw\r\n\r\n",
        "GET http:// HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET ftp://gw/ HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET http://user@gw/ HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /a<b HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /a`b HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /a?x>b HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /a?x\"b HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET http://[::1/x HTTP/1.1\r\nHost: gw\r\n\r\n",
    ]
    .map(str::to_owned)
    .to_vec();
    for line in ["X: a\r\n b", "X: a\r\n\tb", "X : a", "X\u{1}: a", "X: a\u{0}b", "X: a\rb", "X: a\u{1}b", "no colon"] {
        requests.push(with(line));
    }
    all_refused(&requests, 400, "request_malformed").await;
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let with = |lines: &str| format!("GET / HTTP/1.1\r\nHost: gw\r\n{lines}\r\n");
    let many = (0..150).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    let one = with(&format!("X: {}\r\n", "y".repeat(40_000)));
    let cookies = with(&format!("Cookie: a={}\r\n", "y".repeat(500)).repeat(80));
    all_refused(&[with(&many), one, cookies], 431, "head_too_large").await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: gw\r\n\r\n", "a".repeat(10_000));
    all_refused(&[long], 414, "target_too_long").await;
}

#[tokio::test]
async fn a_header_of_500_kb_is_refused_before_it_is_read() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    client.send("GET / HTTP/1.1\r\nHost: gw\r\nX: ").await;
    // It never ends; the answer must come although it does not.
    client.send(vec![b'y'; 500_000]).await;
    client.read().await.expect(431, "head_too_large");
    upstream.saw_nothing();
}

#[tokio::test]
async fn heads_at_the_limits_pass() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let many = (0..98).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    let request = format!("GET /many HTTP/1.1\r\nHost: gw\r\n{many}\r\n");
    assert_eq!(gate.raw().await.exchange(request).await.status, 200);
    let seen = upstream.next_request().await;
    assert_eq!(seen.headers.iter().filter(|(name, value)| name.starts_with("x-") && value == "y").count(), 98);
    let large = format!("GET /large HTTP/1.1\r\nHost: gw\r\nX: {}\r\n\r\n", "y".repeat(30_000));
    assert_eq!(gate.raw().await.exchange(large).await.status, 200);
    assert_eq!(upstream.next_request().await.header("x").map(str::len), Some(30_000));
}

#[tokio::test]
async fn forms_that_differ_only_in_style_reach_the_upstream_in_one_style() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    for request in [
        "GET http://gw/x?y HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET HTTP://GW/x?y HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /x?y HTTP/1.1\r\nhOST:\tgw \r\n\r\n",
        "\r\nGET /x?y HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /x?y HTTP/1.1\r\nHost: gw\r\nConnection: keep-alive\r\nCookie:\r\n\r\n",
    ] {
        let mut client = gate.raw().await;
        client.send(request).await;
        assert_eq!(client.read().await.status, 200, "{request:?}");
        let seen = upstream.next_request().await;
        assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.header("host")), ("GET", "/x?y", Some("gw")));
    }
    let root = gate.raw().await.exchange("GET http://gw HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    assert_eq!(root.status, 200);
    assert_eq!(upstream.next_request().await.target, "/");
    // What RFC 3986 does not allow as it stands, but browsers' address bars do.
    for (raw, encoded) in [("/\u{f6}", "/%C3%B6"), ("/a[b]", "/a%5Bb%5D"), ("/a|b", "/a%7Cb"), ("/a\"b", "/a%22b")] {
        assert_eq!(gate.get(raw).await.status, 200, "{raw}");
        assert_eq!(upstream.next_request().await.target, encoded);
    }
}

#[tokio::test]
async fn split_cookies_are_joined_and_other_repeated_headers_stay_as_they_are() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let request = "GET / HTTP/1.1\r\nHost: gw\r\nCookie: a=b\r\nAccept: x\r\nCookie: c=d\r\nAccept: y\r\n\r\n";
    assert_eq!(gate.raw().await.exchange(request).await.status, 200);
    let seen = upstream.next_request().await;
    assert_eq!(seen.header("cookie"), Some("a=b; c=d"));
    let accept: Vec<&str> = seen.headers.iter().filter(|(n, _)| n == "accept").map(|(_, v)| v.as_str()).collect();
    assert_eq!(accept, ["x", "y"]);
}

#[tokio::test]
async fn an_http_1_0_client_is_served_and_its_connection_ends_unless_it_asks() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    let reply = client.exchange("GET /old HTTP/1.0\r\nHost: gw\r\n\r\n").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "upstream saw GET /old"));
    client.closed().await;
    let mut client = gate.raw().await;
    for n in 0..2 {
        let request = format!("GET /kept/{n} HTTP/1.0\r\nHost: gw\r\nConnection: keep-alive\r\n\r\n");
        let reply = client.exchange(request).await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("keep-alive")), "it has to be told");
    }
    // HTTP/1.0 knows no Host, but upstreams get one whatever came.
    let mut client = gate.raw().await;
    client.send("GET /hostless HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.next("GET").await.expect("an answer").text(), "upstream saw GET /hostless");
}
