//! The real binary: what it prints, how it ends, what survives it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use serde_json::json;
use tempfile::tempdir;

use crate::support::process::{config_at_free_ports, free_port};
use crate::support::{Answer, Client, FakePool, Gate, Process, Upstream, route, until};

const POOL_ID: &str = "eu-west-1_Embedded1";

/// An embedded pool on disk, at this port, with everything but `/public/*` behind a token.
fn own_pool(port: u16) -> String {
    format!(
        "[pool.main]\nid = \"{POOL_ID}\"\nclient_id = \"4hrtn0example0client0id000\"\n[pool.main.embedded]\n\
         address = \"127.0.0.1:{port}\"\ndata = \"pool.redb\"\n\
         users = [{{ username = \"demo\", password = \"Portcullis-1\", email = \"demo@example.com\" }}]\n\
         [auth]\nfloor = \"20ms\"\n[log]\nlevel = \"debug\"\n"
    ) + &route("/*", "app", "\"required\"")
        + &route("/public/*", "app", "\"public\"")
}

/// A whole config file in `folder`, not started.
fn write_config(folder: &Path, toml: &str) {
    std::fs::write(folder.join("portcullis.toml"), config_at_free_ports(toml)).unwrap();
}

#[tokio::test]
async fn exit_codes_tell_usage_config_and_binding_apart() {
    let folder = tempdir().unwrap();
    let usage = Process::run(folder.path(), &["--no-such-flag"]).await;
    assert_eq!(usage.code, Some(2), "{usage:?}");
    let help = Process::run(folder.path(), &["--help"]).await;
    assert_eq!(help.code, Some(0), "{help:?}");
    for code in ["0", "2", "3", "4", "5", "10"] {
        assert!(help.stdout.contains(code), "--help names exit code {code}: {}", help.stdout);
    }
    let absent = Process::run(folder.path(), &["run", "--config", "absent.toml"]).await;
    assert_eq!(absent.code, Some(3), "{absent:?}");
    assert!(absent.stderr.contains("absent.toml"), "{absent:?}");
    write_config(folder.path(), &(own_pool(free_port()) + "[[route]]\npath = \"/x\"\nupstrem = \"app\"\naccess = 7\n"));
    let broken = Process::run(folder.path(), &["run", "--config", "portcullis.toml"]).await;
    assert_eq!(broken.code, Some(3), "{broken:?}");
    assert!(broken.stderr.contains("upstrem") && broken.stderr.contains("portcullis.toml:"), "{broken:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = format!("[[listener]]\naddress = \"{}\"\n", taken.local_addr().unwrap());
    write_config(folder.path(), &(listener + &own_pool(free_port())));
    let unbound = Process::run(folder.path(), &["run", "--config", "portcullis.toml"]).await;
    assert_eq!(unbound.code, Some(4), "{unbound:?}");
}

#[tokio::test]
async fn check_reports_every_mistake_with_its_place() {
    let folder = tempdir().unwrap();
    let literal =
        own_pool(free_port()).replace("[pool.main.embedded]", "client_secret = \"literal\"\n[pool.main.embedded]");
    write_config(folder.path(), &literal);
    let fine = Process::run(folder.path(), &["check", "--config", "portcullis.toml"]).await;
    assert_eq!(fine.code, Some(0), "{fine:?}");
    let strict = Process::run(folder.path(), &["check", "--strict", "--config", "portcullis.toml"]).await;
    assert_eq!(strict.code, Some(3), "a literal secret is a warning, and strict: {strict:?}");
    write_config(folder.path(), &(own_pool(free_port()) + &route("/y", "ap", "\"publc\"")));
    let broken = Process::run(folder.path(), &["check", "--config", "portcullis.toml"]).await;
    assert_eq!(broken.code, Some(3), "{broken:?}");
    for hint in ["`app`", "\"public\""] {
        assert!(broken.stderr.contains(hint), "did you mean {hint}: {}", broken.stderr);
    }
    let places = broken.stderr.lines().filter(|line| line.contains("portcullis.toml:")).count();
    assert_eq!(places, 2, "{}", broken.stderr);
}

