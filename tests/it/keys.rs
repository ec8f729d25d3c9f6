//! The key set: rotation, outages, floods, restarts.

use std::path::Path;
use std::time::Duration;

use portcullis::clock::Clock;
use serde_json::{Value, json};

use crate::support::{FakePool, Gate, Key, KeyMode, Portcullis, route, until};

/// A gateway that trusts these pools, with everything behind a token.
async fn trusting(pools: &str) -> Portcullis {
    Portcullis::start(&(pools.to_owned() + &route("/*", "app", "\"required\""))).await
}

/// A pool with these lines in its `[pool.NAME.keys]`.
fn with_keys(pool: &FakePool, lines: &str) -> String {
    format!("{}[pool.main.keys]\n{lines}\n", pool.toml("main"))
}

fn signed_by(key: usize, pool: &FakePool) -> String {
    Key::nth(key).sign(&pool.access_claims())
}

#[tokio::test]
async fn no_request_with_a_valid_token_fails_while_keys_rotate() {
    let pool = FakePool::start().await;
    let gate = trusting(&with_keys(&pool, "cooldown = \"500ms\"")).await;
    let authorized = |token: &str| format!("GET /x HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n");
    for (published, newest) in [(vec![0], 0), (vec![0, 1], 1), (vec![1, 2], 2)] {
        let keys: Vec<&Key> = published.iter().map(|n| Key::nth(*n)).collect();
        pool.endpoint.keys(&keys);
        let mut clients = Vec::new();
        for _client in 0..8 {
            clients.push(gate.raw().await);
        }
        // The newest key is in use at once, by all of them together, before anybody has fetched it.
        for round in 0..10 {
            for client in &mut clients {
                client.send(authorized(&signed_by(newest, &pool))).await;
            }
            for client in &mut clients {
                let reply = client.read().await;
                assert_eq!(reply.status, 200, "round {round} of key {newest}: {}", reply.text());
            }
        }
    }
    assert!(pool.endpoint.fetches() <= 4, "{} fetches for two rotations", pool.endpoint.fetches());
    gate.get_as("/x", &signed_by(0, &pool)).await.expect(401, "token_invalid");
}

#[tokio::test]
async fn no_kind_of_outage_opens_or_closes_the_wrong_thing() {
    let elsewhere = FakePool::named("Elsewhere").await;
    let small = json!({"kty": "RSA", "kid": "key-1", "n": "AQAB", "e": "AQAB"});
    let unusable =
        json!({"keys": [{"kty": "oct", "kid": "key-1", "k": "AAAA"}, {"kty": "EC", "kid": "key-1"}, small, 7, "x"]});
    let too_many: Vec<Value> = (0..100)
        .map(|n| {
            let mut jwk = Key::nth(1).jwk();
            jwk["kid"] = json!(format!("{n}"));
            jwk
        })
        .collect();
    let location = format!("location: {}/.well-known/jwks.json\r\n", elsewhere.issuer());
    let good = json!({"keys": [Key::nth(1).jwk()]}).to_string().into_bytes();
    let padding = [b"{\"keys\":[], \"x\":\"".to_vec(), vec![b'x'; 2_000_000], b"\"}".to_vec()].concat();
    let modes = [
        ("500", "status", KeyMode::Answer(500, String::new(), good.clone())),
        ("404", "status", KeyMode::Answer(404, String::new(), good.clone())),
        ("204", "status", KeyMode::Answer(204, String::new(), vec![])),
        ("garbage", "invalid", KeyMode::Answer(200, String::new(), b"<html>".to_vec())),
        ("empty", "invalid", KeyMode::Answer(200, String::new(), vec![])),
        ("no keys", "invalid", KeyMode::Keys(vec![])),
        ("no object", "invalid", KeyMode::Answer(200, String::new(), b"[]".to_vec())),
        ("huge", "too_large", KeyMode::Answer(200, String::new(), padding)),
        ("redirect", "status", KeyMode::Answer(302, location, good)),
        ("wrong keys", "invalid", KeyMode::Answer(200, String::new(), unusable.to_string().into_bytes())),
        ("too many keys", "invalid", KeyMode::Keys(too_many)),
    ];
    for (name, outcome, mode) in modes {
        let pool = FakePool::start().await;
        let gate = trusting(&pool.toml("main")).await;
        let asked = pool.endpoint.fetches();
        pool.endpoint.set(mode);
        let reply = gate.get_as("/x", &signed_by(1, &pool)).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "keys_unavailable"), "{name}");
        assert!(pool.endpoint.fetches() > asked, "{name}: the unknown key was asked for");
        assert_eq!(gate.get_as("/x", &signed_by(0, &pool)).await.status, 200, "{name}: known keys go on");
        let series = format!("portcullis_jwks_fetch_total{{pool=\"main\",outcome=\"{outcome}\"}}");
        assert!(gate.metric(&series).await >= 1, "{name} is counted as {outcome}");
    }
    assert_eq!(elsewhere.endpoint.fetches(), 0, "a redirect was followed");
}

