//! A new configuration while everything runs: what it changes, what it leaves alone, and what it
//! cannot do.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::h2::{self, H2};
use crate::support::{Answer, Client, EMBEDDED, FakePool, Gate, KeyMode, Portcullis, Process, Upstream, route, until};

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n";

/// `/name/*` leads to the built-in upstream, for everybody.
fn public(name: &str) -> String {
    route(&format!("/{name}/*"), "app", "\"public\"")
}

/// The part of `/ready` that is about the configuration.
async fn config_part(gate: &Portcullis) -> Value {
    let reply = gate.admin_get("/ready").await;
    assert_eq!(reply.status, 200, "what is in force serves: {}", reply.text());
    let parts = reply.json()["parts"].clone();
    parts.as_array().unwrap().iter().find(|part| part["name"] == "config").unwrap().clone()
}

#[tokio::test]
async fn a_new_file_is_in_force_at_once_and_says_what_changed() {
    let folder = tempdir().unwrap();
    let gate = Portcullis::start_on_file(&public("a"), folder.path()).await;
    let mut client = gate.raw().await;
    let mut ask = async |path: &str| client.exchange(format!("GET {path} HTTP/1.1\r\nHost: gw\r\n\r\n")).await.status;
    assert_eq!((ask("/a/x").await, ask("/b/x").await), (200, 404));
    let answer = gate.reloaded(&public("b")).await;
    assert_eq!(answer, json!({"generation": 2, "changed": ["route"], "needs_restart": []}));
    assert_eq!((ask("/a/x").await, ask("/b/x").await), (404, 200), "on the same connection");
    let config = gate.admin_get("/config").await.json();
    assert_eq!((&config["generation"], &config["route"][0]["path"]), (&json!(2), &json!("/b/*")));
    assert_eq!(gate.metric("portcullis_config_generation").await, 2);
    assert_eq!(gate.metric("portcullis_config_reload_total{outcome=\"ok\"}").await, 1);
    assert_eq!(gate.reloaded(&public("b")).await["changed"], json!([]), "nothing to change is no failure");
}

#[tokio::test]
async fn a_file_with_mistakes_changes_nothing_and_everybody_can_see_why() {
    let folder = tempdir().unwrap();
    let gate = Portcullis::start_on_file(&public("a"), folder.path()).await;
    assert_eq!(config_part(&gate).await["reason"], Value::Null);
    let reply = gate.reload(&(public("b") + "[[route]]\npath = \"/c\"\nupstrem = \"app\"\nlimit = 7\n")).await;
    reply.expect(422, "config_invalid");
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    for part in ["portcullis.toml:", "upstrem", "`upstream`", "limit"] {
        assert!(detail.contains(part), "every mistake with its place: {detail}");
    }
    assert_eq!(config_part(&gate).await["reason"], json!(detail));
    assert_eq!((gate.get("/a/x").await.status, gate.get("/b/x").await.status), (200, 404));
    assert_eq!(gate.metric("portcullis_config_generation").await, 1);
    assert_eq!(gate.metric("portcullis_config_reload_total{outcome=\"invalid\"}").await, 1);
    std::fs::remove_file(folder.path().join("portcullis.toml")).unwrap();
    assert_eq!(gate.reloaded(&public("b")).await["generation"], 2, "a mistake takes no number");
    assert_eq!(config_part(&gate).await["reason"], Value::Null, "it was mended");
}

const GET: &str = "GET /a/x HTTP/1.1\r\nHost: gw\r\n\r\n";
const GET_HELD: &str = "GET /a/held HTTP/1.1\r\nHost: gw\r\n\r\n";

/// An upstream that answers `/a/held` in two halves, the second when the gate opens.
async fn holding() -> (Upstream, Gate) {
    let gate = Gate::new();
    let upstream = Upstream::scripted({
        let gate = gate.clone();
        move |seen| match seen.target.as_str() {
            "/a/held" => Answer::with("Content-Length: 8\r\n", "half").wait(&gate).then("half"),
            _ => Answer::ok("x"),
        }
    });
    (upstream.await, gate)
}

