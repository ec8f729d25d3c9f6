//! What outlives the process.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_restart_keeps_users_keys_codes_and_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = pool(Some(directory.path().join("pool.redb")), None);
    // The issuer contains the port: it has to stay for old tokens to be accepted.
    config.embedded.as_mut().unwrap().address = free_address();
    let pool = Running::start(config, Clock::manual(Timestamp::from_seconds(1_767_582_249)));
    pool.sign_up("alice").await.unwrap();
    pool.admin("AdminSetUserPassword", json!({ "Username": "demo", "Password": "Changed-1", "Permanent": true }))
        .await
        .unwrap();
    let tokens = pool.sign_in("demo", "Changed-1").await.unwrap()["AuthenticationResult"].clone();
    let path = format!("/{POOL}/.well-known/jwks.json");
    let (keys, code, outbox) = (pool.get(&path).await, pool.code().await, pool.server.outbox());

    let pool = pool.restart().await;
    assert!(outbox.list().is_empty(), "the outbox of a server that ended");
    assert_eq!(pool.get(&path).await, keys);
    assert_eq!(pool.code().await, code);
    let confirmation = json!({ "ClientId": CLIENT, "Username": "alice", "ConfirmationCode": code });
    assert!(pool.call("ConfirmSignUp", confirmation).await.is_ok());
    assert!(pool.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await.is_ok());
    let refresh = json!({ "ClientId": CLIENT, "RefreshToken": tokens["RefreshToken"] });
    assert!(pool.call("GetTokensFromRefreshToken", refresh).await.is_ok());
    assert!(pool.sign_in("demo", "Changed-1").await.is_ok(), "seed users are not reset");
    assert!(pool.sign_in("demo", PASSWORD).await.is_err());
}

#[tokio::test]
async fn old_keys_are_replaced_at_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let pool = Running::with(Some(directory.path().join("pool.redb")), None);
    pool.clock.advance(super::super::keys::LIFE);
    let pool = pool.restart().await;
    let keys = pool.get(&format!("/{POOL}/.well-known/jwks.json")).await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 4, "the old pair of pairs and the new one");
    assert!(pool.sign_in("demo", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn two_servers_cannot_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pool.redb");
    let _first = Running::with(Some(file.clone()), None);
    let second = Server::bind(&pool(Some(file), None), Clock::System, &Handle::current());
    let Err(super::super::Error::Store(error)) = second else { panic!("the file is in use") };
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
