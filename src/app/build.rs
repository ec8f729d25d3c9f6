//! From a configuration to the snapshot that requests see, and the parts that live beside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::StartError;
use crate::access::Authenticator;
use crate::access::identity::Identity;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::cognito;
use crate::config::{self, Config};
use crate::gateway::route::Routes;
use crate::gateway::{Decisions, Gateway, Route};
use crate::outbound;
use crate::server::tls::Tls;
use crate::store::Memory;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::token::Verifier;
use crate::token::jwks::KeySet;
use crate::upstream::Upstream;

#[cfg(feature = "devpool")]
use crate::devpool;

/// A call to a user pool or its key endpoint: to connect, and in all.
const CONNECT: Duration = Duration::from_secs(3);
const TOTAL: Duration = Duration::from_secs(10);

/// What lives as long as the process and is not part of a snapshot.
#[derive(Debug)]
pub(super) struct Parts {
    /// The configuration, with the real addresses of embedded pools.
    pub(super) config: Config,
    pub(super) key_sets: Vec<(Arc<config::Pool>, KeySet)>,
    pub(super) revoked: Arc<Memory>,
    pub(super) tls: Arc<Tls>,
    #[cfg(feature = "devpool")]
    pub(super) devpools: Vec<devpool::Server>,
}

impl Parts {
    /// Waits until every pool's tokens can be verified.
    pub(super) async fn keys_ready(&self) {
        for (_, keys) in &self.key_sets {
            keys.ready().await;
        }
    }

    /// Ends what has to end before the process does.
    #[cfg(feature = "devpool")]
    pub(super) fn shutdown(&self) {
        for server in &self.devpools {
            server.shutdown();
        }
    }
}

/// Builds everything. Embedded pools are started first: their addresses are part of the others'
/// configuration.
pub(super) fn build(
    mut config: Config,
    tls: Arc<Tls>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
    control: &Handle,
) -> Result<(Gateway, Parts), StartError> {
    #[cfg(feature = "devpool")]
    let devpools = start_devpools(&mut config, clock, control)?;
    #[cfg(not(feature = "devpool"))]
    if let Some(pool) = config.pools.iter_mut().find(|pool| pool.embedded.is_some()) {
        return Err(StartError::NoDevpool(Arc::clone(&pool.name)));
    }

    let http = outbound::client(CONNECT, TOTAL).map_err(StartError::Outbound)?;
    let key_sets: Vec<(Arc<config::Pool>, KeySet)> = config
        .pools
        .iter()
        .map(|pool| {
            let keys = KeySet::start(Arc::clone(pool), http.clone(), clock.clone(), Arc::clone(metrics), control);
            (Arc::clone(pool), keys)
        })
        .collect();
    let verifier = Verifier::new(key_sets.clone());
    let revoked = Arc::new(Memory::new(metrics));
    let identity = Arc::new(Identity::new(&config.identity));
    let authenticator = Arc::new(Authenticator::new(verifier, Arc::clone(&identity), Arc::clone(&revoked), metrics));

    let mut upstreams = HashMap::new();
    for upstream in &config.upstreams {
        upstreams.insert(Arc::clone(&upstream.name), Arc::new(Upstream::new(Arc::clone(upstream), metrics)?));
    }
    let routes = config.routes.iter().filter_map(|route| {
        Some(Route {
            upstream: Arc::clone(upstreams.get(&route.upstream)?),
            metrics: Arc::new(RouteMetrics::new(metrics, Arc::clone(&route.label))),
            config: Arc::clone(route),
        })
    });
    let auth = config.auth.clone().and_then(|auth| {
        let pool = config.pools.iter().find(|pool| pool.name == auth.pool)?;
        let client = cognito::Client::new(Arc::clone(pool), http, clock.clone(), Arc::clone(metrics));
        let authenticator = Arc::clone(&authenticator);
        let (revoked, clock, control) = (Arc::clone(&revoked), clock.clone(), control.clone());
        Some(Auth::new(auth, Arc::new(client), authenticator, revoked, clock, control, metrics))
    });
    let gateway = Gateway {
        routes: Routes::new(routes),
        authenticator,
        identity,
        auth,
        server: config.server.clone(),
        decisions: Decisions::new(Arc::clone(metrics)),
    };
    let parts = Parts {
        config,
        key_sets,
        revoked,
        tls,
        #[cfg(feature = "devpool")]
        devpools,
    };
    Ok((gateway, parts))
}

/// Starts every embedded pool and writes its real address into the configuration.
#[cfg(feature = "devpool")]
fn start_devpools(config: &mut Config, clock: &Clock, control: &Handle) -> Result<Vec<devpool::Server>, StartError> {
    let mut servers = Vec::new();
    for pool in config.pools.iter_mut().filter(|pool| pool.embedded.is_some()) {
        let server = devpool::Server::bind(pool, clock.clone(), control)
            .map_err(|source| StartError::Devpool { name: Arc::clone(&pool.name), source })?;
        *pool = Arc::new(pool.at(server.addr()));
        servers.push(server);
    }
    Ok(servers)
}
