//! What may stand in the file: every section with its keys, the names that other products use for
//! them, and the keys whose part this version does not have.

use toml::de::DeValue;

use crate::config::values;

/// A section and its keys.
#[derive(Debug)]
pub struct Shape {
    /// How people call it.
    pub place: &'static str,
    /// Every key of the contract.
    pub keys: &'static [&'static str],
}

/// The top of the file.
pub static ROOT: Shape = Shape {
    place: "the file",
    keys: &[
        "version",
        "server",
        "listener",
        "admin",
        "pool",
        "upstream",
        "route",
        "auth",
        "identity",
        "assertion",
        "session",
        "store",
        "log",
        "trace",
    ],
};
/// `[server]`.
pub static SERVER: Shape = Shape { place: "[server]", keys: &["workers", "drain", "trusted_proxies", "limits"] };
/// `[server.limits]`.
pub static LIMITS: Shape = Shape {
    place: "[server.limits]",
    keys: &[
        "connections",
        "handshake",
        "request_head",
        "idle",
        "head_size",
        "headers",
        "body",
        "body_stall",
        "h2_streams",
    ],
};
/// `[[listener]]`.
pub static LISTENER: Shape =
    Shape { place: "[[listener]]", keys: &["address", "connections", "proxy_protocol", "h2c", "tls"] };
/// `[listener.tls]`.
pub static TLS: Shape = Shape {
    place: "[listener.tls]",
    keys: &["certificates", "client_ca", "client_auth", "min_version", "redirect_http_from"],
};
/// One of `certificates` there, and `client` in [upstream.NAME.tls].
pub static CERTIFICATE: Shape = Shape { place: "a certificate", keys: &["chain", "key"] };
/// `[admin]`.
pub static ADMIN: Shape = Shape { place: "[admin]", keys: &["address"] };
/// `[pool.NAME]`.
pub static POOL: Shape = Shape {
    place: "[pool.NAME]",
    keys: &[
        "id",
        "client_id",
        "client_secret",
        "flow",
        "clients",
        "token_use",
        "leeway",
        "endpoint",
        "issuer",
        "jwks",
        "keys",
        "embedded",
    ],
};
/// `[pool.NAME.keys]`.
pub static KEYS: Shape = Shape { place: "[pool.NAME.keys]", keys: &["refresh", "stale", "cooldown", "cache"] };
/// `[pool.NAME.embedded]`.
pub static EMBEDDED: Shape = Shape { place: "[pool.NAME.embedded]", keys: &["address", "data", "users"] };
/// One of `users` there.
pub static USER: Shape = Shape { place: "a user", keys: &["username", "password", "email", "groups"] };
/// `[upstream.NAME]`.
pub static UPSTREAM: Shape = Shape {
    place: "[upstream.NAME]",
    keys: &[
        "servers",
        "protocol",
        "balance",
        "host",
        "connect",
        "response_head",
        "idle",
        "connections",
        "retries",
        "authorization",
        "resolve",
        "health",
        "tls",
        "assertion",
    ],
};
/// One of `servers` there, as a table.
pub static ENDPOINT: Shape = Shape { place: "a server", keys: &["url", "weight"] };
/// `[upstream.NAME.tls]`.
pub static UPSTREAM_TLS: Shape =
    Shape { place: "[upstream.NAME.tls]", keys: &["ca", "client", "server_name", "danger_accept_invalid"] };
/// `[upstream.NAME.health]`.
pub static HEALTH: Shape = Shape { place: "[upstream.NAME.health]", keys: &["path", "every", "timeout", "up", "down"] };
/// `[upstream.NAME.assertion]`.
pub static UPSTREAM_ASSERTION: Shape = Shape { place: "[upstream.NAME.assertion]", keys: &["audience", "ttl"] };
/// `[[route]]`.
pub static ROUTE: Shape = Shape {
    place: "[[route]]",
    keys: &[
        "host",
        "path",
        "methods",
        "upstream",
        "access",
        "strip_prefix",
        "rewrite",
        "timeout",
        "stream_grace",
        "body",
        "websocket",
        "websocket_idle",
        "origins",
        "limit",
        "request_headers",
        "response_headers",
        "on_missing",
        "encoded_slashes",
    ],
};
/// `access` as a table.
pub static ACCESS: Shape =
    Shape { place: "`access`", keys: &["groups", "scopes", "claims", "pool", "token_use", "clients", "certificates"] };