#[tokio::test]
async fn explain_says_which_rule_decides() {
    let folder = tempdir().unwrap();
    let (port, admin) = (free_port(), route("/admin/*", "app", "{ groups = [\"admin\"] }"));
    write_config(folder.path(), &(own_pool(port) + &admin));
    let explain = async |arguments: &[&str]| {
        let finished =
            Process::run(folder.path(), &[&["explain", "--config", "portcullis.toml"], arguments].concat()).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.stdout
    };
    let public = explain(&["GET", "http://gw/public/x"]).await;
    assert!(public.contains("/public/*") && public.contains("public"), "{public}");
    let refused = explain(&["GET", "http://gw/admin/x"]).await;
    assert!(refused.contains("/admin/*") && refused.contains("token_missing"), "{refused}");
    let ambiguous = explain(&["GET", "http://gw/public/%2e%2e/admin"]).await;
    assert!(ambiguous.contains("path_ambiguous"), "{ambiguous}");
    let now = portcullis::clock::Clock::System.now().seconds();
    let claims = json!({
        "iss": format!("http://127.0.0.1:{port}/{POOL_ID}"), "sub": "s", "client_id": "4hrtn0example0client0id000", "username": "sam",
        "token_use": "access", "iat": now, "exp": now + 600, "cognito:groups": ["users"],
    });
    std::fs::write(folder.path().join("claims.json"), claims.to_string()).unwrap();
    let denied = explain(&["GET", "http://gw/admin/x", "--claims", "claims.json"]).await;
    assert!(denied.contains("access_denied") && denied.contains("groups"), "{denied}");
}

#[tokio::test]
async fn health_says_whether_it_is_ready() {
    let folder = tempdir().unwrap();
    let mut process = Process::start(folder.path(), &own_pool(free_port())).await;
    let ready = Process::run(folder.path(), &["health", "--config", "portcullis.toml"]).await;
    assert_eq!(ready.code, Some(0), "{ready:?}");
    process.signal("TERM");
    assert!(process.exited().await.success());
    let gone = Process::run(folder.path(), &["health", "--config", "portcullis.toml"]).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
}

#[tokio::test]
async fn the_banner_says_what_to_do_next_and_the_log_says_no_secrets() {
    let folder = tempdir().unwrap();
    let process = Process::start(folder.path(), &own_pool(free_port())).await;
    let shown = async || {
        let output = process.output();
        output.contains(&process.listener.to_string()).then_some(output)
    };
    let banner = until("the banner", shown).await;
    for part in [
        process.listener.to_string(),
        process.admin.to_string(),
        POOL_ID.to_owned(),
        "demo".to_owned(),
        "curl".to_owned(),
    ] {
        assert!(banner.contains(&part), "{part} in the banner: {banner}");
    }
    let login = process.post_json("/auth/login", &json!({"username": "demo", "password": "Portcullis-1"})).await;
    let tokens = crate::support::Tokens::of(&login);
    let bearer = format!("Bearer {}", tokens.access);
    assert_eq!(
        process
            .request("GET", "/x?secret-query", &[("Authorization", &bearer), ("Cookie", "secret-cookie")], "")
            .await
            .status,
        200
    );
    process.post_json("/auth/login", &json!({"username": "demo", "password": "Wrong-password-1"})).await;
    process
        .post_json(
            "/auth/register",
            &json!({"username": "sam", "password": "Sams-password-1", "email": "s@example.com"}),
        )
        .await;
    let code = process.code_for("sam").await;
    process.post_json("/auth/confirm", &json!({"username": "sam", "code": code})).await.expect(200, "");
    process.post_json("/auth/refresh", &json!({"refresh_token": tokens.refresh})).await;
    let logged = async || {
        let output = process.output();
        output.contains("/auth/refresh").then_some(output)
    };
    let log = until("the last access line", logged).await.replace(&banner, "");
    for secret in [
        "Portcullis-1",
        "Wrong-password-1",
        "Sams-password-1",
        "secret-query",
        "secret-cookie",
        &code,
        &tokens.access,
        &tokens.refresh,
        &tokens.id,
    ] {
        assert!(!log.contains(secret), "{secret} in the log: {log}");
    }
}

/// A gateway in front of an upstream that answers when the gate opens.
async fn in_front_of_a_slow_one(folder: &Path, drain: &str) -> (Process, Upstream, Gate) {
    let (gate, pool) = (Gate::new(), FakePool::start().await);
    let upstream = Upstream::scripted({
        let gate = gate.clone();
        move |_| Answer::nothing().wait(&gate).then("HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: 4\r\n\r\ndone")
    })
    .await;
    let server = format!("[server]\nworkers = 1\ndrain = \"{drain}\"\n");
    let toml = server + &pool.toml("main") + &upstream.toml("app") + &route("/*", "app", "\"public\"");
    let process = Process::start(folder, &toml).await;
    (process, upstream, gate)
}

