//! Every route × every kind of caller: who gets what, and what reaches the upstream.
//!
//! A test fails when a route of the config or an identity route of [`portcullis::auth`] is
//! missing here, so that no route can exist about which nobody has decided.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{FakePool, Key, Portcullis, Upstream};

/// The routes under test; the pools and the upstream come on top.
const ROUTES: &str = r#"
[[route]]
path = "/public/*"
upstream = "app"
access = "public"
[[route]]
path = "/optional/*"
upstream = "app"
access = "optional"
[[route]]
path = "/required/*"
upstream = "app"
[[route]]
path = "/group/*"
upstream = "app"
access = { groups = ["admin", "staff"] }
[[route]]
path = "/scope/*"
upstream = "app"
access = { scopes = ["orders/read", "orders/write"] }
[[route]]
path = "/claim/*"
upstream = "app"
access = { claims = { "custom:tenant" = ["a", "b"] } }
[[route]]
path = "/id/*"
upstream = "app"
access = { token_use = ["id"] }
[[route]]
path = "/client/*"
upstream = "app"
access = { clients = ["another0client"] }
[[route]]
path = "/second/*"
upstream = "app"
access = { pool = "second" }
[[route]]
path = "/post/*"
methods = ["POST"]
upstream = "app"
"#;

/// What GET gets, by caller. `ok` reaches the upstream; everything else does not.
const FORWARDED: &str = "
            none    good    admin   scoped  tenant  client  id      second  expired issuer  tampered revoked bearer  basic   twice
/public     ok      ok      ok      ok      ok      ok      ok      ok      ok      ok      ok      ok      ok      ok      twice
/optional   ok      ok      ok      ok      ok      invalid invalid ok      expired invalid invalid revoked invalid missing twice
/required   missing ok      ok      ok      ok      invalid invalid ok      expired invalid invalid revoked invalid missing twice
/group      missing denied  ok      denied  denied  invalid invalid denied  expired invalid invalid revoked invalid missing twice
/scope      missing denied  denied  ok      denied  invalid invalid denied  expired invalid invalid revoked invalid missing twice
/claim      missing denied  denied  denied  ok      invalid invalid denied  expired invalid invalid revoked invalid missing twice
/id         missing invalid invalid invalid invalid invalid ok      invalid expired invalid invalid revoked invalid missing twice
/client     missing invalid invalid invalid invalid ok      invalid invalid expired invalid invalid revoked invalid missing twice
/second     missing invalid invalid invalid invalid invalid invalid ok      expired invalid invalid revoked invalid missing twice
/post       method  method  method  method  method  method  method  method  method  method  method  method  method  method  method
/nowhere    unknown unknown unknown unknown unknown unknown unknown unknown unknown unknown unknown unknown unknown unknown unknown
";

/// What the identity routes answer to an empty JSON object, by caller. `body`: the caller does not
/// matter, the body does.
const IDENTITY: &str = "
                       none    good    id      second  expired issuer  tampered revoked twice
/auth/register         body    body    body    body    body    body    body    body    twice
/auth/confirm          body    body    body    body    body    body    body    body    twice
/auth/confirm/resend   body    body    body    body    body    body    body    body    twice
/auth/login            body    body    body    body    body    body    body    body    twice
/auth/challenge        body    body    body    body    body    body    body    body    twice
/auth/refresh          body    body    body    body    body    body    body    body    twice
/auth/password/forgot  body    body    body    body    body    body    body    body    twice
/auth/password/reset   body    body    body    body    body    body    body    body    twice
/auth/validate         missing valid   valid   valid   expired invalid invalid revoked twice
/auth/logout           missing gone    invalid invalid expired invalid invalid revoked twice
/auth/nowhere          unknown unknown unknown unknown unknown unknown unknown unknown unknown
";

/// A word of the tables: status, code, whether the upstream is reached.
fn meaning(word: &str) -> (u16, &'static str, bool) {
    match word {
        "ok" => (200, "", true),
        "valid" => (200, "", false),
        "gone" => (204, "", false),
        "body" => (400, "body_invalid", false),
        "twice" => (400, "header_ambiguous", false),
        "missing" => (401, "token_missing", false),
        "invalid" => (401, "token_invalid", false),
        "expired" => (401, "token_expired", false),
        "revoked" => (401, "token_revoked", false),
        "denied" => (403, "access_denied", false),
        "unknown" => (404, "route_unknown", false),
        "method" => (405, "method_not_allowed", false),
        word => panic!("no such word: {word}"),
    }
}

/// Rows as (path, [(caller, word)]).
fn rows(table: &'static str) -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let mut lines = table.trim_matches('\n').lines();
    let callers: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let row = |line: &'static str| {
        let mut words = line.split_whitespace();
        let path = words.next().unwrap_or_default();
        let cells: Vec<_> = callers.iter().copied().zip(words).collect();
        assert_eq!(cells.len(), callers.len(), "{path}: every caller has a cell");
        (path, cells)
    };
    lines.map(row).collect()
}

struct Stage {
    gate: Portcullis,
    upstream: Upstream,
    main: FakePool,
    second: FakePool,
    revoked: String,
}

impl Stage {
    async fn set() -> Self {
        let (upstream, main, second) =
            (Upstream::start().await, FakePool::start().await, FakePool::named("Second001").await);
        let pools = main.toml("main") + &second.toml("second");
        let gate = Portcullis::start(&(pools + &upstream.toml("app") + ROUTES)).await;
        let revoked = main.access(json!({}));
        gate.post_json_as("/auth/logout", &revoked, &json!({})).await.expect(204, "");
        Self { gate, upstream, main, second, revoked }
    }

