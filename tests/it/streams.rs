//! Answers that take their time: they are not held back, and they end with what their caller was let in with.

use serde_json::json;

use crate::support::h2::{self, DATA, H2, HEADERS, Outcome};
use crate::support::{Answer, Client, EMBEDDED, FakePool, Gate, Portcullis, Tokens, Upstream, route};

/// One chunk, and then nothing until the gate opens.
fn endless(headers: &str, gate: &Gate) -> Answer {
    let head = format!("Transfer-Encoding: chunked\r\n{headers}");
    Answer::with(&head, "6\r\nfirst\n\r\n").wait(gate).then("5\r\nlast\n\r\n0\r\n\r\n")
}

/// An upstream that says something and then waits; the type of what it says is in the path.
async fn waiting(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::scripted(move |seen| {
        let kind = seen.target.trim_start_matches('/').split('?').next().unwrap_or_default().replace('.', "/");
        endless(&format!("Content-Type: {kind}\r\n"), &gate)
    })
    .await
}

const EVENTS: &str = "/text.event-stream";
const BYTES: &str = "/application.octet-stream";

/// A gateway in front of it that takes tokens to the second, and routes with these further lines.
async fn guarded(upstream: &Upstream, extra: &str) -> (FakePool, Portcullis) {
    let pool = FakePool::start().await;
    let gate = Portcullis::start(&sections(&pool, upstream, extra)).await;
    (pool, gate)
}

fn sections(pool: &FakePool, upstream: &Upstream, extra: &str) -> String {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";
    let pool = pool.toml("main") + "leeway = \"0s\"\n";
    pool + listener + &upstream.toml("app") + &route("/*", "app", "\"required\"") + extra
}

/// A token that is good for this many seconds.
fn short(pool: &FakePool, seconds: i64) -> String {
    let now = pool.access_claims()["iat"].as_i64().unwrap();
    pool.access(json!({"exp": now + seconds}))
}

/// Begins an answer and waits for its first bytes.
async fn begin(gate: &Portcullis, target: &str, token: &str) -> Client {
    let mut client = gate.raw().await;
    client.send(format!("GET {target} HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
    client.peek(b"first").await;
    client
}

#[tokio::test]
async fn events_are_passed_on_as_they_come() {
    let held = Gate::new();
    let upstream = waiting(&held).await;
    let (pool, gate) = guarded(&upstream, "").await;
    let mut client = begin(&gate, EVENTS, &pool.access(json!({}))).await;
    let mut fast = H2::open(gate.address()).await;
    let authorization = format!("Bearer {}", pool.access(json!({})));
    let fields = h2::request("GET", EVENTS, &[("authorization", &authorization)]);
    fast.send(h2::headers(h2::END_STREAM, 1, &fields)).await;
    fast.until(HEADERS).await.unwrap();
    assert_eq!(fast.until(DATA).await.unwrap().payload, b"first\n");
    held.open();
    assert_eq!(client.read().await.text(), "first\nlast\n");
    assert_eq!(fast.until(DATA).await.unwrap().payload, b"last\n");
}

#[tokio::test]
async fn events_end_when_the_token_expires_and_the_connection_goes_on() {
    let upstream = waiting(&Gate::new()).await;
    let (pool, gate) = guarded(&upstream, "").await;
    let mut client = begin(&gate, EVENTS, &short(&pool, 2)).await;
    let reply = client.read().await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "first\n"));
    upstream.closed(0).await;
    let line = gate.access_line(EVENTS).await;
    assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("expired")));
    assert_eq!(gate.metric("portcullis_streams_ended_total{reason=\"expired\"}").await, 1);
    client.send("GET /x HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    client.read().await.expect(401, "token_missing");
}

#[tokio::test]
async fn other_answers_are_cut_so_that_nobody_takes_them_for_whole() {
    let upstream = waiting(&Gate::new()).await;
    let (pool, gate) = guarded(&upstream, "").await;
    let token = short(&pool, 2);
    let mut client = begin(&gate, BYTES, &token).await;
    let mut fast = H2::open(gate.address()).await;
    let authorization = format!("Bearer {token}");
    for (stream, method, kind) in [(1, "GET", "octet-stream"), (3, "POST", "grpc")] {
        let (path, kind) = (format!("/application.{kind}?h2"), format!("application/{kind}"));
        let fields = h2::request(method, &path, &[("authorization", &authorization), ("content-type", &kind)]);
        fast.send(h2::headers(h2::END_STREAM, stream, &fields)).await;
    }
    let cut = client.next("GET").await.expect_err("less than a whole answer");
    assert!(cut.received.ends_with(b"first\n\r\n"), "{:?}", String::from_utf8_lossy(&cut.received));
    assert!(matches!(fast.outcome(1).await, Outcome::Reset(_)));
    let whole = Outcome::Answer { status: 200, body: "first\n".into(), trailers: true };
    assert_eq!(fast.outcome(3).await, whole, "gRPC has a status behind the body");
    assert!(fast.is_alive().await);
}

