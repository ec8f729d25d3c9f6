//! From a configuration to the snapshot that requests see, and the parts that live beside it.
//!
//! With the parts of an earlier configuration at hand, what lives is carried over instead of built
//! anew, wherever it is still the same thing: an embedded pool and a client by the pool's section,
//! keys by the pool's issuers and key address, an upstream by its section (and, in
//! `upstream::Connections`, each of its servers by name and address, as is what is known of their
//! health), verified tokens while no pool and no identity header changed, unfinished sign-ins by the
//! pool's address, and what is left of a rate limit by the route and the limit.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::StartError;
use crate::access::Authenticator;
use crate::access::assertion::{self, Assertion};
use crate::access::identity::Identity;
use crate::auth::Auth;
use crate::clock::{Clock, Timestamp};
use crate::cognito;
use crate::config::{self, Config};
use crate::es256::SigningKey;
use crate::gateway::route::Routes;
use crate::gateway::{Decisions, Gateway, Route};
use crate::limit::Limiter;
use crate::outbound;
use crate::server::tls::Tls;
use crate::store::Memory;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::token::Verifier;
use crate::token::jwks::KeySet;
use crate::upstream::{self, Upstream};

#[cfg(feature = "devpool")]
use crate::devpool;

/// A call to a user pool or its key endpoint: to connect, and in all.
const CONNECT: Duration = Duration::from_secs(3);
const TOTAL: Duration = Duration::from_secs(10);

/// What lives as long as the process, whatever the configuration says.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) control: Handle,
    pub(super) revoked: Arc<Memory>,
    http: reqwest::Client,
    /// For assertions, where the file names no key; made when it is needed.
    own_key: OnceLock<Arc<SigningKey>>,
}

impl Base {
    pub(super) fn new(clock: Clock, metrics: Arc<Metrics>, control: Handle) -> Result<Self, StartError> {
        let http = outbound::client(CONNECT, TOTAL).map_err(StartError::Outbound)?;
        let revoked = Arc::new(Memory::new(&metrics));
        Ok(Self { clock, revoked, metrics, control, http, own_key: OnceLock::new() })
    }
}

/// Everything that one configuration made. What the next one does not change is shared with it.
#[derive(Debug)]
pub(super) struct Parts {
    /// The number of the configuration, from 1 on.
    pub(super) generation: u64,
    /// When it came into force.
    pub(super) since: Timestamp,
    /// The configuration in force, with the real addresses of embedded pools.
    pub(super) config: Arc<Config>,
    pub(super) key_sets: Vec<(Arc<config::Pool>, KeySet)>,
    /// Of the listeners.
    pub(super) tls: Arc<Tls>,
    pub(super) embedded: Vec<Arc<Embedded>>,
    /// What requests see.
    pub(super) gateway: Arc<Gateway>,
    upstreams: HashMap<Arc<str>, Arc<Watched>>,
    /// Of the routes that have one.
    limiters: Vec<(Arc<config::Route>, Arc<Limiter>)>,
    /// What the identity routes talk to.
    provider: Option<Arc<cognito::Client>>,
}

/// An upstream, and whoever asks where its servers are, and how. That ends when no configuration in
/// force has it, even if a request still does: nobody may judge servers by settings of the past.
#[derive(Debug)]
struct Watched {
    upstream: Arc<Upstream>,
    /// Aborted on drop.
    _watch: JoinSet<()>,
}

/// A user pool that runs in this process.
#[derive(Debug)]
pub(super) struct Embedded {
    /// As the file had it when it was started.
    pub(super) written: Arc<config::Pool>,
    #[cfg(feature = "devpool")]
    pub(super) server: devpool::Server,
}

impl Parts {
    /// Waits until the tokens of every pool can be verified that `before` knew nothing of.
    pub(super) async fn keys_ready(&self, before: Option<&Self>) {
        for (pool, keys) in &self.key_sets {
            if before.is_none_or(|before| before.keys_of(pool).is_none()) {
                keys.ready().await;
            }
        }
    }

    /// The upstreams that requests go to.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.values().map(|watched| &*watched.upstream)
    }

    /// The embedded pools as the file had them when they were started.
    pub(super) fn written(&self) -> Vec<Arc<config::Pool>> {
        self.embedded.iter().map(|embedded| Arc::clone(&embedded.written)).collect()
    }

    /// Ends the embedded pools that `next` does not have, and closes their files. Blocks.
    #[cfg(feature = "devpool")]
    pub(super) fn shutdown(&self, next: Option<&Self>) {
        let goes_on =
            |one: &Arc<Embedded>| next.is_some_and(|next| next.embedded.iter().any(|other| Arc::ptr_eq(one, other)));
        for embedded in self.embedded.iter().filter(|embedded| !goes_on(embedded)) {
            embedded.server.shutdown();
        }
    }

    /// The keys that a pool's tokens are signed with, whatever else its section says.
    fn keys_of(&self, pool: &config::Pool) -> Option<&(Arc<config::Pool>, KeySet)> {
        self.key_sets.iter().find(|(known, _)| known.issuers == pool.issuers && known.jwks == pool.jwks)
    }
}

