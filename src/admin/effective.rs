//! What `GET /config` and `GET /routes` show: the configuration in force, every default filled in,
//! under the names that the file uses.
//!
//! Each part is taken apart by name and without `..`, so that a key that is added cannot be
//! forgotten here, nor a secret be shown because nobody thought of it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};

use crate::config::{
    Access, Admin, Assertion, Assertions, Auth, Balance, CertificateFiles, ClaimSource, ClientAuth, ClientCa, Config,
    Cors, Embedded, Endpoint, Flow, HeaderEdits, Health, HostHeader, HostPattern, Identity, Keys, Limit, Limits,
    Listener, Log, LogFormat, PathPattern, Pool, Protocol, Route, Rule, SeedUser, Server, Servers, Tls, TlsVersion,
    TokenUse, Upstream, UpstreamTls,
};
use crate::http::TrustedProxies;

/// The configuration of this generation, without its secrets.
pub fn config(config: &Config, generation: u64) -> Value {
    let Config { source, server, listeners, admin, pools, upstreams, routes, auth, identity, assertions, log } = config;
    let Admin { address } = admin;
    let listeners: Vec<_> = listeners.iter().map(show_listener).collect();
    let pools: Map<_, _> = pools.iter().map(|pool| (pool.name.to_string(), show_pool(pool))).collect();
    let upstreams: Map<_, _> = upstreams.iter().map(|one| (one.name.to_string(), show_upstream(one))).collect();
    json!({
        "generation": generation,
        "source": source,
        "server": show_server(server),
        "listener": listeners,
        "admin": { "address": address },
        "pool": pools,
        "upstream": upstreams,
        "route": routes.iter().map(|route| show_route(route)).collect::<Vec<_>>(),
        "auth": auth.as_ref().map(show_auth),
        "identity": show_identity(identity),
        "assertion": show_assertions(assertions),
        "log": show_log(log),
    })
}

/// The routes, in the order of the file.
pub fn routes(config: &Config) -> Value {
    config.routes.iter().map(|route| show_route(route)).collect()
}

fn show_server(server: &Server) -> Value {
    let Server { workers, drain, trusted_proxies, limits } = server;
    let Limits { connections, handshake, request_head, idle, head_size, headers, body, body_stall, h2_streams } =
        limits;
    json!({
        "workers": workers,
        "drain": duration(*drain),
        "trusted_proxies": show_trusted(trusted_proxies),
        "limits": {
            "connections": connections,
            "handshake": duration(*handshake),
            "request_head": duration(*request_head),
            "idle": duration(*idle),
            "head_size": head_size,
            "headers": headers,
            "body": body.unwrap_or(0),
            "body_stall": duration(*body_stall),
            "h2_streams": h2_streams,
        },
    })
}

fn show_trusted(trusted: &TrustedProxies) -> Vec<String> {
    let TrustedProxies { networks, unix } = trusted;
    networks.iter().map(ToString::to_string).chain(unix.then(|| "unix:".to_owned())).collect()
}

fn show_listener(listener: &Listener) -> Value {
    let Listener { address, connections, proxy_protocol, h2c, tls, redirect_http_from } = listener;
    json!({
        "address": address.to_string(),
        "connections": connections.unwrap_or(0),
        "proxy_protocol": proxy_protocol,
        "h2c": h2c,
        "tls": tls.as_ref().map(|tls| show_tls(tls, *redirect_http_from)),
    })
}

fn show_tls(tls: &Tls, redirect_http_from: Option<SocketAddr>) -> Value {
    let Tls { certificates, client_auth, min_version } = tls;
    json!({
        "certificates": certificates.iter().map(show_certificate).collect::<Vec<_>>(),
        "client_ca": client_auth.authorities().map(|ClientCa { path, place: _ }| path),
        "client_auth": match client_auth {
            ClientAuth::Off => "off",
            ClientAuth::Optional(_) => "optional",
            ClientAuth::Required(_) => "required",
        },
        "min_version": match min_version {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        },
        "redirect_http_from": redirect_http_from,
    })
}

fn show_certificate(files: &CertificateFiles) -> Value {
    let CertificateFiles { chain, key, place: _ } = files;
    json!({ "chain": chain, "key": key })
}

