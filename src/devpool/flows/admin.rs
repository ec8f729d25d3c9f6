//! What administrators do.

use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn an_sdk_sets_up_a_user_and_a_group() {
    let pool = Running::new();
    pool.admin("CreateGroup", json!({ "GroupName": "staff", "Precedence": 5 })).await.unwrap();
    assert_eq!(refused(pool.admin("CreateGroup", json!({ "GroupName": "staff" })).await).0, "GroupExistsException");
    let attributes =
        json!([{ "Name": "email", "Value": "eve@example.com" }, { "Name": "email_verified", "Value": "true" }]);
    let user = json!({ "Username": "Eve", "UserAttributes": attributes, "MessageAction": "SUPPRESS" });
    pool.admin("AdminCreateUser", user.clone()).await.unwrap();
    let twice = exception("UsernameExists", "User account already exists");
    assert_eq!(refused(pool.admin("AdminCreateUser", user).await), twice);
    pool.admin("AdminSetUserPassword", json!({ "Username": "eve", "Password": "Evening-1", "Permanent": true }))
        .await
        .unwrap();
    let membership = json!({ "Username": "eve", "GroupName": "staff" });
    assert_eq!(pool.admin("AdminAddUserToGroup", membership.clone()).await, Ok(Value::Null));
    let groups = pool.admin("AdminListGroupsForUser", json!({ "Username": "eve" })).await.unwrap();
    assert_eq!(groups["Groups"][0]["GroupName"], "staff");
    assert_eq!(groups["Groups"][0]["Precedence"], 5);
    let tokens = pool.sign_in("eve", "Evening-1").await.unwrap()["AuthenticationResult"].clone();
    assert_eq!(claims(&tokens["AccessToken"])["cognito:groups"], json!(["staff"]));
    let members = pool.admin("ListUsersInGroup", json!({ "GroupName": "staff" })).await.unwrap();
    assert_eq!(members["Users"][0]["Username"], "eve");
    pool.admin("AdminRemoveUserFromGroup", membership).await.unwrap();
    let tokens = pool.sign_in("eve", "Evening-1").await.unwrap()["AuthenticationResult"].clone();
    assert!(claims(&tokens["AccessToken"]).get("cognito:groups").is_none());
    let nowhere = pool.admin("AdminAddUserToGroup", json!({ "Username": "eve", "GroupName": "nobody" })).await;
    assert_eq!(refused(nowhere), exception("ResourceNotFound", "Group not found."));
    let nobody = pool.admin("AdminAddUserToGroup", json!({ "Username": "nobody", "GroupName": "staff" })).await;
    assert_eq!(refused(nobody), exception("UserNotFound", "User does not exist."));
    pool.admin("AdminAddUserToGroup", json!({ "Username": "eve", "GroupName": "staff" })).await.unwrap();
    pool.admin("DeleteGroup", json!({ "GroupName": "staff" })).await.unwrap();
    let groups = pool.admin("AdminListGroupsForUser", json!({ "Username": "eve" })).await.unwrap();
    assert_eq!(groups["Groups"], json!([]));
}

#[tokio::test]
async fn users_are_seen_changed_disabled_and_deleted() {
    let pool = Running::new();
    let demo = json!({ "Username": "demo" });
    let seen = pool.admin("AdminGetUser", demo.clone()).await.unwrap();
    assert_eq!((&seen["UserStatus"], &seen["Enabled"]), (&json!("CONFIRMED"), &json!(true)));
    assert!(
        seen["UserCreateDate"].is_number() && seen["UserAttributes"].is_array() && seen.get("Attributes").is_none()
    );

    let attributes = json!([{ "Name": "email", "Value": "new@example.com" }]);
    pool.admin("AdminUpdateUserAttributes", json!({ "Username": "demo", "UserAttributes": attributes })).await.unwrap();
    let tokens = pool.tokens().await;
    assert_eq!(claims(&tokens["IdToken"])["email"], "new@example.com");
    assert_eq!(claims(&tokens["IdToken"])["email_verified"], false, "a new address is not verified");

    pool.admin("AdminDisableUser", demo.clone()).await.unwrap();
    assert_eq!(refused(pool.sign_in("demo", PASSWORD).await), exception("NotAuthorized", "User is disabled."));
    pool.admin("AdminEnableUser", demo.clone()).await.unwrap();
    let after = pool.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await;
    assert_eq!(refused(after), exception("NotAuthorized", "Access Token has been revoked"), "disabling ends sessions");

    let tokens = pool.tokens().await;
    pool.admin("AdminUserGlobalSignOut", demo.clone()).await.unwrap();
    assert!(pool.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await.is_err());
    pool.admin("AdminDeleteUser", demo.clone()).await.unwrap();
    assert_eq!(refused(pool.admin("AdminGetUser", demo).await), exception("UserNotFound", "User does not exist."));
}

