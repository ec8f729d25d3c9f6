//! Servers that fall ill and recover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::{Answer, FakePool, Portcullis, Upstream, route, until};

/// A server with this name whose probes are answered with 200 while it says that it is well.
async fn patient(name: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let said = Arc::clone(&well);
    let server = Upstream::scripted(move |seen| match (seen.target.as_str(), said.load(Ordering::Relaxed)) {
        ("/healthz?deep=1", true) => Answer::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        ("/healthz?deep=1", false) => Answer::raw("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
        _ => Answer::ok(name),
    });
    (server.await, well)
}

async fn in_front_of(servers: &[&Upstream], health: &str) -> Portcullis {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"http://{}\"", server.address())).collect();
    let upstream = format!(
        "[upstream.app]\nservers = [{}]\nbalance = \"round_robin\"\nhost = \"app.example\"\n{health}",
        servers.join(", ")
    );
    let pool = FakePool::start().await;
    Portcullis::start(&(pool.toml("main") + &upstream + &route("/*", "app", "\"public\""))).await
}

const PROBED: &str = "[upstream.app.health]\npath = \"/healthz?deep=1\"\nevery = \"50ms\"\nup = 2\ndown = 2\n";

/// What the operator sees of a server.
async fn server(gate: &Portcullis, index: usize) -> Value {
    gate.admin_get("/upstreams").await.json()["app"]["servers"][index].clone()
}

/// Waits until a server is in use, or is not.
async fn until_healthy(gate: &Portcullis, index: usize, healthy: bool) {
    until("a server's health", async || (server(gate, index).await["healthy"] == healthy).then_some(())).await;
}

#[tokio::test]
async fn probes_take_servers_out_and_back_in() {
    let ((a, a_is_well), (b, b_is_well)) = (patient("a").await, patient("b").await);
    let gate = in_front_of(&[&a, &b], PROBED).await;
    let healthy = format!("portcullis_upstream_healthy{{upstream=\"app\",server=\"{}\"}}", a.address());
    assert_eq!(gate.metric(&healthy).await, 1);
    let probe = a.next_request().await;
    assert_eq!((probe.method.as_str(), probe.header("host")), ("GET", Some("app.example")));
    assert_eq!(probe.header("user-agent"), Some("portcullis-health"));

    a_is_well.store(false, Ordering::Relaxed);
    until_healthy(&gate, 0, false).await;
    assert_eq!(server(&gate, 0).await["reason"], "probes fail");
    assert_eq!(gate.metric(&healthy).await, 0);
    for _ in 0..8 {
        assert_eq!(gate.get("/").await.text(), "b");
    }

    b_is_well.store(false, Ordering::Relaxed);
    until_healthy(&gate, 1, false).await;
    gate.get("/").await.expect(503, "upstream_unavailable");

    a_is_well.store(true, Ordering::Relaxed);
    until_healthy(&gate, 0, true).await;
    assert_eq!(gate.get("/").await.text(), "a");
    assert_eq!(gate.metric(&healthy).await, 1);
}

#[tokio::test]
async fn a_server_that_is_gone_costs_no_request_and_is_told_of() {
    let ((a, _), (b, _)) = (patient("a").await, patient("b").await);
    let gate = in_front_of(&[&a, &b], "").await;
    a.stop().await;
    for _ in 0..8 {
        assert_eq!(gate.get("/").await.text(), "b");
    }
    let a = server(&gate, 0).await;
    assert_eq!((&a["healthy"], &a["reason"]), (&Value::from(false), &Value::from("requests fail")));
    assert_eq!(gate.metric("portcullis_retries_total{upstream=\"app\"}").await, 1, "one request found it out");
}