const GET: &str = "GET /slow HTTP/1.1\r\nHost: gw\r\n\r\n";

#[tokio::test]
async fn the_first_signal_lets_open_requests_finish() {
    for signal in ["TERM", "INT"] {
        let folder = tempdir().unwrap();
        let (mut process, upstream, gate) = in_front_of_a_slow_one(folder.path(), "30s").await;
        let (mut idle, mut busy) = (Client::connect(process.listener).await, Client::connect(process.listener).await);
        busy.send(GET).await;
        upstream.heads(1).await;
        process.signal(signal);
        idle.closed().await;
        let refused = async || tokio::net::TcpStream::connect(process.listener).await.is_err().then_some(());
        until("refused connections", refused).await;
        gate.open();
        let reply = busy.read().await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "done"));
        assert!(reply.closes(), "it says that nothing more is taken");
        busy.closed().await;
        assert_eq!(process.exited().await.code(), Some(0), "{}", process.output());
    }
}

#[tokio::test]
async fn a_drain_that_runs_out_of_time_exits_10() {
    let folder = tempdir().unwrap();
    let (mut process, upstream, _never) = in_front_of_a_slow_one(folder.path(), "300ms").await;
    let mut busy = Client::connect(process.listener).await;
    busy.send(GET).await;
    upstream.heads(1).await;
    process.signal("TERM");
    assert_eq!(process.exited().await.code(), Some(10), "{}", process.output());
    upstream.closed(0).await;
}

#[tokio::test]
async fn the_second_signal_hurries() {
    let folder = tempdir().unwrap();
    let (mut process, upstream, _never) = in_front_of_a_slow_one(folder.path(), "10m").await;
    let (mut idle, mut busy) = (Client::connect(process.listener).await, Client::connect(process.listener).await);
    busy.send(GET).await;
    upstream.heads(1).await;
    process.signal("TERM");
    idle.closed().await;
    process.signal("TERM");
    assert_eq!(process.exited().await.code(), Some(10), "{}", process.output());
}

#[tokio::test]
async fn users_keys_and_codes_survive_stop_and_start() {
    let folder = tempdir().unwrap();
    let toml = own_pool(free_port());
    let register = json!({"username": "sam", "password": "Portcullis-1", "email": "sam@example.com"});
    let login = json!({"username": "demo", "password": "Portcullis-1"});
    let mut first = Process::start(folder.path(), &toml).await;
    assert_eq!(first.post_json("/auth/register", &register).await.status, 201);
    let tokens = crate::support::Tokens::of(&first.post_json("/auth/login", &login).await);
    let code = first.code_for("sam").await;
    first.signal("TERM");
    assert!(first.exited().await.success());
    let second = Process::start(folder.path(), &toml).await;
    let bearer = format!("Bearer {}", tokens.access);
    let reply = second.request("GET", "/x", &[("Authorization", &bearer)], "").await;
    assert_eq!(reply.status, 200, "the keys are the same: {}", reply.text());
    assert_eq!(second.code_for("sam").await, code, "the outbox is the same");
    second.post_json("/auth/confirm", &json!({"username": "sam", "code": code})).await.expect(200, "");
    let sam = json!({"username": "sam", "password": "Portcullis-1"});
    assert_eq!(second.post_json("/auth/login", &sam).await.status, 200);
    let refreshed = second.post_json("/auth/refresh", &json!({"refresh_token": tokens.refresh})).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempdir().unwrap();
    let (port, acknowledged) = (free_port(), Mutex::new(BTreeMap::new()));
    let toml = own_pool(port);
    for round in 0..2 {
        let mut process = Process::start(folder.path(), &toml).await;
        let pool = process.pool_api(port, POOL_ID);
        let known: BTreeMap<String, String> = acknowledged.lock().unwrap().clone();
        for username in known.keys() {
            pool.must("AdminGetUser", &json!({"Username": username})).await;
        }
        let login = json!({"username": "demo", "password": "Portcullis-1"});
        let token = crate::support::Tokens::of(&process.post_json("/auth/login", &login).await).access;
        if let Some(earlier) = known.values().next() {
            let bearer = format!("Bearer {earlier}");
            let reply = process.request("GET", "/x", &[("Authorization", &bearer)], "").await;
            assert_eq!(reply.status, 200, "the keys survived: {}", reply.text());
        }
        // Two writers go on until the process is gone; it is killed after the tenth acknowledgement.
        let (written, mut seen) = tokio::sync::watch::channel(0);
        let write = async |writer: usize| {
            for n in 0.. {
                let username = format!("user-{round}-{writer}-{n}");
                let user = json!({"Username": username, "MessageAction": "SUPPRESS"});
                let Some((200, _)) = pool.try_call("AdminCreateUser", &user).await else { break };
                acknowledged.lock().unwrap().insert(username, token.clone());
                written.send_modify(|count| *count += 1);
            }
        };
        let kill = async {
            assert!(seen.wait_for(|count| *count >= 10).await.is_ok());
            process.signal("KILL");
        };
        tokio::join!(write(0), write(1), kill);
        assert!(!process.exited().await.success());
    }
    let process = Process::start(folder.path(), &toml).await;
    let pool = process.pool_api(port, POOL_ID);
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() >= 20);
    for username in acknowledged.keys() {
        pool.must("AdminGetUser", &json!({"Username": username})).await;
    }
}

