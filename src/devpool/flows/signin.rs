//! Passwords proven in each way, and what keeps them from being proven.

use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn srp_is_verified_for_real() {
    let pool = Running::new();
    let reply = pool.sign_in_by_srp(CLIENT, "Demo", PASSWORD).await.unwrap();
    assert_eq!(reply["ChallengeParameters"], json!({}));
    let result = &reply["AuthenticationResult"];
    assert_eq!((&result["ExpiresIn"], &result["TokenType"]), (&json!(3600), &json!("Bearer")));
    assert_eq!(refused(pool.sign_in_by_srp(CLIENT, "demo", "Portcullis-2").await), bad_credentials());
}

#[tokio::test]
async fn an_srp_challenge_is_answered_once_in_time_by_its_user_and_client() {
    let pool = Running::new();
    let start = ClientStart::random().unwrap();
    let begin = || pool.start_srp(CLIENT, "demo", &start);
    let challenge = begin().await.unwrap();
    let good = pool.srp_answer(&challenge, &start, PASSWORD);
    assert!(pool.answer_srp(CLIENT, good.clone()).await.is_ok());
    let used = exception("NotAuthorized", "Invalid session for the user, session can only be used once.");
    assert_eq!(refused(pool.answer_srp(CLIENT, good).await), used);

    let challenge = begin().await.unwrap();
    let mut other_user = pool.srp_answer(&challenge, &start, PASSWORD);
    other_user["USERNAME"] = json!("somebody");
    assert_eq!(refused(pool.answer_srp(CLIENT, other_user).await), bad_credentials());

    let other = pool.admin("CreateUserPoolClient", json!({ "ClientName": "other" })).await.unwrap();
    let other = other["UserPoolClient"]["ClientId"].as_str().unwrap();
    let challenge = begin().await.unwrap();
    let answer = pool.srp_answer(&challenge, &start, PASSWORD);
    let stranger = refused(pool.answer_srp(other, answer.clone()).await);
    assert_eq!(stranger, exception("NotAuthorized", "Invalid session for the user."));

    pool.clock.advance(Duration::from_secs(180));
    let late = exception("NotAuthorized", "Invalid session for the user, session is expired.");
    assert_eq!(refused(pool.answer_srp(CLIENT, answer).await), late);

    let challenge = begin().await.unwrap();
    let mut stale = pool.srp_answer(&challenge, &start, PASSWORD);
    stale["TIMESTAMP"] = json!("Mon Jan 5 02:00:00 UTC 2026");
    assert_eq!(refused(pool.answer_srp(CLIENT, stale).await), bad_credentials());
}

#[tokio::test]
async fn a_degenerate_srp_a_opens_nothing() {
    let pool = Running::new();
    let begin = |srp_a: &str| {
        pool.call(
            "InitiateAuth",
            json!({
                "ClientId": CLIENT, "AuthFlow": "USER_SRP_AUTH",
                "AuthParameters": { "USERNAME": "demo", "SRP_A": srp_a },
            }),
        )
    };
    for srp_a in ["0", "zz", "000000"] {
        let refusal = refused(begin(srp_a).await).0;
        assert_eq!(refusal, "InvalidParameterException", "{srp_a}");
    }
}

#[tokio::test]
async fn an_unknown_user_gets_the_same_answers() {
    let pool = Running::new();
    assert_eq!(refused(pool.sign_in("nobody", PASSWORD).await), refused(pool.sign_in("demo", "Wrong-pass-1").await));
    let start = ClientStart::random().unwrap();
    let challenge = |username: &'static str| pool.start_srp(CLIENT, username, &start);
    let (known, unknown) = (challenge("demo").await.unwrap(), challenge("nobody").await.unwrap());
    let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(names(&known), names(&unknown));
    assert_eq!(names(&known["ChallengeParameters"]), names(&unknown["ChallengeParameters"]));
    let block = |reply: &Value| reply["ChallengeParameters"]["SECRET_BLOCK"].as_str().unwrap().len();
    assert_eq!(block(&known), block(&unknown));
    assert_eq!(unknown["ChallengeParameters"]["USER_ID_FOR_SRP"], "nobody");
    let again = challenge("NoBody").await.unwrap();
    assert_eq!(again["ChallengeParameters"]["SALT"], unknown["ChallengeParameters"]["SALT"], "a stable salt");
    assert_ne!(again["ChallengeParameters"]["SRP_B"], unknown["ChallengeParameters"]["SRP_B"]);
    let answer = pool.srp_answer(&unknown, &start, PASSWORD);
    assert_eq!(refused(pool.answer_srp(CLIENT, answer).await), bad_credentials());
}

