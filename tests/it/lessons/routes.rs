//! A. Which route is this? (path, method, host)

use super::Stage;

#[tokio::test]
async fn lesson_01_public_route_in_query() {
    let stage = Stage::set().await;
    for target in ["/admin?x=/public/ok", "/admin?/public/ok", "/admin?/../public/ok", "/app/x?a=b?/public/"] {
        stage.refuses_get(target, 401, "token_missing").await;
    }
    let reply = stage.gate.get("/public/ok?next=/admin&b=%2F..%2f").await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        stage.upstream.next_request().await.target,
        "/public/ok?next=/admin&b=%2F..%2f",
        "queries pass untouched"
    );
}

#[tokio::test]
async fn lesson_02_number_sign_in_target() {
    let stage = Stage::set().await;
    for target in ["/admin#.png", "/public/#/../admin", "/public/ok#", "/public/ok?a#b"] {
        stage.refuses_get(target, 400, "request_malformed").await;
    }
    // `%23` is a byte of the path like any other: it neither ends it nor opens another route.
    stage.refuses_get("/admin%23/public/ok", 404, "route_unknown").await;
    stage.refuses_get("/app/a%23/../../public", 400, "path_ambiguous").await;
    stage.refuses_get("/app/%23", 401, "token_missing").await;
    assert_eq!(stage.gate.get("/public/a%23b").await.status, 200);
    assert_eq!(stage.upstream.next_request().await.target, "/public/a%23b");
}

#[tokio::test]
async fn lesson_03_encoded_slash_and_backslash() {
    let stage = Stage::set().await;
    for target in [
        "/public%2f..%2fadmin",
        "/public%2F..%2Fadmin",
        "/public%5c..%5cadmin",
        "/public\\..\\admin",
        "/public/%252e%252e/admin",
        "/public/%252fadmin",
        "/public/%00",
        "/public/a%2fb",
        "/public/%c0%af",
        "/public/%",
        "/public/%2",
        "/public/%zz",
        "/public/a%0d%0ab",
        "/public/%7f",
    ] {
        stage.refuses_get(target, 400, "path_ambiguous").await;
    }
}

#[tokio::test]
async fn lesson_04_dot_segments_and_double_slashes() {
    let stage = Stage::set().await;
    for target in [
        "/public/../admin",
        "/public/./x",
        "/public/..",
        "/..",
        "//admin",
        "/public//x",
        "/public/%2e%2e/admin",
        "/public/.%2e/admin",
        "/public/%2E%2E/admin",
        "/public/%2e/x",
    ] {
        stage.refuses_get(target, 400, "path_ambiguous").await;
    }
    // Dots elsewhere are just dots.
    assert_eq!(stage.gate.get("/public/...").await.status, 200);
    assert_eq!(stage.upstream.next_request().await.target, "/public/...");
}

#[tokio::test]
async fn lesson_05_rewrite_after_the_decision() {
    let stage = Stage::set().await;
    stage.refuses_get("/public/%2e%2e/x/../admin", 400, "path_ambiguous").await;
    // One string is matched, decided on and sent: the normal form, in whatever form it came.
    assert_eq!(stage.gate.get("/%70ublic/%61%c3%b6").await.status, 200);
    assert_eq!(stage.upstream.next_request().await.target, "/public/a%C3%B6");
    // A rewrite is made of that string, and what it makes is held against the routes once more.
    let strip = "[[route]]\npath = \"/strip/*\"\nupstream = \"app\"\naccess = \"public\"\nstrip_prefix = \"/strip\"\n";
    let stage = Stage::with_routes(strip).await;
    for target in ["/strip/admin", "/strip/%61dmin", "/strip/app/x", "/strip/admin;x"] {
        stage.refuses_get(target, 403, "access_denied").await;
    }
    for target in
        ["/strip/../admin", "/strip/%2e%2e/x/../admin", "/strip//admin", "/strip/x%2fadmin", "/strip;/../admin"]
    {
        stage.refuses_get(target, 400, "path_ambiguous").await;
    }
    assert_eq!(stage.gate.get("/strip/public/%61?q=/admin").await.status, 200);
    assert_eq!(stage.upstream.next_request().await.target, "/public/a?q=/admin");
}

