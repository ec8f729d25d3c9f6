//! C. Tokens and keys

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Stage;
use crate::support::Key;

async fn is_refused(stage: &Stage, what: &str, token: &str) {
    for path in ["/app", "/optional/x"] {
        let reply = stage.gate.get_as(path, token).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "token_invalid"), "{what} on {path}");
        let challenge = reply.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge}");
    }
    stage.upstream.saw_nothing();
}

#[tokio::test]
async fn lesson_20_algorithm_confusion() {
    let stage = Stage::set().await;
    let (key, claims) = (Key::nth(0), stage.pool.access_claims().to_string());
    // HMAC with the public key as its secret.
    for secret in [key.public_der(), pem(&key.public_der()).into_bytes(), key.jwk()["n"].to_string().into_bytes()] {
        let header = json!({"alg": "HS256", "kid": key.kid}).to_string();
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&claims));
        let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let tag = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&hmac, input.as_bytes()));
        is_refused(&stage, "HS256", &format!("{input}.{tag}")).await;
    }
    for alg in ["none", "None", "NONE", "nOnE", "", "RS384", "RS512", "PS256", "ES256", "rs256", "EdDSA"] {
        let token = key.sign_raw(&json!({"alg": alg, "kid": key.kid}).to_string(), &claims);
        is_refused(&stage, alg, &token).await;
        let (input, _) = token.rsplit_once('.').unwrap_or_default();
        is_refused(&stage, "no signature", &format!("{input}.")).await;
    }
    let own_key = json!({"alg": "RS256", "kid": "mine", "jwk": Key::nth(1).jwk()}).to_string();
    is_refused(&stage, "its own key", &Key::nth(1).sign_raw(&own_key, &claims)).await;
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
        ("jku", json!("https://evil.example/jwks.json")),
        ("jwk", key.jwk()),
        ("x5u", json!("https://evil.example/cert.pem")),
        ("x5c", json!(["AA=="])),
    ] {
        let mut header = json!({"alg": "RS256", "kid": key.kid});
        header[name] = value;
        is_refused(&stage, name, &key.sign_raw(&header.to_string(), &claims)).await;
    }
    for header in [
        json!({"alg": "RS256"}).to_string(),
        json!({"alg": "RS256", "kid": 1}).to_string(),
        json!({"kid": key.kid}).to_string(),
        format!(r#"{{"alg":"none","alg":"RS256","kid":"{}"}}"#, key.kid),
        format!(r#"["RS256","{}"]"#, key.kid),
        "{".to_owned(),
        String::new(),
    ] {
        is_refused(&stage, &header, &key.sign_raw(&header, &claims)).await;
    }
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

#[tokio::test]
async fn lesson_21_malformed_claims_and_wrapping_times() {
    let stage = Stage::set().await;
    let now = stage.pool.access_claims()["iat"].as_i64().unwrap_or_default();
    for claims in [
        json!({"nbf": "4102444800"}),
        json!({"nbf": now.to_string()}),
        json!({"nbf": [now]}),
        json!({"nbf": now + 3000}),
        json!({"exp": (now + 600).to_string()}),
        json!({"exp": -1}),
        json!({"exp": 1e300}),
        json!({"exp": 9_007_199_254_740_993_u64}),
        json!({"exp": u64::MAX}),
        json!({"exp": true}),
        json!({"iat": "now"}),
        json!({"iat": now + 3000}),
        json!({"iat": -1}),
        json!({"iss": [stage.pool.issuer()]}),
        json!({"iss": 1}),
        json!({"sub": 1}),
        json!({"sub": ["a"]}),
        json!({"token_use": ["access"]}),
        json!({"client_id": [stage.pool.client_id]}),
        json!({"cognito:groups": "admin"}),
        json!({"cognito:groups": [1]}),
        json!({"scope": ["openid"]}),
    ] {
        is_refused(&stage, &claims.to_string(), &stage.pool.access(claims.clone())).await;
    }
    // Twice the same member: two parsers read two tokens.
    let claims = stage.pool.access_claims().to_string();
    let twice = claims.replacen('{', "{\"sub\":\"root\",", 1);
    is_refused(&stage, "two subjects", &Key::nth(0).sign_raw(&good_header(), &twice)).await;
    is_refused(&stage, "trailing junk", &Key::nth(0).sign_raw(&good_header(), &format!("{claims}x"))).await;
}

fn good_header() -> String {
    json!({"alg": "RS256", "kid": Key::nth(0).kid}).to_string()
}

#[tokio::test]
async fn lesson_22_expiry_is_not_optional() {
    let stage = Stage::set().await;
    for name in ["exp", "iat", "iss", "sub", "token_use", "client_id"] {
        let claims = Value::Object([(name.to_owned(), Value::Null)].into_iter().collect());
        is_refused(&stage, &format!("no {name}"), &stage.pool.access(claims)).await;
    }
    let now = stage.pool.access_claims()["iat"].as_i64().unwrap_or_default();
    is_refused(&stage, "two days", &stage.pool.access(json!({"exp": now + 2 * 86_400}))).await;
    let expired = stage.pool.access(json!({"iat": now - 100, "exp": now - 60}));
    stage.gate.get_as("/app", &expired).await.expect(401, "token_expired");
    let within_leeway = stage.pool.access(json!({"iat": now - 100, "exp": now - 1}));
    assert_eq!(stage.gate.get_as("/app", &within_leeway).await.status, 200, "10 s of clock difference are tolerated");
}

#[tokio::test]
async fn lesson_23_token_of_another_client_or_purpose() {
    let stage = Stage::set().await;
    is_refused(&stage, "an ID token", &stage.pool.id_token(json!({}))).await;
    is_refused(&stage, "another client", &stage.pool.access(json!({"client_id": "another0client"}))).await;
    let own = &stage.pool.client_id;
    is_refused(&stage, "aud instead", &stage.pool.access(json!({"client_id": null, "aud": own}))).await;
    is_refused(&stage, "another use", &stage.pool.access(json!({"token_use": "refresh"}))).await;
    is_refused(&stage, "an ID token in disguise", &stage.pool.id_token(json!({"client_id": own}))).await;
    for issuer in
        [format!("{}/", stage.pool.issuer()), stage.pool.issuer().to_uppercase(), format!("{}x", stage.pool.issuer())]
    {
        is_refused(&stage, &issuer, &stage.pool.access(json!({"iss": issuer}))).await;
    }
}

#[tokio::test]
async fn lesson_24_present_but_invalid_is_not_anonymous() {
    let stage = Stage::set().await;
    is_refused(&stage, "an unknown issuer", &stage.pool.access(json!({"iss": "https://evil"}))).await;
    for junk in ["x", "a.b.c", "..", "", "null", "a b", "Bearer x"] {
        is_refused(&stage, junk, junk).await;
    }
    assert_eq!(stage.gate.get("/optional/x").await.status, 200, "none is anonymous");
    let seen = stage.upstream.next_request().await;
    assert_eq!((seen.identity(), seen.header("authorization")), (vec![], None));
}

#[tokio::test]
async fn lesson_25_a_cached_verification_decides_nothing_else() {
    let stage = Stage::set().await;
    let (reader, writer) = (stage.token(), stage.pool.access(json!({"scope": "orders/write", "sub": "writer"})));
    for _again in 0..3 {
        assert_eq!(stage.gate.get_as("/app", &reader).await.status, 200);
        stage.gate.get_as("/orders/1", &reader).await.expect(403, "access_denied");
        assert_eq!(stage.gate.get_as("/orders/1", &writer).await.status, 200);
        // A token that differs from a cached one in a single character is another token.
        let (input, signature) = reader.rsplit_once('.').unwrap_or_default();
        let other = if signature.starts_with('A') { 'B' } else { 'A' };
        let forged = format!("{input}.{other}{}", signature.chars().skip(1).collect::<String>());
        stage.gate.get_as("/app", &forged).await.expect(401, "token_invalid");
    }
    for seen in stage.upstream.requests() {
        let subject = if seen.target == "/app" { "11111111-2222-4333-8444-555555555555" } else { "writer" };
        assert_eq!(seen.header("x-auth-subject"), Some(subject));
    }
}

#[tokio::test]
async fn lesson_26_unknown_kids_do_not_amplify() {
    let stage = Stage::set().await;
    let (before, began) = (stage.pool.endpoint.fetches(), tokio::time::Instant::now());
    let claims = stage.pool.access_claims().to_string();
    let mut clients = Vec::new();
    for n in 0..100 {
        let header = json!({"alg": "RS256", "kid": format!("random-{n}")}).to_string();
        let token = Key::nth(1).sign_raw(&header, &claims);
        let mut client = stage.gate.raw().await;
        client.send(format!("GET /app HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
        clients.push(client);
    }
    for mut client in clients {
        client.read().await.expect(401, "token_invalid");
    }
    let fetches = stage.pool.endpoint.fetches() - before;
    let refills = usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    assert!((1..=2 + refills).contains(&fetches), "{fetches} fetches");
    // Neither a foreign issuer nor a bad signature under a known kid asks for keys at all.
    let before = stage.pool.endpoint.fetches();
    let foreign = json!({"alg": "RS256", "kid": "foreign"}).to_string();
    let elsewhere = stage.pool.access_claims().to_string().replace("/eu-west-1", "/eu-west-2");
    is_refused(&stage, "another issuer", &Key::nth(1).sign_raw(&foreign, &elsewhere)).await;
    is_refused(&stage, "another key", &Key::nth(1).sign_raw(&good_header(), &claims)).await;
    assert_eq!(stage.pool.endpoint.fetches(), before);
}

#[tokio::test]
async fn lesson_27_sizes_before_parsing() {
    let stage = Stage::set().await;
    let key = Key::nth(0);
    is_refused(&stage, "8 KiB of dots", &".".repeat(8 * 1024)).await;
    is_refused(&stage, "16 KiB of dots", &".".repeat(16 * 1024)).await;
    is_refused(&stage, "three dots", &format!("{}.", stage.token())).await;
    is_refused(&stage, "five parts", &["eyJhbGciOiJSU0EtT0FFUCJ9", "AA", "AA", "AA", "AA"].join(".")).await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    is_refused(&stage, "a deep payload", &key.sign_raw(&good_header(), &deep)).await;
    let long = format!("{{\"alg\":\"RS256\",\"kid\":\"{}\"}}", "k".repeat(2000));
    is_refused(&stage, "a long header", &key.sign_raw(&long, "{}")).await;
    let padded = stage.pool.access(json!({"padding": "p".repeat(7000)}));
    is_refused(&stage, "more than 8 KiB", &padded).await;
    // What is too large for a request head is not even a token.
    let huge = format!("GET /app HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {}\r\n\r\n", ".".repeat(64 * 1024));
    stage.refuses(huge, 431, "head_too_large").await;
    let json_type = [("Content-Type", "application/json")];
    stage.gate.request("POST", "/auth/login", &json_type, &"[".repeat(10_000)).await.expect(400, "body_invalid");
    let large = format!("{{\"username\":\"{}\"}}", "u".repeat(17 * 1024));
    stage.gate.request("POST", "/auth/login", &json_type, &large).await.expect(413, "body_too_large");
}