#[tokio::test]
async fn listeners_come_and_go_without_the_others_noticing() {
    let ((upstream, hold), folder) = (holding().await, tempdir().unwrap());
    let rest = upstream.toml("app") + &public("a");
    let gate = Portcullis::start_on_file(&(LISTENER.to_owned() + &rest), folder.path()).await;
    let mut first = gate.raw().await;
    assert_eq!(first.exchange(GET).await.status, 200);

    assert_eq!(gate.reloaded(&(LISTENER.repeat(2) + &rest)).await["changed"], json!(["listener"]));
    let added = gate.addresses()[1];
    let (mut idle, mut busy) = (Client::connect(added).await, Client::connect(added).await);
    assert_eq!(idle.exchange(GET).await.status, 200);
    busy.send(GET_HELD).await;
    upstream.heads(3).await;

    gate.reloaded(&(LISTENER.to_owned() + &rest)).await;
    idle.closed().await;
    assert!(Client::try_connect(added).await.is_none(), "nobody listens");
    assert_eq!(first.exchange(GET).await.status, 200, "the other listener's connection is as it was");
    assert_eq!(gate.get("/a/x").await.status, 200);
    hold.open();
    assert_eq!(busy.read().await.text(), "halfhalf", "what was begun is finished");
    busy.closed().await;
}

#[tokio::test]
async fn a_listener_with_other_settings_keeps_its_socket() {
    let ((upstream, hold), folder) = (holding().await, tempdir().unwrap());
    let rest = upstream.toml("app") + &public("a");
    let gate = Portcullis::start_on_file(&(LISTENER.to_owned() + &rest), folder.path()).await;
    let address = gate.address();
    let (mut idle, mut busy) = (gate.raw().await, gate.raw().await);
    assert_eq!(idle.exchange(GET).await.status, 200);
    busy.send(GET_HELD).await;
    busy.peek(b"half").await;

    // By the address that it has as well as by the one that is written.
    let bound = LISTENER.replace("127.0.0.1:0", &address.to_string()) + "h2c = true\n";
    for listener in [LISTENER.to_owned() + "h2c = true\n", LISTENER.to_owned(), bound] {
        assert_eq!(gate.reloaded(&(listener.clone() + &rest)).await["changed"], json!(["listener"]));
        assert_eq!(gate.addresses(), [address]);
        assert_eq!(gate.get("/a/x").await.status, 200);
        if listener.contains("h2c") {
            let mut client = H2::open(address).await;
            assert_eq!(client.exchange(h2::get(1, "/a/x"), 1).await.status(), 200);
        } else {
            let mut client = gate.raw().await;
            client.send(h2::PREFACE).await;
            assert_eq!(client.read().await.status, 400);
        }
    }
    idle.closed().await;
    hold.open();
    assert_eq!(busy.read().await.text(), "halfhalf", "what was begun is finished");
    busy.closed().await;
}

#[tokio::test]
async fn what_is_known_of_servers_lives_on_and_old_probes_end() {
    let (folder, upstream) = (
        tempdir().unwrap(),
        Upstream::scripted(|seen| match seen.target.as_str() {
            "/old" => Answer::raw("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
            _ => Answer::ok("x"),
        })
        .await,
    );
    let toml = |path: &str, probed: &str, every: &str| {
        let health = format!("[upstream.app.health]\npath = \"{probed}\"\nevery = \"{every}\"\nup = 1\ndown = 1\n");
        upstream.toml("app") + &health + &public(path)
    };
    let gate = Portcullis::start_on_file(&toml("a", "/old", "20ms"), folder.path()).await;
    let server = async || gate.admin_get("/upstreams").await.json()["app"]["servers"][0].clone();
    until("an ill server", async || (server().await["healthy"] == false).then_some(())).await;
    // A worker holds on to the first configuration.
    gate.get("/a/x").await.expect(503, "upstream_unavailable");
    let healthy = format!("portcullis_upstream_healthy{{upstream=\"app\",server=\"{}\"}}", upstream.address());
    // Nobody looks again for an hour but for the first time, which finds it as it was.
    for (path, every) in [("b", "20ms"), ("b", "1h")] {
        gate.reloaded(&toml(path, "/old", every)).await;
        assert_eq!(server().await["reason"], "probes fail");
        assert_eq!(gate.metric(&healthy).await, 0);
    }
    gate.reloaded(&toml("b", "/new", "20ms")).await;
    until("a server that is well", async || (server().await["healthy"] == true).then_some(())).await;
    assert_eq!(gate.metric(&healthy).await, 1);
    let seen = upstream.requests().len();
    upstream.heads(seen + 5).await;
    let since: Vec<String> = upstream.requests().split_off(seen).into_iter().map(|seen| seen.target).collect();
    assert!(since.iter().all(|target| target == "/new"), "{since:?}");
}

#[tokio::test]
async fn what_is_left_of_a_rate_limit_lives_on_while_it_is_the_same() {
    let folder = tempdir().unwrap();
    let toml = |burst: u32, more: &str| {
        format!("{}limit = {{ rate = \"1/10m\", burst = {burst}, by = \"client\" }}\n{more}", public("a"))
    };
    let gate = Portcullis::start_on_file(&toml(2, ""), folder.path()).await;
    let ask = async || gate.get("/a/x").await.status;
    assert_eq!((ask().await, ask().await, ask().await), (200, 200, 429));
    gate.reloaded(&toml(2, &public("b"))).await;
    assert_eq!(ask().await, 429);
    gate.reloaded(&toml(3, &public("b"))).await;
    assert_eq!(ask().await, 200, "another limit begins anew");
}

#[tokio::test]
async fn an_address_that_is_taken_changes_nothing() {
    let (taken, folder) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), tempdir().unwrap());
    let gate = Portcullis::start_on_file(&(LISTENER.to_owned() + &public("a")), folder.path()).await;
    let address = taken.local_addr().unwrap();
    let second = format!("[[listener]]\naddress = \"{address}\"\n");
    let reply = gate.reload(&(LISTENER.to_owned() + &second + &public("b"))).await;
    reply.expect(422, "config_invalid");
    assert!(reply.text().contains(&address.to_string()), "{}", reply.text());
    assert_eq!((gate.get("/a/x").await.status, gate.get("/b/x").await.status), (200, 404));
    assert_eq!(gate.addresses().len(), 1);
    assert_eq!(gate.metric("portcullis_config_reload_total{outcome=\"failed\"}").await, 1);
    drop(taken);
    gate.reloaded(&(LISTENER.to_owned() + &second + &public("b"))).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.exchange(GET.replace("/a/", "/b/")).await.status, 200);
}

