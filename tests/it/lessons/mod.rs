//! The security lessons of other gateways, one test for each, named by its number.
//!
//! Each test sends the request that showed the bug elsewhere, and asserts both the answer and what
//! the upstream saw. The upstream of every test also fails it when a request arrives that no
//! gateway may send (`support::seen`). Statuses are those of our contract where it is stricter.

mod coverage;
mod headers;
mod limits;
mod protocol;
mod routes;
mod tokens;

use crate::support::{FakePool, Portcullis, Upstream, route};

/// A gateway with a public, an optional and two protected routes in front of one upstream.
struct Stage {
    gate: Portcullis,
    upstream: Upstream,
    pool: FakePool,
}

impl Stage {
    async fn set() -> Self {
        Self::with("").await
    }

    /// The same with further lines in the config.
    async fn with(extra: &str) -> Self {
        Self::build(extra, "").await
    }

    /// The same with further routes.
    async fn with_routes(more: &str) -> Self {
        Self::build("", more).await
    }

    async fn build(extra: &str, more: &str) -> Self {
        let (upstream, pool) = (Upstream::start().await, FakePool::start().await);
        let routes = route("/public/*", "app", "\"public\"")
            + &route("/optional/*", "app", "\"optional\"")
            + &route("/admin", "app", "\"required\"")
            + &route("/app/*", "app", "\"required\"")
            + &route("/orders/*", "app", "{ scopes = [\"orders/write\"] }")
            + more;
        let gate = Portcullis::start(&(extra.to_owned() + &pool.toml("main") + &upstream.toml("app") + &routes)).await;
        Self { gate, upstream, pool }
    }

    /// Sends these bytes over a connection of their own; status and code must be as given, and
    /// nothing may have reached the upstream.
    async fn refuses(&self, request: impl AsRef<[u8]>, status: u16, code: &str) {
        let request = request.as_ref();
        let reply = self.gate.raw().await.exchange(request).await;
        let shown = String::from_utf8_lossy(request).chars().take(200).collect::<String>();
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{shown:?}");
        self.upstream.saw_nothing();
    }

    /// GET of a target with nothing but `Host`.
    async fn refuses_get(&self, target: &str, status: u16, code: &str) {
        self.refuses(format!("GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n"), status, code).await;
    }

    /// A good token.
    fn token(&self) -> String {
        self.pool.access(serde_json::json!({}))
    }
}
