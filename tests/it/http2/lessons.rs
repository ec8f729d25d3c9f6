//! The security lessons that HTTP/2 gives another form, named by their numbers. Each says what the
//! client gets and what the upstream saw; its sibling in `lessons` says the same of HTTP/1.1.

use super::{H2C, open};
use crate::support::h2::*;
use crate::support::{FakePool, Portcullis, Upstream, route};

pub(super) struct Stage {
    pub(super) gate: Portcullis,
    pub(super) upstream: Upstream,
    pub(super) pool: FakePool,
}

impl Stage {
    pub(super) async fn set() -> Self {
        Self::with("").await
    }

    /// The same with further sections in the config.
    pub(super) async fn with(more: &str) -> Self {
        let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
        let routes = route("/public/*", "app", "\"public\"")
            + &route("/app/*", "app", "\"required\"")
            + &route("/admin", "app", "\"required\"")
            + more;
        let gate = Portcullis::start(&(H2C.to_owned() + &pool.toml("main") + &upstream.toml("app") + &routes)).await;
        Self { gate, upstream, pool }
    }

    /// Sends a whole request with these fields over a connection of its own.
    pub(super) async fn send(&self, fields: &[(&str, &str)]) -> Outcome {
        open(&self.gate).await.exchange(headers(END_STREAM, 1, fields), 1).await
    }

    /// The same; the answer must have this status, and nothing may have reached the upstream.
    pub(super) async fn refuses(&self, fields: &[(&str, &str)], status: u16) {
        let outcome = self.send(fields).await;
        assert_eq!(outcome.status(), status, "{fields:?}: {outcome:?}");
        self.upstream.saw_nothing();
    }

    /// The stream must end without an answer, and nothing may have reached the upstream.
    pub(super) async fn breaks(&self, fields: &[(&str, &str)]) {
        let outcome = self.send(fields).await;
        assert!(
            matches!(outcome, Outcome::Reset(code::PROTOCOL) | Outcome::GoAway(code::PROTOCOL)),
            "{fields:?}: {outcome:?}"
        );
        self.upstream.saw_nothing();
    }
}

pub(super) fn get_fields<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    request("GET", path, more)
}

#[tokio::test]
async fn lesson_01_the_query_makes_no_route_public() {
    Stage::set().await.refuses(&get_fields("/admin?x=/public/ok", &[]), 401).await;
}

#[tokio::test]
async fn lesson_02_a_fragment_makes_no_route_public() {
    let stage = Stage::set().await;
    for path in ["/admin#/public/ok", "/admin#.png"] {
        stage.refuses(&get_fields(path, &[]), 401).await;
    }
}

#[tokio::test]
async fn lessons_03_to_06_ambiguous_paths_are_refused() {
    let stage = Stage::set().await;
    for path in [
        "/public%2f..%2fadmin",
        "/public%5c..%5cadmin",
        "/public/%252e%252e/admin",
        "/public/../admin",
        "//admin",
        "/public/%2e%2e/admin",
        "/public/..;/admin",
        "/public/%00",
        "/public/%zz",
    ] {
        stage.refuses(&get_fields(path, &[]), 400).await;
    }
}

#[tokio::test]
async fn lesson_05_a_rewritten_path_is_held_against_the_routes_again() {
    let strip = "[[route]]\npath = \"/strip/*\"\nupstream = \"app\"\naccess = \"public\"\nstrip_prefix = \"/strip\"\n";
    let stage = Stage::with(strip).await;
    for path in ["/strip/admin", "/strip/%61dmin", "/strip/app/x", "/strip/admin;x"] {
        stage.refuses(&get_fields(path, &[]), 403).await;
    }
    for path in ["/strip/%2e%2e/x/../admin", "/strip//admin", "/strip/x%2fadmin", "/strip;/../admin"] {
        stage.refuses(&get_fields(path, &[]), 400).await;
    }
    assert_eq!(stage.send(&get_fields("/strip/public/%61?q=/admin", &[])).await.status(), 200);
    assert_eq!(stage.upstream.next_request().await.target, "/public/a?q=/admin");
}

#[tokio::test]
async fn lesson_07_odd_but_legal_bytes_and_case_open_nothing() {
    let stage = Stage::set().await;
    for path in ["/admin*/", "/ADMIN", "/admin/", "/Public/x", "/publicx", "/admin.", "/admin%20"] {
        stage.refuses(&get_fields(path, &[]), 404).await;
    }
    for path in ["/%61dmin", "/%61%64%6D%69%6e", "/app/*"] {
        stage.refuses(&get_fields(path, &[]), 401).await;
    }
    let token = format!("Bearer {}", stage.pool.access(serde_json::json!({})));
    assert_eq!(stage.send(&get_fields("/%61dmin", &[("authorization", &token)])).await.status(), 200);
    assert_eq!(stage.upstream.next_request().await.target, "/admin", "what was decided on is what is sent");
}

#[tokio::test]
async fn lesson_08_no_header_of_a_health_check_is_a_key() {
    let stage = Stage::set().await;
    for agent in ["GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0"] {
        stage.refuses(&get_fields("/admin", &[("user-agent", agent)]), 401).await;
    }
    for path in ["/live", "/ready", "/metrics", "/routes", "/keys", "/config", "/outbox"] {
        stage.refuses(&get_fields(path, &[]), 404).await;
    }
}

#[tokio::test]
async fn lesson_09_what_a_client_says_was_requested_counts_for_nothing() {
    let stage = Stage::set().await;
    let said = [("x-forwarded-uri", "/public/ok"), ("x-original-url", "/public/ok"), ("x-rewrite-url", "/public/ok")];
    stage.refuses(&get_fields("/admin", &said), 401).await;
    assert_eq!(stage.send(&get_fields("/public/a", &said)).await.status(), 200);
    let seen = stage.upstream.next_request().await;
    assert!(!seen.text().contains("/public/ok"), "{}", seen.text());
}

