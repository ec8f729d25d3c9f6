//! The vocabulary of the black-box tests.
//!
//! A test reads as: who is there, who says what, what came out at the other end. The words:
//!
//! - [`Portcullis`] is the gateway under test, in this process, on free loopback ports.
//!   `Portcullis::start(toml)` takes only the sections that matter to the test: routes, and the
//!   texts that [`Upstream::toml`] and [`FakePool::toml`] make (or [`EMBEDDED`], a whole user pool
//!   in memory). Its verbs are `get`, `get_as`, `request`, `post_json`, `login`, `admin_get`, and
//!   `raw()`, which opens a [`Client`]. `start_on_file` gives it a real file, which `reload` writes anew. Everything it wrote about requests is in `access_lines()`.
//! - [`Client`] is one TCP connection that sends **exactly** the bytes it is given. It reads one
//!   [`Reply`] at a time, or everything until the gateway closes, or notes that a reply was cut.
//!   Every reply is held against the invariants that no single test asks for (`reply::check`):
//!   one framing, no leaking headers, the six members of a problem whose status fits, an
//!   `X-Request-Id` on what the gateway itself says, a challenge on every 401, `no-store` on
//!   identity routes.
//! - [`h2::H2`] is the same for HTTP/2: one connection, exactly these frames.
//! - [`Upstream`] is a scripted TCP server. It keeps the exact bytes of every request as a
//!   [`Seen`] and answers with an [`Answer`]: bytes, waits for a [`Gate`], clean and unclean ends.
//!   It fails the test by itself when a request reaches it that no gateway may send: two `Host`
//!   lines, two framings, hop-by-hop headers, a target that is not a plain path. Its answers
//!   carry `X-Upstream`, which is how the client tells them from the gateway's own.
//! - [`h2_upstream::H2Upstream`] is one that speaks HTTP/2, whose requests the test takes and answers itself.
//! - [`FakePool`] is a user pool of which only the tokens and the key endpoint exist. It signs any
//!   header and claims, well-formed or not, and its endpoint can be slow, wrong, huge or dead
//!   (`endpoint.set(KeyMode::…)`); it counts fetches.
//! - [`PoolApi`] speaks Cognito's own API, as an SDK would, to an embedded pool.
//! - [`Certificate`] is one that anybody can sign for himself, and [`TlsClient`] one who trusts some
//!   of them; its `connect` shakes hands and gives a [`Client`].
//! - [`Process`] is the real binary: exit codes, signals, what it prints.
//!
//! Nothing sleeps to let something happen: every wait is for an event (`next_request`, `closed`,
//! `Gate`, `until`) under one generous deadline, [`PATIENCE`], that only a failing test reaches.

mod client;
mod fake_pool;
pub(crate) mod h2;
pub(crate) mod h2_upstream;
mod pool_api;
mod portcullis;
pub(crate) mod process;
mod reply;
mod seen;
mod tls;
mod upstream;

pub(crate) use client::Client;
pub(crate) use fake_pool::{FakePool, Key, KeyMode};
pub(crate) use pool_api::PoolApi;
pub(crate) use portcullis::{EMBEDDED, Portcullis, Tokens, route};
pub(crate) use process::Process;
pub(crate) use reply::Reply;
pub(crate) use seen::Seen;
pub(crate) use tls::{Certificate, TlsClient};
pub(crate) use upstream::{Answer, Gate, Upstream};

use std::future::Future;
use std::time::Duration;

/// How long anything may take before the test counts as failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for an event; fails the test when it does not come.
pub(crate) async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    tokio::time::timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Asks again and again until the answer is there, for what can only be polled.
pub(crate) async fn until<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut ask: F) -> T {
    soon(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