    /// The `Authorization` lines of a caller.
    fn credentials(&self, caller: &str) -> Vec<String> {
        let main = &self.main;
        let token = match caller {
            "none" => return vec![],
            "basic" => return vec!["Basic ZGVtbzpkZW1v".to_owned()],
            "bearer" => "x".to_owned(),
            "good" | "twice" => main.access(json!({})),
            "admin" => main.access(json!({"cognito:groups": ["users", "admin"]})),
            "scoped" => main.access(json!({"scope": "openid orders/write orders/read"})),
            "tenant" => main.access(json!({"custom:tenant": "b"})),
            "client" => main.access(json!({"client_id": "another0client"})),
            "id" => main.id_token(json!({})),
            "second" => self.second.access(json!({})),
            "expired" => main.access(json!({"iat": 1_700_000_000, "auth_time": 1_700_000_000, "exp": 1_700_003_600})),
            "issuer" => main.access(json!({"iss": "https://evil.example/eu-west-1_Main00001"})),
            "tampered" => tampered(&main.access(json!({}))),
            "revoked" => self.revoked.clone(),
            caller => panic!("no such caller: {caller}"),
        };
        let mut lines = vec![format!("Bearer {token}")];
        if caller == "twice" {
            lines.push(lines[0].clone());
        }
        lines
    }

    /// Sends what this caller sends; what is not as the table says comes back as text.
    async fn differs(&self, method: &str, path: &str, caller: &str, word: &str) -> Option<String> {
        let credentials = self.credentials(caller);
        let mut headers: Vec<(&str, &str)> = credentials.iter().map(|line| ("Authorization", line.as_str())).collect();
        let body = if method == "POST" {
            headers.push(("Content-Type", "application/json"));
            "{}"
        } else {
            ""
        };
        let before = self.upstream.requests().len();
        let reply = self.gate.request(method, path, &headers, body).await;
        let reached = self.upstream.requests().len() > before;
        let (got, expected) = ((reply.status, reply.code(), reached), meaning(word));
        let same = (got.0, got.1.as_str(), got.2) == expected;
        if reached && same {
            // Nobody is announced who was not asked for, and everybody who was.
            let subject =
                self.upstream.requests().last().and_then(|seen| seen.header("x-auth-subject").map(str::to_owned));
            let announced = !path.starts_with("/public") && caller != "none" && caller != "basic";
            assert_eq!(subject.is_some(), announced, "{path} as {caller}: {subject:?}");
        }
        (!same).then(|| format!("{method} {path} as {caller}: {got:?}, not {expected:?}"))
    }
}

/// The token with one bit of its payload turned, the signature untouched.
fn tampered(token: &str) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let payload: String = parts[1].replacen('J', "K", 1);
    assert_ne!(payload, parts[1]);
    format!("{}.{payload}.{}", parts[0], parts[2])
}

#[tokio::test]
async fn every_forwarded_route_treats_every_caller_as_the_table_says() {
    let stage = Stage::set().await;
    let mut differences = Vec::new();
    for (path, cells) in rows(FORWARDED) {
        for (caller, word) in cells {
            differences.extend(stage.differs("GET", &format!("{path}/x"), caller, word).await);
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

#[tokio::test]
async fn every_identity_route_treats_every_caller_as_the_table_says() {
    let stage = Stage::set().await;
    let mut differences = Vec::new();
    for (path, cells) in rows(IDENTITY) {
        for (caller, word) in cells {
            differences.extend(stage.differs("POST", path, caller, word).await);
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
    stage.upstream.saw_nothing();
}

#[tokio::test]
async fn a_method_that_an_identity_route_does_not_have_is_405_and_says_which_it_has() {
    let stage = Stage::set().await;
    for (method, path) in identity_routes() {
        let other = if method == "DELETE" { "PUT" } else { "DELETE" };
        let reply = stage.gate.request(other, &path, &[], "").await;
        reply.expect(405, "method_not_allowed");
        let allow = reply.header("allow").unwrap_or_default();
        assert!(allow.split(", ").any(|allowed| allowed == method), "{path}: {allow:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_in_the_set_opens_nothing() {
    let stage = Stage::set().await;
    let forged = Key::nth(1).sign(&stage.main.access_claims());
    stage.gate.get_as("/required/x", &forged).await.expect(401, "token_invalid");
    stage.gate.get_as("/optional/x", &forged).await.expect(401, "token_invalid");
    stage.upstream.saw_nothing();
}

#[test]
fn no_route_is_missing_from_the_tables() {
    let listed = |table| rows(table).into_iter().map(|(path, _)| path.to_owned()).collect::<BTreeSet<_>>();
    let lines = ROUTES.lines().filter_map(|line| line.strip_prefix("path = \""));
    let configured: BTreeSet<String> = lines.map(|path| path.trim_end_matches("/*\"").to_owned()).collect();
    let missing: Vec<_> = configured.difference(&listed(FORWARDED)).cloned().collect();
    assert!(missing.is_empty(), "configured, but not in the table: {missing:?}");
    let served: BTreeSet<String> = identity_routes().into_iter().map(|(_, path)| path).collect();
    let missing: Vec<_> = served.difference(&listed(IDENTITY)).cloned().collect();
    assert!(missing.is_empty(), "served, but not in the table: {missing:?}");
    assert!(served.len() >= 10, "the identity routes of issue 2: {served:?}");
}

/// Method and path of every identity route that the gateway has.
fn identity_routes() -> Vec<(String, String)> {
    portcullis::auth::ROUTES.iter().map(|route| (route.method.to_string(), format!("/auth{}", route.path))).collect()
}
