//! Which server of an upstream gets a request.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{Answer, FakePool, Portcullis, Upstream, route};

/// Three servers which say what they are called.
async fn three() -> [Upstream; 3] {
    let named = |name: &'static str| Upstream::scripted(move |_| Answer::ok(name));
    [named("a").await, named("b").await, named("c").await]
}

/// The section of an upstream of these servers, with these weights.
fn section(servers: &[Upstream], weights: &[u32], balance: &str) -> String {
    let server =
        |(server, weight): (&Upstream, &u32)| format!("{{ url = \"http://{}\", weight = {weight} }}", server.address());
    let servers: Vec<String> = servers.iter().zip(weights).map(server).collect();
    format!("[upstream.app]\nservers = [{}]\nbalance = \"{balance}\"\n", servers.join(", "))
}

/// A gateway in front of them, which lets everybody pass who is not refused.
async fn in_front_of(section: &str) -> (FakePool, Portcullis) {
    let pool = FakePool::start().await;
    let gate = Portcullis::start(&(pool.toml("main") + section + &route("/*", "app", "\"optional\""))).await;
    (pool, gate)
}

/// How many of so many requests each server got.
async fn shares(gate: &Portcullis, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    let mut client = gate.raw().await;
    for _ in 0..requests {
        let reply = client.exchange("GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await;
        *shares.entry(reply.text()).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn round_robin_gives_each_server_its_turns() {
    let servers = three().await;
    let (_pool, gate) = in_front_of(&section(&servers, &[3, 1, 2], "round_robin")).await;
    let shares = shares(&gate, 60).await;
    assert_eq!(shares, BTreeMap::from([("a".to_owned(), 30), ("b".to_owned(), 10), ("c".to_owned(), 20)]));
}

#[tokio::test]
async fn least_follows_the_weights_of_idle_servers() {
    let servers = three().await;
    let (_pool, gate) = in_front_of(&section(&servers, &[8, 1, 1], "least")).await;
    let shares = shares(&gate, 200).await;
    // 160 on average, with a deviation of 6.
    assert!((120..=195).contains(&shares["a"]), "{shares:?}");
}

#[tokio::test]
async fn hash_keeps_a_user_at_one_server_and_anonymous_clients_by_address() {
    let servers = three().await;
    let (pool, gate) = in_front_of(&section(&servers, &[1, 1, 1], "hash")).await;
    let mut taken = BTreeMap::new();
    for user in 0..24 {
        let token = pool.access(json!({ "sub": format!("user-{user}") }));
        let first = gate.get_as("/", &token).await.text();
        // Another token of the same user belongs to the same server.
        let another = pool.access(json!({ "sub": format!("user-{user}"), "jti": "another" }));
        assert_eq!(gate.get_as("/other", &another).await.text(), first, "user {user}");
        *taken.entry(first).or_insert(0) += 1;
    }
    assert_eq!(taken.len(), 3, "{taken:?}");
    assert_eq!(shares(&gate, 12).await.len(), 1, "one address, one server");
}