#[tokio::test]
async fn a_request_in_flight_keeps_what_it_began_with() {
    let ((upstream, hold), folder) = (holding().await, tempdir().unwrap());
    let gate = Portcullis::start_on_file(&(upstream.toml("app") + &public("a")), folder.path()).await;
    let mut busy = gate.raw().await;
    busy.send(GET_HELD).await;
    busy.peek(b"half").await;
    let answer = gate.reloaded(&public("b")).await;
    assert_eq!(answer["changed"], json!(["upstream.app", "route"]));
    hold.open();
    assert_eq!(busy.read().await.text(), "halfhalf");
    assert_eq!(busy.exchange(GET).await.status, 404, "the next request on it sees the new routes");
}

#[tokio::test]
async fn limits_hold_for_new_connections_and_rules_for_the_next_request() {
    let folder = tempdir().unwrap();
    let limits = |lines: usize, body: &str| {
        format!("[server]\nworkers = 1\n[server.limits]\nheaders = {lines}\nbody = \"{body}\"\n") + &public("a")
    };
    let gate = Portcullis::start_on_file(&limits(10, "0"), folder.path()).await;
    let mut old = gate.raw().await;
    gate.reloaded(&limits(2, "3B")).await;
    let three_lines = "GET /a/x HTTP/1.1\r\nHost: gw\r\nA: 1\r\nB: 2\r\n\r\n";
    assert_eq!(old.exchange(three_lines).await.status, 200);
    gate.raw().await.exchange(three_lines).await.expect(431, "head_too_large");
    let body = "POST /a/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\nbody";
    old.exchange(body).await.expect(413, "body_too_large");
}

#[tokio::test]
async fn what_needs_a_restart_says_so_and_the_rest_is_done() {
    let folder = tempdir().unwrap();
    let gate = Portcullis::start_on_file(&(EMBEDDED.to_owned() + &public("a")), folder.path()).await;
    let before = gate.admin_get("/config").await.json();
    let other = "[server]\nworkers = 2\n[admin]\naddress = \"127.0.0.1:1\"\n[log]\nformat = \"json\"\n".to_owned()
        + &EMBEDDED.replace("127.0.0.1:0", "127.0.0.1:1234").replace("20ms", "30ms")
        + &public("b");
    let answer = gate.reloaded(&other).await;
    assert_eq!(answer["needs_restart"], json!(["server.workers", "admin.address", "log.format", "pool.main"]));
    assert_eq!(answer["changed"], json!(["server", "route", "auth"]));
    let after = gate.admin_get("/config").await.json();
    for what in ["/server/workers", "/admin/address", "/log/format", "/pool/main"] {
        assert_eq!(after.pointer(what), before.pointer(what), "{what}");
    }
    assert_eq!(gate.get("/b/x").await.status, 200);
    gate.login("demo").await;
}