#[tokio::test]
async fn lesson_06_path_parameters() {
    let stage = Stage::set().await;
    for target in ["/public/..;/admin", "/public/..;a=b/admin", "/public/.;/x", "/public/%2e%2e;/admin"] {
        stage.refuses_get(target, 400, "path_ambiguous").await;
    }
    // To us this is no route at all; to a servlet it would be `/admin`.
    for target in ["/admin;.css", "/admin;"] {
        stage.refuses_get(target, 404, "route_unknown").await;
    }
    assert_eq!(stage.gate.get("/public/x;a=b").await.status, 200);
    assert_eq!(stage.upstream.next_request().await.target, "/public/x;a=b");
}

#[tokio::test]
async fn lesson_07_odd_but_legal_bytes_and_case() {
    let stage = Stage::set().await;
    for target in ["/admin*/", "/ADMIN", "/admin/", "/Public/x", "/publicx", "/admin.", "/admin%20", "/administrator"] {
        stage.refuses_get(target, 404, "route_unknown").await;
    }
    for target in ["/%61dmin", "/%61%64%6D%69%6e", "/app/*", "/app"] {
        stage.refuses_get(target, 401, "token_missing").await;
    }
    let reply = stage.gate.get_as("/%61dmin", &stage.token()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(stage.upstream.next_request().await.target, "/admin", "what was decided on is what is sent");
}

#[tokio::test]
async fn lesson_08_health_check_shortcuts() {
    let stage = Stage::set().await;
    for agent in ["GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0"] {
        let request = format!("GET /admin HTTP/1.1\r\nHost: gw\r\nUser-Agent: {agent}\r\n\r\n");
        stage.refuses(request, 401, "token_missing").await;
    }
    for target in ["/live", "/ready", "/metrics", "/routes", "/keys", "/config", "/outbox"] {
        stage.refuses_get(target, 404, "route_unknown").await;
    }
}

#[tokio::test]
async fn lesson_09_what_the_client_says_was_requested() {
    let stage = Stage::set().await;
    let claims = "X-Forwarded-Uri: /public/ok\r\nX-Original-URL: /public/ok\r\nX-Rewrite-URL: /public/ok\r\n\
                  X-Forwarded-Prefix: /public\r\nX-Forwarded-Method: OPTIONS\r\nX-HTTP-Method-Override: DELETE\r\n\
                  X-Original-Host: other\r\nX-Forwarded-Host: other.example\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Port: 1\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1;host=other\r\nX-Real-IP: 10.0.0.1\r\n";
    stage.refuses(format!("GET /admin HTTP/1.1\r\nHost: gw\r\n{claims}\r\n"), 401, "token_missing").await;
    stage.gate.raw().await.exchange(format!("GET /public/ok HTTP/1.1\r\nHost: gw\r\n{claims}\r\n")).await;
    let seen = stage.upstream.next_request().await;
    assert_eq!(seen.header("x-forwarded-host"), Some("gw"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    for claim in ["10.0.0.1", "other", "/public/ok\r\n", "OPTIONS", "DELETE"] {
        assert!(!seen.text().contains(claim), "{claim} was passed on: {}", seen.text());
    }
}

#[tokio::test]
async fn lesson_10_host_disagreement_and_request_line_tricks() {
    let stage = Stage::set().await;
    let refused = [
        "GET /public/x HTTP/1.1\r\nHost: gw\r\nHost: gw\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: gw\r\nhost: other\r\n\r\n",
    ];
    for request in refused {
        stage.refuses(request, 400, "header_ambiguous").await;
    }
    let malformed = [
        "GET http://public.example/public/x HTTP/1.1\r\nHost: admin.example\r\n\r\n",
        "get /public/x HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /public/x HTTP/1.1\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: gw/x\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: user@gw\r\n\r\n",
        "GET http://user@gw/public/x HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: gw:99999\r\n\r\n",
        "GET /admin? HTTP/1.1 /public/x HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET /public/x HTTP/1.1 \r\nHost: gw\r\n\r\n",
        "GET  /public/x HTTP/1.1\r\nHost: gw\r\n\r\n",
        "G@T /public/x HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET public/x HTTP/1.1\r\nHost: gw\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: gw\r\n\r\n",
    ];
    for request in malformed {
        stage.refuses(request, 400, "request_malformed").await;
    }
    stage.refuses("CONNECT gw:80 HTTP/1.1\r\nHost: gw:80\r\n\r\n", 405, "method_not_allowed").await;
    let agreeing = "GET http://GW./public/x HTTP/1.1\r\nHost: gw\r\n\r\n";
    assert_eq!(stage.gate.raw().await.exchange(agreeing).await.status, 200);
    assert_eq!(stage.upstream.next_request().await.target, "/public/x");
}
