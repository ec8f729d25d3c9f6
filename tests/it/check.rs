//! `/auth/check`: what other proxies are told about the requests that they have.

use serde_json::json;

use crate::support::{FakePool, Portcullis, Reply, Upstream, route};

const TRUSTED: &str = "[server]\nworkers = 1\ntrusted_proxies = [\"127.0.0.1\"]\n";

struct Stage {
    gate: Portcullis,
    pool: FakePool,
    upstream: Upstream,
}

impl Stage {
    async fn set(server: &str) -> Self {
        let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
        let routes = route("/*", "app", "\"required\"")
            + &route("/public/*", "app", "\"public\"")
            + &route("/optional/*", "app", "\"optional\"")
            + &route("/admin/*", "app", "{ groups = [\"admin\"] }")
            + "[[route]]\npath = \"/read\"\nmethods = [\"GET\"]\nupstream = \"app\"\naccess = \"public\"\n"
            + "[[route]]\nhost = \"other.example\"\npath = \"/*\"\nupstream = \"app\"\naccess = \"public\"\n"
            + "[[route]]\npath = \"/few\"\nupstream = \"app\"\naccess = \"public\"\nlimit = { rate = \"1/1h\" }\n"
            + "[[route]]\npath = \"/strip/*\"\nupstream = \"app\"\naccess = \"public\"\nstrip_prefix = \"/strip\"\n";
        let toml = server.to_owned() + &pool.toml("main") + &upstream.toml("app") + &routes;
        Self { gate: Portcullis::start(&toml).await, pool, upstream }
    }

    /// What Traefik and Caddy send.
    async fn ask(&self, method: &str, target: &str, more: &[(&str, &str)]) -> Reply {
        let mut headers = vec![
            ("X-Forwarded-Method", method),
            ("X-Forwarded-Uri", target),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "app.example"),
        ];
        headers.extend(more);
        self.gate.request("GET", "/auth/check", &headers, "").await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.upstream.saw_nothing();
        }
    }
}

#[tokio::test]
async fn the_decision_is_the_one_that_a_request_would_meet() {
    let stage = Stage::set(TRUSTED).await;
    let staff = format!("Bearer {}", stage.pool.access(json!({ "cognito:groups": ["staff"] })));
    let admin = format!("Bearer {}", stage.pool.access(json!({ "cognito:groups": ["admin"] })));
    for (method, target, token, status, code) in [
        ("GET", "/x", "", 401, "token_missing"),
        ("GET", "/x", "Bearer not.a.token", 401, "token_invalid"),
        ("GET", "/x?q=/public/", &*staff, 200, ""),
        ("DELETE", "/admin/x", &staff, 403, "access_denied"),
        ("DELETE", "/%61dmin/x", &staff, 403, "access_denied"),
        ("DELETE", "/admin/x", &admin, 200, ""),
        ("GET", "/public/x", "", 200, ""),
        ("GET", "/public/../admin/x", &admin, 403, "access_denied"),
        ("GET", "/public%2f..%2fadmin/x", &admin, 403, "access_denied"),
        ("GET", "/read", "", 200, ""),
        ("POST", "/read", "", 401, "token_missing"),
        ("GET", "/auth/login", &admin, 403, "access_denied"),
        ("GET", "/auth/check", &admin, 403, "access_denied"),
        ("GET", "/strip/public/x", "", 200, ""),
        ("GET", "/strip/admin/x", &admin, 403, "access_denied"),
        ("GET", "/few", "", 200, ""),
        ("GET", "/few", "", 429, "rate_limited"),
        ("get", "/public/x", "", 403, "access_denied"),
        ("GET", "/public/#/../admin", "", 403, "access_denied"),
    ] {
        let authorization = [("Authorization", token)];
        let reply = stage.ask(method, target, if token.is_empty() { &[] } else { &authorization }).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{method} {target}");
    }
    let line = stage.gate.access_line("/auth/check").await;
    assert_eq!(line["route"], "/auth/check");
    assert_eq!(stage.gate.metric("portcullis_requests_total{route=\"/auth/check\",code=\"429\"}").await, 1);
}