fn show_pool(pool: &Pool) -> Value {
    let Pool {
        name: _,
        id,
        client_id,
        client_secret,
        flow,
        clients,
        token_use,
        leeway,
        endpoint,
        issuers,
        jwks,
        keys,
        embedded,
    } = pool;
    let Keys { refresh, stale, cooldown, cache } = keys;
    json!({
        "id": id.to_string(),
        "client_id": client_id,
        "client_secret": client_secret.as_ref().map(|secret| secret.to_string()),
        "flow": match flow {
            Flow::Srp => "srp",
            Flow::Password => "password",
        },
        "clients": clients,
        "token_use": token_uses(token_use),
        "leeway": duration(*leeway),
        "endpoint": endpoint,
        "issuer": issuers,
        "jwks": jwks,
        "keys": {
            "refresh": duration(*refresh),
            "stale": duration(*stale),
            "cooldown": duration(*cooldown),
            "cache": cache,
        },
        "embedded": embedded.as_ref().map(show_embedded),
    })
}

fn show_embedded(embedded: &Embedded) -> Value {
    let Embedded { address, data, users } = embedded;
    let user = |SeedUser { username, password, email, groups }: &SeedUser| json!({ "username": username, "password": password.to_string(), "email": email, "groups": groups });
    json!({ "address": address, "data": data, "users": users.iter().map(user).collect::<Vec<_>>() })
}

fn show_upstream(upstream: &Upstream) -> Value {
    let Upstream {
        name: _,
        servers,
        protocol,
        balance,
        host,
        connect,
        response_head,
        idle,
        connections,
        retries,
        keep_authorization,
        resolve,
        health,
        tls,
        assertion,
    } = upstream;
    json!({
        "servers": match servers {
            Servers::Whoami => vec![json!("whoami:")],
            Servers::Http(endpoints) => endpoints.iter().map(show_endpoint).collect(),
        },
        "protocol": match protocol {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "h2",
            Protocol::Auto => "auto",
        },
        "balance": match balance {
            Balance::Least => "least",
            Balance::RoundRobin => "round_robin",
            Balance::Hash => "hash",
        },
        "host": match host {
            HostHeader::Preserve => "preserve",
            HostHeader::Server => "server",
            HostHeader::Fixed(host) => host,
        },
        "connect": duration(*connect),
        "response_head": duration(*response_head),
        "idle": duration(*idle),
        "connections": connections,
        "retries": retries,
        "authorization": if *keep_authorization { "keep" } else { "drop" },
        "resolve": duration(*resolve),
        "health": health.as_ref().map(show_health),
        "tls": show_upstream_tls(tls),
        "assertion": assertion.as_ref().map(show_assertion),
    })
}

fn show_assertion(assertion: &Assertion) -> Value {
    let Assertion { audience, ttl } = assertion;
    json!({ "audience": audience, "ttl": duration(*ttl) })
}

/// Of a key its public name.
fn show_assertions(assertions: &Assertions) -> Value {
    let Assertions { issuer, keys } = assertions;
    json!({ "issuer": **issuer, "keys": keys.iter().map(|key| key.kid()).collect::<Vec<_>>() })
}

fn show_upstream_tls(tls: &UpstreamTls) -> Value {
    let UpstreamTls { ca, client, server_name, danger_accept_invalid } = tls;
    json!({
        "ca": ca,
        "client": client.as_ref().map(show_certificate),
        "server_name": server_name,
        "danger_accept_invalid": danger_accept_invalid,
    })
}

fn show_health(health: &Health) -> Value {
    let Health { path, every, timeout, up, down } = health;
    json!({ "path": path, "every": duration(*every), "timeout": duration(*timeout), "up": up, "down": down })
}

fn show_endpoint(endpoint: &Endpoint) -> Value {
    let url = endpoint.url();
    if endpoint.weight == 1 { json!(url) } else { json!({ "url": url, "weight": endpoint.weight }) }
}

