//! What a new configuration changes, and what of it has to wait for a restart.

use std::sync::Arc;

use crate::config::{Config, Pool};

/// A configuration that can be put in force now.
#[derive(Debug)]
pub(super) struct Change {
    /// The new one, with the old values of what needs a restart.
    pub(super) config: Config,
    /// The sections that differ from what is in force, as they are called in the file.
    pub(super) changed: Vec<String>,
    /// What the file says and only a restart can do.
    pub(super) needs_restart: Vec<String>,
}

/// Holds what a file says now, `new`, against what is in force. `written` are the embedded pools that
/// run, as the file had them when they were started: in force they have their real addresses.
pub(super) fn change(in_force: &Config, written: &[Arc<Pool>], mut new: Config) -> Change {
    let mut needs_restart = Vec::new();
    let mut keep = |what: &str, differs: bool| {
        if differs {
            needs_restart.push(what.to_owned());
        }
    };
    keep("server.workers", new.server.workers != in_force.server.workers);
    new.server.workers = in_force.server.workers;
    keep("admin.address", new.admin != in_force.admin);
    new.admin = in_force.admin.clone();
    keep("log.format", new.log.format != in_force.log.format);
    new.log.format = in_force.log.format;
    keep("log.access", new.log.access != in_force.log.access);
    new.log.access = in_force.log.access;
    for pool in new.pools.iter_mut().filter(|pool| pool.embedded.is_some()) {
        // Its tokens are signed, and its file is open, as the pool that it was started as.
        let started_as = written.iter().find(|started| started.name == pool.name);
        let running = in_force.pools.iter().find(|running| running.name == pool.name);
        if let (Some(started_as), Some(running)) = (started_as, running) {
            keep(&format!("pool.{}", pool.name), pool != started_as);
            *pool = Arc::clone(running);
        }
    }
    Change { changed: changed(in_force, &new), config: new, needs_restart }
}

/// The sections that differ, in the order of the file.
fn changed(old: &Config, new: &Config) -> Vec<String> {
    let Config { source: _, server, listeners, admin: _, pools, upstreams, routes, auth, identity, assertions, log } =
        new;
    let mut changed = Vec::new();
    let mut note = |what: &str, differs: bool| {
        if differs {
            changed.push(what.to_owned());
        }
    };
    note("server", *server != old.server);
    note("listener", *listeners != old.listeners);
    for (kind, names) in [
        ("pool", differing(&old.pools, pools, |pool| &pool.name)),
        ("upstream", differing(&old.upstreams, upstreams, |upstream| &upstream.name)),
    ] {
        for name in names {
            note(&format!("{kind}.{name}"), true);
        }
    }
    // Where a route stands in the file means nothing.
    let same = |(a, b): (&Arc<crate::config::Route>, _)| crate::config::Route { line: 0, ..(**a).clone() } == b;
    let bare = routes.iter().map(|route| crate::config::Route { line: 0, ..(**route).clone() });
    note("route", routes.len() != old.routes.len() || !old.routes.iter().zip(bare).all(same));
    note("auth", *auth != old.auth);
    note("identity", *identity != old.identity);
    note("assertion", *assertions != old.assertions);
    note("log", *log != old.log);
    changed
}

/// The names of what is only in one of two lists, or not the same in both; sorted.
fn differing<'a, T: PartialEq>(old: &'a [Arc<T>], new: &'a [Arc<T>], name: fn(&T) -> &Arc<str>) -> Vec<&'a Arc<str>> {
    let not_in = |one: &'a [Arc<T>], other: &'a [Arc<T>]| one.iter().filter(move |part| !other.contains(part));
    let mut names: Vec<_> = not_in(old, new).chain(not_in(new, old)).map(|part| name(part)).collect();
    names.sort();
    names.dedup();
    names
}

// The file of these tests has an embedded pool, which a build without `devpool` refuses.
#[cfg(feature = "devpool")]
#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    const TEXT: &str = r#"version = 1
        server = { workers = 1, drain = "5s" }
        listener = [{ address = "127.0.0.1:8080" }]
        admin.address = "127.0.0.1:9901"
        log = { level = "info", format = "text", access = true }
        pool.main = { id = "eu-west-1_AbC123xyz", client_id = "4hrtnexample", client_secret = "one", embedded = { address = "127.0.0.1:0" } }
        pool.far = { id = "eu-west-1_Far123xyz", client_id = "5hrtnexample", client_secret = "one" }
        upstream.app.servers = ["http://127.0.0.1:3000"]
        upstream.api.servers = ["whoami:"]
        auth.pool = "main"
        route = [{ path = "/*", upstream = "app" }]"#;

    fn config(text: &str) -> Config {
        parse(text, Path::new("p.toml"), &|_| None).unwrap_or_else(|report| panic!("{report}")).config
    }

    /// What is said of a file in which each first text became the second.
    fn after(edits: &[(&str, &str)]) -> Change {
        let mut text = TEXT.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let mut in_force = config(TEXT);
        let written = in_force.pools.clone();
        for pool in &mut in_force.pools {
            *pool = Arc::new(pool.at(([127, 0, 0, 1], 4321).into()));
        }
        change(&in_force, &written, config(&text))
    }

    #[test]
    fn what_is_the_same_is_not_named() {
        for edits in [&[][..], &[("version = 1\n", "version = 1 # more\n\n\n")]] {
            let change = after(edits);
            assert!(change.changed.is_empty() && change.needs_restart.is_empty(), "{change:?}");
        }
    }

    #[test]
    fn sections_that_differ_are_named() {
        for (edit, section) in [
            (("\"5s\"", "\"6s\""), "server"),
            (("127.0.0.1:8080", "127.0.0.1:8081"), "listener"),
            (("5hrtnexample\", client_secret = \"one", "5hrtnexample\", client_secret = \"two"), "pool.far"),
            (("127.0.0.1:3000", "127.0.0.1:3001"), "upstream.app"),
            (("path = \"/*\"", "path = \"/x\""), "route"),
            (("auth.pool = \"main\"", "auth.pool = \"far\""), "auth"),
            (("auth.pool", "identity.prefix = \"x-me-\"\nauth.pool"), "identity"),
            (("\"info\"", "\"debug\""), "log"),
        ] {
            let change = after(&[edit]);
            assert_eq!(change.changed, [section]);
            assert!(change.needs_restart.is_empty(), "{change:?}");
        }
        let renamed = after(&[("upstream.api.", "upstream.other.")]);
        assert_eq!(renamed.changed, ["upstream.api", "upstream.other"]);
    }

    #[test]
    fn what_needs_a_restart_is_named_and_stays_as_it_is() {
        let of_main = ("client_secret = \"one\", embedded", "client_secret = \"two\", embedded");
        for (edit, what) in [
            (("workers = 1", "workers = 2"), "server.workers"),
            (("127.0.0.1:9901", "127.0.0.1:9902"), "admin.address"),
            (("\"text\"", "\"json\""), "log.format"),
            (("access = true", "access = false"), "log.access"),
            (("127.0.0.1:0", "127.0.0.1:9229"), "pool.main"),
            (of_main, "pool.main"),
        ] {
            let change = after(&[edit]);
            assert_eq!(change.needs_restart, [what]);
            assert!(change.changed.is_empty(), "{change:?}");
        }
        let change = after(&[("127.0.0.1:0", "127.0.0.1:9229"), ("\"5s\"", "\"6s\"")]);
        assert_eq!(change.changed, ["server"], "the rest is not held back");
        let main = change.config.pools.iter().find(|pool| &*pool.name == "main").unwrap();
        assert_eq!(main.endpoint, "http://127.0.0.1:4321");
    }
}
