//! B. Headers that carry identity

use serde_json::json;

use super::Stage;

/// The identity headers of a good token of [`Stage::token`], as the upstream must see them.
fn expected(client: &str) -> Vec<(&'static str, String)> {
    vec![
        ("x-auth-client", client.to_owned()),
        ("x-auth-pool", "main".to_owned()),
        ("x-auth-scopes", "aws.cognito.signin.user.admin".to_owned()),
        ("x-auth-subject", "11111111-2222-4333-8444-555555555555".to_owned()),
        ("x-auth-username", "sam".to_owned()),
    ]
}

/// Sends a header line on a protected route with a good token; the upstream must see our identity
/// headers and none besides.
async fn is_not_passed_on(stage: &Stage, lines: &str) {
    let token = stage.token();
    let request = format!("GET /app HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n{lines}\r\n");
    let reply = stage.gate.raw().await.exchange(request).await;
    assert_eq!(reply.status, 200, "{lines:?}: {}", reply.text());
    let seen = stage.upstream.next_request().await;
    let mut identity: Vec<(&str, String)> = seen.identity().into_iter().map(|(n, v)| (n, v.to_owned())).collect();
    identity.sort_unstable();
    assert_eq!(identity, expected(&stage.pool.client_id), "{lines:?}");
}

#[tokio::test]
async fn lesson_11_underscore_aliases() {
    let stage = Stage::set().await;
    for name in ["X_Auth_User", "X-Auth_Subject", "x_auth_groups", "X_AUTH-SUBJECT"] {
        is_not_passed_on(&stage, &format!("{name}: admin\r\n")).await;
    }
}

#[tokio::test]
async fn lesson_12_any_other_alias() {
    let stage = Stage::set().await;
    is_not_passed_on(&stage, "X.Auth.User: admin\r\nX~Auth~User: admin\r\n").await;
    // Every byte that a header name may have (RFC 9110 §5.6.2) and that is not a letter or digit.
    for separator in "!#$%&'*+-.^_`|~".chars() {
        is_not_passed_on(&stage, &format!("x{separator}aUTH{separator}Subject: admin\r\n")).await;
    }
    is_not_passed_on(&stage, "connection: close, x-auth-user\r\nx-auth-user: admin\r\n").await;
}

#[tokio::test]
async fn lesson_13_identity_headers_are_cleared_on_every_path() {
    let stage = Stage::set().await;
    let claims = "X-Auth-User: admin\r\nX-Auth-Groups: root\r\nX-Auth-Subject: root\r\nX_Auth_Email: a@b.c\r\n";
    for start in
        ["GET /public/app", "OPTIONS /public/app", "HEAD /public/app", "PROPFIND /public/app", "GET /optional/app"]
    {
        let reply = stage.gate.raw().await.exchange(format!("{start} HTTP/1.1\r\nHost: gw\r\n{claims}\r\n")).await;
        assert_eq!(reply.status, 200, "{start}");
        let seen = stage.upstream.next_request().await;
        assert_eq!(seen.identity(), [], "{start}");
    }
    // A claim that is absent is an absent header, never the client's.
    is_not_passed_on(&stage, claims).await;
    let before = stage.upstream.requests().len();
    let options = format!("OPTIONS /app HTTP/1.1\r\nHost: gw\r\n{claims}\r\n");
    stage.gate.raw().await.exchange(options).await.expect(401, "token_missing");
    assert_eq!(stage.upstream.requests().len(), before, "a method opens nothing");
}