#[tokio::test]
async fn an_endpoint_that_went_away_leaves_the_known_keys_in_force() {
    let pool = FakePool::start().await;
    let gate = trusting(&pool.toml("main")).await;
    pool.endpoint.stop().await;
    gate.get_as("/x", &signed_by(1, &pool)).await.expect(503, "keys_unavailable");
    assert_eq!(gate.get_as("/x", &signed_by(0, &pool)).await.status, 200);
}

#[tokio::test]
async fn a_slow_endpoint_delays_only_those_who_need_it() {
    let pool = FakePool::start().await;
    let gate = trusting(&pool.toml("main")).await;
    let (slow, asked) = (Gate::new(), pool.endpoint.fetches());
    pool.endpoint.set(KeyMode::After(slow.clone(), vec![Key::nth(0).jwk(), Key::nth(1).jwk()]));
    let mut waiting = gate.raw().await;
    waiting.send(format!("GET /x HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {}\r\n\r\n", signed_by(1, &pool))).await;
    pool.endpoint.fetched(asked + 1).await;
    assert_eq!(gate.get_as("/x", &signed_by(0, &pool)).await.status, 200, "known keys do not wait");
    slow.open();
    assert_eq!(waiting.read().await.status, 200, "and who waited is served");
    assert_eq!(pool.endpoint.fetches(), asked + 1);
}