#[tokio::test]
async fn a_client_that_does_not_hide_users_tells_who_exists() {
    let pool = Running::new();
    let flows = json!(["ALLOW_USER_PASSWORD_AUTH", "ALLOW_USER_SRP_AUTH"]);
    let made = pool.admin("CreateUserPoolClient", json!({ "ClientName": "legacy", "ExplicitAuthFlows": flows })).await;
    let client = made.unwrap()["UserPoolClient"]["ClientId"].as_str().unwrap().to_owned();
    let unknown = exception("UserNotFound", "User does not exist.");
    assert_eq!(refused(pool.sign_in_by_srp(&client, "nobody", PASSWORD).await), unknown);
    let request = json!({
        "ClientId": client, "AuthFlow": "USER_PASSWORD_AUTH",
        "AuthParameters": { "USERNAME": "nobody", "PASSWORD": PASSWORD },
    });
    assert_eq!(refused(pool.call("InitiateAuth", request).await), unknown);
    let forgot = pool.call("ForgotPassword", json!({ "ClientId": client, "Username": "nobody" })).await;
    assert_eq!(refused(forgot), exception("UserNotFound", "Username/client id combination not found."));
}

#[tokio::test]
async fn flows_are_what_the_client_allows() {
    let pool = Running::new();
    let made = pool.admin("CreateUserPoolClient", json!({ "ClientName": "app" })).await.unwrap();
    let start = |flow: &'static str| {
        pool.call(
            "InitiateAuth",
            json!({
                "ClientId": made["UserPoolClient"]["ClientId"], "AuthFlow": flow,
                "AuthParameters": { "USERNAME": "demo", "PASSWORD": PASSWORD },
            }),
        )
    };
    let off = exception("InvalidParameter", "USER_PASSWORD_AUTH flow not enabled for this client");
    assert_eq!(refused(start("USER_PASSWORD_AUTH").await), off, "off by default");
    let missing = exception("InvalidParameter", "Missing required parameter SRP_A");
    assert_eq!(refused(start("USER_SRP_AUTH").await), missing);
    assert_eq!(refused(start("NONSENSE").await).0, "InvalidParameterException");
    assert_eq!(refused(start("CUSTOM_AUTH").await).0, "UnsupportedOperationException");
}

#[tokio::test]
async fn wrong_passwords_lock_the_user_for_a_while() {
    let pool = Running::new();
    for _ in 0..5 {
        assert_eq!(refused(pool.sign_in("demo", "Wrong-pass-1").await), bad_credentials());
    }
    let locked = exception("NotAuthorized", "Password attempts exceeded");
    assert_eq!(refused(pool.sign_in("demo", PASSWORD).await), locked);
    assert_eq!(refused(pool.sign_in_by_srp(CLIENT, "demo", PASSWORD).await), locked);
    pool.clock.advance(Duration::from_secs(1));
    assert!(pool.sign_in("demo", PASSWORD).await.is_ok());
    assert_eq!(refused(pool.sign_in("demo", "Wrong-pass-1").await), bad_credentials(), "the count starts again");
}

