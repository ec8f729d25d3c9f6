//! Walks through the life of an account.

use serde_json::json;

use super::{another, join, login_with, members, register, with_own_pool};
use crate::support::Tokens;

#[tokio::test]
async fn lesson_30_from_sign_up_to_a_logout_that_logs_out() {
    let gate = with_own_pool("").await;
    let reply = register(&gate, "sam").await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let body = reply.json();
    assert_eq!((&body["username"], &body["confirmed"]), (&json!("sam"), &json!(false)));
    assert_eq!(members(&body["delivery"]), ["destination", "medium"], "{body}");
    let code = gate.code_for("sam").await;
    let wrong = json!({"username": "sam", "code": another(&code)});
    gate.post_json("/auth/confirm", &wrong).await.expect(400, "code_mismatch");
    let confirmed = gate.post_json("/auth/confirm", &json!({"username": "sam", "code": code})).await;
    assert_eq!((confirmed.status, confirmed.json()), (200, json!({"confirmed": true})));

    let reply = login_with(&gate, "sam", "Portcullis-1").await;
    let body = reply.json();
    assert_eq!(members(&body), ["access_token", "expires_in", "id_token", "refresh_token", "token_type"], "{body}");
    assert_eq!((&body["token_type"], body["expires_in"].is_u64()), (&json!("Bearer"), true));
    let first = Tokens::of(&reply);
    let whoami = gate.get_as("/hello", &first.access).await;
    assert_eq!(whoami.status, 200, "{}", whoami.text());
    assert_eq!(whoami.json()["identity"]["x-auth-username"], "sam", "{}", whoami.text());

    let refreshed = gate.post_json("/auth/refresh", &json!({"refresh_token": first.refresh})).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let second = refreshed.json()["access_token"].as_str().unwrap().to_owned();
    assert_ne!(second, first.access);
    assert_eq!(gate.get_as("/hello", &second).await.status, 200);

    for (token, token_use) in [(&second, "access"), (&first.id, "id")] {
        let valid = gate.post_json("/auth/validate", &json!({"token": token})).await.json();
        assert_eq!(members(&valid), ["claims", "expires_in", "token_use", "valid"], "{valid}");
        assert_eq!((&valid["valid"], &valid["token_use"]), (&json!(true), &json!(token_use)));
    }

    let logout = gate.post_json_as("/auth/logout", &second, &json!({"refresh_token": first.refresh})).await;
    assert_eq!((logout.status, logout.body.len()), (204, 0));
    // The whole sign-in is over, not only the token that was shown.
    for token in [&second, &first.access] {
        gate.get_as("/hello", token).await.expect(401, "token_revoked");
        gate.post_json("/auth/validate", &json!({"token": token})).await.expect(401, "token_revoked");
        gate.post_json_as("/auth/logout", token, &json!({})).await.expect(401, "token_revoked");
    }
    let dead = gate.post_json("/auth/refresh", &json!({"refresh_token": first.refresh})).await;
    assert_eq!(dead.status, 401, "{}", dead.text());
    // Another sign-in of the same user is another matter.
    let third = gate.login("sam").await;
    assert_eq!(gate.get_as("/hello", &third.access).await.status, 200);
}

#[tokio::test]
async fn logout_everywhere_ends_every_sign_in_at_the_pool() {
    let gate = with_own_pool("").await;
    let (here, there) = (gate.login("demo").await, gate.login("demo").await);
    gate.post_json_as("/auth/logout", &here.access, &json!({"everywhere": true})).await.expect(204, "");
    gate.get_as("/hello", &here.access).await.expect(401, "token_revoked");
    let refreshed = gate.post_json("/auth/refresh", &json!({"refresh_token": there.refresh})).await;
    assert_eq!(refreshed.status, 401, "{}", refreshed.text());
}