#[tokio::test]
async fn sign_ins_sign_outs_and_the_embedded_pool_live_on() {
    let folder = tempdir().unwrap();
    let toml = |path: &str, floor: &str| EMBEDDED.replace("20ms", floor) + &route(path, "app", "\"required\"");
    let gate = Portcullis::start_on_file(&toml("/a/*", "20ms"), folder.path()).await;
    let (gone, good) = (gate.login("demo").await, gate.login("demo").await);
    gate.post_json_as("/auth/logout", &gone.access, &json!({})).await;
    // A sign-in that waits for a new password.
    let pool = gate.pool_api("main");
    pool.must(
        "AdminCreateUser",
        &json!({"Username": "new", "TemporaryPassword": "Temporary-1", "MessageAction": "SUPPRESS"}),
    )
    .await;
    let login = gate.post_json("/auth/login", &json!({"username": "new", "password": "Temporary-1"})).await;
    let session = login.json()["session"].as_str().unwrap().to_owned();

    gate.reloaded(&toml("/b/*", "30ms")).await;
    gate.get_as("/b/x", &gone.access).await.expect(401, "token_revoked");
    assert_eq!(gate.get_as("/b/x", &good.access).await.status, 200);
    let answer = json!({"session": session, "new_password": "Different-1"});
    let reply = gate.post_json("/auth/challenge", &answer).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    gate.login("demo").await;
}

#[tokio::test]
async fn embedded_pools_come_and_go() {
    let folder = tempdir().unwrap();
    let gate = Portcullis::start_on_file(&public("a"), folder.path()).await;
    assert_eq!(gate.admin_get("/outbox").await.status, 404);
    let with = EMBEDDED.to_owned() + &route("/b/*", "app", "\"required\"");
    gate.reloaded(&with).await;
    let token = gate.login("demo").await.access;
    assert_eq!(gate.get_as("/b/x", &token).await.status, 200, "its keys were there before it was in force");
    assert_eq!(gate.admin_get("/outbox").await.status, 200);
    gate.reloaded(&public("a")).await;
    assert_eq!(gate.admin_get("/outbox").await.status, 404);
    assert_eq!(gate.post_json("/auth/login", &json!({})).await.status, 404);
}

#[tokio::test]
async fn keys_verified_tokens_and_upstream_connections_are_carried_over() {
    let (pool, upstream, folder) = (FakePool::start().await, Upstream::start().await, tempdir().unwrap());
    let toml = |path: &str, more: &str| {
        pool.toml("main") + "[pool.main.keys]\n" + more + &upstream.toml("app") + &route(path, "app", "\"required\"")
    };
    let gate = Portcullis::start_on_file(&toml("/a/*", ""), folder.path()).await;
    let token = pool.access(json!({}));
    assert_eq!(gate.get_as("/a/x", &token).await.status, 200);
    gate.reloaded(&toml("/b/*", "")).await;
    assert_eq!(gate.get_as("/b/x", &token).await.status, 200);
    assert_eq!(gate.metric("portcullis_token_cache_total{outcome=\"hit\"}").await, 1, "the token was known");
    assert_eq!((pool.endpoint.fetches(), upstream.connections()), (1, 1), "nothing was fetched or opened again");

    // Other settings are no reason to have no keys, although the endpoint is gone by now.
    pool.endpoint.stop().await;
    assert_eq!(gate.reloaded(&toml("/b/*", "stale = \"1h\"\n")).await["changed"], json!(["pool.main"]));
    assert_eq!(gate.get_as("/b/x", &token).await.status, 200);
    let upstream_changed = toml("/b/*", "").replace("[[route]]", "connect = \"1s\"\n[[route]]");
    assert_eq!(gate.reloaded(&upstream_changed).await["changed"], json!(["pool.main", "upstream.app"]));
    assert_eq!(gate.get_as("/b/x", &token).await.status, 200);
    assert_eq!(upstream.connections(), 1, "the server is the same one");
}