/// `limit` there.
pub static LIMIT: Shape = Shape { place: "`limit`", keys: &["rate", "burst", "by"] };
/// `request_headers` and `response_headers` there.
pub static HEADER_EDITS: Shape = Shape { place: "a table of header edits", keys: &["set", "remove"] };
/// `[auth]`.
pub static AUTH: Shape = Shape {
    place: "[auth]",
    keys: &["prefix", "hosts", "pool", "register", "hide_existing_users", "floor", "cors", "limits"],
};
/// `cors` there.
pub static CORS: Shape = Shape { place: "`cors`", keys: &["origins"] };
/// `[identity]`.
pub static IDENTITY: Shape = Shape { place: "[identity]", keys: &["prefix", "headers"] };
/// `[assertion]`.
pub static ASSERTION: Shape = Shape { place: "[assertion]", keys: &["issuer", "keys"] };
/// `[store]`.
pub static STORE: Shape = Shape { place: "[store]", keys: &["kind", "url", "file"] };
/// `[log]`.
pub static LOG: Shape = Shape { place: "[log]", keys: &["level", "format", "access"] };
/// A secret that stands elsewhere.
pub static SECRET: Shape = Shape { place: "a secret", keys: &["env", "file"] };

/// Names that people bring from elsewhere: where, which, and what it is called here.
const FOREIGN: &[(&Shape, &str, &str)] = &[
    (&ROOT, "listen", "`address` in [[listener]]"),
    (&ROOT, "listeners", "[[listener]]"),
    (&ROOT, "routes", "[[route]]"),
    (&ROOT, "pools", "[pool.NAME]"),
    (&ROOT, "cognito", "[pool.NAME]"),
    (&ROOT, "user_pool", "[pool.NAME]"),
    (&ROOT, "upstreams", "[upstream.NAME]"),
    (&ROOT, "backend", "[upstream.NAME]"),
    (&ROOT, "backends", "[upstream.NAME]"),
    (&ROOT, "proxy", "[upstream.NAME]"),
    (&ROOT, "headers", "`headers` in [identity]"),
    (&ROOT, "limits", "[server.limits]"),
    (&ROOT, "logging", "[log]"),
    (&ROOT, "metrics", "[admin], which serves /metrics"),
    (&ROOT, "redis", "[store]"),
    (&ROOT, "tls", "[listener.tls]"),
    (&SERVER, "threads", "`workers`"),
    (&SERVER, "worker_processes", "`workers`"),
    (&SERVER, "shutdown_timeout", "`drain`"),
    (&SERVER, "listen", "`address` in [[listener]]"),
    (&SERVER, "address", "`address` in [[listener]]"),
    (&SERVER, "port", "`address` in [[listener]]"),
    (&SERVER, "real_ip", "`trusted_proxies`"),
    (&SERVER, "set_real_ip_from", "`trusted_proxies`"),
    (&LIMITS, "keepalive_timeout", "`idle`"),
    (&LIMITS, "client_max_body_size", "`body`"),
    (&LIMITS, "max_body_size", "`body`"),
    (&LIMITS, "max_connections", "`connections`"),
    (&LIMITS, "worker_connections", "`connections`"),
    (&LIMITS, "max_headers", "`headers`"),
    (&LIMITS, "header_timeout", "`request_head`"),
    (&LIMITS, "client_header_timeout", "`request_head`"),
    (&LISTENER, "listen", "`address`"),
    (&LISTENER, "bind", "`address`"),
    (&LISTENER, "addr", "`address`"),
    (&LISTENER, "port", "`address`, an IP address with the port"),
    (&LISTENER, "maxconn", "`connections`"),
    (&LISTENER, "max_connections", "`connections`"),
    (&LISTENER, "host", "`address`, an IP address with the port"),
    (&TLS, "certificate", "`certificates`, a list of { chain, key }"),
    (&TLS, "certs", "`certificates`, a list of { chain, key }"),
    (&TLS, "cert", "`certificates`, a list of { chain, key }"),
    (&TLS, "ssl_certificate", "`certificates`, a list of { chain, key }"),
    (&TLS, "chain", "`certificates`, a list of { chain, key }"),
    (&TLS, "key", "`certificates`, a list of { chain, key }"),
    (&TLS, "ca", "`client_ca`"),
    (&TLS, "ssl_client_certificate", "`client_ca`"),
    (&TLS, "ssl_verify_client", "`client_auth`"),
    (&TLS, "verify_client", "`client_auth`"),
    (&TLS, "min_tls_version", "`min_version`"),
    (&TLS, "versions", "`min_version`"),
    (&TLS, "ssl_protocols", "`min_version`"),
    (&TLS, "redirect", "`redirect_http_from`"),
    (&CERTIFICATE, "cert", "`chain`"),
    (&CERTIFICATE, "certificate", "`chain`"),
    (&CERTIFICATE, "fullchain", "`chain`"),
    (&CERTIFICATE, "private_key", "`key`"),
    (&CERTIFICATE, "privkey", "`key`"),
    (&ADMIN, "listen", "`address`"),
    (&ADMIN, "bind", "`address`"),
    (&ADMIN, "port", "`address`, an IP address with the port"),
    (&POOL, "user_pool_id", "`id`"),
    (&POOL, "pool_id", "`id`"),
    (&POOL, "region", "part of `id`"),
    (&POOL, "app_client_id", "`client_id`"),
    (&POOL, "audience", "`clients`"),
    (&POOL, "audiences", "`clients`"),
    (&POOL, "issuers", "`issuer`, a text or a list"),
    (&POOL, "jwks_uri", "`jwks`"),
    (&POOL, "jwks_url", "`jwks`"),
    (&POOL, "auth_flow", "`flow`"),
    (&POOL, "clock_skew", "`leeway`"),
    (&POOL, "refresh", "`refresh` in [pool.NAME.keys]"),
    (&KEYS, "ttl", "`refresh`"),
    (&KEYS, "interval", "`refresh`"),
    (&KEYS, "file", "`cache`"),
    (&EMBEDDED, "listen", "`address`"),
    (&EMBEDDED, "file", "`data`"),
    (&EMBEDDED, "path", "`data`"),
    (&USER, "name", "`username`"),
    (&UPSTREAM, "server", "`servers`, a list"),
    (&UPSTREAM, "url", "`servers`, a list"),
    (&UPSTREAM, "urls", "`servers`"),
    (&UPSTREAM, "targets", "`servers`"),
    (&UPSTREAM, "endpoints", "`servers`"),
    (&UPSTREAM, "timeout", "`response_head`, a duration"),
    (&UPSTREAM, "timeout_ms", "`response_head`, a duration"),
    (&UPSTREAM, "connect_timeout", "`connect`"),
    (&UPSTREAM, "connect_timeout_ms", "`connect`, a duration"),
    (&UPSTREAM, "read_timeout", "`response_head`"),
    (&UPSTREAM, "proxy_read_timeout", "`response_head`"),
    (&UPSTREAM, "keepalive_timeout", "`idle`"),
    (&UPSTREAM, "max_connections", "`connections`"),
    (&UPSTREAM, "lb", "`balance`"),
    (&UPSTREAM, "health_check", "[upstream.NAME.health]"),
    (&UPSTREAM, "pass_authorization", "`authorization = \"keep\"`"),
    (&ENDPOINT, "address", "`url`"),
    (&UPSTREAM_TLS, "ca_file", "`ca`"),
    (&UPSTREAM_TLS, "sni", "`server_name`"),
    (&UPSTREAM_TLS, "insecure", "`danger_accept_invalid`"),
    (&UPSTREAM_TLS, "insecure_skip_verify", "`danger_accept_invalid`"),
    (&HEALTH, "interval", "`every`"),
    (&HEALTH, "url", "`path`"),
    (&HEALTH, "rise", "`up`"),
    (&HEALTH, "fall", "`down`"),
    (&ROUTE, "hosts", "`host`, one for each [[route]]"),
    (&ROUTE, "paths", "`path`, one for each [[route]]"),
    (&ROUTE, "prefix", "`path`, which ends with /*"),
    (&ROUTE, "path_prefix", "`path`, which ends with /*"),
    (&ROUTE, "location", "`path`"),
    (&ROUTE, "method", "`methods`, a list"),
    (&ROUTE, "backend", "`upstream`"),
    (&ROUTE, "proxy_pass", "`upstream`"),
    (&ROUTE, "service", "`upstream`"),
    (&ROUTE, "auth", "`access`"),
    (&ROUTE, "public", "`access = \"public\"`"),
    (&ROUTE, "groups", "`access = { groups = […] }`"),
    (&ROUTE, "scopes", "`access = { scopes = […] }`"),
    (&ROUTE, "timeout_ms", "`timeout`, a duration"),
    (&ROUTE, "max_body_size", "`body`"),
    (&ROUTE, "rate_limit", "`limit`"),
    (&ROUTE, "replace_path", "`rewrite`"),
    (&ROUTE, "strip", "`strip_prefix`"),
    (&ROUTE, "headers", "`request_headers` or `response_headers`"),
    (&LIMIT, "requests", "`rate`, for instance \"100/1s\""),
    (&LIMIT, "average", "`rate`, for instance \"100/1s\""),
    (&LIMIT, "period", "part of `rate`, for instance \"100/1s\""),
    (&LIMIT, "key", "`by`"),
    (&HEADER_EDITS, "add", "`set`, which replaces what is there"),
    (&HEADER_EDITS, "delete", "`remove`"),
    (&HEADER_EDITS, "unset", "`remove`"),
    (&ACCESS, "public", "`access = \"public\"`, which has no rule"),
    (&ACCESS, "optional", "`access = \"optional\"`, which has no rule"),
    (&ACCESS, "required", "`access = \"required\"`"),
    (&ACCESS, "group", "`groups`, a list"),
    (&ACCESS, "roles", "`groups`"),
    (&ACCESS, "scope", "`scopes`, a list"),
    (&ACCESS, "audience", "`clients`"),
    (&AUTH, "path", "`prefix`"),
    (&AUTH, "host", "`hosts`, a list"),
    (&AUTH, "user_pool", "`pool`"),
    (&AUTH, "signup", "`register`"),
    (&AUTH, "allow_register", "`register`"),
    (&CORS, "origin", "`origins`, a list"),
    (&CORS, "allowed_origins", "`origins`"),
    (&CORS, "allow_origins", "`origins`"),
    (&IDENTITY, "header_prefix", "`prefix`"),
    (&IDENTITY, "claims", "`headers`"),
    (&ASSERTION, "key", "`keys`, a list"),
    (&ASSERTION, "iss", "`issuer`"),
    (&ASSERTION, "audience", "`audience` in [upstream.NAME.assertion]"),
    (&ASSERTION, "ttl", "`ttl` in [upstream.NAME.assertion]"),
    (&UPSTREAM_ASSERTION, "aud", "`audience`"),
    (&UPSTREAM_ASSERTION, "lifetime", "`ttl`"),
    (&UPSTREAM_ASSERTION, "keys", "`keys` in [assertion]"),
    (&UPSTREAM_ASSERTION, "issuer", "`issuer` in [assertion]"),
    (&STORE, "type", "`kind`"),
    (&LOG, "access_log", "`access`"),
    (&LOG, "log_level", "`level`"),
    (&SECRET, "var", "`env`"),
    (&SECRET, "path", "`file`"),
];

