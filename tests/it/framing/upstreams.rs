//! What upstreams may answer, and how they may fail.

use super::in_front_of;
use crate::support::{Answer, Gate, Seen, Upstream};

const ONE: &str = "HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: 3\r\n\r\none";
const GET: &str = "GET /x HTTP/1.1\r\nHost: gw\r\n\r\n";

#[tokio::test]
async fn answers_of_every_framing_arrive_whole() {
    let upstream = Upstream::scripted(|seen| match seen.target.as_str() {
        "/length" => Answer::ok("hello"),
        "/chunks" => Answer::with("Transfer-Encoding: chunked\r\n", "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
        "/both" => Answer::with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        "/close" => Answer::with("", "hello").close(),
        "/interim" => Answer::raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: 5\r\n\r\nhello"),
        "/old" => Answer::raw("HTTP/1.0 200 OK\r\nX-Upstream: 1\r\n\r\nhello").close(),
        _ => Answer::raw("HTTP/1.0 200 OK\r\nX-Upstream: 1\r\nContent-Length: 5\r\n\r\nhello").close(),
    })
    .await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    for target in ["/length", "/chunks", "/both", "/close", "/interim", "/old", "/old-length", "/length"] {
        let reply = client.exchange(format!("GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{target}");
    }
}

#[tokio::test]
async fn hop_by_hop_headers_of_an_answer_stop_here() {
    let upstream = Upstream::scripted(|_| {
        let lines = "Connection: keep-alive, X-Nominated\r\nX-Nominated: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
                     Upgrade: h2c\r\nTrailer: x\r\nContent-Length: 2\r\nServer: backend\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n";
        Answer::with(lines, "hi")
    })
    .await;
    let gate = in_front_of(&upstream, "").await;
    let reply = gate.raw().await.exchange(GET).await;
    for name in ["x-nominated", "keep-alive", "proxy-authenticate", "upgrade", "trailer"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    assert_eq!(reply.header("server"), Some("backend"), "what is the upstream's own passes");
    assert_eq!(reply.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
}

#[tokio::test]
async fn garbage_is_502_and_its_connection_is_not_used_again() {
    for garbage in [
        "garbage\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
    ] {
        let upstream =
            Upstream::scripted(move |seen| if seen.target == "/x" { Answer::raw(garbage) } else { Answer::ok("fine") })
                .await;
        let gate = in_front_of(&upstream, "").await;
        let mut client = gate.raw().await;
        let reply = client.exchange(GET).await;
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_invalid"), "{garbage:?}");
        upstream.closed(0).await;
        assert_eq!(client.exchange("GET /fine HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(), "fine");
        assert_eq!(upstream.requests().len(), 2, "no request was sent twice");
    }
}

#[tokio::test]
async fn a_head_without_end_is_502() {
    let upstream = Upstream::scripted(|_| Answer::raw(format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(500_000)))).await;
    let gate = in_front_of(&upstream, "").await;
    gate.get("/x").await.expect(502, "upstream_invalid");
    upstream.closed(0).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    upstream.stop().await;
    gate.get("/x").await.expect(502, "upstream_unreachable");
    let line = gate.access_line("/x").await;
    assert_eq!((&line["status"], &line["code"]), (&502.into(), &"upstream_unreachable".into()), "{line}");
}

#[tokio::test]
async fn an_upstream_killed_amid_an_answer_is_seen_as_a_cut() {
    for (headers, some) in [("content-length: 10\r\n", "abc"), ("transfer-encoding: chunked\r\n", "3\r\nabc\r\n")] {
        for reset in [false, true] {
            let upstream = Upstream::scripted(move |seen: &Seen| match seen.target.as_str() {
                "/x" if reset => Answer::with(headers, some).reset(),
                "/x" => Answer::with(headers, some).close(),
                _ => Answer::ok("fine"),
            })
            .await;
            let gate = in_front_of(&upstream, "").await;
            let mut client = gate.raw().await;
            client.send(GET).await;
            let outcome = client.next("GET").await;
            assert!(outcome.as_ref().is_err() || outcome.is_ok_and(|reply| reply.status == 502), "never a clean end");
            client.closed().await;
            assert_eq!(gate.get("/fine").await.text(), "fine");
            assert_eq!(upstream.next_request().await.connection, 0);
            assert_eq!(upstream.next_request().await.connection, 1, "the broken connection is not used again");
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_and_the_request_sent_once() {
    let script = |seen: &Seen| if seen.target == "/last" { Answer::ok("one").close() } else { Answer::ok("two") };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    for round in 0..10 {
        // The upstream closes a connection that it had not said it would.
        assert_eq!(client.exchange("GET /last HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(), "one");
        upstream.closed(round).await;
        let reply = client.exchange("POST /next HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "two"), "round {round}");
    }
    assert_eq!(upstream.requests().iter().filter(|seen| seen.target == "/next").count(), 10);
}

#[tokio::test]
async fn a_post_is_not_sent_again_once_its_bytes_were_sent() {
    let upstream =
        Upstream::scripted(|seen| if seen.target == "/warm" { Answer::ok("warm") } else { Answer::nothing().reset() })
            .await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    assert_eq!(client.exchange("GET /warm HTTP/1.1\r\nHost: gw\r\n\r\n").await.status, 200);
    let reply = client.exchange("POST /once HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(reply.status, 502, "{}", reply.text());
    let sent = upstream.requests().iter().filter(|seen| seen.target == "/once").count();
    assert_eq!(sent, 1);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_does_not_poison_the_connection() {
    let upstream = Upstream::hasty(|seen| {
        if seen.target == "/early" {
            Answer::raw("HTTP/1.1 403 Forbidden\r\nX-Upstream: 1\r\nContent-Length: 2\r\n\r\nno")
        } else {
            Answer::ok("fine")
        }
    })
    .await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    client.send("POST /early HTTP/1.1\r\nHost: gw\r\nContent-Length: 1000000\r\n\r\nsome").await;
    let reply = client.read().await;
    assert_eq!((reply.status, reply.text().as_str()), (403, "no"));
    // Whether the client goes on sending or leaves: the next request upstream starts clean.
    let other = gate.get("/fine").await;
    assert_eq!(other.text(), "fine");
    let seen = upstream.next_request().await;
    assert_eq!((seen.target.as_str(), seen.connection), ("/fine", 1));
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_end_a_kept_connection() {
    let early = Gate::new();
    let script = {
        let early = early.clone();
        move |seen: &Seen| match seen.target.as_str() {
            "/first" => Answer::ok("one")
                .wait(&early)
                .then("HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: 8\r\n\r\npoisoned"),
            _ => Answer::ok("fine"),
        }
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    assert_eq!(client.exchange("GET /first HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(), "one");
    early.open();
    upstream.closed(0).await;
    assert_eq!(client.exchange("GET /second HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(), "fine");
    // And bytes that came glued to the answer are never taken for the next one.
    let upstream = Upstream::scripted(|seen| match seen.target.as_str() {
        "/first" => Answer::raw(format!("{ONE}HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: 8\r\n\r\npoisoned")),
        _ => Answer::ok("fine"),
    })
    .await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    for _round in 0..3 {
        assert_eq!(client.exchange("GET /first HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(), "one");
        assert_eq!(client.exchange("GET /second HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(), "fine");
    }
}
