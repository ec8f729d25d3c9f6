//! Sign-up, confirmation, forgotten and changed passwords, the profile.

use serde_json::{Value, json};

use super::*;

fn confirmation(username: &str, code: &str) -> Value {
    json!({ "ClientId": CLIENT, "Username": username, "ConfirmationCode": code })
}

#[tokio::test]
async fn a_new_user_confirms_and_signs_in() {
    let pool = Running::new();
    let reply = pool.sign_up("Alice").await.unwrap();
    assert_eq!(reply["UserConfirmed"], false);
    assert_eq!(
        reply["CodeDeliveryDetails"],
        json!({ "Destination": "A***@e***", "DeliveryMedium": "EMAIL", "AttributeName": "email" })
    );
    let unconfirmed = exception("UserNotConfirmed", "User is not confirmed.");
    assert_eq!(refused(pool.sign_in("alice", PASSWORD).await), unconfirmed);
    assert_eq!(refused(pool.sign_in("alice", "Wrong-pass-1").await), unconfirmed, "before the password is looked at");

    let code = pool.code().await;
    let wrong = if code == "000000" { "000001" } else { "000000" };
    let mismatch = exception("CodeMismatch", "Invalid verification code provided, please try again.");
    assert_eq!(refused(pool.call("ConfirmSignUp", confirmation("alice", wrong)).await), mismatch);
    assert_eq!(pool.call("ConfirmSignUp", confirmation("ALICE", &code)).await, Ok(json!({})));
    let again = refused(pool.call("ConfirmSignUp", confirmation("alice", &code)).await);
    assert_eq!(again, exception("NotAuthorized", "User cannot be confirmed. Current status is CONFIRMED"));

    let tokens = pool.sign_in("ALICE", PASSWORD).await.unwrap()["AuthenticationResult"].clone();
    let user = pool.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await.unwrap();
    assert_eq!(user["Username"], "alice");
    assert!(user["UserAttributes"].as_array().unwrap().contains(&json!({ "Name": "email_verified", "Value": "true" })));
}

#[tokio::test]
async fn a_taken_name_a_weak_password_and_bad_input_are_refused() {
    let pool = Running::new();
    assert_eq!(refused(pool.sign_up("DEMO").await), exception("UsernameExists", "User already exists"));
    let sign_up = |username: &str, password: &str, attributes: Value| {
        pool.call(
            "SignUp",
            json!({
                "ClientId": CLIENT, "Username": username, "Password": password, "UserAttributes": attributes,
            }),
        )
    };
    assert_eq!(refused(sign_up("bob", "short", json!([])).await).0, "InvalidPasswordException");
    assert_eq!(refused(sign_up("b b", PASSWORD, json!([])).await).0, "InvalidParameterException");
    assert_eq!(refused(sign_up("", PASSWORD, json!([])).await).0, "InvalidParameterException");
    let bad_email = json!([{ "Name": "email", "Value": "nobody" }]);
    assert_eq!(
        refused(sign_up("bob", PASSWORD, bad_email).await),
        exception("InvalidParameter", "Invalid email address format.")
    );
    let forged = json!([{ "Name": "email_verified", "Value": "true" }]);
    assert_eq!(refused(sign_up("bob", PASSWORD, forged).await).0, "NotAuthorizedException");
    let unknown_client = pool.call("SignUp", json!({ "ClientId": "nope", "Username": "bob", "Password": PASSWORD }));
    assert_eq!(refused(unknown_client.await), exception("ResourceNotFound", "User pool client nope does not exist."));
    assert_eq!(sign_up("bob", PASSWORD, json!([])).await.unwrap().get("CodeDeliveryDetails"), None);
}