/// What a key of another product is called here.
pub fn our_name(shape: &Shape, foreign: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(at, name, _)| std::ptr::eq(*at, shape) && *name == foreign).map(|(_, _, ours)| *ours)
}

/// A key of the contract whose part this version does not have, or some of whose values it does not have.
#[derive(Debug)]
pub struct Unavailable {
    shape: &'static Shape,
    key: &'static str,
    refused: Refused,
    /// What is not there, for a sentence.
    pub what: &'static str,
}

/// Which values of an unavailable key are refused.
#[derive(Debug)]
enum Refused {
    /// All.
    All,
    /// All but these, which mean that the part is not used. As TOML.
    AllBut(&'static [&'static str]),
    /// Texts that start so.
    Starting(&'static str),
}

use Refused::{All, AllBut, Starting};

/// The one list of what is in the contract and not yet in the program. Whatever stands here is
/// refused, because an operator who wrote it relies on it.
#[rustfmt::skip]
const UNAVAILABLE: &[Unavailable] = &[
    unavailable(&ROOT, "session", All, "[session]"),
    unavailable(&ROOT, "trace", All, "[trace]"),
    unavailable(&POOL, "flow", Starting("admin"), "`flow = \"admin\"`"),
    unavailable(&ROUTE, "on_missing", AllBut(&["\"401\""]), "`on_missing = \"login\"`"),
    unavailable(&AUTH, "limits", All, "`limits` in [auth]"),
    unavailable(&STORE, "kind", AllBut(&["\"memory\""]), "another store than memory"),
    unavailable(&STORE, "url", All, "`url` in [store]"),
    unavailable(&STORE, "file", All, "`file` in [store]"),
];

