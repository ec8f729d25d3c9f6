//! Floods and stalls (security lesson 38): the connection ends, memory stays bounded, and a client
//! beside it notices nothing.

use super::{in_front_of, limits, open};
use crate::support::h2::*;
use crate::support::{Answer, Gate, Portcullis, Upstream, until};

/// Sends the same bytes again and again, and reads up to the end, which must come; returns the error
/// code of the GOAWAY before it. Sending fails at some point or does not: the gateway reads on for a
/// moment, so that the GOAWAY arrives.
async fn flood(client: &mut H2, bytes: &[u8], most: usize) -> Option<u32> {
    let mut left = most;
    while left > 0 && client.send(bytes).await {
        left -= 1;
    }
    client.end().await
}

/// A client beside the attack, before and after it.
async fn with_a_neighbor(gate: &Portcullis, attack: impl AsyncFnOnce()) {
    let mut neighbor = open(gate).await;
    assert_eq!(neighbor.exchange(get(1, "/neighbor"), 1).await.status(), 200);
    attack().await;
    assert_eq!(neighbor.exchange(get(3, "/neighbor"), 3).await.status(), 200);
    assert_eq!(open(gate).await.exchange(get(1, "/neighbor"), 1).await.status(), 200);
}

/// Requests that reached the upstream, without the neighbor's.
fn reached(upstream: &Upstream) -> usize {
    upstream.requests().iter().filter(|seen| seen.target != "/neighbor").count()
}

#[tokio::test]
async fn lesson_38_rapid_reset_ends_the_connection() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    with_a_neighbor(&gate, async || {
        let mut client = open(&gate).await;
        let mut sent = 0;
        for stream in (1..20_001).step_by(2) {
            let pair = [get(stream, "/reset"), frame(RST_STREAM, 0, stream, code::CANCEL.to_be_bytes())].concat();
            if !client.send(pair).await {
                break;
            }
            sent += 1;
        }
        let ended = client.end().await;
        assert!(matches!(ended, None | Some(code::CALM)), "{ended:?} after {sent}");
    })
    .await;
    assert!(reached(&upstream) <= 520, "{}", reached(&upstream));
    until("no open request", async || (gate.metric("portcullis_requests_in_flight").await == 0).then_some(())).await;
}

#[tokio::test]
async fn rapid_reset_at_walking_pace_ends_the_connection_as_well() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |seen: &crate::support::Seen| match seen.target.as_str() {
            "/neighbor" => Answer::ok("fine"),
            _ => Answer::nothing().wait(&never),
        }
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    with_a_neighbor(&gate, async || {
        let mut client = open(&gate).await;
        // One after the other, each taken up before it is withdrawn: nothing is pending, ever.
        let mut stream = 1;
        while client.send(get(stream, "/reset")).await
            && client.is_alive().await
            && client.send(frame(RST_STREAM, 0, stream, code::CANCEL.to_be_bytes())).await
        {
            stream += 2;
            assert!(stream < 4001, "nobody stops it");
        }
        client.end().await;
        assert!(stream > 401, "a page that is left is no attack: {stream}");
    })
    .await;
}

/// MadeYouReset (CVE-2025-8671): frames that make the server itself withdraw a request it has begun.
#[tokio::test]
async fn lesson_38_streams_that_we_are_made_to_reset_end_the_connection() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    with_a_neighbor(&gate, async || {
        let mut client = open(&gate).await;
        for stream in (1..2001).step_by(2) {
            let begun = headers(0, stream, &request("POST", "/made", &[("content-length", "5")]));
            if !client.send([begun, frame(DATA, END_STREAM, stream, "abc")].concat()).await {
                break;
            }
        }
        assert_eq!(client.end().await, Some(code::CALM));
    })
    .await;
    assert_eq!(reached(&upstream), 0, "none of the bodies ended");
    until("no open request", async || (gate.metric("portcullis_requests_in_flight").await == 0).then_some(())).await;
}

/// What nobody reads is bounded by the windows, so that the upstream's pace is the client's.
#[tokio::test]
async fn a_body_that_nobody_reads_is_held_back_by_its_window() {
    let never = Gate::new();
    let script = {
        let never = never.clone();
        move |seen: &crate::support::Seen| match seen.target.as_str() {
            "/neighbor" => Answer::ok("fine"),
            _ => Answer::nothing().wait(&never),
        }
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = open(&gate).await;
    // More than the window of a stream at once, which no client may send.
    client.send(headers(0, 1, &request("POST", "/unread", &[]))).await;
    client.send(frame(DATA, 0, 1, vec![b'x'; 16 << 10]).repeat(100)).await;
    let outcome = client.end_or_reset().await;
    let flow = matches!(outcome, Outcome::GoAway(code::FLOW_CONTROL) | Outcome::Reset(code::FLOW_CONTROL));
    assert!(flow, "{outcome:?}");
    assert_eq!(reached(&upstream), 0);
}

#[tokio::test]
async fn lesson_38_a_continuation_flood_ends_the_connection() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    with_a_neighbor(&gate, async || {
        for piece in [Vec::new(), literal(b"x", b"y"), vec![b'x'; 16384]] {
            let mut client = open(&gate).await;
            client.send(frame(HEADERS, END_STREAM, 1, block(&request("GET", "/", &[])))).await;
            let code = flood(&mut client, &frame(CONTINUATION, 0, 1, &piece), 10_000).await;
            assert!(matches!(code, None | Some(code::CALM | code::PROTOCOL)), "{code:?}");
        }
    })
    .await;
    assert_eq!(reached(&upstream), 0);
}

