//! `connections` of an upstream: how many there may be to a server, and who waits.

use serde_json::Value;

use crate::support::{Answer, FakePool, Gate, Portcullis, Upstream, route, until};

/// A gateway with so many workers in front of a server, of which these settings are known.
async fn in_front_of(upstream: &Upstream, workers: u32, settings: &str) -> (FakePool, Portcullis) {
    let pool = FakePool::start().await;
    let gate = Portcullis::start(&toml(&pool, upstream, workers, settings)).await;
    (pool, gate)
}

fn toml(pool: &FakePool, upstream: &Upstream, workers: u32, settings: &str) -> String {
    let server = format!("[server]\nworkers = {workers}\ndrain = \"2s\"\n");
    server + &pool.toml("main") + &upstream.toml("app") + settings + &route("/*", "app", "\"public\"")
}

/// How many of the server's connections, or of the requests for one, are in a state.
async fn count(gate: &Portcullis, upstream: &Upstream, state: &str) -> u64 {
    let server = upstream.address();
    let labels = format!("upstream=\"app\",server=\"{server}\",state=\"{state}\"");
    gate.metric(&format!("portcullis_upstream_connections{{{labels}}}")).await
}

async fn until_waiting(gate: &Portcullis, upstream: &Upstream, number: u64) {
    let reached = async || (count(gate, upstream, "waiting").await == number).then_some(());
    until("requests that wait", reached).await;
}

/// A server that answers when the gate opens.
async fn held_by(opens: &Gate) -> Upstream {
    let opens = opens.clone();
    Upstream::hasty(move |_| Answer::raw("").wait(&opens).then("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")).await
}

const GET: &str = "GET / HTTP/1.1\r\nHost: gw\r\n\r\n";

#[tokio::test]
async fn requests_above_the_cap_wait_for_a_connection() {
    let opens = Gate::new();
    let upstream = held_by(&opens).await;
    let (_pool, gate) = in_front_of(&upstream, 2, "connections = 2\n").await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = gate.raw().await;
        client.send(GET).await;
        clients.push(client);
    }
    until_waiting(&gate, &upstream, 6).await;
    upstream.heads(2).await;
    assert_eq!((upstream.connections(), count(&gate, &upstream, "active").await), (2, 2));
    let shown: Value = gate.admin_get("/upstreams").await.json();
    assert!(shown.to_string().contains("\"waiting\":6"), "{shown}");
    opens.open();
    for client in &mut clients {
        assert_eq!(client.next("GET").await.unwrap().text(), "hi");
    }
    assert_eq!(count(&gate, &upstream, "waiting").await, 0);
    let open = count(&gate, &upstream, "idle").await + count(&gate, &upstream, "active").await;
    assert!(open <= 2, "{open}");
}

#[tokio::test]
async fn one_connection_serves_all_requests_of_a_worker_that_wait_for_it() {
    let opens = Gate::new();
    let upstream = held_by(&opens).await;
    let (_pool, gate) = in_front_of(&upstream, 1, "connections = 1\n").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = gate.raw().await;
        client.send(GET).await;
        clients.push(client);
    }
    until_waiting(&gate, &upstream, 3).await;
    opens.open();
    for client in &mut clients {
        client.next("GET").await.unwrap();
    }
    assert_eq!(upstream.connections(), 1, "it was handed over");
}

#[tokio::test]
async fn a_worker_gives_up_a_connection_that_it_does_not_use() {
    let upstream = Upstream::start().await;
    let (_pool, gate) = in_front_of(&upstream, 2, "connections = 1\nconnect = \"10s\"\n").await;
    // The second client is another worker's, and the first one's connection is kept there.
    let (mut one, mut other) = (gate.raw().await, gate.raw().await);
    for _ in 0..3 {
        one.exchange(GET).await.expect(200, "");
        other.exchange(GET).await.expect(200, "");
    }
    assert!(upstream.connections() > 1, "they are not of the same worker");
    let idle = async || (count(&gate, &upstream, "idle").await == 1).then_some(());
    until("one connection that is kept", idle).await;
}

#[tokio::test]
async fn who_waits_too_long_is_told_so_and_who_leaves_waits_no_more() {
    let opens = Gate::new();
    let upstream = held_by(&opens).await;
    let (_pool, gate) = in_front_of(&upstream, 1, "connections = 1\nconnect = \"300ms\"\n").await;
    let mut first = gate.raw().await;
    first.send(GET).await;
    upstream.heads(1).await;
    let mut leaver = gate.raw().await;
    leaver.send("GET /left HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    until_waiting(&gate, &upstream, 1).await;
    drop(leaver);
    until_waiting(&gate, &upstream, 0).await;
    assert_eq!(gate.access_line("/left").await["status"], 499);
    gate.get("/late").await.expect(503, "upstream_unavailable");
    let line = gate.access_line("/late").await;
    assert_eq!(line["reason"], "queue_timeout", "{line}");
    opens.open();
    assert_eq!(first.next("GET").await.unwrap().text(), "hi");
    assert_eq!(upstream.connections(), 1);
    gate.get("/").await.expect(200, "");
}

#[tokio::test]
async fn a_free_server_is_taken_rather_than_the_queue_of_another() {
    let opens = Gate::new();
    let (held, free) = (held_by(&opens).await, Upstream::start().await);
    let pool = FakePool::start().await;
    let servers = format!("[upstream.app]\nservers = [\"http://{}\", \"http://{}\"]\n", held.address(), free.address());
    let settings = "balance = \"round_robin\"\nconnections = 1\n";
    let gate = Portcullis::start(&(pool.toml("main") + &servers + settings + &route("/*", "app", "\"public\""))).await;
    let mut waits = gate.raw().await;
    waits.send(GET).await;
    held.heads(1).await;
    for _ in 0..4 {
        gate.get("/").await.expect(200, "");
    }
    assert_eq!(held.connections(), 1);
    opens.open();
    waits.next("GET").await.unwrap();
}

#[tokio::test]
async fn a_reload_that_lifts_the_cap_lets_them_in() {
    let folder = tempfile::tempdir().unwrap();
    let opens = Gate::new();
    let upstream = held_by(&opens).await;
    let pool = FakePool::start().await;
    let with = |settings: &str| toml(&pool, &upstream, 1, settings);
    let gate = Portcullis::start_on_file(&with("connections = 1\n"), folder.path()).await;
    let (mut first, mut second) = (gate.raw().await, gate.raw().await);
    first.send(GET).await;
    upstream.heads(1).await;
    second.send(GET).await;
    until_waiting(&gate, &upstream, 1).await;
    gate.reloaded(&with("connections = 2\n")).await;
    upstream.heads(2).await;
    opens.open();
    for client in [&mut first, &mut second] {
        assert_eq!(client.next("GET").await.unwrap().text(), "hi");
    }
}

#[tokio::test]
async fn nobody_is_forgotten_however_many_take_turns() {
    let upstream = Upstream::start().await;
    let (_pool, gate) = in_front_of(&upstream, 4, "connections = 3\nconnect = \"20s\"\n").await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut client = gate.raw().await;
        clients.spawn(async move {
            for _ in 0..20 {
                client.exchange(GET).await.expect(200, "");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!((count(&gate, &upstream, "waiting").await, upstream.requests().len()), (0, 800));
}