#[tokio::test]
async fn the_pool_is_administered_while_it_runs_and_while_it_does_not() {
    let folder = tempdir().unwrap();
    let toml = own_pool(free_port());
    let pool = async |arguments: &[&str]| {
        let arguments = [&["pool", "--config", "portcullis.toml"], arguments].concat();
        let finished = Process::run(folder.path(), &arguments).await;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout
    };
    let mut process = Process::start(folder.path(), &toml).await;
    let login = async |process: &Process, username: &str| {
        let reply = process.post_json("/auth/login", &json!({"username": username, "password": "Portcullis-1"})).await;
        crate::support::Tokens::of(&reply).access
    };
    let before = login(&process, "demo").await;
    pool(&["add-user", "ann", "--email", "ann@example.com", "--password", "Portcullis-1"]).await;
    pool(&["rotate-keys"]).await;
    for token in [before, login(&process, "ann").await] {
        let bearer = format!("Bearer {token}");
        let reply = process.request("GET", "/x", &[("Authorization", &bearer)], "").await;
        assert_eq!(reply.status, 200, "before and after a rotation: {}", reply.text());
    }
    process.signal("TERM");
    assert!(process.exited().await.success());
    pool(&["add-user", "bob", "--password", "Portcullis-1"]).await;
    let users = pool(&["users"]).await;
    assert!(["demo", "ann", "bob"].iter().all(|user| users.contains(user)), "{users}");
    login(&Process::start(folder.path(), &toml).await, "bob").await;
}

#[tokio::test]
async fn it_takes_as_many_open_files_as_it_may_and_says_when_they_are_too_few() {
    let folder = tempdir().unwrap();
    let toml = own_pool(free_port());
    let enough = toml.clone() + "[server]\ndrain = \"2s\"\n[server.limits]\nconnections = 100\n";
    let mut process = Process::start_after(folder.path(), &enough, "ulimit -S -n 300 && ulimit -H -n 512").await;
    assert_eq!(process.open_files(), ("512".to_owned(), "512".to_owned()));
    let output = process.output();
    assert!(output.contains("open files") && output.contains("300") && output.contains("512"), "{output}");
    assert!(!output.contains("too low"), "{output}");
    process.signal("TERM");
    process.exited().await;

    let process = Process::start_after(folder.path(), &toml, "ulimit -n 512").await;
    let output = process.output();
    let line = output.lines().find(|line| line.contains("hard limit on open files is too low")).unwrap_or_default();
    assert!(line.contains("512") && line.contains("40256") && line.contains("20000"), "{output}");
}

#[tokio::test]
async fn the_pool_can_be_served_without_the_gateway() {
    let (folder, port) = (tempdir().unwrap(), free_port());
    let mut process = Process::serve_pool(folder.path(), &own_pool(port), port, POOL_ID).await;
    let users = Process::run(folder.path(), &["pool", "users", "--config", "portcullis.toml"]).await;
    assert!(users.code == Some(0) && users.stdout.contains("demo"), "it administers the running one: {users:?}");
    process.signal("TERM");
    assert_eq!(process.exited().await.code(), Some(0), "{}", process.output());
    assert!(process.output().contains(POOL_ID), "{}", process.output());
}