#[tokio::test]
async fn lesson_38_floods_of_frames_that_carry_nothing_end_the_connection() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    with_a_neighbor(&gate, async || {
        let open_body = headers(0, 1, &request("POST", "/open", &[]));
        for (what, bytes) in [
            ("SETTINGS", frame(SETTINGS, 0, 0, [])),
            ("PING", frame(PING, 0, 0, [0; 8])),
            ("PRIORITY", frame(PRIORITY, 0, 3, [0, 0, 0, 0, 9])),
            ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, 1u32.to_be_bytes())),
            ("unknown", frame(0x77, 0, 0, [])),
            ("empty DATA", frame(DATA, 0, 1, [])),
        ] {
            let mut client = open(&gate).await;
            client.send(&open_body).await;
            let code = flood(&mut client, &bytes.repeat(100), 10_000).await;
            assert!(matches!(code, None | Some(code::CALM)), "{what}: {code:?}");
        }
    })
    .await;
    assert_eq!(reached(&upstream), 0, "none of the bodies ended");
}

#[tokio::test]
async fn lesson_38_a_huge_header_list_ends_the_connection_and_so_do_ten_thousand_crumbs() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    with_a_neighbor(&gate, async || {
        for field in [literal(b"x-large", &[b'x'; 8000]), literal(b"cookie", b"a=b").repeat(200)] {
            let mut client = open(&gate).await;
            client.send(frame(HEADERS, END_STREAM, 1, block(&request("GET", "/", &[])))).await;
            let code = flood(&mut client, &frame(CONTINUATION, 0, 1, &field), 50).await;
            assert!(matches!(code, None | Some(code::CALM | code::COMPRESSION)), "{code:?}");
        }
    })
    .await;
    assert_eq!(reached(&upstream), 0);
}

#[tokio::test]
async fn one_field_that_fills_the_table_cannot_be_referred_to_forever() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    with_a_neighbor(&gate, async || {
        let mut client = open(&gate).await;
        // With incremental indexing (RFC 7541 §6.2.1): 4000 bytes, which one byte then stands for.
        let mut large = literal(b"x", &[b'x'; 4000]);
        large[0] = 0x40;
        let bomb = [block(&request("GET", "/bomb", &[])), large, vec![0xbe; 4000]].concat();
        let outcome = client.exchange(frame(HEADERS, END_STREAM | END_HEADERS, 1, bomb), 1).await;
        assert!(matches!(outcome, Outcome::GoAway(code::CALM)), "{outcome:?}");
    })
    .await;
    assert_eq!(reached(&upstream), 0);
}

#[tokio::test]
async fn a_client_that_opens_no_window_loses_its_stream_and_gives_the_upstream_back() {
    let never = Gate::new();
    let large = "x".repeat(200_000);
    let script = {
        let never = never.clone();
        move |seen: &crate::support::Seen| match seen.target.as_str() {
            "/neighbor" => Answer::ok("fine"),
            _ => Answer::with("content-length: 9999999\r\n", &large).wait(&never),
        }
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, &limits("body_stall = \"200ms\"")).await;
    with_a_neighbor(&gate, async || {
        let mut client = H2::open_with(gate.address(), &[(4, 0)]).await;
        let outcome = client.exchange(get(1, "/stalled"), 1).await;
        assert!(matches!(outcome, Outcome::Reset(_)), "{outcome:?}");
        assert_eq!(gate.access_line("/stalled").await["status"], 499);
        assert!(client.is_alive().await, "its other streams may go on");
    })
    .await;
    until("the end of the upstream connection", async || {
        let series = "portcullis_requests_in_flight";
        (gate.metric(series).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_no_bytes_is_cut() {
    let large = "x".repeat(20_000_000);
    let upstream = Upstream::scripted(move |_| Answer::ok(&large)).await;
    let gate = in_front_of(&upstream, &limits("body_stall = \"200ms\"")).await;
    let window = (1u32 << 31) - 1;
    let mut client = H2::open_with(gate.address(), &[(4, window)]).await;
    client.send(frame(WINDOW_UPDATE, 0, 0, (window - 65_535).to_be_bytes())).await;
    client.send(get(1, "/unread")).await;
    // Nothing is read: the sockets fill up, and then the gateway has waited long enough.
    assert_eq!(gate.access_line("/unread").await["status"], 499);
    upstream.closed(0).await;
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_a_busy_one_is_not() {
    let slow = Gate::new();
    let script = {
        let slow = slow.clone();
        move |_: &_| Answer::nothing().wait(&slow).then("HTTP/1.1 204 No Content\r\n\r\n")
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, &limits("idle = \"200ms\"")).await;
    let (mut busy, mut idle) = (open(&gate).await, open(&gate).await);
    busy.send(get(1, "/busy")).await;
    upstream.heads(1).await;
    let goaway = idle.until(GOAWAY).await.expect("a GOAWAY");
    assert_eq!(goaway.number(4), code::NO_ERROR);
    idle.end().await;
    slow.open();
    assert_eq!(busy.outcome(1).await.status(), 204);
    assert_eq!(busy.end().await, Some(code::NO_ERROR));
}
