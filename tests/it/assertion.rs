//! The signed assertion: what an upstream is told in a way that it can check.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use portcullis::clock::Clock;
use portcullis::es256::SigningKey;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::h2::{self, H2};
use crate::support::{FakePool, Portcullis, Reply, Upstream, route};

const HEADER: &str = "x-portcullis-assertion";
const ASSERTED: &str = "[upstream.app.assertion]\naudience = \"app\"\nttl = \"30s\"\n";
const JWKS: &str = "/auth/.well-known/jwks.json";

/// The sections for two routes to an upstream that gets assertions.
fn sections(pool: &FakePool, upstream: &Upstream) -> String {
    let rewritten = route("/old/*", "app", "\"public\"") + "rewrite = \"/new/*\"\n";
    let routes = route("/app/*", "app", "\"required\"") + &route("/public/*", "app", "\"optional\"") + &rewritten;
    pool.toml("main") + &upstream.toml("app") + ASSERTED + &routes
}

async fn stage() -> (Portcullis, Upstream, FakePool) {
    let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";
    let gate = Portcullis::start(&(listener.to_owned() + &sections(&pool, &upstream))).await;
    (gate, upstream, pool)
}

/// The claims of an assertion, checked the way an upstream would check it.
fn claims(jwks: &Value, jwt: &str) -> Value {
    let kid = jsonwebtoken::decode_header(jwt).unwrap().kid.expect("a kid");
    let jwks: JwkSet = serde_json::from_value(jwks.clone()).unwrap();
    let key = DecodingKey::from_jwk(jwks.find(&kid).expect("a published key")).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["app"]);
    validation.set_issuer(&["portcullis"]);
    validation.leeway = 5;
    jsonwebtoken::decode::<Value>(jwt, &key, &validation).unwrap().claims
}

fn hash(path: &str) -> String {
    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path.as_bytes()))
}

fn kids(jwks: &Value) -> Vec<String> {
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_upstream_can_check_who_asked_for_what() {
    let (gate, upstream, pool) = stage().await;
    let jwks = gate.get(JWKS).await.json();
    let token = pool.access(json!({"cognito:groups": ["admin", "staff"], "scope": "a b"}));
    assert_eq!(gate.get_as("/app/a%c3%b6?q=1", &token).await.status, 200);
    let seen = upstream.next_request().await;
    let said = claims(&jwks, seen.header(HEADER).expect("an assertion"));
    for (name, value) in [
        ("sub", json!("11111111-2222-4333-8444-555555555555")),
        ("username", json!("sam")),
        ("groups", json!(["admin", "staff"])),
        ("scope", json!("a b")),
        ("client_id", json!(pool.client_id)),
        ("pool", json!("main")),
        ("method", json!("GET")),
        ("path_sha256", json!(hash("/app/a%C3%B6"))),
        ("request_id", json!(seen.header("x-request-id").unwrap())),
    ] {
        assert_eq!(said[name], value, "{name}: {said}");
    }
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 30);
    assert_eq!(seen.target.split('?').next(), Some("/app/a%C3%B6"), "the hash is that of the path that was sent");
    assert!(seen.header("authorization").is_none());

    assert_eq!(gate.get_as("/app/a%c3%b6?q=1", &token).await.status, 200);
    let again = claims(&jwks, upstream.next_request().await.header(HEADER).unwrap());
    assert_ne!(again["jti"], said["jti"], "each is for one request");
}

#[tokio::test]
async fn over_http_2_it_says_the_same() {
    let (gate, upstream, pool) = stage().await;
    let jwks = gate.get(JWKS).await.json();
    let token = format!("Bearer {}", pool.access(json!({})));
    let fields = h2::request("PUT", "/app/x", &[("authorization", &token), (HEADER, "forged")]);
    let mut client = H2::open(gate.address()).await;
    assert_eq!(client.exchange(h2::headers(h2::END_STREAM, 1, &fields), 1).await.status(), 200);
    let said = claims(&jwks, upstream.next_request().await.header(HEADER).unwrap());
    assert_eq!((&said["method"], &said["path_sha256"]), (&json!("PUT"), &json!(hash("/app/x"))));
    assert_eq!(said["sub"], "11111111-2222-4333-8444-555555555555");
}

#[tokio::test]
async fn an_anonymous_caller_has_no_subject_and_a_rewritten_path_is_the_one_that_is_sent() {
    let (gate, upstream, _pool) = stage().await;
    let jwks = gate.get(JWKS).await.json();
    assert_eq!(gate.request("POST", "/old/x/", &[], "body").await.status, 200);
    let seen = upstream.next_request().await;
    let said = claims(&jwks, seen.header(HEADER).unwrap());
    assert_eq!((seen.target.as_str(), &said["path_sha256"]), ("/new/x/", &json!(hash("/new/x/"))));
    assert_eq!(said["method"], "POST");
    for absent in ["sub", "username", "groups", "scope", "client_id", "pool"] {
        assert!(said.get(absent).is_none(), "{absent}: {said}");
    }
}

/// Every spelling that a lenient backend could read as the header, in heads and trailers.
const FORGED: [&str; 5] = [
    "X-Portcullis-Assertion",
    "x_portcullis_assertion",
    "X-Portcullis_Assertion",
    "X.Portcullis.Assertion",
    "x~portcullis~ASSERTION",
];