#[tokio::test]
async fn a_body_of_known_length_is_cut_as_well() {
    let held = Gate::new();
    let script = {
        let held = held.clone();
        move |_: &_| Answer::with("Content-Length: 11\r\n", "first\n").wait(&held).then("last\n")
    };
    let upstream = Upstream::scripted(script).await;
    let (pool, gate) = guarded(&upstream, "").await;
    let mut client = begin(&gate, "/", &short(&pool, 2)).await;
    client.next("GET").await.expect_err("less than announced");
}

#[tokio::test]
async fn a_sign_out_ends_the_streams_of_the_sign_in() {
    let held = Gate::new();
    let upstream = waiting(&held).await;
    let toml = EMBEDDED.to_owned() + &upstream.toml("app") + &route("/*", "app", "\"required\"");
    let gate = Portcullis::start(&toml).await;
    let (first, second): (Tokens, Tokens) = (gate.login("demo").await, gate.login("demo").await);
    let mut gone = begin(&gate, EVENTS, &first.access).await;
    let mut stays = begin(&gate, "/text.event-stream?2", &second.access).await;
    let bearer = format!("Bearer {}", first.access);
    let reply = gate.request("POST", "/auth/logout", &[("Authorization", &bearer)], "").await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    assert_eq!(gone.read().await.text(), "first\n");
    assert_eq!(gate.access_line(EVENTS).await["reason"], "revoked");
    held.open();
    assert_eq!(stays.read().await.text(), "first\nlast\n");
}

#[tokio::test]
async fn a_reload_decides_on_streams_again() {
    let (held, folder) = (Gate::new(), tempfile::tempdir().unwrap());
    let upstream = waiting(&held).await;
    let pool = FakePool::start().await;
    let admins = format!("[[route]]\npath = \"{EVENTS}\"\nupstream = \"app\"\naccess = {{ groups = [\"admin\"] }}\n");
    let gate = Portcullis::start_on_file(&sections(&pool, &upstream, ""), folder.path()).await;
    let mut user = begin(&gate, EVENTS, &pool.access(json!({}))).await;
    let mut admin = begin(&gate, EVENTS, &pool.access(json!({"cognito:groups": ["admin"]}))).await;
    let mut elsewhere = begin(&gate, BYTES, &pool.access(json!({}))).await;
    gate.reloaded(&sections(&pool, &upstream, &admins)).await;
    assert_eq!(user.read().await.text(), "first\n", "it lacks the group by now");
    assert_eq!(gate.access_line(EVENTS).await["reason"], "group");
    held.open();
    assert_eq!(admin.read().await.text(), "first\nlast\n");
    assert_eq!(elsewhere.read().await.text(), "first\nlast\n");
}

#[tokio::test]
async fn a_reload_that_guards_where_a_rewrite_leads_ends_its_streams() {
    let (held, folder) = (Gate::new(), tempfile::tempdir().unwrap());
    let upstream = waiting(&held).await;
    let pool = FakePool::start().await;
    let with = |access: &str| {
        let rewriting = route("/old/*", "app", "\"public\"") + "rewrite = \"/*\"\n";
        pool.toml("main") + &upstream.toml("app") + &rewriting + &route("/*", "app", access)
    };
    let gate = Portcullis::start_on_file(&with("\"public\""), folder.path()).await;
    let path = format!("/old{EVENTS}");
    let mut client = begin(&gate, &path, "whatever").await;
    gate.reloaded(&with("{ groups = [\"nobody\"] }")).await;
    assert_eq!(client.read().await.text(), "first\n");
    assert_eq!(gate.access_line(&path).await["reason"], "rewrite");
}

#[tokio::test]
async fn a_route_that_is_gone_takes_its_streams_with_it_also_anonymous_ones() {
    let (held, folder) = (Gate::new(), tempfile::tempdir().unwrap());
    let upstream = waiting(&held).await;
    let public = |path: &str| upstream.toml("app") + &route(path, "app", "\"public\"");
    let gate = Portcullis::start_on_file(&public("/*"), folder.path()).await;
    let mut client = begin(&gate, EVENTS, "whatever").await;
    gate.reloaded(&public("/other/*")).await;
    assert_eq!(client.read().await.text(), "first\n");
    assert_eq!(gate.access_line(EVENTS).await["reason"], "route_unknown");
}

#[tokio::test]
async fn grace_prolongs_a_stream_and_off_leaves_it_alone() {
    let held = Gate::new();
    let upstream = waiting(&held).await;
    let with = |path: &str, grace: &str| route(path, "app", "\"required\"") + &format!("stream_grace = \"{grace}\"\n");
    let (grace, off) = ("/text.event-stream/grace", "/text.event-stream/off");
    let (pool, gate) = guarded(&upstream, &(with(grace, "2s") + &with(off, "off"))).await;
    let token = short(&pool, 1);
    let begun = tokio::time::Instant::now();
    let mut plain = begin(&gate, BYTES, &token).await;
    let (mut late, mut never) = (begin(&gate, grace, &token).await, begin(&gate, off, &token).await);
    plain.next("GET").await.expect_err("cut");
    late.next("GET").await.expect_err("cut");
    assert!(begun.elapsed().as_secs() >= 2, "{:?}", begun.elapsed());
    held.open();
    assert_eq!(never.read().await.text(), "first\nlast\n");
}
