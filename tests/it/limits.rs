//! `limit` of a route: how often somebody may ask.

use std::path::Path;
use std::time::Duration;

use portcullis::clock::Clock;
use serde_json::json;

use crate::support::{FakePool, Portcullis, Upstream};

fn route(path: &str, access: &str, limit: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nupstream = \"app\"\naccess = {access}\nlimit = {limit}\n")
}

#[tokio::test]
async fn a_client_is_counted_before_its_token_is_looked_at() {
    let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
    let routes = route("/a/*", "\"required\"", "{ rate = \"2/10m\", by = \"client\" }")
        + &route("/b/*", "\"public\"", "{ rate = \"2/10m\" }");
    let gate = Portcullis::start(&(pool.toml("main") + &upstream.toml("app") + &routes)).await;
    for _ in 0..2 {
        gate.get_as("/a/x", "not.a.token").await.expect(401, "token_invalid");
    }
    let refused = gate.get_as("/a/limited", &pool.access(json!({}))).await;
    refused.expect(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((290..=300).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"client\";q=2;w=600"));
    assert_eq!(refused.header("ratelimit"), Some(format!("\"client\";r=0;t={wait}").as_str()));
    assert_eq!(gate.access_line("/a/limited").await["reason"], "client");
    upstream.saw_nothing();
    assert_eq!(gate.get("/b/x").await.status, 200, "each route counts for itself");
    assert_eq!(gate.metric("portcullis_rate_limited_total{limit=\"/a/*\"}").await, 1);
    assert_eq!(gate.metric("portcullis_auth_total{outcome=\"refused\",reason=\"malformed\"}").await, 2);
}

#[tokio::test]
async fn a_user_is_counted_wherever_they_come_from_and_comes_back_later() {
    let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
    let routes = route("/a/*", "\"optional\"", "{ rate = \"1/1m\", burst = 2, by = \"subject\" }");
    let server = "[server]\nworkers = 2\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let clock = Clock::manual(Clock::System.now());
    let toml = server.to_owned() + &pool.toml("main") + &upstream.toml("app") + &routes;
    let gate = Portcullis::start_at(&toml, Path::new("/nonexistent"), clock.clone()).await;
    let (ada, bob) = (pool.access(json!({ "sub": "ada" })), pool.access(json!({ "sub": "bob" })));
    let get = async |token: &str, from: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", authorization.as_str()), ("X-Forwarded-For", from)];
        gate.request("GET", "/a/x", if token.is_empty() { &headers[1..] } else { &headers }, "").await.status
    };
    assert_eq!((get(&ada, "192.0.2.1").await, get(&ada, "192.0.2.2").await), (200, 200));
    assert_eq!(get(&ada, "192.0.2.3").await, 429);
    assert_eq!(get(&bob, "192.0.2.1").await, 200);
    assert_eq!((get("", "192.0.2.9").await, get("", "192.0.2.9").await, get("", "192.0.2.9").await), (200, 200, 429));
    assert_eq!(get("", "192.0.2.8").await, 200, "anonymous callers have their address");
    assert_eq!(get("garbage", "192.0.2.7").await, 401, "only who is known is counted");
    clock.advance(Duration::from_secs(60));
    assert_eq!((get(&ada, "192.0.2.3").await, get(&ada, "192.0.2.3").await), (200, 429));
}