#[tokio::test]
async fn what_a_client_sends_under_that_name_is_gone_with_and_without_assertions() {
    let forged: Vec<(&str, &str)> = FORGED.map(|name| (name, "forged")).to_vec();
    let (gate, upstream, pool) = stage().await;
    let plain = pool.toml("main") + &upstream.toml("app") + &route("/public/*", "app", "\"public\"");
    let without = Portcullis::start(&plain).await;
    for (gate, expected) in [(&gate, 1), (&without, 0)] {
        assert_eq!(gate.request("GET", "/public/x", &forged, "").await.status, 200);
        let seen = upstream.next_request().await;
        assert!(!seen.text().contains("forged"), "{}", seen.text());
        let like = seen.headers.iter().filter(|(name, _)| name.contains("portcullis")).count();
        assert_eq!(like, expected, "{}", seen.text());
        let trailers: String = FORGED.iter().map(|name| format!("{name}: forged\r\n")).collect();
        let request = format!(
            "POST /public/x HTTP/1.1\r\nHost: gw\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{trailers}\r\n"
        );
        assert_eq!(gate.raw().await.exchange(request).await.status, 200);
        let seen = upstream.next_request().await;
        assert_eq!(seen.trailers, []);
        assert!(!seen.text().contains("forged"), "{}", seen.text());
    }
    without.get(JWKS).await.expect(404, "route_unknown");
}

#[tokio::test]
async fn the_key_set_is_public_and_has_nothing_private() {
    let (gate, upstream, _pool) = stage().await;
    let reply = gate.get(JWKS).await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("public, max-age=300")));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let jwks = reply.json();
    let key = jwks["keys"][0].as_object().unwrap();
    let names: Vec<&str> = key.keys().map(String::as_str).collect();
    assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    assert_eq!(gate.request("HEAD", JWKS, &[], "").await.status, 200);
    let refused = gate.request("POST", JWKS, &[], "").await;
    assert_eq!(refused.expect(405, "method_not_allowed").header("allow"), Some("GET, HEAD"));
    upstream.saw_nothing();
}

#[tokio::test]
async fn replicas_that_share_a_key_publish_the_same() {
    let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("a.key"), SigningKey::generate().to_pem().expose()).unwrap();
    let toml = sections(&pool, &upstream) + "[assertion]\nissuer = \"portcullis\"\nkeys = [{ file = \"a.key\" }]\n";
    let (one, two) = (
        Portcullis::start_at(&toml, folder.path(), Clock::System).await,
        Portcullis::start_at(&toml, folder.path(), Clock::System).await,
    );
    let jwks = one.get(JWKS).await.json();
    assert_eq!(two.get(JWKS).await.json(), jwks);
    assert_eq!(two.get("/public/x").await.status, 200);
    claims(&jwks, upstream.next_request().await.header(HEADER).unwrap());
}

#[tokio::test]
async fn keys_rotate_by_overlap_when_the_file_changes() {
    let (upstream, pool, folder) = (Upstream::start().await, FakePool::start().await, tempdir().unwrap());
    let key = |name: &str| {
        let key = SigningKey::generate();
        std::fs::write(folder.path().join(name), key.to_pem().expose()).unwrap();
        key.kid().to_owned()
    };
    let (old, new) = (key("old.key"), key("new.key"));
    let with = |keys: &str| sections(&pool, &upstream) + &format!("[assertion]\nkeys = [{keys}]\n");
    let clock = Clock::manual(Clock::System.now());
    let gate = Portcullis::start_at(&with("{ file = \"old.key\" }"), folder.path(), clock.clone()).await;
    let signer = async || {
        let reply: Reply = gate.get("/public/x").await;
        assert_eq!(reply.status, 200);
        let jwt = upstream.next_request().await.header(HEADER).unwrap().to_owned();
        let kid = jsonwebtoken::decode_header(&jwt).unwrap().kid.unwrap();
        let published = kids(&gate.get(JWKS).await.json());
        assert!(published.contains(&kid), "what signs is published: {published:?}");
        (kid, published)
    };
    assert_eq!(signer().await, (old.clone(), vec![old.clone()]));

    let answer = gate.reloaded(&with("{ file = \"new.key\" }")).await;
    assert_eq!(answer["changed"], json!(["assertion"]));
    let both = vec![new.clone(), old.clone()];
    assert_eq!(signer().await, (old.clone(), both.clone()), "published before it signs");
    clock.advance(Duration::from_secs(300));
    assert_eq!(signer().await, (new.clone(), both), "the old one outlives its last assertion");
    clock.advance(Duration::from_secs(120));
    assert_eq!(signer().await, (new.clone(), vec![new.clone()]));
    assert_eq!(gate.admin_get("/config").await.json()["assertion"]["keys"], json!([new]));
}

#[tokio::test]
async fn a_key_that_nobody_named_lives_as_long_as_the_process() {
    let (upstream, pool, folder) = (Upstream::start().await, FakePool::start().await, tempdir().unwrap());
    let toml = sections(&pool, &upstream);
    let gate = Portcullis::start_on_file(&toml, folder.path()).await;
    let before = gate.get(JWKS).await.json();
    gate.reloaded(&(toml.clone() + &route("/more/*", "app", "\"public\""))).await;
    assert_eq!(gate.get(JWKS).await.json(), before);
    let other = Portcullis::start(&toml).await;
    assert_ne!(other.get(JWKS).await.json(), before);
}

#[test]
fn assertions_that_nobody_could_check_are_refused() {
    let text = "version = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nservers = [\"whoami:\"]\n\
                [upstream.app.assertion]\naudience = \"app\"\n[[route]]\npath = \"/*\"\nupstream = \"app\"\naccess = \"public\"\n";
    let report = portcullis::config::parse(text, Path::new("p.toml"), &|_| None).expect_err("no identity routes");
    assert!(report.to_string().contains("nobody could check the assertions"), "{report}");
}
