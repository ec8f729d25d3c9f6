//! Requests and answers over HTTP/2: what arrives, what comes back, and what happens when one of the
//! two stops in the middle.

use super::{H2C, in_front_of, limits, open};
use crate::support::h2::*;
use crate::support::{Answer, FakePool, Gate, Portcullis, Upstream, route, until};

/// A request for the upstream, with everything that has another form in HTTP/1.1.
#[tokio::test]
async fn a_request_arrives_as_plain_http_1() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    let fields = [("cookie", "a=1"), ("x-one", "1"), ("cookie", "b=2"), ("te", "trailers"), ("x-auth-subject", "root")];
    let fields = [&request("POST", "/a/./b?c=%2f", &[])[..3], &[(":path", "/b?c=%2f")], &fields].concat();
    let outcome = client.exchange([headers(0, 1, &fields), frame(DATA, 1, 1, "abc")].concat(), 1).await;
    assert_eq!((outcome.status(), outcome.body()), (200, "upstream saw POST /b?c=%2f"));
    let seen = upstream.next_request().await;
    assert_eq!(seen.header("host"), Some("gw"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.body, b"abc");
    assert!(seen.identity().is_empty(), "{}", seen.text());
    let line = gate.access_line("/b").await;
    assert_eq!((&line["protocol"], &line["host"], &line["bytes_in"]), (&"HTTP/2".into(), &"gw".into(), &3.into()));
}

#[tokio::test]
async fn a_refused_head_has_a_problem_as_its_answer_and_an_access_line() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("headers = 10\nhead_size = \"2KiB\"")).await;
    let mut client = open(&gate).await;
    let (large, many) = ("x".repeat(2500), [("x", "1"); 11]);
    for (stream, path, more, status, code) in [
        (1, "/many", &many[..], 431, "head_too_large"),
        (3, "/large", &[("x", large.as_str())], 431, "head_too_large"),
        (5, "/blank", &[("x", " 1")], 400, "request_malformed"),
        (7, "/host", &[("host", "other")], 400, "request_malformed"),
        (9, "/length", &[("content-length", "0"), ("content-length", "0")], 400, "header_ambiguous"),
    ] {
        let outcome = client.exchange(headers(END_STREAM, stream, &request("GET", path, more)), stream).await;
        let problem: serde_json::Value = serde_json::from_str(outcome.body()).unwrap();
        assert_eq!((outcome.status(), problem["code"].as_str()), (status, Some(code)), "{path}");
        let line = gate.access_line(path).await;
        assert_eq!((&line["protocol"], &line["code"]), (&"HTTP/2".into(), &code.into()), "{line}");
    }
    let long = format!("/{}", "x".repeat(9000));
    assert_eq!(open(&gate).await.exchange(get(1, &long), 1).await.status(), 431, "beyond twice the limit h2 answers");
    upstream.saw_nothing();
    assert_eq!(client.exchange(get(11, "/fine"), 11).await.status(), 200, "the connection goes on");
}

#[tokio::test]
async fn a_target_that_is_too_long_is_414() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    assert_eq!(open(&gate).await.exchange(get(1, &format!("/{}", "x".repeat(8192))), 1).await.status(), 414);
    upstream.saw_nothing();
}

#[tokio::test]
async fn head_and_204_have_no_body_and_keep_their_length() {
    let upstream = Upstream::scripted(|seen| match seen.method.as_str() {
        "HEAD" => Answer::with("content-length: 1000\r\n", ""),
        _ => Answer::raw("HTTP/1.1 204 No Content\r\n\r\n"),
    })
    .await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    let head = client.exchange(headers(END_STREAM, 1, &request("HEAD", "/", &[])), 1).await;
    assert_eq!((head.status(), head.body()), (200, ""));
    assert_eq!(client.exchange(get(3, "/"), 3).await.status(), 204);
    // A problem has a body, and HEAD has none.
    let refused = client.exchange(headers(END_STREAM, 5, &request("HEAD", "/a//b", &[])), 5).await;
    assert_eq!((refused.status(), refused.body()), (400, ""));
}