#[tokio::test]
async fn an_administrator_confirms_and_resets() {
    let pool = Running::new();
    pool.sign_up("alice").await.unwrap();
    pool.admin("AdminConfirmSignUp", json!({ "Username": "alice" })).await.unwrap();
    assert!(pool.sign_in("alice", PASSWORD).await.is_ok());
    let again = refused(pool.admin("AdminConfirmSignUp", json!({ "Username": "alice" })).await);
    assert_eq!(again, exception("NotAuthorized", "User cannot be confirmed. Current status is CONFIRMED"));

    pool.admin("AdminResetUserPassword", json!({ "Username": "demo" })).await.unwrap();
    let required = exception("PasswordResetRequired", "Password reset required for the user");
    assert_eq!(refused(pool.sign_in("demo", PASSWORD).await), required);
    assert_eq!(refused(pool.sign_in_by_srp(CLIENT, "demo", PASSWORD).await), required);
    assert_eq!(refused(pool.sign_in("demo", "Wrong-pass-1").await), bad_credentials());
    let code = pool.code().await;
    pool.call(
        "ConfirmForgotPassword",
        json!({
            "ClientId": CLIENT, "Username": "demo", "ConfirmationCode": code, "Password": "Another-1",
        }),
    )
    .await
    .unwrap();
    assert!(pool.sign_in("demo", "Another-1").await.is_ok());
}

#[tokio::test]
async fn users_are_listed_by_pages_and_filters() {
    let pool = Running::new();
    for name in ["a", "b", "c"] {
        pool.admin("AdminCreateUser", json!({ "Username": name, "TemporaryPassword": "Temporary-1" })).await.unwrap();
    }
    let names = |reply: &Value| -> Vec<String> {
        reply["Users"].as_array().unwrap().iter().map(|user| user["Username"].as_str().unwrap().to_owned()).collect()
    };
    let first = pool.admin("ListUsers", json!({ "Limit": 3 })).await.unwrap();
    assert_eq!(names(&first), ["a", "b", "c"]);
    let rest = pool.admin("ListUsers", json!({ "PaginationToken": first["PaginationToken"] })).await.unwrap();
    assert_eq!(names(&rest), ["demo"]);
    assert!(rest.get("PaginationToken").is_none());
    let found = pool.admin("ListUsers", json!({ "Filter": "email = \"DEMO@example.com\"" })).await.unwrap();
    assert_eq!(names(&found), ["demo"]);
    assert_eq!(refused(pool.admin("ListUsers", json!({ "Filter": "nonsense" })).await).0, "InvalidParameterException");
}