fn show_route(route: &Route) -> Value {
    let Route {
        label,
        host,
        path,
        methods,
        upstream,
        access,
        body,
        rewrite,
        timeout,
        stream_grace,
        websocket,
        limit,
        request_headers,
        response_headers,
        keep_encoded_slashes,
        line,
    } = route;
    json!({
        "label": **label,
        "host": match host {
            HostPattern::Any => None,
            HostPattern::Exact(host) => Some(host.clone()),
            HostPattern::Wildcard(domain) => Some(format!("*.{domain}")),
        },
        "path": pattern(path),
        "methods": methods.as_ref().map(|methods| methods.iter().map(Method::as_str).collect::<Vec<_>>()),
        "upstream": **upstream,
        "access": match access {
            Access::Public => "public".into(),
            Access::Optional => "optional".into(),
            Access::Required(rule) if *rule == Rule::default() => "required".into(),
            Access::Required(rule) => show_rule(rule),
        },
        "strip_prefix": rewrite.as_ref().map(|rewrite| &rewrite.strip),
        "rewrite": rewrite.as_ref().map(|rewrite| pattern(&rewrite.to)),
        "timeout": duration(timeout.unwrap_or_default()),
        "websocket": websocket.is_some(),
        "websocket_idle": websocket.as_ref().map(|websocket| duration(websocket.idle)),
        "origins": websocket.as_ref().map(|websocket| show_origins(&websocket.origins)),
        "stream_grace": stream_grace.map_or_else(|| "off".to_owned(), duration),
        "body": body.unwrap_or(0),
        "limit": limit.as_ref().map(show_limit),
        "request_headers": show_edits(request_headers),
        "response_headers": show_edits(response_headers),
        "encoded_slashes": if *keep_encoded_slashes { "keep" } else { "reject" },
        "line": line,
    })
}

fn show_origins(origins: &[HeaderValue]) -> Vec<String> {
    origins.iter().map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()).collect()
}

fn pattern(path: &PathPattern) -> String {
    match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(path) => format!("{path}/*"),
    }
}

fn show_limit(limit: &Limit) -> Value {
    let Limit { rate, per, burst, by } = limit;
    json!({ "rate": format!("{rate}/{}", duration(*per)), "burst": burst, "by": by.as_str() })
}

