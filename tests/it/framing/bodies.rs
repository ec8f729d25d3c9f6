//! Bodies, in both directions.

use super::{in_front_of, limits};
use crate::support::{Answer, Gate, Upstream};

#[tokio::test]
async fn an_unknown_length_reaches_the_upstream_whole_whatever_the_method() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = format!(
            "{method} /x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;e=x\r\nde\r\n0\r\n\r\n"
        );
        assert_eq!(gate.raw().await.exchange(request).await.status, 200);
        let seen = upstream.next_request().await;
        assert_eq!(seen.body, b"abcde", "{method}");
    }
    let head = "HEAD /x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let mut client = gate.raw().await;
    client.send(head).await;
    assert_eq!(client.next("HEAD").await.expect("an answer").status, 200);
    assert_eq!(upstream.next_request().await.body, b"abc");
}

#[tokio::test]
async fn an_empty_body_leaves_no_length_behind() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    // One connection, so that a length without its bytes would swallow the next request.
    for (method, lines, expected) in [
        ("GET", "", None),
        ("GET", "Content-Length: 0\r\n", None),
        ("HEAD", "", None),
        ("DELETE", "", None),
        ("POST", "", Some("0")),
        ("POST", "Content-Length: 0\r\n", Some("0")),
        ("PUT", "Content-Length: 000\r\n", Some("0")),
    ] {
        client.send(format!("{method} /x HTTP/1.1\r\nHost: gw\r\n{lines}\r\n")).await;
        assert_eq!(client.next(method).await.expect("an answer").status, 200);
        let seen = upstream.next_request().await;
        assert_eq!(seen.method, method);
        assert!(seen.header("transfer-encoding").is_none() && seen.body.is_empty(), "{}", seen.text());
        let length = seen.header("content-length").filter(|_| expected.is_some());
        assert_eq!(length, expected, "{method} {lines:?}: {}", seen.text());
    }
}