#[tokio::test]
async fn a_second_pool_is_a_world_of_its_own() {
    let pool = Running::new();
    let made = pool
        .admin(
            "CreateUserPool",
            json!({
                "PoolName": "second", "AliasAttributes": ["email"], "AutoVerifiedAttributes": ["email"],
                "Policies": { "PasswordPolicy": { "MinimumLength": 6 } },
            }),
        )
        .await
        .unwrap();
    let id = made["UserPool"]["Id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("eu-west-1_") && id != POOL);
    let client = pool
        .admin(
            "CreateUserPoolClient",
            json!({
                "UserPoolId": id, "ClientName": "app", "ExplicitAuthFlows": ["ALLOW_USER_PASSWORD_AUTH"],
            }),
        )
        .await
        .unwrap();
    let client = client["UserPoolClient"]["ClientId"].clone();
    pool.admin("AdminCreateUser", json!({
        "UserPoolId": id, "Username": "frank",
        "UserAttributes": [{ "Name": "email", "Value": "f@example.com" }, { "Name": "email_verified", "Value": "true" }],
    })).await.unwrap();
    assert!(pool.code().await.len() >= 12, "the invitation has the temporary password");
    let password = json!({ "UserPoolId": id, "Username": "frank", "Password": "simple", "Permanent": true });
    pool.admin("AdminSetUserPassword", password).await.unwrap();
    let start = |username: &'static str| {
        pool.call(
            "InitiateAuth",
            json!({
                "ClientId": client, "AuthFlow": "USER_PASSWORD_AUTH",
                "AuthParameters": { "USERNAME": username, "PASSWORD": "simple" },
            }),
        )
    };
    let tokens = start("F@example.com").await.unwrap()["AuthenticationResult"].clone();
    assert_eq!(claims(&tokens["AccessToken"])["username"], "frank", "the alias stands for the name");
    assert!(claims(&tokens["AccessToken"])["iss"].as_str().unwrap().ends_with(&id));
    assert!(pool.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await.is_ok());
    assert_eq!(refused(pool.admin("AdminGetUser", json!({ "Username": "frank" })).await).0, "UserNotFoundException");
    let mail_as_name =
        pool.call("SignUp", json!({ "ClientId": client, "Username": "x@example.com", "Password": "simple" }));
    assert_eq!(refused(mail_as_name.await).0, "InvalidParameterException");
    let taken = pool.admin("AdminCreateUser", json!({
        "UserPoolId": id, "Username": "other",
        "UserAttributes": [{ "Name": "email", "Value": "F@Example.com" }, { "Name": "email_verified", "Value": "true" }],
    }));
    assert_eq!(refused(taken.await).0, "AliasExistsException");
    let pools = pool.admin("ListUserPools", json!({ "MaxResults": 60 })).await.unwrap();
    assert_eq!(pools["UserPools"].as_array().unwrap().len(), 2);
    let described = pool.admin("DescribeUserPool", json!({ "UserPoolId": id })).await.unwrap();
    assert_eq!(described["UserPool"]["Policies"]["PasswordPolicy"]["MinimumLength"], 6);
    assert_eq!(described["UserPool"]["EstimatedNumberOfUsers"], 1);
}

#[tokio::test]
async fn app_clients_come_and_go() {
    let pool = Running::new();
    let made =
        pool.admin("CreateUserPoolClient", json!({ "ClientName": "app", "GenerateSecret": true })).await.unwrap();
    let made = &made["UserPoolClient"];
    assert_eq!(made["ClientId"].as_str().unwrap().len(), 26);
    assert_eq!(made["ClientSecret"].as_str().unwrap().len(), 52);
    assert_eq!(made["PreventUserExistenceErrors"], "LEGACY");
    let one = json!({ "ClientId": made["ClientId"] });
    assert_eq!(pool.admin("DescribeUserPoolClient", one.clone()).await.unwrap()["UserPoolClient"], *made);
    let listed = pool.admin("ListUserPoolClients", json!({})).await.unwrap();
    assert_eq!(listed["UserPoolClients"].as_array().unwrap().len(), 2);
    pool.admin("DeleteUserPoolClient", one.clone()).await.unwrap();
    assert_eq!(refused(pool.admin("DescribeUserPoolClient", one).await).0, "ResourceNotFoundException");
    let short = pool.admin(
        "CreateUserPoolClient",
        json!({
            "ClientName": "app", "AccessTokenValidity": 1, "TokenValidityUnits": { "AccessToken": "seconds" },
        }),
    );
    assert_eq!(refused(short.await).0, "InvalidParameterException");
}