#[tokio::test]
async fn every_identity_header_is_in_the_answer_so_that_none_of_a_client_is_left() {
    let stage = Stage::set(TRUSTED).await;
    let token = stage.pool.access(json!({ "sub": "ada", "cognito:groups": ["admin", "staff"], "email": null }));
    let authorization = format!("Bearer {token}");
    let forged = [("Authorization", &*authorization), ("X-Auth-Subject", "root"), ("X-Auth-Email", "root@example.com")];
    let reply = stage.ask("GET", "/x", &forged).await;
    let header = |name: &str| reply.header(name).map(str::to_owned);
    assert_eq!(header("x-auth-subject").as_deref(), Some("ada"));
    assert_eq!(header("x-auth-groups").as_deref(), Some("admin,staff"));
    assert_eq!(header("x-auth-email").as_deref(), Some(""));
    let reply = stage.ask("GET", "/public/x", &forged).await;
    for name in ["subject", "username", "email", "groups", "scopes", "pool", "client"] {
        assert_eq!(reply.header(&format!("x-auth-{name}")), Some(""), "{name}");
    }
}

#[tokio::test]
async fn nginx_and_envoy_ask_in_their_own_ways() {
    let stage = Stage::set(TRUSTED).await;
    let check = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        stage.gate.request(method, path, headers, "").await.status
    };
    let nginx = |url: &'static str, method: &'static str| [("X-Original-URL", url), ("X-Original-Method", method)];
    assert_eq!(check("GET", "/auth/check", &nginx("http://app.example/public/x", "GET")).await, 200);
    assert_eq!(check("GET", "/auth/check", &nginx("http://app.example/read", "POST")).await, 401);
    assert_eq!(check("GET", "/auth/check", &nginx("http://other.example/x", "POST")).await, 200, "its host counts");
    assert_eq!(check("GET", "/auth/check", &nginx("/public/x", "GET")).await, 200);
    assert_eq!(check("GET", "/auth/check/public/x", &[]).await, 200);
    assert_eq!(check("POST", "/auth/check/read?x", &[]).await, 401);
    assert_eq!(check("GET", "/auth/check/", &[]).await, 401);
    let contradiction = [
        nginx("/public/x", "GET")[0],
        nginx("/public/x", "GET")[1],
        ("X-Forwarded-Uri", "/read"),
        ("X-Forwarded-Method", "GET"),
    ];
    assert_eq!(check("GET", "/auth/check", &contradiction).await, 403);
    assert_eq!(stage.gate.access_line("/auth/check").await["code"], serde_json::Value::Null);
}

#[tokio::test]
async fn only_trusted_proxies_may_ask() {
    let stage = Stage::set("").await;
    for target in ["/public/x", "/x"] {
        stage.ask("GET", target, &[]).await.expect(403, "access_denied");
    }
    assert_eq!(stage.gate.access_line("/auth/check").await["reason"], "untrusted_proxy");
    stage.gate.get("/auth/check/public/x").await.expect(403, "access_denied");
    stage.gate.get("/auth/checks").await.expect(404, "route_unknown");
    let stage = Stage::set(TRUSTED).await;
    stage.gate.get("/auth/check").await.expect(400, "request_malformed");
    let no_method = [("X-Forwarded-Uri", "/public/x")];
    stage.gate.request("GET", "/auth/check", &no_method, "").await.expect(400, "request_malformed");
}

#[tokio::test]
async fn a_refusal_has_its_status_also_when_the_question_looks_like_grpc() {
    let stage = Stage::set(TRUSTED).await;
    for (path, uri) in [("/auth/check", "/admin/x"), ("/auth/check/admin/x", "")] {
        let mut headers = vec![("Content-Type", "application/grpc"), ("X-Forwarded-Host", "app.example")];
        if !uri.is_empty() {
            headers.extend([("X-Forwarded-Method", "POST"), ("X-Forwarded-Uri", uri)]);
        }
        let reply = stage.gate.request("POST", path, &headers, "").await;
        reply.expect(401, "token_missing");
    }
    let headers = [("Content-Type", "application/grpc+proto"), ("X-Forwarded-Method", "POST")];
    assert_eq!(stage.gate.request("POST", "/auth/check", &headers, "").await.status, 400, "no X-Forwarded-Uri");
}
