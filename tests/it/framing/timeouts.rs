//! Deadlines.

use super::{in_front_of, limits};
use crate::support::{Answer, Gate, Upstream};

#[tokio::test]
async fn a_request_head_that_dawdles_is_408_and_the_connection_ends() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("request_head = \"200ms\"")).await;
    let mut client = gate.raw().await;
    client.send("GET / HTTP/1.1\r\nHost: g").await;
    let reply = client.read().await;
    reply.expect(408, "request_timeout");
    assert!(reply.closes());
    client.closed().await;
    // The second head on a connection has the same deadline as the first.
    let mut client = gate.raw().await;
    assert_eq!(client.exchange("GET /a HTTP/1.1\r\nHost: gw\r\n\r\n").await.status, 200);
    client.send("GET /b").await;
    client.read().await.expect(408, "request_timeout");
    client.closed().await;
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("idle = \"200ms\"")).await;
    let mut client = gate.raw().await;
    assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await.status, 200);
    client.closed().await;
    gate.raw().await.closed().await;
}

#[tokio::test]
async fn a_request_body_that_stalls_is_408_and_ends_the_connection_upstream() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("body_stall = \"200ms\"")).await;
    let mut client = gate.raw().await;
    client.send("POST /x HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\nabc").await;
    let reply = client.read().await;
    reply.expect(408, "request_timeout");
    upstream.closed(0).await;
    assert!(upstream.requests().is_empty());
    client.closed().await;
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |_: &_| Answer::with("content-length: 10\r\n", "abc").wait(&never)
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, &limits("body_stall = \"200ms\"")).await;
    let mut client = gate.raw().await;
    client.send("GET /x HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    let cut = client.next("GET").await.expect_err("it never came to its end");
    assert!(cut.received.ends_with(b"abc"));
    upstream.closed(0).await;
}

#[tokio::test]
async fn an_upstream_that_does_not_begin_to_answer_is_504() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |_: &_| Answer::nothing().wait(&never)
    };
    let upstream = Upstream::scripted(script).await;
    let toml = upstream.toml("app") + "response_head = \"200ms\"\n";
    let gate = crate::support::Portcullis::start(
        &(crate::support::FakePool::start().await.toml("main")
            + &toml
            + &crate::support::route("/*", "app", "\"public\"")),
    )
    .await;
    gate.get("/x").await.expect(504, "upstream_timeout");
    upstream.closed(0).await;
}