fn show_edits(edits: &HeaderEdits) -> Value {
    let HeaderEdits { remove, set } = edits;
    let set = set.iter().map(|(name, value)| {
        let shown = if value.is_sensitive() { "***".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        (name.to_string(), json!(shown))
    });
    json!({
        "remove": remove.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
        "set": set.collect::<Map<_, _>>(),
    })
}

fn show_rule(rule: &Rule) -> Value {
    let Rule { groups, scopes, claims, pool, token_use, clients, certificates } = rule;
    json!({
        "groups": groups,
        "scopes": scopes,
        "claims": claims.iter().map(|(claim, values)| (claim.clone(), json!(values))).collect::<Map<_, _>>(),
        "pool": pool.as_deref(),
        "token_use": token_use.as_deref().map(token_uses),
        "clients": clients,
        "certificates": certificates,
    })
}

fn show_auth(auth: &Auth) -> Value {
    let Auth { prefix, hosts, pool, register, hide_existing_users, floor, cors } = auth;
    let origins = |Cors { origins }: &Cors| show_origins(origins);
    json!({
        "prefix": prefix,
        "hosts": hosts,
        "pool": **pool,
        "register": register,
        "hide_existing_users": hide_existing_users,
        "floor": duration(*floor),
        "cors": cors.as_ref().map(|cors| json!({ "origins": origins(cors) })),
    })
}

fn show_identity(identity: &Identity) -> Value {
    let Identity { prefix, headers } = identity;
    let header = |(name, source): &(HeaderName, ClaimSource)| {
        let source = match source {
            ClaimSource::Username => "username",
            ClaimSource::Pool => "@pool",
            ClaimSource::Client => "@client",
            ClaimSource::Claim(claim) => claim,
        };
        (name.to_string(), json!(source))
    };
    json!({ "prefix": prefix, "headers": headers.iter().map(header).collect::<Map<_, _>>() })
}

fn show_log(log: &Log) -> Value {
    let Log { level, format, access } = log;
    let format = match format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    json!({ "level": level.as_str().to_ascii_lowercase(), "format": format, "access": access })
}

fn token_uses(uses: &[TokenUse]) -> Value {
    uses.iter().map(|token_use| token_use.as_str()).collect()
}

/// A duration as the file would have it: in the largest unit that fits.
fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    [("h", 3_600_000), ("m", 60_000), ("s", 1000)]
        .into_iter()
        .find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit))
        .map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use http::header::{self, HeaderValue};

    use crate::config::{Endpoint, LimitBy, Place, PoolId, Rewrite, WebSocket};
    use crate::es256::SigningKey;
    use crate::secret::Secret;

    fn example() -> Config {
        let seconds = Duration::from_secs;
        let pool = Pool {
            name: "main".into(),
            id: PoolId { region: "eu-west-1".into(), suffix: "AbC123xyz".into() },
            client_id: "4hrtnexample".into(),
            client_secret: Some(Secret::from("hunter2".to_owned())),
            flow: Flow::Srp,
            clients: vec!["4hrtnexample".into()],
            token_use: vec![TokenUse::Access],
            leeway: seconds(10),
            endpoint: "http://127.0.0.1:9229".into(),
            issuers: vec!["http://127.0.0.1:9229/eu-west-1_AbC123xyz".into()],
            jwks: "http://127.0.0.1:9229/eu-west-1_AbC123xyz/.well-known/jwks.json".into(),
            keys: Keys { refresh: seconds(600), stale: seconds(86_400), cooldown: seconds(10), cache: None },
            embedded: Some(Embedded {
                address: ([127, 0, 0, 1], 9229).into(),
                data: None,
                users: vec![SeedUser {
                    username: "demo".into(),
                    password: Secret::from("hunter3".to_owned()),
                    email: None,
                    groups: vec!["admin".into()],
                }],
            }),
        };
        let endpoint = Endpoint {
            transport: crate::config::Transport::Plain,
            host: "127.0.0.1".into(),
            port: 3000,
            authority: "127.0.0.1:3000".into(),
            weight: 1,
        };
        let heavy = Endpoint { port: 3001, authority: "127.0.0.1:3001".into(), weight: 3, ..endpoint.clone() };
        let upstream = Upstream {
            name: "app".into(),
            servers: Servers::Http(vec![endpoint, heavy]),
            protocol: Protocol::Http1,
            balance: Balance::Least,
            host: HostHeader::Preserve,
            connect: seconds(3),
            response_head: seconds(60),
            idle: seconds(60),
            connections: 0,
            retries: 1,
            keep_authorization: false,
            resolve: seconds(30),
            health: Some(Health { path: "/healthz".into(), every: seconds(5), timeout: seconds(2), up: 2, down: 3 }),
            tls: UpstreamTls::default(),
            assertion: Some(Assertion { audience: "app".into(), ttl: seconds(30) }),
        };
        let mut password = HeaderValue::from_static("hunter4");
        password.set_sensitive(true);
        let route = Route {
            label: "*.example.com /api/*".into(),
            host: HostPattern::Wildcard("example.com".into()),
            path: PathPattern::Prefix("/api".into()),
            methods: Some(vec![Method::GET]),
            upstream: "app".into(),
            access: Access::Required(Rule { groups: vec!["admin".into()], ..Rule::default() }),
            body: None,
            rewrite: Some(Rewrite { strip: "/api".into(), to: PathPattern::Prefix(String::new()) }),
            timeout: None,
            stream_grace: None,
            websocket: Some(WebSocket {
                origins: vec![HeaderValue::from_static("https://app.example.com")],
                idle: seconds(3600),
            }),
            limit: Some(Limit { rate: 10, per: seconds(300), burst: 20, by: LimitBy::Subject }),
            request_headers: HeaderEdits { remove: vec![header::COOKIE], set: vec![(header::AUTHORIZATION, password)] },
            response_headers: HeaderEdits::default(),
            keep_encoded_slashes: false,
            line: 12,
        };
        let ca = ClientCa { path: "tls/clients.pem".into(), place: Place::default() };
        let site = CertificateFiles { chain: "site.pem".into(), key: "site.key".into(), place: Place::default() };
        let tls =
            Tls { certificates: vec![site], client_auth: ClientAuth::Required(ca), min_version: TlsVersion::V1_3 };
        let limits = Limits {
            connections: 20_000,
            handshake: seconds(10),
            request_head: seconds(10),
            idle: seconds(75),
            head_size: 32 << 10,
            headers: 100,
            body: None,
            body_stall: seconds(60),
            h2_streams: 128,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 8080)).into();
        let listener = Listener {
            address,
            connections: None,
            proxy_protocol: true,
            h2c: false,
            tls: Some(tls),
            redirect_http_from: None,
        };
        Config {
            source: "config/portcullis.toml".into(),
            server: Server { workers: 2, drain: seconds(30), trusted_proxies: TrustedProxies::default(), limits },
            listeners: vec![listener],
            admin: Admin { address: ([127, 0, 0, 1], 9901).into() },
            pools: vec![Arc::new(pool)],
            upstreams: vec![Arc::new(upstream)],
            routes: vec![Arc::new(route)],
            auth: Some(Auth {
                prefix: "/auth".into(),
                hosts: Vec::new(),
                pool: "main".into(),
                register: true,
                hide_existing_users: true,
                floor: Duration::from_millis(300),
                cors: Some(Cors { origins: vec![HeaderValue::from_static("https://app.example.com")] }),
            }),
            identity: Identity {
                prefix: "x-auth-".into(),
                headers: vec![(HeaderName::from_static("x-auth-pool"), ClaimSource::Pool)],
            },
            assertions: Assertions { issuer: "portcullis".into(), keys: vec![Arc::new(SigningKey::generate())] },
            log: Log { level: tracing::Level::INFO, format: LogFormat::Auto, access: true },
        }
    }

    #[test]
    fn it_speaks_as_the_file_does() {
        let shown = config(&example(), 3);
        assert_eq!(shown["generation"], 3);
        assert_eq!(shown["server"]["limits"]["idle"], "75s");
        assert_eq!(
            shown["listener"][0]["tls"],
            json!({
                "certificates": [{ "chain": "site.pem", "key": "site.key" }], "client_ca": "tls/clients.pem",
                "client_auth": "required", "min_version": "1.3", "redirect_http_from": null,
            })
        );
        assert_eq!(shown["pool"]["main"]["keys"]["stale"], "24h");
        assert_eq!(shown["pool"]["main"]["id"], "eu-west-1_AbC123xyz");
        let heavy = json!({ "url": "http://127.0.0.1:3001", "weight": 3 });
        assert_eq!(shown["upstream"]["app"]["servers"], json!(["http://127.0.0.1:3000", heavy]));
        assert_eq!(shown["upstream"]["app"]["balance"], "least");
        assert_eq!(shown["upstream"]["app"]["health"]["every"], "5s");
        assert_eq!(shown["upstream"]["app"]["assertion"], json!({ "audience": "app", "ttl": "30s" }));
        assert_eq!(shown["assertion"]["issuer"], "portcullis");
        assert_eq!(shown["auth"]["floor"], "300ms");
        assert_eq!(shown["auth"]["cors"]["origins"], json!(["https://app.example.com"]));
        assert_eq!(shown["identity"]["headers"]["x-auth-pool"], "@pool");
        let route = &routes(&example())[0];
        assert_eq!(*route, shown["route"][0]);
        assert_eq!((&route["host"], &route["path"]), (&"*.example.com".into(), &"/api/*".into()));
        assert_eq!(route["access"]["groups"], json!(["admin"]));
        assert_eq!((&route["strip_prefix"], &route["rewrite"]), (&"/api".into(), &"/*".into()));
        assert_eq!(route["timeout"], "0ms");
        assert_eq!(route["limit"], json!({"rate": "10/5m", "burst": 20, "by": "subject"}));
    }

    #[test]
    fn secrets_are_stars() {
        let shown = config(&example(), 1);
        assert_eq!(shown["pool"]["main"]["client_secret"], "***");
        assert_eq!(shown["pool"]["main"]["embedded"]["users"][0]["password"], "***");
        assert_eq!(
            shown["route"][0]["request_headers"],
            json!({"remove": ["cookie"], "set": {"authorization": "***"}})
        );
        assert!(!shown.to_string().contains("hunter"), "{shown}");
    }

    #[test]
    fn durations_take_the_largest_unit_that_fits() {
        let shown = [0, 1, 300, 1000, 75_000, 60_000, 90_000, 3_600_000, 86_400_000]
            .map(|millis| duration(Duration::from_millis(millis)));
        assert_eq!(shown, ["0ms", "1ms", "300ms", "1s", "75s", "1m", "90s", "1h", "24h"]);
    }
}