#[tokio::test]
async fn a_forgotten_password_is_reset_with_a_code() {
    let gate = with_own_pool("").await;
    let forgot = gate.post_json("/auth/password/forgot", &json!({"username": "demo"})).await;
    assert_eq!(forgot.status, 202, "{}", forgot.text());
    assert_eq!(members(&forgot.json()), ["delivery"]);
    assert_eq!(login_with(&gate, "demo", "Portcullis-1").await.status, 200, "the old one works until then");
    let code = gate.code_for("demo").await;
    let reset = async |code: &str, password: &str| {
        gate.post_json("/auth/password/reset", &json!({"username": "demo", "code": code, "password": password})).await
    };
    reset(&another(&code), "Portcullis-2").await.expect(400, "code_mismatch");
    reset(&code, "weak").await.expect(400, "password_rejected");
    reset(&code, "Portcullis-2").await.expect(204, "");
    login_with(&gate, "demo", "Portcullis-1").await.expect(401, "credentials_invalid");
    assert_eq!(login_with(&gate, "demo", "Portcullis-2").await.status, 200);
    assert_eq!(reset(&code, "Portcullis-3").await.status, 400, "a code works once");
    login_with(&gate, "demo", "Portcullis-3").await.expect(401, "credentials_invalid");
}

#[tokio::test]
async fn a_new_password_is_required_and_given() {
    let gate = with_own_pool("").await;
    let new = json!({"Username": "newbie", "TemporaryPassword": "Temporary-1", "MessageAction": "SUPPRESS"});
    gate.pool_api("main").must("AdminCreateUser", &new).await;
    login_with(&gate, "newbie", "Temporary-2").await.expect(401, "credentials_invalid");
    let challenge = login_with(&gate, "newbie", "Temporary-1").await;
    assert_eq!(challenge.status, 200, "{}", challenge.text());
    let challenge = challenge.json();
    assert_eq!(challenge["challenge"], "NEW_PASSWORD_REQUIRED", "{challenge}");
    assert!(challenge["parameters"].is_object() && challenge.get("access_token").is_none(), "{challenge}");
    let session = challenge["session"].as_str().unwrap();
    assert!(!session.contains("newbie"), "it is sealed");
    let answer = async |session: &str, password: &str| {
        gate.post_json("/auth/challenge", &json!({"session": session, "new_password": password})).await
    };
    answer(session, "weak").await.expect(400, "password_rejected");
    let tampered = format!("{}{}", session, "A");
    answer(&tampered, "Portcullis-1").await.expect(401, "session_expired");
    answer("nonsense", "Portcullis-1").await.expect(401, "session_expired");
    let code = json!({"session": session, "code": "123456"});
    gate.post_json("/auth/challenge", &code).await.expect(400, "challenge_invalid");
    // Cognito spends a session on every answer, also on a rejected one: sign in again.
    let again = login_with(&gate, "newbie", "Temporary-1").await.json();
    let session = again["session"].as_str().unwrap();
    let tokens = answer(session, "Portcullis-1").await;
    assert_eq!(tokens.status, 200, "{}", tokens.text());
    assert_eq!(gate.get_as("/hello", &Tokens::of(&tokens).access).await.status, 200);
    answer(session, "Portcullis-2").await.expect(401, "session_expired");
    gate.login("newbie").await;
}

#[tokio::test]
async fn five_wrong_answers_end_a_challenge() {
    let gate = with_own_pool("").await;
    let new = json!({"Username": "newbie", "TemporaryPassword": "Temporary-1", "MessageAction": "SUPPRESS"});
    gate.pool_api("main").must("AdminCreateUser", &new).await;
    let challenge = login_with(&gate, "newbie", "Temporary-1").await.json();
    let answer = json!({"session": challenge["session"], "new_password": "weak"});
    let mut statuses = Vec::new();
    for _attempt in 0..7 {
        statuses.push(gate.post_json("/auth/challenge", &answer).await.status);
    }
    assert_eq!(statuses.last(), Some(&401), "{statuses:?}");
    // The one session that was sealed first does not bring the attempts back.
    let right = json!({"session": challenge["session"], "new_password": "Portcullis-1"});
    gate.post_json("/auth/challenge", &right).await.expect(401, "session_expired");
}