#[tokio::test]
async fn streams_are_answered_as_they_are_ready() {
    let slow = Gate::new();
    let script = {
        let slow = slow.clone();
        move |seen: &crate::support::Seen| {
            let answer = if seen.target == "/slow" { Answer::nothing().wait(&slow) } else { Answer::nothing() };
            answer.then("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        }
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    client.send([get(1, "/slow"), get(3, "/fast")].concat()).await;
    assert_eq!(client.outcome(3).await.body(), "ok");
    slow.open();
    assert_eq!(client.outcome(1).await.body(), "ok");
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let chunked = "transfer-encoding: chunked\r\ntrailer: x-sum\r\n";
    let upstream = Upstream::scripted(move |_| Answer::with(chunked, "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n")).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    let head = headers(0, 1, &request("POST", "/", &[("te", "trailers"), ("trailer", "x-in")]));
    let tail = headers(END_STREAM, 1, &[("x-in", "5"), ("x-auth-subject", "root")]);
    let outcome = client.exchange([head, frame(DATA, 0, 1, "abc"), tail].concat(), 1).await;
    assert_eq!(outcome, Outcome::Answer { status: 200, body: "ok".into(), trailers: true });
    let seen = upstream.next_request().await;
    assert_eq!(seen.trailers, [("x-in".to_owned(), "5".to_owned())]);
}

#[tokio::test]
async fn rst_stream_cancels_the_work_upstream_and_nothing_else() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |seen: &crate::support::Seen| match seen.target.as_str() {
            "/slow" => Answer::nothing().wait(&never),
            "/stream" => Answer::with("content-length: 1000\r\n", "some").wait(&never),
            _ => Answer::ok("still here"),
        }
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    client.send(get(1, "/slow")).await;
    upstream.heads(1).await;
    client.send(frame(RST_STREAM, 0, 1, code::CANCEL.to_be_bytes())).await;
    upstream.closed(0).await;
    assert_eq!(gate.access_line("/slow").await["status"], 499);
    client.send(get(3, "/stream")).await;
    assert!(client.until(DATA).await.is_some());
    client.send(frame(RST_STREAM, 0, 3, code::CANCEL.to_be_bytes())).await;
    upstream.closed(1).await;
    assert_eq!(gate.access_line("/stream").await["status"], 499);
    assert_eq!(client.exchange(get(5, "/"), 5).await.body(), "still here");
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_all_its_streams() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |_: &_| Answer::nothing().wait(&never)
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    client.send([get(1, "/a"), get(3, "/b")].concat()).await;
    upstream.heads(2).await;
    drop(client);
    upstream.closed(0).await;
    upstream.closed(1).await;
    until("no open request", async || (gate.metric("portcullis_requests_in_flight").await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_408_and_the_connection_goes_on() {
    let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
    let gate = Portcullis::start(
        &(limits("body_stall = \"150ms\"")
            + H2C
            + &pool.toml("main")
            + &upstream.toml("app")
            + &route("/*", "app", "\"public\"")),
    )
    .await;
    let mut client = open(&gate).await;
    let post = |stream, path| {
        [
            headers(0, stream, &request("POST", path, &[("content-type", "application/json")])),
            frame(DATA, 0, stream, "{"),
        ]
        .concat()
    };
    assert_eq!(client.exchange(post(1, "/proxied"), 1).await.status(), 408);
    assert_eq!(client.exchange(post(3, "/auth/login"), 3).await.status(), 408);
    assert_eq!(client.exchange(get(5, "/fine"), 5).await.status(), 200);
    assert_eq!(upstream.requests().len(), 1, "only what was whole");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_whether_it_says_so_or_not() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    let declared = headers(0, 1, &request("POST", "/small/a", &[("content-length", "2000")]));
    assert_eq!(client.exchange(declared, 1).await.status(), 413);
    let unsaid = [headers(0, 3, &request("POST", "/small/b", &[])), frame(DATA, 1, 3, "x".repeat(2000))].concat();
    assert_eq!(client.exchange(unsaid, 3).await.status(), 413);
    assert!(upstream.requests().is_empty());
    assert_eq!(client.exchange(get(5, "/small/c"), 5).await.status(), 200);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_whole_and_the_client_may_send_on() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    let declared = headers(0, 1, &request("POST", "/small/a", &[("content-length", "2000")]));
    assert_eq!(client.exchange(declared, 1).await.status(), 413);
    client.send([frame(DATA, 0, 1, "x".repeat(1000)), frame(DATA, 1, 1, "x".repeat(1000))].concat()).await;
    assert!(client.is_alive().await);
    // Nothing was reset, since everything was read.
    client.send(frame(GOAWAY, 0, 0, [0; 8])).await;
    assert_eq!(client.end_or_reset().await, Outcome::Closed);
    upstream.saw_nothing();
}

#[tokio::test]
async fn an_answer_that_breaks_off_upstream_breaks_off_its_stream_alone() {
    let upstream = Upstream::scripted(|seen| match seen.target.as_str() {
        "/broken" => Answer::with("content-length: 100\r\n", "half").close(),
        _ => Answer::ok("whole"),
    })
    .await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    assert!(matches!(client.exchange(get(1, "/broken"), 1).await, Outcome::Reset(_)));
    assert_eq!(client.exchange(get(3, "/whole"), 3).await.body(), "whole");
}

#[tokio::test]
async fn a_megabyte_passes_in_both_directions() {
    let upstream = Upstream::scripted(|seen| Answer::ok(&String::from_utf8_lossy(&seen.body))).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = H2::open_with(gate.address(), &[(4, 2 << 20)]).await;
    client.send(frame(WINDOW_UPDATE, 0, 0, (2u32 << 20).to_be_bytes())).await;
    // The larger windows count from the acknowledgment on (6.5.3).
    assert!(client.any().await.is_some());
    client.send(frame(SETTINGS, ACK, 0, [])).await;
    while client.any().await.is_some_and(|frame| frame.kind != WINDOW_UPDATE) {}
    client.send(headers(0, 1, &request("POST", "/", &[]))).await;
    // As much as the windows allow at first, and the rest as they are opened.
    let (mut sent, mut room) = (0, 256usize << 10);
    while sent < 1 << 20 {
        while room < 16 << 10 {
            let frame = client.any().await.expect("more room");
            if frame.kind == WINDOW_UPDATE && frame.stream == 1 {
                room += frame.number(0) as usize;
            }
        }
        (sent, room) = (sent + (16 << 10), room - (16 << 10));
        client.send(frame(DATA, u8::from(sent == 1 << 20), 1, vec![b'x'; 16 << 10])).await;
    }
    assert_eq!(client.outcome(1).await.body().len(), 1 << 20);
}
