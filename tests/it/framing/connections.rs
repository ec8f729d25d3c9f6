//! What happens to connections: kept, pipelined, ended, left.

use super::{in_front_of, limits};
use crate::support::{Answer, Gate, Upstream, until};

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    let requests: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: gw\r\n\r\n")).collect();
    client.send(requests).await;
    for n in 0..20 {
        assert_eq!(client.read().await.text(), format!("upstream saw GET /{n}"));
    }
}

#[tokio::test]
async fn a_pipelined_request_is_judged_on_its_own() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    let first = "POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\n\r\nabc";
    let third = "GET /c HTTP/1.1\r\nHost: gw\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    client.send(format!("{first}GET /b HTTP/1.1\r\nHost: gw\r\n\r\n{third}GET /d HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
    assert_eq!(client.read().await.text(), "upstream saw POST /a");
    assert_eq!(client.read().await.text(), "upstream saw GET /b");
    assert_eq!(client.read().await.status, 400);
    client.closed().await;
    let targets: Vec<String> = upstream.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/a", "/b"], "nothing after the broken one");
}

#[tokio::test]
async fn one_connection_to_the_upstream_serves_one_request_after_the_other() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    for _n in 0..5 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await.status, 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    let reply = client.exchange("GET / HTTP/1.1\r\nHost: gw\r\nConnection: Close\r\n\r\n").await;
    assert!(reply.closes());
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_the_work_upstream() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |_: &_| Answer::nothing().wait(&never)
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    client.send("GET /slow HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    upstream.heads(1).await;
    drop(client);
    upstream.closed(0).await;
    let line = gate.access_line("/slow").await;
    assert_eq!(line["status"], 499, "{line}");
}

#[tokio::test]
async fn a_client_that_hangs_up_amid_an_answer_cancels_it() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |_: &_| Answer::with("content-length: 1000\r\n", "some").wait(&never)
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    client.send("GET /half HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    client.peek(b"some").await;
    drop(client);
    upstream.closed(0).await;
    gate.access_line("/half").await;
}

#[tokio::test]
async fn a_request_body_that_breaks_off_never_looks_whole_upstream() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    for framing in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let connection = upstream.connections();
        let mut client = gate.raw().await;
        client.send(format!("POST /x HTTP/1.1\r\nHost: gw\r\n{framing}")).await;
        upstream.heads(connection + 1).await;
        drop(client);
        upstream.closed(connection).await;
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_never_taken_for_a_request() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n";
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    for body in [format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()), chunked] {
        for (target, status) in [("/a/%2e%2e/b", 400), ("/auth/nowhere", 404), ("/auth/login", 415)] {
            let mut client = gate.raw().await;
            client.send(format!("POST {target} HTTP/1.1\r\nHost: gw\r\n{body}")).await;
            let reply = client.read().await;
            assert_eq!(reply.status, status, "{target}");
            if reply.closes() {
                client.closed().await;
            } else {
                assert_eq!(
                    client.exchange("GET /next HTTP/1.1\r\nHost: gw\r\n\r\n").await.text(),
                    "upstream saw GET /next"
                );
            }
        }
    }
    assert!(upstream.requests().iter().all(|seen| seen.target == "/next"));
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away_and_say_why() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("connections = 2")).await;
    let mut kept = Vec::new();
    for _connection in 0..2 {
        let mut client = gate.raw().await;
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await.status, 200);
        kept.push(client);
    }
    let mut surplus = gate.raw().await;
    surplus.send("GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    surplus.read().await.expect(503, "overloaded");
    surplus.closed().await;
    drop(kept);
    // The places are free as soon as the gateway has seen the ends.
    until("a free place", async || {
        let mut client = gate.raw().await;
        client.send("GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await;
        client.next("GET").await.ok().filter(|reply| reply.status == 200)
    })
    .await;
}