#[tokio::test]
async fn a_verified_token_is_judged_by_the_new_rules() {
    let (pool, other, folder) = (FakePool::start().await, FakePool::named("Other").await, tempdir().unwrap());
    let gated = |pools: &str, access: &str| pools.to_owned() + &route("/a/*", "app", access);
    let two_clients = pool.toml("main") + "clients = [\"second\"]\n";
    let gate = Portcullis::start_on_file(&gated(&two_clients, "\"required\""), folder.path()).await;
    let token = pool.access(json!({"client_id": "second", "cognito:groups": ["a"]}));
    let ask = async || gate.get_as("/a/x", &token).await.status;
    assert_eq!(ask().await, 200);
    gate.reloaded(&gated(&two_clients, "{ groups = [\"b\"] }")).await;
    assert_eq!(ask().await, 403, "the route's rule");
    gate.reloaded(&gated(&pool.toml("main"), "\"required\"")).await;
    assert_eq!(ask().await, 401, "the pool's clients");
    gate.reloaded(&gated(&two_clients, "\"required\"")).await;
    assert_eq!(ask().await, 200);
    gate.reloaded(&gated(&other.toml("main"), "\"required\"")).await;
    assert_eq!(ask().await, 401, "another pool of the same name");
    assert_eq!(gate.get_as("/a/x", &other.access(json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_pool_whose_keys_cannot_be_had_does_not_hold_up_the_others() {
    let (pool, dead, folder) = (FakePool::start().await, FakePool::named("Dead").await, tempdir().unwrap());
    dead.endpoint.set(KeyMode::Answer(500, String::new(), Vec::new()));
    let rest = public("a") + &route("/b/*", "app", "\"required\"");
    let gate = Portcullis::start_on_file(&(pool.toml("main") + &rest), folder.path()).await;
    let both = pool.toml("main") + &dead.toml("dead") + "[auth]\npool = \"main\"\n" + &rest;
    gate.reloaded(&both).await;
    assert_eq!(gate.get_as("/b/x", &pool.access(json!({}))).await.status, 200);
    gate.get_as("/b/x", &dead.access(json!({}))).await.expect(503, "keys_unavailable");
    assert_eq!(gate.admin_get("/ready").await.status, 503);
}

/// Waits until the process answers this path with this status.
async fn in_force(process: &Process, path: &str, status: u16) {
    let asked = async || (process.request("GET", path, &[], "").await.status == status).then_some(());
    until(&format!("{status} for {path}"), asked).await;
}

#[tokio::test]
async fn the_process_reloads_by_signal_and_by_itself() {
    let folder = tempdir().unwrap();
    let process = Process::start(folder.path(), &public("a")).await;
    let logged = async |text: &str| {
        until(text, async || process.output().contains(text).then_some(())).await;
    };
    process.rewrite(&public("b"));
    process.signal("HUP");
    in_force(&process, "/b/x", 200).await;
    logged("a new configuration is in force").await;

    // In place, without anybody asking.
    process.rewrite(&public("c"));
    in_force(&process, "/c/x", 200).await;
    process.rewrite("not = \"a key\"\n");
    logged("the configuration stays as it is").await;
    assert_eq!(process.request("GET", "/c/x", &[], "").await.status, 200);
    // As editors do, and as Kubernetes does: a link to a link to a folder that is another one then.
    let file = folder.path().join("portcullis.toml");
    std::fs::write(folder.path().join("new"), process.config(&public("d"))).unwrap();
    std::fs::rename(folder.path().join("new"), &file).unwrap();
    in_force(&process, "/d/x", 200).await;
    let link = |to: &Path, from: &str| {
        std::os::unix::fs::symlink(to, folder.path().join("new")).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join(from)).unwrap();
    };
    for (version, name) in [("one", "e"), ("two", "f")] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("portcullis.toml"), process.config(&public(name))).unwrap();
        link(Path::new(version), "..data");
        if version == "one" {
            link(Path::new("..data/portcullis.toml"), "portcullis.toml");
        }
        in_force(&process, &format!("/{name}/x"), 200).await;
    }
}

#[tokio::test]
async fn a_secret_in_a_file_of_its_own_is_content_too() {
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "one").unwrap();
    let fake = FakePool::start().await;
    let toml = fake.toml("main") + "client_secret = { file = \"secret\" }\n" + &public("a");
    let process = Process::start(folder.path(), &toml).await;
    std::fs::write(folder.path().join("secret"), "seventeen").unwrap();
    let generation = async || {
        let text = process.admin_get("/metrics").await.text();
        text.contains("portcullis_config_generation 2").then_some(())
    };
    until("the second configuration", generation).await;
    until("the log", async || process.output().contains("pool.main").then_some(())).await;
    assert!(!process.output().contains("seventeen"), "{}", process.output());
}

#[tokio::test]
async fn nothing_comes_into_force_while_it_drains() {
    let ((upstream, hold), folder) = (holding().await, tempdir().unwrap());
    let toml = upstream.toml("app") + &public("a");
    let mut process = Process::start(folder.path(), &toml).await;
    let mut busy = Client::connect(process.listener).await;
    busy.send(GET_HELD).await;
    busy.peek(b"half").await;
    process.signal("TERM");
    until("draining", async || (process.admin_get("/ready").await.status == 503).then_some(())).await;
    process.rewrite(&(LISTENER.to_owned() + &toml));
    let reply = process.ask_admin("POST", "/reload").await;
    reply.expect(422, "config_invalid");
    assert!(reply.text().contains("stops"), "{}", reply.text());
    hold.open();
    assert_eq!(busy.read().await.text(), "halfhalf");
    assert!(process.exited().await.success());
}