#[tokio::test]
async fn lesson_10_one_host_and_pseudo_headers_of_their_grammar() {
    let stage = Stage::set().await;
    stage.refuses(&get_fields("/public/a", &[("host", "admin.example")]), 400).await;
    stage.refuses(&get_fields("/public/a", &[("host", "gw"), ("host", "gw")]), 400).await;
    let with = |name: &'static str, value: &'static str| -> Vec<(&str, &str)> {
        get_fields("/public/a", &[])
            .into_iter()
            .map(|field| if field.0 == name { (name, value) } else { field })
            .collect()
    };
    stage.breaks(&with(":method", "GET /admin? HTTP/1.1")).await;
    stage.breaks(&with(":path", "/public/a HTTP/1.1\r\nx: y")).await;
    stage.breaks(&with(":authority", "gw\r\nx-auth-subject: root")).await;
    stage.breaks(&with(":scheme", "http://admin.example/")).await;
    stage.refuses(&with(":scheme", "htTps"), 400).await;
    stage.refuses(&with(":authority", "gw@admin.example"), 400).await;
}

#[tokio::test]
async fn lessons_11_to_13_no_spelling_of_an_identity_header_passes() {
    let stage = Stage::set().await;
    let forged =
        [("x_auth_subject", "root"), ("x.auth.subject", "root"), ("x-auth-groups", "root"), ("x~auth~user", "root")];
    for method in ["GET", "OPTIONS"] {
        assert_eq!(stage.send(&request(method, "/public/a", &forged)).await.status(), 200);
        let seen = stage.upstream.next_request().await;
        assert!(seen.identity().is_empty(), "{}", seen.text());
    }
    let token = format!("Bearer {}", stage.pool.access(serde_json::json!({})));
    let fields = get_fields("/app/a", &[("authorization", &token), ("x_auth_subject", "root")]);
    assert_eq!(stage.send(&fields).await.status(), 200);
    let seen = stage.upstream.next_request().await;
    assert!(seen.header("x-auth-subject").is_some_and(|subject| subject != "root"), "{}", seen.text());
    assert!(seen.header("x_auth_subject").is_none() && seen.header("authorization").is_none());
}

#[tokio::test]
async fn lesson_14_nothing_can_be_nominated_away() {
    let stage = Stage::set().await;
    let token = format!("Bearer {}", stage.pool.access(serde_json::json!({})));
    stage.breaks(&get_fields("/app/a", &[("authorization", &token), ("connection", "close, x-auth-subject")])).await;
}

#[tokio::test]
async fn lesson_15_two_credentials_are_refused() {
    let stage = Stage::set().await;
    let token = format!("Bearer {}", stage.pool.access(serde_json::json!({})));
    stage.refuses(&get_fields("/app/a", &[("authorization", &token), ("authorization", "Bearer x")]), 400).await;
}

#[tokio::test]
async fn lesson_16_an_empty_name_truncates_nothing() {
    Stage::set().await.breaks(&get_fields("/public/a", &[("", "x"), ("x-auth-subject", "root")])).await;
}

#[tokio::test]
async fn lesson_36_nothing_is_smuggled_on_the_way_to_http_1() {
    let stage = Stage::set().await;
    stage.breaks(&request("POST", "/public/a", &[("content-length", "10")])).await;
    stage.breaks(&request("POST", "/public/a", &[("transfer-encoding", "chunked")])).await;
    stage.breaks(&get_fields("/public/a", &[("foo", "a\r\nx: y")])).await;
    stage.refuses(&request("POST", "/public/a", &[("content-length", "0"), ("content-length", "0")]), 400).await;
    // More than was announced, which a second request could stand in.
    let smuggled = "xGET /admin HTTP/1.1\r\nHost: gw\r\n\r\n";
    let head = headers(0, 1, &request("POST", "/public/a", &[("content-length", "1")]));
    let outcome = open(&stage.gate).await.exchange([head, frame(DATA, END_STREAM, 1, smuggled)].concat(), 1).await;
    assert!(matches!(outcome, Outcome::Reset(code::PROTOCOL)), "{outcome:?}");
    assert!(stage.upstream.requests().is_empty());
    // Spellings that a lenient backend folds into framing.
    let folded = [("transfer_encoding", "chunked"), ("content_length", "0")];
    let body = [headers(0, 1, &request("POST", "/public/b", &folded)), frame(DATA, END_STREAM, 1, "abc")].concat();
    assert_eq!(open(&stage.gate).await.exchange(body, 1).await.status(), 200);
    let seen = stage.upstream.next_request().await;
    assert_eq!(seen.body, b"abc");
    assert!(!seen.headers.iter().any(|(name, _)| name.contains('_')), "{}", seen.text());
}

#[tokio::test]
async fn lesson_37_no_upgrade_and_no_tunnel() {
    let stage = Stage::set().await;
    stage.breaks(&get_fields("/public/a", &[("upgrade", "h2c")])).await;
    stage.refuses(&[(":method", "CONNECT"), (":authority", "gw:443")], 405).await;
    let extended = [&[(":protocol", "websocket")], &request("CONNECT", "/public/a", &[])[..]].concat();
    stage.refuses(&extended, 405).await;
    // HTTP/1.1 on the same listener is not upgraded either.
    let upgrade = "GET /public/a HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert_eq!(stage.gate.raw().await.exchange(upgrade).await.status, 200);
    assert!(stage.upstream.next_request().await.header("upgrade").is_none());
}
