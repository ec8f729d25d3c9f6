//! RFC 9112, case by case: these bytes on a connection of their own, then these answers, and this is
//! what the upstream saw, byte by byte.
//!
//! After each case a request that is beyond doubt goes over the same connection, or over a new one
//! where the gateway had to end it: what it shows the upstream must be the next thing the upstream
//! sees, so that nothing of a case can have been left behind anywhere.

use super::cases::{Case, bodies, chunks, connections, fields, lines, targets};
use super::in_front_of;
use crate::support::{Client, Portcullis, Seen, Upstream};

/// How long one case may take before it counts as failed, and the others are looked at.
const WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Set by the gateway on every request.
const OURS: [&str; 9] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
];

#[tokio::test]
async fn every_case_of_rfc_9112_ends_as_it_asks_and_shows_the_upstream_nothing_else() {
    let cases: Vec<Case> =
        [lines(), targets(), fields(), bodies(), chunks(), connections()].into_iter().flatten().collect();
    assert!(cases.len() >= 100, "{}", cases.len());
    let upstream = Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut failed = Vec::new();
    for case in &cases {
        let before = upstream.requests().len();
        let verdict = tokio::time::timeout(WAIT, judge(case, &gate)).await;
        let verdict = verdict.unwrap_or_else(|_late| Err("nothing happened".to_owned()));
        let seen: Vec<String> = upstream.requests()[before..].iter().map(without_ours).collect();
        let expected: Vec<String> = case.seen.iter().cloned().chain([NEXT_SEEN.to_owned()]).collect();
        let verdict = verdict.and_then(|()| {
            if seen == expected { Ok(()) } else { Err(format!("the upstream saw {seen:#?}, not {expected:#?}")) }
        });
        if let Err(what) = verdict {
            failed.push(format!("{}: {what}", case.name));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

const NEXT: &str = "GET /next HTTP/1.1\r\nHost: gw\r\n\r\n";
const NEXT_SEEN: &str = "GET /next HTTP/1.1\r\nhost: gw\r\n\r\n";

/// Whether the answers are as they should be.
async fn judge(case: &Case, gate: &Portcullis) -> Result<(), String> {
    let mut client = gate.raw().await;
    client.send(&case.bytes).await;
    for (method, status, code) in &case.answers {
        let reply = client.next(method).await.map_err(|cut| format!("cut after {:?}", cut.received))?;
        if (reply.status, reply.code().as_str()) != (*status, code) {
            return Err(format!("{} {} instead of {status} {code}", reply.status, reply.code()));
        }
    }
    if case.closes {
        let rest = client.read_to_close().await;
        if !rest.is_empty() {
            return Err(format!("more bytes: {:?}", String::from_utf8_lossy(&rest)));
        }
        return next(&mut gate.raw().await).await;
    }
    next(&mut client).await
}

async fn next(client: &mut Client) -> Result<(), String> {
    client.send(NEXT).await;
    match client.next("GET").await {
        Ok(reply) if reply.status == 200 && reply.text() == "upstream saw GET /next" => Ok(()),
        Ok(reply) => Err(format!("what follows: {reply:?}")),
        Err(cut) => Err(format!("what follows: {cut:?}")),
    }
}

/// The bytes of a request without the lines that the gateway writes into every one.
fn without_ours(seen: &Seen) -> String {
    let text: String = seen.raw.iter().copied().map(char::from).collect();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let ours = |line: &&str| !OURS.contains(&line.split(':').next().unwrap_or_default());
    let head: Vec<&str> = head.split("\r\n").filter(ours).collect();
    format!("{}\r\n\r\n{body}", head.join("\r\n"))
}