#[tokio::test]
async fn a_known_length_stays_known() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let body = "x".repeat(100_000);
    let request = format!("PUT /x HTTP/1.1\r\nHost: gw\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(gate.raw().await.exchange(request).await.status, 200);
    let seen = upstream.next_request().await;
    assert_eq!((seen.header("content-length"), seen.body.len()), (Some("100000"), 100_000));
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways_but_not_every_trailer() {
    let evil = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nAuthorization: Bearer x\r\n\
                X-Auth-Subject: root\r\nX_Auth_Groups: root\r\nSet-Cookie: a=b\r\nConnection: close\r\n";
    let answer = format!("3\r\nabc\r\n0\r\nX-Sum: 1\r\n{evil}\r\n");
    let upstream =
        Upstream::scripted(move |_| Answer::with("transfer-encoding: chunked\r\ntrailer: x-sum\r\n", &answer)).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    // A backend that adds trailers to the headers would take these for the gateway's words.
    let ours = "X-Forwarded-For: 1.1.1.1\r\nX_Real_IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nX-Request-Id: x\r\n\
                Transfer_Encoding: chunked\r\nX-Original-URL: /\r\nX-Portcullis-Assertion: x\r\n";
    let request = format!(
        "POST /x HTTP/1.1\r\nHost: gw\r\nTE: trailers\r\nTrailer: X-Checksum, X-Real-IP\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Checksum: 2\r\n{evil}{ours}\r\n"
    );
    let reply = client.exchange(request).await;
    assert_eq!(reply.text(), "abc");
    let names = |fields: &[(String, String)]| fields.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let seen = upstream.next_request().await;
    assert_eq!((seen.body.as_slice(), names(&seen.trailers)), (&b"hello"[..], vec!["x-checksum".to_owned()]));
    for name in names(&reply.trailers) {
        assert_eq!(name, "x-sum", "a trailer that changes what was said before");
    }
    // The connection is still in step.
    assert_eq!(client.exchange("GET /next HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(), "abc");
}

#[tokio::test]
async fn bytes_flow_as_they_come_in_both_directions() {
    let gate_of_upstream = Gate::new();
    let script = {
        let gate = gate_of_upstream.clone();
        move |_: &_| {
            Answer::with("transfer-encoding: chunked\r\n", "5\r\nfirst\r\n")
                .wait(&gate)
                .then("6\r\nsecond\r\n0\r\n\r\n")
        }
    };
    let upstream = Upstream::hasty(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    client.send("POST /x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    client.peek(b"first").await;
    assert!(upstream.requests().is_empty(), "the answer began while the request went on");
    gate_of_upstream.open();
    client.peek(b"second").await;
    client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(client.read().await.text(), "firstsecond");
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_and_only_when_the_body_is_wanted() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    client.send("PUT /x HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    client.peek(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("hello").await;
    let reply = client.read().await;
    assert_eq!((reply.status, reply.interim.as_slice()), (200, &[100][..]));
    assert_eq!(upstream.next_request().await.body, b"hello");
    let mut client = gate.raw().await;
    client.send("PUT /small/x HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n").await;
    let reply = client.read().await;
    reply.expect(413, "body_too_large");
    assert!(reply.interim.is_empty(), "nobody asked for the body");
    // Problems have no body for HEAD either.
    let mut client = gate.raw().await;
    for _again in 0..2 {
        assert_eq!(client.exchange("HEAD /auth/nowhere HTTP/1.1\r\nHost: gw\r\n\r\n").await.status, 404);
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn answers_that_have_no_body_have_none() {
    let upstream = Upstream::scripted(|seen| match seen.target.as_str() {
        "/204" => Answer::raw("HTTP/1.1 204 No Content\r\nX-Upstream: 1\r\n\r\n"),
        "/304" => {
            Answer::raw("HTTP/1.1 304 Not Modified\r\nX-Upstream: 1\r\nContent-Length: 10\r\nETag: \"a\"\r\n\r\n")
        }
        "/205" => Answer::raw("HTTP/1.1 205 Reset Content\r\nX-Upstream: 1\r\nContent-Length: 0\r\n\r\n"),
        _ if seen.method == "HEAD" => Answer::with("Content-Length: 1000\r\n", ""),
        _ => Answer::ok("body"),
    })
    .await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    for (start, status, body) in [
        ("GET /204", 204, ""),
        ("GET /304", 304, ""),
        ("HEAD /x", 200, ""),
        ("GET /205", 205, ""),
        ("GET /x", 200, "body"),
    ] {
        let reply = client.exchange(format!("{start} HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{start}");
        if start == "HEAD /x" {
            assert_eq!(reply.header("content-length"), Some("1000"), "what GET would have had");
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_or_not_it_says_so_first() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let body = "x".repeat(2000);
    let known = format!("POST /small/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 2000\r\n\r\n{body}");
    let unknown =
        format!("POST /small/x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{body}\r\n0\r\n\r\n");
    for request in [known, unknown] {
        let mut client = gate.raw().await;
        client.send(request).await;
        client.read().await.expect(413, "body_too_large");
        assert!(upstream.requests().is_empty(), "only a whole request counts");
    }
    let fits = format!("POST /small/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
    assert_eq!(gate.raw().await.exchange(fits).await.status, 200);
    assert_eq!(upstream.next_request().await.body.len(), 1024);
}

#[tokio::test]
async fn a_limit_for_all_routes_holds_where_a_route_has_none() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("body = \"4KiB\"")).await;
    let send = async |path: &str, length: usize| {
        let body = "x".repeat(length);
        gate.raw()
            .await
            .exchange(format!("POST {path} HTTP/1.1\r\nHost: gw\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await
    };
    send("/x", 4097).await.expect(413, "body_too_large");
    send("/small/x", 2000).await.expect(413, "body_too_large");
    assert_eq!(send("/x", 4096).await.status, 200);
}
