//! What a route changes on the way: the path, headers, and how long it may all take.

use crate::support::{Answer, FakePool, Gate, Portcullis, Upstream};

/// A public route to `upstream` with these further keys.
async fn gate(upstream: &Upstream, path: &str, keys: &str) -> Portcullis {
    let route = format!("[[route]]\npath = \"{path}\"\nupstream = \"app\"\naccess = \"public\"\n{keys}\n");
    Portcullis::start(&(upstream.toml("app") + &route)).await
}

#[tokio::test]
async fn paths_are_rewritten_and_queries_are_not() {
    for (path, keys, sent, seen) in [
        ("/api/*", "strip_prefix = \"/api\"", "/api/a/b?c=/api", "/a/b?c=/api"),
        ("/api/*", "strip_prefix = \"/api\"", "/api", "/"),
        ("/api/*", "strip_prefix = \"/api\"", "/api?x", "/?x"),
        ("/api/*", "strip_prefix = \"/api\"\nrewrite = \"/v1/*\"", "/api/a%c3%b6", "/v1/a%C3%B6"),
        ("/api/*", "rewrite = \"/v1/*\"", "/api/a/", "/v1/a/"),
        ("/api/x/*", "strip_prefix = \"/api\"", "/api/x/y", "/x/y"),
        ("/*", "rewrite = \"/v1/*\"", "/", "/v1/"),
        ("/*", "rewrite = \"/fixed\"", "/whatever?q", "/fixed?q"),
        ("/a", "rewrite = \"/b\"", "/a", "/b"),
    ] {
        let upstream = Upstream::start().await;
        assert_eq!(gate(&upstream, path, keys).await.get(sent).await.status, 200, "{sent}");
        assert_eq!(upstream.next_request().await.target, seen, "{path} {keys}");
    }
}

#[tokio::test]
async fn a_rewritten_path_that_belongs_to_another_route_needs_both_rules() {
    let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
    let other = upstream.toml("elsewhere");
    let routes = r#"
[[route]]
path = "/any/*"
upstream = "app"
strip_prefix = "/any"
[[route]]
path = "/admin/*"
upstream = "app"
access = { groups = ["admin"] }
[[route]]
path = "/elsewhere/*"
upstream = "elsewhere"
access = "public"
strip_prefix = "/elsewhere"
"#;
    let gate = Portcullis::start(&(pool.toml("main") + &upstream.toml("app") + &other + routes)).await;
    let groups = |groups: &[&str]| pool.access(serde_json::json!({ "cognito:groups": groups }));
    gate.get_as("/any/admin/x", &groups(&["staff"])).await.expect(403, "access_denied");
    assert_eq!(gate.access_line("/any/admin/x").await["reason"], "rewrite");
    upstream.saw_nothing();
    assert_eq!(gate.get_as("/any/admin/x", &groups(&["admin"])).await.status, 200);
    assert_eq!(gate.get_as("/any/other", &groups(&["staff"])).await.status, 200);
    assert_eq!(gate.get("/elsewhere/admin/x").await.status, 200, "another upstream has other paths");
}

#[tokio::test]
async fn headers_are_edited_in_both_directions() {
    let upstream = Upstream::scripted(|_| {
        Answer::with("content-length: 0\r\nServer: old\r\nX-Keep: 1\r\nX-Frame-Options: A\r\n", "")
    })
    .await;
    let keys = r#"
request_headers = { set = { "X-Env" = "prod", "Authorization" = "Basic b3VyczpzZWNyZXQ=" }, remove = ["Cookie", "Accept-Language"] }
response_headers = { set = { "X-Frame-Options" = "DENY" }, remove = ["Server"] }
"#;
    let gate = gate(&upstream, "/*", keys).await;
    let sent = [
        ("Cookie", "a=b"),
        ("Cookie", "c=d"),
        ("X-Env", "test"),
        ("X-Env", "test"),
        ("Authorization", "Bearer theirs"),
        // What the client nominates is the client's own line, never what the route sets.
        ("Connection", "X-Env"),
        ("X-Keep", "1"),
    ];
    let reply = gate.request("GET", "/", &sent, "").await;
    let seen = upstream.next_request().await;
    assert_eq!((seen.header("x-env"), seen.header("cookie"), seen.header("x-keep")), (Some("prod"), None, Some("1")));
    assert_eq!(seen.header("authorization"), Some("Basic b3VyczpzZWNyZXQ="));
    assert_eq!((reply.header("server"), reply.header("x-keep")), (None, Some("1")));
    assert_eq!(reply.header("x-frame-options"), Some("DENY"));
    let shown = gate.admin_get("/config").await.text();
    assert!(shown.contains("x-env") && !shown.contains("b3Vyczpz"), "{shown}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_a_504() {
    let upstream = Upstream::scripted(|_| Answer::nothing()).await;
    let gate = gate(&upstream, "/*", "timeout = \"50ms\"").await;
    let reply = gate.get("/x").await;
    reply.expect(504, "upstream_timeout");
    upstream.closed(0).await;
    assert_eq!(gate.access_line("/x").await["reason"], "route_timeout");
}

#[tokio::test]
async fn an_answer_under_way_is_cut() {
    let (opened, never) = (Gate::new(), Gate::new());
    let script = {
        let opened = opened.clone();
        move |_: &crate::support::Seen| {
            Answer::with("transfer-encoding: chunked\r\n", "3\r\none\r\n")
                .wait(&opened)
                .then("3\r\ntwo\r\n")
                .wait(&never)
        }
    };
    let upstream = Upstream::scripted(script).await;
    let gate = gate(&upstream, "/*", "timeout = \"300ms\"").await;
    let mut client = gate.raw().await;
    client.send("GET /x HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    client.peek(b"one").await;
    opened.open();
    client.peek(b"two").await;
    let cut = client.next("GET").await.expect_err("no end");
    assert!(!cut.received.ends_with(b"0\r\n\r\n"), "a client must not take it for the whole");
    upstream.closed(0).await;
    let line = gate.access_line("/x").await;
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"the route's timeout is over".into()));
}

#[tokio::test]
async fn in_time_is_in_time() {
    let upstream = Upstream::start().await;
    let gate = gate(&upstream, "/*", "timeout = \"1h\"").await;
    let mut client = gate.raw().await;
    for _ in 0..3 {
        let reply = client.exchange("GET /x HTTP/1.1\r\nHost: gw\r\n\r\n").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "upstream saw GET /x"));
    }
    assert_eq!(upstream.connections(), 1, "the connection is kept");
}
