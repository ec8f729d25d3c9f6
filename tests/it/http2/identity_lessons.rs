//! The security lessons about who is calling, over HTTP/2; see `lessons`.

use serde_json::{Value, json};

use super::lessons::{Stage, get_fields};
use crate::support::KeyMode;
use crate::support::h2::*;

impl Stage {
    /// A GET of a protected path by the holder of a token with these claims.
    async fn send_as(&self, path: &str, claims: Value, more: &[(&str, &str)]) -> Outcome {
        let token = format!("Bearer {}", self.pool.access(claims));
        self.send(&get_fields(path, &[&[("authorization", token.as_str())], more].concat())).await
    }
}

#[tokio::test]
async fn lesson_17_a_claim_is_a_whole_header_or_none() {
    let stage = Stage::set().await;
    for claims in [
        json!({"username": "a\r\nX-Auth-Groups: root"}),
        json!({"username": "a\u{0}b"}),
        json!({"username": "a\u{7f}b"}),
        json!({"cognito:groups": ["fine", "a\r\n"]}),
        json!({"cognito:groups": ["a,admin"]}),
    ] {
        let outcome = stage.send_as("/app/a", claims.clone(), &[]).await;
        assert_eq!(outcome.status(), 403, "{claims}");
        assert!(outcome.body().contains("claim_unrepresentable"), "{claims}");
    }
    stage.upstream.saw_nothing();
    let claims = json!({"username": "J\u{f6}rg", "cognito:groups": ["a", "b c"]});
    assert_eq!(stage.send_as("/app/a", claims, &[]).await.status(), 200);
    let seen = stage.upstream.next_request().await;
    assert_eq!(seen.header("x-auth-username"), Some("J%C3%B6rg"));
    assert_eq!(seen.header("x-auth-groups"), Some("a,b c"));
}

#[tokio::test]
async fn lesson_18_the_client_address_is_the_peers_unless_a_trusted_proxy_says_otherwise() {
    let said =
        [("x-forwarded-for", "1.1.1.1, 203.0.113.9"), ("x-real-ip", "203.0.113.9"), ("forwarded", "for=1.1.1.1")];
    let stage = Stage::set().await;
    assert_eq!(stage.send(&get_fields("/public/a", &said)).await.status(), 200);
    let seen = stage.upstream.next_request().await;
    assert_eq!((seen.header("x-forwarded-for"), seen.header("x-real-ip")), (Some("127.0.0.1"), Some("127.0.0.1")));
    assert!(!seen.text().contains("1.1.1.1"), "{}", seen.text());
    assert_eq!(stage.gate.access_line("/public/a").await["client"], "127.0.0.1");

    let trusting = "[server]\nworkers = 1\ndrain = \"2s\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let stage = Stage::with(trusting).await;
    for (path, line, client) in [
        ("/public/b", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("/public/c", "203.0.113.9, a", "127.0.0.1"),
        ("/public/d", "a", "127.0.0.1"),
    ] {
        assert_eq!(stage.send(&get_fields(path, &[("x-forwarded-for", line)])).await.status(), 200);
        assert_eq!(stage.upstream.next_request().await.header("x-real-ip"), Some(client), "{line}");
        assert_eq!(stage.gate.access_line(path).await["client"], client, "{line}");
    }
    stage.refuses_token("/app/a", &[("x-forwarded-for", "a")]).await;
}

impl Stage {
    /// A bad token must be refused, whatever else is said; nothing further may reach the upstream.
    async fn refuses_token(&self, path: &str, more: &[(&str, &str)]) {
        let before = self.upstream.requests().len();
        let token = format!("Bearer {}x", self.pool.access(json!({})));
        let fields = [&[("authorization", token.as_str())], more].concat();
        assert_eq!(self.send(&get_fields(path, &fields)).await.status(), 401, "{more:?}");
        assert_eq!(self.upstream.requests().len(), before);
    }
}

#[tokio::test]
async fn lesson_19_identity_can_be_had_signed() {
    let stage = Stage::with("[upstream.app.assertion]\naudience = \"app\"\n").await;
    let keys = stage.gate.get("/auth/.well-known/jwks.json").await.json();
    let forged = [("x-portcullis-assertion", "e30.e30.AA"), ("x_portcullis_assertion", "e30.e30.AA")];
    assert_eq!(stage.send_as("/app/a", json!({}), &forged).await.status(), 200);
    let seen = stage.upstream.next_request().await;
    let jwt = seen.header("x-portcullis-assertion").expect("what the upstream can check");
    let header = jsonwebtoken::decode_header(jwt).unwrap();
    assert_eq!(header.kid.as_deref(), keys["keys"][0]["kid"].as_str(), "tests/it/assertion.rs checks the rest");
    assert!(!seen.text().contains("e30.e30.AA"));
}

#[tokio::test]
async fn lesson_34_claims_are_compared_whole() {
    let rule = "[[route]]\npath = \"/tenant/*\"\nupstream = \"app\"\naccess = { claims = { \"custom:tenant\" = [\"a.b\"] } }\n";
    let stage = Stage::with(rule).await;
    for tenant in
        [json!("a.b "), json!("axb"), json!("A.B"), json!("x@a.b"), json!("a.b@x"), json!("a.b,c"), Value::Null]
    {
        let outcome = stage.send_as("/tenant/x", json!({"custom:tenant": tenant}), &[]).await;
        assert_eq!(outcome.status(), 403, "{tenant}");
    }
    stage.upstream.saw_nothing();
    assert_eq!(stage.send_as("/tenant/x", json!({"custom:tenant": "a.b"}), &[]).await.status(), 200);
}

#[tokio::test]
async fn lesson_40_no_failure_opens() {
    let stage = Stage::with("[pool.main.keys]\ncooldown = \"100ms\"\n").await;
    stage.refuses(&get_fields("/admin", &[("x-anything", "\u{ff}\u{fe}")]), 401).await;
    for credential in ["Bearer \u{ff}", "Bearer", "bearer", "Basic eA==", "Bearer\tx"] {
        stage.refuses(&get_fields("/app/a", &[("authorization", credential)]), 401).await;
    }
    stage.pool.endpoint.set(KeyMode::Answer(500, String::new(), vec![]));
    let unknown = format!("Bearer {}", crate::support::Key::nth(1).sign(&stage.pool.access_claims()));
    stage.refuses(&get_fields("/app/a", &[("authorization", &unknown)]), 503).await;
    assert_eq!(stage.send_as("/app/a", json!({}), &[]).await.status(), 200, "a key that is known goes on");
}
