//! The configuration: the files that we ship, and every mistake with its exact text.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis::config::file::{
    ACCESS, ADMIN, ASSERTION, AUTH, CERTIFICATE, EMBEDDED, ENDPOINT, HEALTH, IDENTITY, KEYS, LIMITS, LISTENER, LOG,
    POOL, ROOT, ROUTE, SECRET, SERVER, STORE, TLS, UPSTREAM, UPSTREAM_ASSERTION, UPSTREAM_TLS, USER,
};
use portcullis::config::{self, Access, Loaded, PathPattern, Report, Severity};

/// Set it to write the expected texts anew, then look at what changed.
const UPDATE: &str = "UPDATE_EXPECTED";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn no_env(_: &str) -> Option<String> {
    None
}

fn load(name: &str) -> Result<Loaded, Report> {
    config::load(&root().join("config").join(name), &no_env)
}

/// Everything but where it came from.
fn meaning(loaded: Loaded) -> String {
    let mut config = loaded.config;
    config.source = PathBuf::new();
    format!("{config:#?}")
}

#[test]
fn the_file_that_runs_by_default_is_fine_and_has_what_the_readme_shows() {
    let loaded = load("portcullis.toml").unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.diagnostics.is_empty(), "{}", loaded.warnings);
    let config = loaded.config;
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9901");
    let pool = &config.pools[0];
    let embedded = pool.embedded.as_ref().unwrap();
    assert_eq!(pool.endpoint, "http://127.0.0.1:9229");
    assert_eq!(pool.issuers, ["http://127.0.0.1:9229/eu-west-1_Portcull1"]);
    assert_eq!(embedded.data.as_deref(), Some(root().join("config/../data/pool.redb").as_path()));
    assert_eq!(embedded.users[0].username, "demo");
    assert_eq!(config.auth.unwrap().pool, pool.name);
    let access = |path: &str| {
        let found = config.routes.iter().find(|route| route.path == PathPattern::Prefix(path.to_owned()));
        &found.unwrap_or_else(|| panic!("a route for {path}")).access
    };
    assert_eq!(access("/public"), &Access::Public);
    assert!(matches!(access("/admin"), Access::Required(rule) if rule.groups == ["admin"]));
    assert!(matches!(access(""), Access::Required(rule) if rule.groups.is_empty()));
}

#[test]
fn the_reference_shows_every_default() {
    let reference = load("reference.toml").unwrap_or_else(|report| panic!("{report}"));
    assert!(reference.warnings.diagnostics.is_empty(), "{}", reference.warnings);
    let minimal = r#"version = 1
        listener = [{ address = "127.0.0.1:8080" }]
        pool.main = { id = "eu-west-1_AbC123xyz", client_id = "4hrtnexample" }
        upstream.app.servers = ["http://127.0.0.1:3000", "http://127.0.0.1:3001"]
        route = [{ path = "/*", upstream = "app" }]"#;
    let minimal = config::parse(minimal, Path::new("minimal.toml"), &no_env).unwrap();
    let without_lines = |text: String| {
        text.lines().filter(|line| !line.trim_start().starts_with("line: ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_lines(meaning(reference)), without_lines(meaning(minimal)));
}

#[test]
fn the_reference_names_every_key() {
    let text = fs::read_to_string(root().join("config/reference.toml")).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shapes = [
        &ROOT,
        &SERVER,
        &LIMITS,
        &LISTENER,
        &ADMIN,
        &POOL,
        &KEYS,
        &EMBEDDED,
        &USER,
        &UPSTREAM,
        &ENDPOINT,
        &HEALTH,
        &UPSTREAM_TLS,
        &CERTIFICATE,
        &TLS,
        &UPSTREAM_ASSERTION,
        &ASSERTION,
    ];
    for shape in shapes.into_iter().chain([&ROUTE, &ACCESS, &AUTH, &IDENTITY, &STORE, &LOG, &SECRET]) {
        for key in shape.keys {
            let forms = [format!("{key} = "), format!("[{key}]"), format!("[{key}."), format!(".{key}]")];
            assert!(forms.iter().any(|form| text.contains(form)), "{key} of {}", shape.place);
        }
    }
}

#[test]
fn every_mistake_is_shown_at_its_place() {
    let folder = root().join("tests/config/invalid");
    let mut names: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let files: Vec<&PathBuf> = names.iter().filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    assert!(files.len() >= 40, "only {} mistakes", files.len());
    for path in &names {
        let (toml, txt) = (path.with_extension("toml"), path.with_extension("txt"));
        assert!(path == &toml || path == &txt, "{} does not belong here", path.display());
        assert!(toml.exists(), "{} has no file", path.display());
    }
    let env = |name: &str| (name == "EMPTY_SECRET").then(String::new);
    let mut wrong = Vec::new();
    for path in files {
        let mut report = match config::load(path, &env) {
            Err(report) => report,
            // A file of which only warnings come.
            Ok(loaded) => loaded.warnings,
        };
        report.path = PathBuf::from(path.file_name().unwrap());
        let shown = format!("{report}\n");
        let expected = path.with_extension("txt");
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&expected, &shown).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != shown || report.diagnostics.is_empty() {
            wrong.push(format!("{}\n{shown}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "set {UPDATE}=1 if this is right:\n{}", wrong.join("\n"));
}

#[test]
fn files_with_only_warnings_can_be_used() {
    let text = r#"version = 1
        server.trusted_proxies = ["0.0.0.0/0"]
        admin.address = "0.0.0.0:9901"
        listener = [{ address = "127.0.0.1:8080" }]
        pool.main = { id = "eu-west-1_AbC123xyz", client_id = "4hrtnexample", client_secret = "hunter2" }"#;
    let loaded = config::parse(text, Path::new("f.toml"), &no_env).unwrap();
    assert_eq!(loaded.warnings.diagnostics.len(), 3, "{}", loaded.warnings);
    assert!(loaded.warnings.diagnostics.iter().all(|warning| warning.severity == Severity::Warning));
    assert!(!loaded.warnings.to_string().contains("hunter2"), "a secret is not quoted");
    assert!(!format!("{:?}", loaded.config).contains("hunter2"));
}
