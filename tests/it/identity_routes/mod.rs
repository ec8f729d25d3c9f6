//! The identity routes, from the first sign-up to the last refusal, through the embedded pool.

mod bodies;
mod cors;
mod hiding;
mod life;
mod provider;

use serde_json::{Value, json};

use crate::support::{EMBEDDED, Portcullis, Reply, route};

/// A gateway with its own user pool and everything else behind a token.
async fn with_own_pool(extra: &str) -> Portcullis {
    Portcullis::start(&(EMBEDDED.to_owned() + extra + &route("/*", "app", "\"required\""))).await
}

async fn register(gate: &Portcullis, username: &str) -> Reply {
    let user = json!({"username": username, "password": "Portcullis-1", "email": format!("{username}@example.com")});
    gate.post_json("/auth/register", &user).await
}

/// Registers and confirms.
async fn join(gate: &Portcullis, username: &str) {
    register(gate, username).await.expect(201, "");
    let code = gate.code_for(username).await;
    gate.post_json("/auth/confirm", &json!({"username": username, "code": code})).await.expect(200, "");
}

async fn login_with(gate: &Portcullis, username: &str, password: &str) -> Reply {
    gate.post_json("/auth/login", &json!({"username": username, "password": password})).await
}

/// A code that is not this one.
fn another(code: &str) -> String {
    if code == "123456" { "654321".to_owned() } else { "123456".to_owned() }
}

/// The members of an object, sorted.
fn members(value: &Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}
