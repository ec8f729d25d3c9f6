//! Pages of other origins at the identity routes.

use serde_json::json;

use super::with_own_pool;
use crate::support::{Portcullis, Reply};

/// The password of `demo`.
const PASSWORD: &str = "Portcullis-1";
const APP: &str = "https://app.example.com";

async fn gate() -> Portcullis {
    with_own_pool("cors = { origins = [\"https://app.example.com\", \"http://localhost:5173\"] }\n").await
}

async fn login(gate: &Portcullis, origin: &str, password: &str) -> Reply {
    let headers = [("Content-Type", "application/json"), ("Origin", origin)];
    let body = json!({"username": "demo", "password": password}).to_string();
    gate.request("POST", "/auth/login", &headers, &body).await
}

async fn preflight(gate: &Portcullis, path: &str, origin: &str) -> Reply {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ];
    gate.request("OPTIONS", path, &headers, "").await
}

#[tokio::test]
async fn a_listed_origin_may_ask_and_read_answers_and_refusals() {
    let gate = gate().await;
    for origin in [APP, "http://localhost:5173"] {
        let reply = preflight(&gate, "/auth/login", origin).await;
        assert_eq!(reply.status, 204, "without a token");
        assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
        assert_eq!(reply.header("access-control-allow-headers").map(|it| it.contains("Authorization")), Some(true));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
        assert_eq!(reply.header("vary"), Some("Origin"));
        for (password, status) in [(PASSWORD, 200), ("Wrong-1843", 401)] {
            let reply = login(&gate, origin, password).await;
            assert_eq!(reply.status, status);
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin), "{status}");
            assert_eq!(reply.header("vary"), Some("Origin"));
        }
    }
}

#[tokio::test]
async fn any_other_origin_is_refused_and_may_not_read_why() {
    let gate = gate().await;
    for origin in ["https://evil.example", "null", "http://app.example.com", "https://app.example.com.evil.example"] {
        for reply in [login(&gate, origin, PASSWORD).await, preflight(&gate, "/auth/login", origin).await] {
            reply.expect(403, "origin_denied");
            assert_eq!(reply.header("access-control-allow-origin"), None);
        }
    }
}

#[tokio::test]
async fn pages_of_the_gateway_and_programs_are_no_other_origin() {
    let gate = gate().await;
    let own = login(&gate, "https://gw", PASSWORD).await;
    assert_eq!((own.status, own.header("access-control-allow-origin")), (200, None));
    let program = gate.post_json("/auth/login", &json!({"username": "demo", "password": PASSWORD})).await;
    assert_eq!((program.status, program.header("vary")), (200, Some("Origin")));
}

#[tokio::test]
async fn only_the_identity_routes_have_it() {
    let gate = gate().await;
    preflight(&gate, "/x", APP).await.expect(401, "token_missing");
    let without = with_own_pool("").await;
    preflight(&without, "/auth/login", APP).await.expect(405, "method_not_allowed");
    let reply = login(&without, APP, PASSWORD).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin"), reply.header("vary")), (200, None, None));
}