#[tokio::test]
async fn a_temporary_password_has_to_be_replaced() {
    let pool = Running::new();
    let made = pool
        .admin(
            "AdminCreateUser",
            json!({
                "Username": "carol", "TemporaryPassword": "Temporary-1",
                "UserAttributes": [{ "Name": "email", "Value": "carol@example.com" }],
            }),
        )
        .await
        .unwrap();
    assert_eq!(made["User"]["UserStatus"], "FORCE_CHANGE_PASSWORD");
    assert_eq!(refused(pool.sign_in("carol", "Wrong-pass-1").await), bad_credentials(), "no challenge without it");
    let challenge = pool.sign_in_by_srp(CLIENT, "carol", "Temporary-1").await.unwrap();
    assert_eq!(challenge["ChallengeName"], "NEW_PASSWORD_REQUIRED");
    let parameters = &challenge["ChallengeParameters"];
    assert_eq!(parameters["requiredAttributes"], "[]");
    assert_eq!(parameters["userAttributes"], r#"{"email":"carol@example.com"}"#);

    let answer = |session: &Value, username: &'static str, password: &'static str| {
        pool.call("RespondToAuthChallenge", json!({
            "ClientId": CLIENT, "ChallengeName": "NEW_PASSWORD_REQUIRED", "Session": session,
            "ChallengeResponses": { "USERNAME": username, "NEW_PASSWORD": password, "userAttributes.name": "Carol" },
        }))
    };
    let session = &challenge["Session"];
    assert_eq!(refused(answer(session, "carol", "weak").await).0, "InvalidPasswordException");
    let reply = answer(session, "carol", "Permanent-1").await.unwrap();
    assert_eq!(claims(&reply["AuthenticationResult"]["IdToken"])["name"], "Carol");
    let used = exception("NotAuthorized", "Invalid session for the user, session can only be used once.");
    assert_eq!(refused(answer(session, "carol", "Permanent-2").await), used);
    assert!(pool.sign_in("carol", "Permanent-1").await.unwrap().get("AuthenticationResult").is_some());

    pool.admin("AdminSetUserPassword", json!({ "Username": "carol", "Password": "Temporary-2" })).await.unwrap();
    let challenge = pool.sign_in("carol", "Temporary-2").await.unwrap();
    let stranger = refused(answer(&challenge["Session"], "demo", "Permanent-3").await);
    assert_eq!(stranger, exception("NotAuthorized", "Invalid session for the user."));
    pool.clock.advance(Duration::from_secs(7 * 86_400));
    let text = "Temporary password has expired and must be reset by an administrator.";
    assert_eq!(refused(pool.sign_in("carol", "Temporary-2").await), exception("NotAuthorized", text));
}

#[tokio::test]
async fn a_client_with_a_secret_proves_it() {
    let pool = Running::with(None, Some(SECRET));
    let missing = format!("Client {CLIENT} is configured with secret but SECRET_HASH was not received");
    assert_eq!(refused(pool.sign_in("demo", PASSWORD).await), exception("NotAuthorized", &missing));
    let start = |hash: Option<String>| {
        pool.call(
            "InitiateAuth",
            json!({
                "ClientId": CLIENT, "AuthFlow": "USER_PASSWORD_AUTH",
                "AuthParameters": { "USERNAME": "demo", "PASSWORD": PASSWORD, "SECRET_HASH": hash },
            }),
        )
    };
    let wrong = format!("Unable to verify secret hash for client {CLIENT}");
    assert_eq!(refused(start(pool.hash("alice")).await), exception("NotAuthorized", &wrong));
    let tokens = start(pool.hash("demo")).await.unwrap()["AuthenticationResult"].clone();
    assert!(pool.sign_in_by_srp(CLIENT, "demo", PASSWORD).await.is_ok());
    assert!(pool.sign_up("alice").await.is_ok());

    let refresh = |hash: Option<String>| {
        pool.call(
            "InitiateAuth",
            json!({
                "ClientId": CLIENT, "AuthFlow": "REFRESH_TOKEN_AUTH",
                "AuthParameters": { "REFRESH_TOKEN": tokens["RefreshToken"], "SECRET_HASH": hash },
            }),
        )
    };
    assert!(refresh(pool.hash("demo")).await.is_ok());
    let wrong = format!("SecretHash does not match for the client: {CLIENT}");
    assert_eq!(refused(refresh(pool.hash("alice")).await), exception("NotAuthorized", &wrong));
    assert_eq!(refused(refresh(None).await), exception("NotAuthorized", &missing));

    let raw = |operation: &'static str, member: &'static str, secret: Option<&'static str>| {
        pool.call(operation, json!({ "ClientId": CLIENT, member: tokens["RefreshToken"], "ClientSecret": secret }))
    };
    assert!(raw("GetTokensFromRefreshToken", "RefreshToken", Some(SECRET)).await.is_ok());
    assert_eq!(refused(raw("GetTokensFromRefreshToken", "RefreshToken", None).await).0, "NotAuthorizedException");
    assert_eq!(refused(raw("RevokeToken", "Token", Some("wrong")).await).0, "UnauthorizedException");
    assert!(raw("RevokeToken", "Token", Some(SECRET)).await.is_ok());
}