/// Builds everything that is not in `before`. Embedded pools are started first: their addresses are
/// part of the others' configuration. `tls` is that of its listeners.
pub(super) fn build(
    base: &Base,
    mut config: Config,
    tls: Arc<Tls>,
    before: Option<&Parts>,
) -> Result<Parts, StartError> {
    let embedded = start_embedded(base, &mut config, before)?;
    let metrics = &base.metrics;
    let key_sets: Vec<_> = config.pools.iter().map(|pool| (Arc::clone(pool), key_set(base, pool, before))).collect();

    let same_callers =
        before.filter(|before| before.config.pools == config.pools && before.config.identity == config.identity);
    let (identity, authenticator) = match same_callers {
        Some(before) => (Arc::clone(&before.gateway.identity), Arc::clone(&before.gateway.authenticator)),
        None => {
            let (identity, verifier) = (Arc::new(Identity::new(&config.identity)), Verifier::new(key_sets.clone()));
            let revoked = Arc::clone(&base.revoked);
            let authenticator = Authenticator::new(verifier, Arc::clone(&identity), revoked, metrics);
            (identity, Arc::new(authenticator))
        }
    };

    let upstreams = upstreams(base, &config, before)?;
    let limiters = limiters(base, &config, before);
    let assertion_keys = assertion_keys(base, &config, before).map(Arc::new);
    let routes = config.routes.iter().filter_map(|route| {
        let limit = limiters.iter().find(|(limited, _)| Arc::ptr_eq(limited, route));
        let upstream = &upstreams.get(&route.upstream)?.upstream;
        let asserted = upstream.config().assertion.as_ref().zip(assertion_keys.as_ref());
        Some(Route {
            upstream: Arc::clone(upstream),
            assertion: asserted.map(|(one, keys)| Assertion::new(one, &config.assertions, Arc::clone(keys))),
            metrics: Arc::new(RouteMetrics::new(metrics, Arc::clone(&route.label))),
            limit: limit.map(|(_, limiter)| Arc::clone(limiter)),
            config: Arc::clone(route),
        })
    });

    let provider = config.auth.as_ref().and_then(|auth| {
        let pool = config.pools.iter().find(|pool| pool.name == auth.pool)?;
        let known = before.and_then(|before| before.provider.as_ref()).filter(|known| *known.pool() == **pool);
        let (http, clock) = (base.http.clone(), base.clock.clone());
        let new = || Arc::new(cognito::Client::new(Arc::clone(pool), http, clock, Arc::clone(metrics)));
        Some(known.map_or_else(new, Arc::clone))
    });
    let auth = config.auth.clone().zip(provider.clone()).map(|(auth, provider)| {
        let (authenticator, revoked) = (Arc::clone(&authenticator), Arc::clone(&base.revoked));
        let new = Auth::new(auth, provider, authenticator, revoked, base.clock.clone(), base.control.clone(), metrics);
        match before.and_then(|before| before.gateway.auth.as_ref()) {
            Some(before) => new.after(before),
            None => new,
        }
    });
    let gateway = Gateway {
        routes: Routes::new(routes),
        authenticator,
        identity,
        auth,
        assertion_keys,
        server: config.server.clone(),
        decisions: Decisions::new(Arc::clone(metrics)),
    };
    Ok(Parts {
        generation: before.map_or(1, |before| before.generation + 1),
        since: base.clock.now(),
        config: Arc::new(config),
        key_sets,
        tls,
        embedded,
        gateway: Arc::new(gateway),
        upstreams,
        limiters,
        provider,
    })
}

/// The keys of a pool: the same ones under the same settings, the same ones kept on otherwise, or new
/// ones.
fn key_set(base: &Base, pool: &Arc<config::Pool>, before: Option<&Parts>) -> KeySet {
    let (http, clock, metrics) = (base.http.clone(), base.clock.clone(), Arc::clone(&base.metrics));
    match before.and_then(|before| before.keys_of(pool)) {
        Some((known, keys)) if known.name == pool.name && known.keys == pool.keys => keys.clone(),
        Some((_, keys)) => keys.continued(Arc::clone(pool), http, metrics, &base.control),
        None => KeySet::start(Arc::clone(pool), http, clock, metrics, &base.control),
    }
}