#[tokio::test]
async fn a_silent_endpoint_costs_a_request_its_own_deadline_only() {
    let pool = FakePool::start().await;
    let gate = trusting(&with_keys(&pool, "cooldown = \"100ms\"")).await;
    pool.endpoint.set(KeyMode::Hang);
    // For one cooldown after the last success, that success is all there is to know.
    let (known, unknown) = (signed_by(0, &pool), signed_by(1, &pool));
    until("503", async || {
        let reply = gate.get_as("/x", &unknown).await;
        assert!(["keys_unavailable", "token_invalid"].contains(&reply.code().as_str()), "{}", reply.text());
        (reply.status == 503).then_some(())
    })
    .await;
    assert_eq!(gate.get_as("/x", &known).await.status, 200);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_cannot_hide_a_real_rotation() {
    let pool = FakePool::start().await;
    let gate = trusting(&with_keys(&pool, "cooldown = \"500ms\"")).await;
    let began = tokio::time::Instant::now();
    let before = pool.endpoint.fetches();
    let claims = pool.access_claims().to_string();
    // So many at once; each waits for a fetch that could bring its key, if one is allowed soon.
    let flood = async |from: usize| {
        let mut clients = Vec::new();
        for n in from..from + 40 {
            let header = json!({"alg": "RS256", "kid": format!("flood-{n}")}).to_string();
            let token = Key::nth(2).sign_raw(&header, &claims);
            let mut client = gate.raw().await;
            client.send(format!("GET /x HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
            clients.push(client);
        }
        for mut client in clients {
            client.read().await.expect(401, "token_invalid");
        }
    };
    flood(0).await;
    pool.endpoint.keys(&[Key::nth(0), Key::nth(1)]);
    // The flood goes on while the new key's first user tries.
    let mut from = 40;
    until("the new key", async || {
        flood(from).await;
        from += 40;
        (gate.get_as("/x", &signed_by(1, &pool)).await.status == 200).then_some(())
    })
    .await;
    let allowed = 2 + usize::try_from(began.elapsed().as_millis() / 500).unwrap();
    let fetches = pool.endpoint.fetches() - before;
    assert!(fetches <= allowed, "{fetches} fetches where {allowed} are allowed");
}

#[tokio::test]
async fn keys_that_outlived_the_stale_bound_verify_nothing() {
    let pool = FakePool::start().await;
    let clock = Clock::manual(Clock::System.now());
    let toml = with_keys(&pool, "refresh = \"1s\"\nstale = \"24h\"") + &route("/*", "app", "\"required\"");
    let gate = Portcullis::start_at(&toml, Path::new("/nonexistent"), clock.clone()).await;
    pool.endpoint.set(KeyMode::Answer(500, String::new(), vec![]));
    // What was under way may still succeed; after two more failures nothing is.
    pool.endpoint.fetched(pool.endpoint.fetches() + 2).await;
    let token_at = |clock: &Clock| {
        let now = clock.now().seconds();
        pool.access(json!({"iat": now, "auth_time": now, "exp": now + 600}))
    };
    clock.advance(Duration::from_secs(23 * 3600));
    assert_eq!(gate.get_as("/x", &token_at(&clock)).await.status, 200, "an hour before the bound");
    clock.advance(Duration::from_secs(2 * 3600));
    gate.get_as("/x", &token_at(&clock)).await.expect(503, "keys_unavailable");
    assert_eq!(gate.admin_get("/ready").await.status, 503);
    pool.endpoint.keys(&[Key::nth(0)]);
    let token = token_at(&clock);
    until("recovery", async || (gate.get_as("/x", &token).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_copy_on_disk_bridges_a_restart_during_an_outage() {
    let (pool, folder) = (FakePool::start().await, tempfile::tempdir().unwrap());
    let toml = with_keys(&pool, "cache = \"keys/jwks.json\"") + &route("/*", "app", "\"required\"");
    let copy = folder.path().join("keys/jwks.json");
    {
        let _first = Portcullis::start_at(&toml, folder.path(), Clock::System).await;
        until("the copy on disk", async || copy.exists().then_some(())).await;
    }
    pool.endpoint.set(KeyMode::Answer(500, String::new(), vec![]));
    let second = Portcullis::start_at(&toml, folder.path(), Clock::System).await;
    assert_eq!(second.get_as("/x", &signed_by(0, &pool)).await.status, 200);
    second.get_as("/x", &signed_by(1, &pool)).await.expect(503, "keys_unavailable");
    drop(second);
    // A copy that cannot be read is worth nothing, and says nothing.
    std::fs::write(&copy, "{\"keys\":[{\"kty\":").unwrap();
    pool.endpoint.keys(&[Key::nth(0)]);
    let third = Portcullis::start_at(&toml, folder.path(), Clock::System).await;
    assert_eq!(third.get_as("/x", &signed_by(0, &pool)).await.status, 200);
}

#[tokio::test]
async fn pools_side_by_side_do_not_lend_each_other_their_keys() {
    let (one, two) = (FakePool::start().await, FakePool::named("Two000001").await);
    // The same kid in both pools, for two keys.
    let mut impostor = Key::nth(1).jwk();
    impostor["kid"] = json!("key-0");
    two.endpoint.set(KeyMode::Keys(vec![impostor]));
    let gate = trusting(&(one.toml("main") + &two.toml("two"))).await;
    assert_eq!(gate.get_as("/x", &one.access(json!({}))).await.status, 200);
    gate.get_as("/x", &two.access(json!({}))).await.expect(401, "token_invalid");
    let header = json!({"alg": "RS256", "kid": "key-0"}).to_string();
    let of_two = Key::nth(1).sign_raw(&header, &two.access_claims().to_string());
    let reply = gate.get_as("/x", &of_two).await;
    assert_eq!(reply.json()["identity"]["x-auth-pool"], "two", "{}", reply.text());
    // One pool's outage is not the other's.
    two.endpoint.stop().await;
    let unknown = Key::nth(2);
    gate.get_as("/x", &unknown.sign(&two.access_claims())).await.expect(503, "keys_unavailable");
    gate.get_as("/x", &unknown.sign(&one.access_claims())).await.expect(401, "token_invalid");
    assert_eq!(gate.get_as("/x", &one.access(json!({}))).await.status, 200);
}

#[tokio::test]
async fn the_operator_sees_the_keys() {
    let pool = FakePool::start().await;
    let gate = trusting(&pool.toml("main")).await;
    let keys = gate.admin_get("/keys").await.text();
    assert!(keys.contains("\"key-0\"") && keys.contains("main"), "{keys}");
    assert!(!keys.contains(Key::nth(0).jwk()["n"].as_str().unwrap()), "kids and ages, not the keys");
    assert_eq!(gate.metric("portcullis_jwks_keys{pool=\"main\"}").await, 1);
    assert_eq!(gate.admin_get("/ready").await.status, 200);
}