#[tokio::test]
async fn codes_are_replaced_expire_and_bear_five_mistakes() {
    let pool = Running::new();
    pool.sign_up("alice").await.unwrap();
    let first = pool.code().await;
    let who = json!({ "ClientId": CLIENT, "Username": "alice" });
    assert!(pool.call("ResendConfirmationCode", who.clone()).await.is_ok());
    let second = pool.code().await;
    if first != second {
        assert_eq!(refused(pool.call("ConfirmSignUp", confirmation("alice", &first)).await).0, "CodeMismatchException");
    }
    pool.clock.advance(Duration::from_secs(24 * 3600));
    let expired = exception("ExpiredCode", "Invalid code provided, please request a code again.");
    assert_eq!(refused(pool.call("ConfirmSignUp", confirmation("alice", &second)).await), expired);
    assert!(pool.call("ResendConfirmationCode", who.clone()).await.is_ok());
    for _ in 0..5 {
        assert_eq!(refused(pool.call("ConfirmSignUp", confirmation("alice", "x")).await).0, "CodeMismatchException");
    }
    let right = pool.code().await;
    let limit = exception("LimitExceeded", "Attempt limit exceeded, please try after some time.");
    assert_eq!(refused(pool.call("ConfirmSignUp", confirmation("alice", &right)).await), limit);
    pool.call("ResendConfirmationCode", who.clone()).await.unwrap();
    let right = pool.code().await;
    assert!(pool.call("ConfirmSignUp", confirmation("alice", &right)).await.is_ok());
    let confirmed = exception("InvalidParameter", "User is already confirmed.");
    assert_eq!(refused(pool.call("ResendConfirmationCode", who).await), confirmed);
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_by_a_code() {
    let pool = Running::new();
    let reset = |code: &str, password: &str| {
        pool.call(
            "ConfirmForgotPassword",
            json!({
                "ClientId": CLIENT, "Username": "demo", "ConfirmationCode": code, "Password": password,
            }),
        )
    };
    assert_eq!(refused(reset("123456", "Another-1").await).0, "ExpiredCodeException");
    let reply = pool.call("ForgotPassword", json!({ "ClientId": CLIENT, "Username": "demo" })).await.unwrap();
    assert_eq!(reply["CodeDeliveryDetails"]["Destination"], "d***@e***");
    assert!(pool.sign_in("demo", PASSWORD).await.is_ok(), "the old password works until then");
    let code = pool.code().await;
    assert_eq!(refused(reset(&code, "weak").await).0, "InvalidPasswordException");
    assert_eq!(refused(reset("x", "Another-1").await).0, "CodeMismatchException");
    assert_eq!(reset(&code, "Another-1").await, Ok(json!({})));
    assert_eq!(refused(reset(&code, "Another-2").await).0, "ExpiredCodeException");
    assert_eq!(refused(pool.sign_in("demo", PASSWORD).await), bad_credentials());
    assert!(pool.sign_in("demo", "Another-1").await.is_ok());
    assert!(pool.sign_in_by_srp(CLIENT, "demo", "Another-1").await.is_ok(), "for SRP as well");
}

#[tokio::test]
async fn who_exists_does_not_show_in_recovery() {
    let pool = Running::new();
    let forgot = |username: &str| pool.call("ForgotPassword", json!({ "ClientId": CLIENT, "Username": username }));
    let (known, unknown) = (forgot("demo").await.unwrap(), forgot("nobody").await.unwrap());
    let shape =
        |reply: &Value| -> Vec<String> { reply["CodeDeliveryDetails"].as_object().unwrap().keys().cloned().collect() };
    assert_eq!(shape(&known), shape(&unknown));
    assert_eq!(known["CodeDeliveryDetails"]["DeliveryMedium"], unknown["CodeDeliveryDetails"]["DeliveryMedium"]);
    assert_eq!(forgot("NOBODY").await.unwrap(), unknown, "it is stable");
    let reset = |username: &str| {
        pool.call(
            "ConfirmForgotPassword",
            json!({
                "ClientId": CLIENT, "Username": username, "ConfirmationCode": "x", "Password": "Another-1",
            }),
        )
    };
    assert_eq!(refused(reset("demo").await), refused(reset("nobody").await));
    let resend = pool.call("ResendConfirmationCode", json!({ "ClientId": CLIENT, "Username": "nobody" }));
    assert_eq!(shape(&resend.await.unwrap()), shape(&known));
    // A user who cannot be reached looks the same.
    pool.sign_up("alice").await.unwrap();
    assert_eq!(shape(&forgot("alice").await.unwrap()), shape(&known));
    assert_eq!(refused(pool.call("ConfirmSignUp", confirmation("nobody", "x")).await).0, "CodeMismatchException");
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() {
    let pool = Running::new();
    let token = pool.tokens().await["AccessToken"].clone();
    let change = |previous: &str, proposed: &str| {
        pool.call(
            "ChangePassword",
            json!({
                "AccessToken": token, "PreviousPassword": previous, "ProposedPassword": proposed,
                "ClientMetadata": { "not": "in the model" },
            }),
        )
    };
    assert_eq!(refused(change("Wrong-pass-1", "Another-1").await), bad_credentials());
    assert_eq!(refused(change(PASSWORD, "weak").await).0, "InvalidPasswordException");
    assert_eq!(change(PASSWORD, "Another-1").await, Ok(json!({})));
    assert!(pool.sign_in("demo", "Another-1").await.is_ok());
    assert!(pool.call("GetUser", json!({ "AccessToken": token })).await.is_ok(), "it revokes nothing");
}

#[tokio::test]
async fn a_deleted_user_is_gone_with_all_tokens() {
    let pool = Running::new();
    let tokens = pool.tokens().await;
    assert_eq!(pool.call("DeleteUser", json!({ "AccessToken": tokens["AccessToken"] })).await, Ok(Value::Null));
    let gone = pool.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await;
    assert_eq!(refused(gone), exception("UserNotFound", "User does not exist."));
    assert_eq!(refused(pool.sign_in("demo", PASSWORD).await), bad_credentials());
    let refresh = pool.call(
        "GetTokensFromRefreshToken",
        json!({
            "ClientId": CLIENT, "RefreshToken": tokens["RefreshToken"],
        }),
    );
    assert_eq!(refused(refresh.await).0, "NotAuthorizedException");
}