#[tokio::test]
async fn lesson_14_hop_by_hop_nomination() {
    let stage = Stage::set().await;
    let token = stage.token();
    let request = format!(
        "GET /app HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\nCookie: a=b\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nProxy-Authorization: Basic eA==\r\n\
         Connection: Upgrade, HTTP2-Settings, X-Auth-Subject, X-Forwarded-For, X-Request-Id, Cookie, Host, X-Own\r\n\r\n"
    );
    assert_eq!(stage.gate.raw().await.exchange(request).await.status, 200);
    let seen = stage.upstream.next_request().await;
    assert_eq!(seen.header("x-auth-subject"), Some("11111111-2222-4333-8444-555555555555"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("host"), Some("gw"));
    assert!(seen.header("x-request-id").is_some_and(|id| !id.is_empty()));
    assert_eq!((seen.header("x-own"), seen.header("cookie")), (None, None), "nominated, and not ours");
}

#[tokio::test]
async fn lesson_15_duplicate_headers() {
    let stage = Stage::set().await;
    let (good, other) = (stage.token(), stage.pool.access(json!({"sub": "other"})));
    for (first, second) in [(&good, &other), (&other, &good), (&good, &good)] {
        let lines = format!("Authorization: Bearer {first}\r\nAuthorization: Bearer {second}\r\n");
        stage.refuses(format!("GET /app HTTP/1.1\r\nHost: gw\r\n{lines}\r\n"), 400, "header_ambiguous").await;
        stage.refuses(format!("GET /optional/x HTTP/1.1\r\nHost: gw\r\n{lines}\r\n"), 400, "header_ambiguous").await;
        stage.refuses(format!("GET /public/x HTTP/1.1\r\nHost: gw\r\n{lines}\r\n"), 400, "header_ambiguous").await;
    }
    let joined = format!("GET /app HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {good}, Bearer {other}\r\n\r\n");
    stage.refuses(joined, 401, "token_invalid").await;
    stage.refuses_get(&format!("/app?access_token={good}"), 401, "token_missing").await;
    let twice = r#"{"username":"a","password":"b","username":"c"}"#;
    let login = [("Content-Type", "application/json")];
    stage.gate.request("POST", "/auth/login", &login, twice).await.expect(400, "body_invalid");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    stage
        .gate
        .request("POST", "/auth/login", &form, "username=a&password=b&username=c")
        .await
        .expect(400, "body_invalid");
}

#[tokio::test]
async fn lesson_16_empty_header_name() {
    let stage = Stage::set().await;
    for line in [": x", " : x", "\t: x", "X-Auth-User : x", "X Y: z", "X-Auth-User\0: x", "novalue"] {
        let request = format!("GET /public/x HTTP/1.1\r\nHost: gw\r\n{line}\r\nX-Auth-User: admin\r\n\r\n");
        stage.refuses(request, 400, "request_malformed").await;
    }
}

#[tokio::test]
async fn lesson_17_claims_in_headers() {
    let stage = Stage::set().await;
    for claims in [
        json!({"username": "a\r\nX-Auth-Groups: root"}),
        json!({"username": "a\nb"}),
        json!({"username": "a\u{0}b"}),
        json!({"username": "a\u{7f}b"}),
        json!({"cognito:groups": ["fine", "a\r\n"]}),
        json!({"cognito:groups": ["a,admin"]}),
    ] {
        let token = stage.pool.access(claims.clone());
        let reply = stage.gate.get_as("/app", &token).await;
        assert_eq!((reply.status, reply.code().as_str()), (403, "claim_unrepresentable"), "{claims}");
    }
    stage.upstream.saw_nothing();
    let token = stage.pool.access(json!({"username": "J\u{f6}rg", "cognito:groups": ["a", "b c"]}));
    assert_eq!(stage.gate.get_as("/app", &token).await.status, 200);
    let seen = stage.upstream.next_request().await;
    assert_eq!(seen.header("x-auth-username"), Some("J%C3%B6rg"));
    assert_eq!(seen.header("x-auth-groups"), Some("a,b c"));
}

#[tokio::test]
async fn lesson_18_client_address() {
    let send = async |stage: &Stage, lines: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: gw\r\n{lines}\r\n");
        assert_eq!(stage.gate.raw().await.exchange(request).await.status, 200);
        let seen = stage.upstream.next_request().await;
        let line = stage.gate.access_line(path).await;
        let header = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        (header("x-forwarded-for"), header("x-real-ip"), line["client"].as_str().unwrap_or_default().to_owned())
    };
    let strings = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    let stage = Stage::set().await;
    let lines = "X-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n";
    assert_eq!(send(&stage, lines, "/public/a").await, strings("127.0.0.1", "127.0.0.1", "127.0.0.1"));
    let stage = Stage::with("[server]\nworkers = 1\ndrain = \"2s\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n").await;
    let believed = send(&stage, lines, "/public/b").await;
    assert_eq!(believed, strings("203.0.113.9, 127.0.0.1", "203.0.113.9", "203.0.113.9"));
    let far = "X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\nX-Forwarded-For: 127.0.0.2\r\n";
    assert_eq!(
        send(&stage, far, "/public/c").await.2,
        "203.0.113.9",
        "right to left, to the first that is not trusted"
    );
    for nonsense in ["a", "203.0.113.9, a", "127.0.0.2, 203.0.113.9:99999", "\u{ff}"] {
        let path = format!("/public/{}", nonsense.len());
        let client = send(&stage, &format!("X-Forwarded-For: {nonsense}\r\n"), &path).await.2;
        assert_eq!(client, "127.0.0.1", "{nonsense:?} ends the walk");
    }
    let token = stage.token();
    let request =
        format!("GET /app HTTP/1.1\r\nHost: gw\r\nX-Forwarded-For: a\r\nAuthorization: Bearer {token}x\r\n\r\n");
    stage.gate.raw().await.exchange(request).await.expect(401, "token_invalid");
}

#[tokio::test]
async fn lesson_19_unsigned_identity_headers() {
    let stage = Stage::with_routes("[upstream.app.assertion]\naudience = \"app\"\n").await;
    let keys = stage.gate.get("/auth/.well-known/jwks.json").await.json();
    let forged = "X-Portcullis-Assertion: e30.e30.AA\r\nX_Portcullis_Assertion: e30.e30.AA\r\n";
    is_not_passed_on(&stage, forged).await;
    let seen = stage.upstream.requests().pop().unwrap();
    let jwt = seen.header("x-portcullis-assertion").expect("what the upstream can check");
    let header = jsonwebtoken::decode_header(jwt).unwrap();
    assert_eq!(header.kid.as_deref(), keys["keys"][0]["kid"].as_str(), "tests/it/assertion.rs checks the rest");
    assert!(!seen.text().contains("e30.e30.AA"));
}
