//! Cognito's own API, as an SDK speaks it, against an embedded pool.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Client;

/// An embedded pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolApi {
    address: SocketAddr,
    pool_id: String,
}

impl PoolApi {
    pub(crate) fn new(address: SocketAddr, pool_id: &str) -> Self {
        Self { address, pool_id: pool_id.to_owned() }
    }

    /// Calls an operation: status and body. `None`: the pool went away before it had answered.
    pub(crate) async fn try_call(&self, operation: &str, input: &Value) -> Option<(u16, Value)> {
        let mut body = input.clone();
        if operation.starts_with("Admin") {
            body["UserPoolId"] = json!(self.pool_id);
        }
        let body = body.to_string();
        // The embedded pool looks at the form of a signature only.
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-amz-json-1.1\r\n\
             X-Amz-Target: AWSCognitoIdentityProviderService.{operation}\r\nX-Amz-Date: 20260101T000000Z\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/eu-west-1/cognito-idp/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={}\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            "0".repeat(64),
            body.len()
        );
        let mut client = Client::try_connect(self.address).await?;
        client.send(request).await;
        let reply = client.next("POST").await.ok()?;
        let body = if reply.body.is_empty() { Value::Null } else { reply.json() };
        Some((reply.status, body))
    }

    /// Calls an operation that must succeed.
    pub(crate) async fn must(&self, operation: &str, input: &Value) -> Value {
        let (status, body) = self.try_call(operation, input).await.expect("the pool answers");
        assert_eq!(status, 200, "{operation} {input}: {body}");
        body
    }

    /// A confirmed user with the password that all users have.
    pub(crate) async fn add_user(&self, username: &str) {
        let attributes = json!([
            {"Name": "email", "Value": format!("{username}@example.com")}, {"Name": "email_verified", "Value": "true"}
        ]);
        let user = json!({"Username": username, "UserAttributes": attributes, "MessageAction": "SUPPRESS"});
        self.must("AdminCreateUser", &user).await;
        let password = json!({"Username": username, "Password": super::portcullis::PASSWORD, "Permanent": true});
        self.must("AdminSetUserPassword", &password).await;
    }
}
