//! The protocol around the operations: errors, headers, CORS, who may reach it.

use serde_json::json;

use super::*;

#[tokio::test]
async fn errors_have_the_form_that_clients_parse() {
    let pool = Running::new();
    let response = pool.post(&format!("{TARGET_PREFIX}GetUser"), r#"{"AccessToken":"x"}"#).send().await.unwrap();
    assert_eq!(response.status(), 400);
    let header = |name: &str| {
        crate::http::first(response.headers(), &name.parse().unwrap()).unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(header("x-amzn-errortype"), "NotAuthorizedException:");
    assert_eq!(header("x-amzn-errormessage"), "Invalid Access Token");
    assert_eq!(header("content-type"), CONTENT_TYPE);
    assert_eq!(header("x-amzn-requestid").len(), 36);
    assert_eq!(header("access-control-allow-origin"), "*");
}

#[tokio::test]
async fn what_is_not_a_request_is_named_as_such() {
    let pool = Running::new();
    let exception = async |target: &str, body: &str| refused(read(pool.post(target, body.to_owned())).await);
    let sign_up = format!("{TARGET_PREFIX}SignUp");
    assert_eq!(exception("", "{}").await.0, "UnknownOperationException");
    assert_eq!(exception("SignUp", "{}").await.0, "UnknownOperationException");
    assert_eq!(exception(&format!("{TARGET_PREFIX}Nonsense"), "{}").await.0, "UnknownOperationException");
    for body in ["{", "[]", "\"x\"", r#"{"ClientId": 5, "Username": "a"}"#] {
        assert_eq!(exception(&sign_up, body).await.0, "SerializationException", "{body}");
    }
    let missing =
        "1 validation error detected: Value at 'clientId' failed to satisfy constraint: Member must not be null";
    assert_eq!(exception(&sign_up, "").await, super::exception("InvalidParameter", missing));
    let large = format!(r#"{{"ClientId":"{}"}}"#, "x".repeat(128 * 1024));
    assert_eq!(exception(&sign_up, &large).await.0, "SerializationException");
    let secret = refused(
        pool.call("SignUp", json!({ "ClientId": CLIENT, "Username": "a", "Password": ["Top-secret-1"] })).await,
    );
    assert!(!secret.1.contains("Top-secret-1"));
}

#[tokio::test]
async fn administrators_have_to_sign() {
    let pool = Running::new();
    let body = json!({ "UserPoolId": POOL, "Username": "demo" });
    let unsigned = refused(pool.call("AdminGetUser", body.clone()).await);
    assert_eq!(unsigned, exception("MissingAuthenticationToken", "Missing Authentication Token"));
    let target = format!("{TARGET_PREFIX}AdminGetUser");
    let bearer = read(pool.post(&target, body.to_string()).header("authorization", "Bearer x")).await;
    assert_eq!(refused(bearer).0, "IncompleteSignatureException");
}

#[tokio::test]
async fn documents_agree_and_are_reachable() {
    let pool = Running::new();
    let discovery = pool.get(&format!("/{POOL}/.well-known/openid-configuration")).await;
    let base = pool.server.base_url();
    assert_eq!(discovery["issuer"], format!("{base}/{POOL}"));
    let path = discovery["jwks_uri"].as_str().unwrap().strip_prefix(&base).unwrap().to_owned();
    assert_eq!(pool.get(&path).await["keys"].as_array().unwrap().len(), 2);
    assert_eq!(pool.get("/health").await, json!({ "service": "portcullis-pool", "pools": [POOL] }));
    let missing = pool.http.get(format!("{base}/eu-west-1_Nope/.well-known/jwks.json")).send().await.unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn web_pages_call_the_public_operations_and_no_others() {
    let pool = Running::new();
    let preflight = pool.http.request(reqwest::Method::OPTIONS, pool.server.base_url());
    let preflight = preflight.header("origin", "https://app.example.com").send().await.unwrap();
    assert_eq!(preflight.status(), 200);
    let allowed = "access-control-allow-headers".parse().unwrap();
    let allowed = crate::http::first(preflight.headers(), &allowed).unwrap().to_str().unwrap().to_owned();
    assert!(allowed.contains("x-amz-target") && !allowed.contains("authorization"));
    let rebound = pool.http.get(format!("{}/health", pool.server.base_url())).header("host", "evil.example:80");
    assert_eq!(rebound.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    let mut config = pool(None, None);
    config.embedded.as_mut().unwrap().address = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = Server::bind(&config, Clock::System, &Handle::current());
    assert!(matches!(refused, Err(super::super::Error::NotLoopback(_))));
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let first = Running::new();
    let mut config = pool(None, None);
    config.embedded.as_mut().unwrap().address = first.server.addr();
    let second = Server::bind(&config, Clock::System, &Handle::current());
    assert!(matches!(second, Err(super::super::Error::Bind { .. })));
}
