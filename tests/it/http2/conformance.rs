//! RFC 9113 §§3-8, case by case: these bytes after the preface and an empty SETTINGS, then this.
//!
//! Where the RFC asks for a stream error, a connection error is right as well (§5.4.1); which of the
//! two comes is `h2`'s choice, and the table takes both. Requests that are malformed must not reach
//! the upstream: each case says what it saw.

use super::cases::{Case, Want, definitions, frames, requests, settings, streams, window};
use super::{in_front_of, limits, open};
use crate::support::h2::*;
use crate::support::{Portcullis, Upstream};

use Want::{Alive, Error, Fatal, Status};

/// How long one case may take before it counts as failed, and the others are looked at.
const WAIT: std::time::Duration = std::time::Duration::from_secs(5);

#[tokio::test]
async fn every_case_of_rfc_9113_ends_as_it_asks_and_shows_the_upstream_nothing_else() {
    let cases: Vec<Case> = [frames(), streams(), definitions(), requests()].into_iter().flatten().collect();
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut failed = Vec::new();
    for case in &cases {
        let upstream = Upstream::start().await;
        let gate = in_front_of(&upstream, "").await;
        let verdict = tokio::time::timeout(WAIT, judge(case, &gate, &upstream)).await;
        if let Err(what) = verdict.unwrap_or_else(|_late| Err(format!("{:?}, but nothing happened", case.want))) {
            failed.push(format!("{}: {what}", case.name));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

/// Whether the case ends as it should.
async fn judge(case: &Case, gate: &Portcullis, upstream: &Upstream) -> Result<(), String> {
    let mut client = open(gate).await;
    client.send(&case.bytes).await;
    let got = match case.want {
        Alive => None,
        Fatal(_) => Some(client.end().await.map_or(Outcome::Closed, Outcome::GoAway)),
        // An error may come behind the answer to the good part.
        Error(_) => Some(match client.outcome(1).await {
            Outcome::Answer { .. } => client.end_or_reset().await,
            other => other,
        }),
        Status(_) => Some(client.outcome(1).await),
    };
    let right = match (&case.want, &got) {
        (Alive, _) => client.is_alive().await,
        (Error(codes), Some(Outcome::Reset(code) | Outcome::GoAway(code))) => codes.contains(code),
        (Fatal(codes), Some(Outcome::GoAway(code))) => codes.contains(code),
        (Status(wanted), Some(Outcome::Answer { status, .. })) => status == wanted,
        _ => false,
    };
    if !right {
        return Err(format!("{:?}, but {got:?}", case.want));
    }
    // What was whole has been read by now or never will be; what was not ends with its connection.
    let targets: Vec<String> = upstream.requests().into_iter().map(|seen| seen.target).collect();
    if targets.iter().any(|target| !case.upstream.contains(&target.as_str())) {
        return Err(format!("the upstream saw {targets:?}"));
    }
    // The others do not notice.
    match open(gate).await.exchange(get(1, "/next"), 1).await {
        Outcome::Answer { status: 200, .. } => Ok(()),
        other => Err(format!("the next client: {other:?}")),
    }
}

#[tokio::test]
async fn the_preface_decides_and_what_is_no_preface_is_http_1() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let reply = gate.get("/one").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "upstream saw GET /one"));
    // Byte by byte is the same as at once.
    let mut client = H2::connect(gate.address()).await;
    for byte in [PREFACE, &frame(SETTINGS, 0, 0, payload(&[(1, 0)]))].concat() {
        client.send([byte]).await;
    }
    let first = client.any().await.unwrap();
    assert_eq!((first.kind, first.flags), (SETTINGS, 0), "3.4 the server's SETTINGS come first");
    assert_eq!(client.exchange(get(1, "/two"), 1).await.body(), "upstream saw GET /two");
    // Something that only begins like it is a request that HTTP/1 refuses.
    let mut almost = gate.raw().await;
    almost.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    assert_eq!(almost.read().await.status, 400);
    almost.closed().await;
}

#[tokio::test]
async fn a_preface_that_does_not_end_is_timed_out() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("request_head = \"100ms\"")).await;
    let mut client = gate.raw().await;
    client.send(&PREFACE[..10]).await;
    assert_eq!(client.read().await.status, 408);
    client.closed().await;
    let mut client = open(&gate).await;
    client.send(frame(HEADERS, END_STREAM, 1, block(&request("GET", "/", &[])))).await;
    client.end().await;
    upstream.saw_nothing();
}

#[tokio::test]
async fn a_listener_without_h2c_takes_no_preface() {
    let upstream = Upstream::start().await;
    let gate = Portcullis::start(&(upstream.toml("app") + &crate::support::route("/*", "app", "\"public\""))).await;
    let mut client = gate.raw().await;
    client.send(PREFACE).await;
    assert_eq!(client.read().await.status, 400);
    client.closed().await;
}

#[tokio::test]
async fn the_settings_say_what_is_enforced() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, &limits("h2_streams = 7\nhead_size = \"4KiB\"")).await;
    let settings = open(&gate).await.any().await.unwrap();
    let found: Vec<(u16, u32)> = (settings.payload.chunks(6))
        .map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes(pair[2..].try_into().unwrap())))
        .collect();
    for wanted in [(3, 7), (4, 256 << 10), (6, 8 << 10), (8, 1)] {
        assert!(found.contains(&wanted), "{wanted:?} of {found:?}");
    }
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_the_others_answered() {
    let gate_open = crate::support::Gate::new();
    let script = {
        let gate_open = gate_open.clone();
        move |_: &_| crate::support::Answer::nothing().wait(&gate_open).then("HTTP/1.1 204 No Content\r\n\r\n")
    };
    let upstream = Upstream::scripted(script).await;
    let gate = in_front_of(&upstream, &limits("h2_streams = 3")).await;
    let mut client = open(&gate).await;
    // Before the settings are acknowledged a client could not know (6.5.3).
    assert!(client.any().await.is_some());
    client.send(frame(SETTINGS, ACK, 0, [])).await;
    client.send([get(1, "/1"), get(3, "/2"), get(5, "/3"), get(7, "/4")].concat()).await;
    let refused = client.outcome(7).await;
    assert!(matches!(refused, Outcome::Reset(code::REFUSED | code::PROTOCOL)), "{refused:?}");
    upstream.heads(3).await;
    gate_open.open();
    for stream in [1, 3, 5] {
        assert_eq!(client.outcome(stream).await.status(), 204);
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn the_clients_windows_are_kept() {
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = H2::open_with(gate.address(), &[(4, 3)]).await;
    client.send(get(1, "/window")).await;
    assert!(client.until(HEADERS).await.is_some());
    let body = "upstream saw GET /window";
    let first = client.until(DATA).await.unwrap();
    assert_eq!((first.payload.as_slice(), first.has(END_STREAM)), (&body.as_bytes()[..3], false));
    // 6.9.2: a smaller initial window makes it negative; it has to be earned back first.
    client.send([settings(4, 1), window(1, 2), window(1, 2)].concat()).await;
    let second = client.until(DATA).await.unwrap();
    assert!(!second.payload.is_empty() && second.payload.len() <= 2, "{second:?}");
    client.send(window(1, 1000)).await;
    let mut rest = [first.payload, second.payload].concat();
    loop {
        let frame = client.until(DATA).await.unwrap();
        rest.extend_from_slice(&frame.payload);
        if frame.has(END_STREAM) {
            break;
        }
    }
    assert_eq!(String::from_utf8(rest).unwrap(), body);
}
