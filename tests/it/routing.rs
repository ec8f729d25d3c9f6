//! Which route, which upstream, which server.

use serde_json::json;

use crate::support::{Answer, FakePool, Portcullis, Upstream, route};

/// An upstream that says its own name.
async fn named(name: &'static str) -> Upstream {
    Upstream::scripted(move |_| Answer::ok(name)).await
}

/// A gateway with these routes in front of these upstreams.
async fn in_front_of(upstreams: &[(&str, &Upstream)], routes: &str) -> Portcullis {
    let upstreams: String = upstreams.iter().map(|(name, upstream)| upstream.toml(name)).collect();
    Portcullis::start(&(FakePool::start().await.toml("main") + &upstreams + routes)).await
}

#[tokio::test]
async fn the_best_match_wins_whatever_the_order() {
    let names = ["any", "prefix", "longer", "exact", "method", "wildcard", "host"];
    let mut upstreams = Vec::new();
    for name in names {
        upstreams.push((name, named(name).await));
    }
    let upstreams: Vec<(&str, &Upstream)> = upstreams.iter().map(|(name, upstream)| (*name, upstream)).collect();
    let public =
        |upstream: &str, lines: &str| format!("[[route]]\nupstream = \"{upstream}\"\naccess = \"public\"\n{lines}\n");
    let mut routes = [
        public("any", "path = \"/*\""),
        public("prefix", "path = \"/a/*\""),
        public("longer", "path = \"/a/b/*\""),
        public("exact", "path = \"/a/b/c\""),
        public("method", "path = \"/a/*\"\nmethods = [\"PUT\", \"DELETE\"]"),
        public("wildcard", "path = \"/*\"\nhost = \"*.example.com\""),
        public("host", "path = \"/*\"\nhost = \"app.example.com\""),
    ];
    for _order in 0..2 {
        let gate = in_front_of(&upstreams, &routes.concat()).await;
        for (method, host, path, expected) in [
            ("GET", "gw", "/", "any"),
            ("GET", "gw", "/ab", "any"),
            ("GET", "gw", "/a", "prefix"),
            ("GET", "gw", "/a/", "prefix"),
            ("GET", "gw", "/a/bc", "prefix"),
            ("GET", "gw", "/a/b", "longer"),
            ("GET", "gw", "/a/b/c", "exact"),
            ("GET", "gw", "/a/b/c/", "longer"),
            ("PUT", "gw", "/a/x", "method"),
            ("DELETE", "gw", "/a/b/c", "exact"),
            ("GET", "x.example.com", "/a/b/c", "wildcard"),
            ("GET", "x.y.example.com", "/", "wildcard"),
            ("GET", "example.com", "/", "any"),
            ("GET", "badexample.com", "/", "any"),
            ("GET", "app.example.com", "/a", "host"),
            ("GET", "APP.Example.COM:8080", "/a", "host"),
            ("GET", "app.example.com.", "/a", "host"),
        ] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let reply = gate.raw().await.exchange(request).await;
            assert_eq!(reply.text(), expected, "{method} {host} {path}");
        }
        routes.reverse();
    }
}

#[tokio::test]
async fn host_and_authorization_reach_the_upstream_as_configured() {
    let upstream = Upstream::start().await;
    let address = upstream.address().to_string();
    let pool = FakePool::start().await;
    let bearer = format!("Bearer {}", pool.access(json!({})));
    for (lines, host, authorization) in [
        ("", "gw", None),
        ("host = \"server\"", address.as_str(), None),
        ("host = \"fixed.example\"\nauthorization = \"keep\"", "fixed.example", Some(bearer.as_str())),
    ] {
        let upstream_toml = upstream.toml("app") + lines + "\n";
        let gate = Portcullis::start(&(pool.toml("main") + &upstream_toml + &route("/*", "app", "\"required\""))).await;
        let reply = gate.request("GET", "/x", &[("Authorization", &bearer)], "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = upstream.next_request().await;
        assert_eq!((seen.header("host"), seen.header("authorization")), (Some(host), authorization));
    }
}

#[tokio::test]
async fn requests_are_spread_and_a_dead_server_is_left_out() {
    // It keeps no connection, so that a stopped one is gone at once.
    let one = Upstream::scripted(|_| Answer::ok("one").close()).await;
    let two = named("two").await;
    let servers = format!("[upstream.app]\nservers = [\"http://{}\", \"http://{}\"]\n", one.address(), two.address());
    let toml = FakePool::start().await.toml("main") + &servers + &route("/*", "app", "\"public\"");
    let gate = Portcullis::start(&toml).await;
    for _request in 0..40 {
        assert_eq!(gate.get("/").await.status, 200);
    }
    let (of_one, of_two) = (one.requests().len(), two.requests().len());
    assert!(of_one > 5 && of_two > 5, "{of_one} and {of_two}");
    // A connection that cannot be made has sent nothing: the other server gets the request.
    one.stop().await;
    for _request in 0..40 {
        let reply = gate.get("/").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "two"));
    }
}

#[tokio::test]
async fn the_identity_routes_are_where_the_config_puts_them() {
    let upstream = Upstream::start().await;
    let auth = "[auth]\nprefix = \"/id\"\nhosts = [\"id.example\"]\n";
    let toml =
        FakePool::start().await.toml("main") + auth + &upstream.toml("app") + &route("/app/*", "app", "\"public\"");
    let gate = Portcullis::start(&toml).await;
    let login = async |host: &str, path: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let reply = gate.raw().await.exchange(request).await;
        (reply.status, reply.code())
    };
    let (served, absent) = ((400, "body_invalid".to_owned()), (404, "route_unknown".to_owned()));
    assert_eq!(login("id.example", "/id/login").await, served);
    assert_eq!(login("ID.example.:8080", "/id/login").await, served);
    assert_eq!(login("gw", "/id/login").await, absent);
    assert_eq!(login("id.example", "/auth/login").await, absent);
    assert_eq!(login("id.example", "/id/").await, absent);
    assert_eq!(login("id.example", "/id").await, absent);
    assert_eq!(login("id.example", "/identity/login").await, absent);
    upstream.saw_nothing();
}