/// The upstreams by name: the same ones under the same settings, new ones that know the health of
/// their servers otherwise.
fn upstreams(
    base: &Base,
    config: &Config,
    before: Option<&Parts>,
) -> Result<HashMap<Arc<str>, Arc<Watched>>, StartError> {
    let (mut kept, mut new) = (HashMap::new(), Vec::new());
    for upstream in &config.upstreams {
        let name = Arc::clone(&upstream.name);
        let known = before.and_then(|before| before.upstreams.get(&name));
        // What stands in certificate files may be new although their names are not.
        let same = known.filter(|known| known.upstream.config() == &**upstream && !upstream.tls.has_files());
        if let Some(same) = same {
            kept.insert(name, Arc::clone(same));
            continue;
        }
        let built = Upstream::new(Arc::clone(upstream), &base.metrics)
            .map_err(|source| StartError::Upstream { name: Arc::clone(&name), source })?;
        new.push((name, built, known));
    }
    // Nothing can fail from here on, so nothing of what is in force is judged by new settings in vain.
    for (name, built, known) in new {
        let upstream = Arc::new(match known {
            Some(known) => built.remembering(&known.upstream),
            None => built,
        });
        let mut watch = JoinSet::new();
        watch.spawn_on(upstream::probe(Arc::downgrade(&upstream)), &base.control);
        watch.spawn_on(upstream::resolve(Arc::downgrade(&upstream)), &base.control);
        kept.insert(name, Arc::new(Watched { upstream, _watch: watch }));
    }
    Ok(kept)
}

/// The limits of the routes that have one: with the buckets of before where it is the same route
/// with the same limit, else with full ones.
fn limiters(base: &Base, config: &Config, before: Option<&Parts>) -> Vec<(Arc<config::Route>, Arc<Limiter>)> {
    let known = before.map(|before| &*before.limiters).unwrap_or_default();
    let limiter = |route: &Arc<config::Route>| {
        let limit = route.limit?;
        let same = |(other, _): &&(Arc<config::Route>, _)| {
            (&other.host, &other.path, &other.methods) == (&route.host, &route.path, &route.methods)
                && other.limit == route.limit
        };
        let new = || Arc::new(Limiter::new(limit, &route.label, &base.metrics));
        let limiter = known.iter().find(same).map_or_else(new, |(_, limiter)| Arc::clone(limiter));
        Some((Arc::clone(route), limiter))
    };
    config.routes.iter().filter_map(limiter).collect()
}

/// What assertions are signed with, if an upstream gets any: the keys of before rotate.
fn assertion_keys(base: &Base, config: &Config, before: Option<&Parts>) -> Option<assertion::Keys> {
    if config.upstreams.iter().all(|upstream| upstream.assertion.is_none()) {
        return None;
    }
    let (first, others) = match config.assertions.keys.split_first() {
        Some((first, others)) => (Arc::clone(first), others),
        None => (Arc::clone(base.own_key.get_or_init(|| Arc::new(SigningKey::generate()))), &[][..]),
    };
    let others = others.iter().cloned();
    Some(match before.and_then(|before| before.gateway.assertion_keys.as_deref()) {
        Some(before) => assertion::Keys::after(before, first, others, base.clock.now()),
        None => assertion::Keys::new(first, others),
    })
}

/// Starts every embedded pool that does not run yet, and writes its real address into the
/// configuration. Those that run are in it with their real addresses already.
#[cfg(feature = "devpool")]
fn start_embedded(base: &Base, config: &mut Config, before: Option<&Parts>) -> Result<Vec<Arc<Embedded>>, StartError> {
    let mut all = Vec::new();
    for pool in config.pools.iter_mut().filter(|pool| pool.embedded.is_some()) {
        let runs = before.and_then(|before| before.embedded.iter().find(|one| one.written.name == pool.name));
        if let Some(embedded) = runs {
            all.push(Arc::clone(embedded));
            continue;
        }
        let server = devpool::Server::bind(pool, base.clock.clone(), &base.control)
            .map_err(|source| StartError::Devpool { name: Arc::clone(&pool.name), source })?;
        let at = Arc::new(pool.at(server.addr()));
        all.push(Arc::new(Embedded { written: std::mem::replace(pool, at), server }));
    }
    Ok(all)
}

#[cfg(not(feature = "devpool"))]
fn start_embedded(
    _base: &Base,
    config: &mut Config,
    _before: Option<&Parts>,
) -> Result<Vec<Arc<Embedded>>, StartError> {
    match config.pools.iter().find(|pool| pool.embedded.is_some()) {
        Some(pool) => Err(StartError::NoDevpool(Arc::clone(&pool.name))),
        None => Ok(Vec::new()),
    }
}