/// One line of the table.
const fn unavailable(shape: &'static Shape, key: &'static str, refused: Refused, what: &'static str) -> Unavailable {
    Unavailable { shape, key, refused, what }
}

impl Unavailable {
    /// The line of the table that refuses `key = value` in a section, if one does.
    pub fn find(shape: &Shape, key: &str, value: &DeValue<'_>) -> Option<&'static Self> {
        let here = |line: &&Self| std::ptr::eq(line.shape, shape) && line.key == key;
        UNAVAILABLE.iter().filter(here).find(|line| match line.refused {
            All => true,
            AllBut(inert) => !inert.iter().any(|inert| means_the_same(value, inert)),
            Starting(start) => value.as_str().is_some_and(|text| text.starts_with(start)),
        })
    }

    /// What to write instead.
    pub fn advice(&self) -> Option<String> {
        match self.refused {
            All => Some(format!("leave out `{}`", self.key)),
            AllBut(inert) => Some(format!("leave it out, or write {} = {}", self.key, inert.join(" or "))),
            Starting(_) => None,
        }
    }
}

/// Whether a value means what a TOML text means; `"10000ms"` and `"10s"` do.
fn means_the_same(value: &DeValue<'_>, text: &str) -> bool {
    let Ok(other) = DeValue::parse(text) else { return false };
    match (value, other.get_ref()) {
        (DeValue::Boolean(a), DeValue::Boolean(b)) => a == b,
        (DeValue::Integer(a), DeValue::Integer(b)) => a.radix() == b.radix() && a.as_str() == b.as_str(),
        (DeValue::String(a), DeValue::String(b)) => {
            a == b || values::duration(a).is_ok_and(|a| values::duration(b).is_ok_and(|b| a == b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_name_keys_that_exist_and_foreign_names_do_not() {
        for (shape, name, ours) in FOREIGN {
            assert!(!shape.keys.contains(name), "{name} is a key of {}", shape.place);
            if let Some(key) = ours.strip_prefix('`').and_then(|ours| ours.split(['`', ' ']).next())
                && !ours.contains(" in [")
                && !std::ptr::eq(*shape, &ACCESS)
            {
                assert!(shape.keys.contains(&key), "{key} is no key of {}", shape.place);
            }
        }
        for line in UNAVAILABLE {
            assert!(line.shape.keys.contains(&line.key), "{} is no key of {}", line.key, line.shape.place);
            if let AllBut(inert) = line.refused {
                for text in inert {
                    assert!(means_the_same(DeValue::parse(text).unwrap().get_ref(), text), "{text} is TOML");
                }
            }
        }
    }
}