#[tokio::test]
async fn both_flows_sign_in_and_both_refuse() {
    for flow in ["srp", "password"] {
        let pool = crate::support::EMBEDDED.replacen(
            "[pool.main.embedded]",
            &format!("flow = \"{flow}\"\n[pool.main.embedded]"),
            1,
        );
        let gate =
            crate::support::Portcullis::start(&(pool + &crate::support::route("/*", "app", "\"required\""))).await;
        let tokens = gate.login("demo").await;
        assert_eq!(gate.get_as("/x", &tokens.access).await.status, 200, "{flow}");
        login_with(&gate, "demo", "Portcullis-2").await.expect(401, "credentials_invalid");
        login_with(&gate, "nobody", "Portcullis-1").await.expect(401, "credentials_invalid");
        let refreshed = gate.post_json("/auth/refresh", &json!({"refresh_token": tokens.refresh})).await;
        assert_eq!(refreshed.status, 200, "{flow}: {}", refreshed.text());
    }
}

#[tokio::test]
async fn groups_of_the_pool_open_routes() {
    let admins = "[[route]]\npath = \"/admin/*\"\nupstream = \"app\"\naccess = { groups = [\"admin\"] }\n";
    let gate = with_own_pool(admins).await;
    join(&gate, "sam").await;
    let (demo, sam) = (gate.login("demo").await, gate.login("sam").await);
    assert_eq!(gate.get_as("/admin/x", &demo.access).await.status, 200);
    gate.get_as("/admin/x", &sam.access).await.expect(403, "access_denied");
    let pool = gate.pool_api("main");
    pool.must("AdminAddUserToGroup", &json!({"Username": "sam", "GroupName": "admin"})).await;
    let promoted = gate.login("sam").await;
    assert_eq!(gate.get_as("/admin/x", &promoted.access).await.status, 200);
    gate.get_as("/admin/x", &sam.access).await.expect(403, "access_denied");
}

/// The token with another signature.
fn forged(token: &str) -> String {
    let (input, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{input}.{first}{}", signature.chars().skip(1).collect::<String>())
}

#[tokio::test]
async fn lesson_35_nothing_secret_reaches_an_access_line() {
    let gate = with_own_pool("").await;
    register(&gate, "sam").await;
    let code = gate.code_for("sam").await;
    gate.post_json("/auth/confirm?query=query-string", &json!({"username": "sam", "code": code})).await;
    let tokens = gate.login("sam").await;
    let headers = [("Authorization", format!("Bearer {}", tokens.access)), ("Cookie", "secret-cookie=1".to_owned())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    gate.request("GET", "/app/x?query=query-string", &headers, "").await;
    gate.get_as("/refused", &forged(&tokens.access)).await.expect(401, "token_invalid");
    gate.post_json("/auth/login", &json!({"username": "sam", "password": "Wrong-password-1"})).await;
    gate.post_json("/auth/refresh", &json!({"refresh_token": tokens.refresh})).await;
    gate.post_json_as("/auth/logout", &tokens.access, &json!({"refresh_token": tokens.refresh})).await.expect(204, "");
    let used = gate.access_line("/app/x").await;
    assert_eq!(
        (&used["status"], &used["pool"], used["subject"].is_string()),
        (&json!(200), &json!("main"), true),
        "{used}"
    );
    let refused = gate.access_line("/refused").await;
    assert_eq!((&refused["code"], &refused["reason"]), (&json!("token_invalid"), &json!("signature")), "{refused}");
    gate.access_line("/auth/logout").await;
    let lines = gate.access_lines().join("\n");
    let signature = tokens.access.rsplit('.').next().unwrap();
    for secret in [
        "Portcullis-1",
        "Wrong-password-1",
        "secret-cookie",
        "query-string",
        "Bearer",
        &code,
        &tokens.access,
        signature,
        &tokens.refresh,
        &tokens.id,
    ] {
        assert!(!lines.contains(secret), "{secret} in {lines}");
    }
}
