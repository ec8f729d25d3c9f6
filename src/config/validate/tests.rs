//! Files and what they mean; what is wrong with others stands in `tests/config/invalid`.

use proptest::prelude::*;

use super::*;
use crate::config::Pool;
use crate::config::file::{
    ACCESS, ASSERTION, AUTH, CERTIFICATE, EMBEDDED, ENDPOINT, HEALTH, IDENTITY, KEYS, POOL, SECRET, Shape, TLS,
    UPSTREAM, UPSTREAM_ASSERTION, UPSTREAM_TLS, USER,
};

fn parsed(text: &str) -> Result<Loaded, Report> {
    parse(text, Path::new("/etc/portcullis/p.toml"), &|name| (name == "SET").then(|| "s3cret".to_owned()))
}

/// The one pool of a file that has these lines in `[pool.main]`.
fn with_lines(lines: &str) -> Pool {
    let text = format!("version = 1\nlistener = [{{ address = \"127.0.0.1:0\" }}]\n[pool.main]\n{lines}");
    let config = parsed(&text).unwrap_or_else(|report| panic!("{report}")).config;
    Pool::clone(&config.pools[0])
}

#[test]
fn the_addresses_of_a_pool_follow_from_its_id() {
    for (region, suffix) in [
        ("eu-west-1", "amazonaws.com"),
        ("us-gov-west-1", "amazonaws.com"),
        ("cn-north-1", "amazonaws.com.cn"),
        ("eusc-de-east-1", "amazonaws.eu"),
    ] {
        let pool = with_lines(&format!("id = \"{region}_AbC123xyz\"\nclient_id = \"c\""));
        assert_eq!(pool.endpoint, format!("https://cognito-idp.{region}.{suffix}"));
        let original = format!("https://cognito-idp.{region}.{suffix}/{region}_AbC123xyz");
        let updated = format!("https://issuer-cognito-idp.{region}.{suffix}/{region}_AbC123xyz");
        assert_eq!(pool.issuers, [original.clone(), updated]);
        assert_eq!(pool.jwks, original + "/.well-known/jwks.json");
    }
}

#[test]
fn an_emulator_needs_only_its_endpoint() {
    let pool = with_lines("id = \"local_abc\"\nclient_id = \"c\"\nendpoint = \"http://localhost:9229/\"");
    assert_eq!(pool.endpoint, "http://localhost:9229");
    assert_eq!(pool.issuers, ["http://localhost:9229/local_abc"]);
    assert_eq!(pool.jwks, "http://localhost:9229/local_abc/.well-known/jwks.json");
}

#[test]
fn the_file_may_name_issuers_and_the_key_set_itself() {
    let id = "id = \"eu-west-1_abc\"\nclient_id = \"c\"";
    let pool =
        with_lines(&format!("{id}\nissuer = \"http://127.0.0.1:1/a/\"\nendpoint = \"https://proxy.example.com\""));
    assert_eq!(pool.issuers, ["http://127.0.0.1:1/a/"], "`iss` is compared as it is written");
    assert_eq!(pool.jwks, "http://127.0.0.1:1/a/.well-known/jwks.json");
    let pool = with_lines(&format!("{id}\njwks = \"https://keys.example.com/set\""));
    assert_eq!(pool.jwks, "https://keys.example.com/set");
    assert_eq!(pool.issuers.len(), 2);
}

#[test]
#[cfg(feature = "devpool")]
fn an_embedded_pool_has_its_addresses_where_it_was_bound() {
    let lines =
        "id = \"eu-west-1_abc\"\nclient_id = \"c\"\nembedded = { address = \"127.0.0.1:0\", data = \"d/p.redb\" }";
    let pool = with_lines(lines);
    assert_eq!(pool.endpoint, "http://127.0.0.1:0");
    let bound = pool.at("127.0.0.1:4321".parse().unwrap());
    assert_eq!(bound.endpoint, "http://127.0.0.1:4321");
    assert_eq!(bound.issuers, ["http://127.0.0.1:4321/eu-west-1_abc"]);
    assert_eq!(bound.jwks, "http://127.0.0.1:4321/eu-west-1_abc/.well-known/jwks.json");
    assert_eq!(bound.embedded.unwrap().data.as_deref(), Some(Path::new("/etc/portcullis/d/p.redb")));
}

#[test]
fn secrets_come_from_the_environment_and_from_files_without_their_line_end() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s"), "s3cret\r\n").unwrap();
    let id = "id = \"eu-west-1_abc\"\nclient_id = \"c\"";
    for source in ["env = \"SET\"".to_owned(), format!("file = '{}'", folder.path().join("s").display())] {
        let secret = with_lines(&format!("{id}\nclient_secret = {{ {source} }}")).client_secret.unwrap();
        assert_eq!(secret.expose(), "s3cret");
    }
}

#[test]
fn routes_tie_only_when_nothing_tells_them_apart() {
    let route = |more: &str| format!("[[route]]\nupstream = \"a\"\naccess = \"public\"\n{more}\n");
    let file = |first: &str, second: &str| {
        let head = "version = 1\nlistener = [{ address = \"127.0.0.1:0\" }]\nupstream.a.servers = [\"whoami:\"]\n";
        parsed(&[head, &route(first), &route(second)].concat())
    };
    for (first, second) in [
        ("path = \"/a\"", "path = \"/a/*\""),
        ("path = \"/a\"", "path = \"/a\"\nmethods = [\"GET\"]"),
        ("path = \"/a\"\nmethods = [\"POST\"]", "path = \"/a\"\nmethods = [\"GET\"]"),
        ("path = \"/a\"", "path = \"/a\"\nhost = \"example.com\""),
        ("path = \"/a\"\nhost = \"*.example.com\"", "path = \"/a\"\nhost = \"example.com\""),
    ] {
        let config = file(first, second).unwrap_or_else(|report| panic!("{report}")).config;
        assert_eq!(config.routes.iter().map(|route| route.line).collect::<Vec<_>>()[0], 4);
    }
    assert_eq!(file("path = \"/a\"", "path = \"/a\"").unwrap_err().errors(), 1);
}

#[test]
fn depth_and_masses_of_mistakes_are_bounded() {
    assert!(parsed(&("a = ".to_owned() + &"[".repeat(100_000))).is_err());
    let many = parsed(&"\u{0}\n".repeat(20_000)).unwrap_err();
    assert!(many.errors() > 1000, "{} errors", many.errors());
    let shown = many.to_string();
    assert!(shown.ends_with(&format!("… and {} more", many.errors() - 100)), "{shown}");
}

#[test]
fn with_another_identity_prefix_the_default_headers_have_it() {
    let text = "version = 1\nlistener = [{ address = \"127.0.0.1:0\" }]\nidentity.prefix = \"X-Me-\"";
    let identity = parsed(text).unwrap().config.identity;
    assert_eq!(identity.prefix, "x-me-");
    assert!(identity.headers.iter().any(|(name, _)| name == "x-me-subject"));
    assert_eq!(identity.headers.len(), 7);
}

/// A file that has `key = value` in the section with this shape, and no more than that needs.
fn with_key(shape: &Shape, key: &str, value: &str) -> String {
    let line = format!("{key} = {value}\n");
    match shape.place {
        "the file" => line,
        "[pool.NAME]" | "[pool.NAME.keys]" | "[pool.NAME.embedded]" => {
            format!("{}\n{line}", shape.place.replace("NAME", "main"))
        }
        "a user" => format!("[[pool.main.embedded.users]]\n{line}"),
        "a secret" => format!("[pool.main.client_secret]\n{line}"),
        "[upstream.NAME]" => format!("[upstream.app]\n{line}"),
        "[upstream.NAME.health]" => format!("[upstream.app.health]\n{line}"),
        "[upstream.NAME.assertion]" => format!("[upstream.app.assertion]\n{line}"),
        "[upstream.NAME.tls]" => format!("[upstream.app.tls]\n{line}"),
        "[listener.tls]" => format!("[[listener]]\n[listener.tls]\n{line}"),
        "a certificate" => format!("[[listener]]\n[[listener.tls.certificates]]\n{line}"),
        "a server" => format!("[[upstream.app.servers]]\n{line}"),
        "`access`" => format!("[[route]]\n[route.access]\n{line}"),
        header => format!("{header}\n{line}"),
    }
}

const SHAPES: [&Shape; 24] = [
    &ROOT,
    &SERVER,
    &LIMITS,
    &LISTENER,
    &ADMIN,
    &POOL,
    &KEYS,
    &EMBEDDED,
    &USER,
    &SECRET,
    &UPSTREAM,
    &ENDPOINT,
    &ROUTE,
    &ACCESS,
    &AUTH,
    &IDENTITY,
    &STORE,
    &LOG,
    &HEALTH,
    &UPSTREAM_TLS,
    &CERTIFICATE,
    &TLS,
    &UPSTREAM_ASSERTION,
    &ASSERTION,
];

#[test]
fn every_declared_key_is_looked_at() {
    for shape in SHAPES {
        for key in shape.keys {
            // No key takes a date: whoever reads it must notice.
            let text = with_key(shape, key, "1979-05-27");
            let place = text.find("1979").unwrap();
            let report = parsed(&text).unwrap_err();
            let noticed = report.diagnostics.iter().flat_map(|one| &one.labels).any(|(span, _)| span.start == place);
            assert!(noticed, "nobody reads `{key}` of {}", shape.place);
        }
    }
}

fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("true".to_owned()),
        Just("0".to_owned()),
        Just("-1".to_owned()),
        Just("1.5".to_owned()),
        Just("1979-05-27".to_owned()),
        r#"[a-z0-9/:.*%_-]{0,12}"#.prop_map(|text| format!("'{text}'")),
        r"\PC{0,8}".prop_map(|text| toml::Value::String(text).to_string()),
        prop::sample::select(vec![
            "'whoami:'",
            "'http://a'",
            "'127.0.0.1:0'",
            "'/*'",
            "'10s'",
            "'1KiB'",
            "'main'",
            "'app'"
        ])
        .prop_map(str::to_owned),
    ];
    scalar.prop_recursive(3, 12, 3, |inner| {
        let key = prop::sample::select(vec!["env", "file", "url", "username", "groups", "claims", "servers", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|list| format!("[{}]", list.join(", "))),
            (key, inner).prop_map(|(key, value)| format!("{{ {key} = {value} }}")),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(report) = parsed(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(report.errors() > 0);
            prop_assert!(!report.to_string().is_empty());
        }
    }

    #[test]
    fn no_toml_makes_it_panic(
        picks in prop::collection::vec((0..SHAPES.len(), any::<prop::sample::Index>(), value()), 0..6)
    ) {
        let sections = picks.iter().map(|(shape, key, value)| {
            let shape = SHAPES[*shape];
            with_key(shape, shape.keys[key.index(shape.keys.len())], value)
        });
        // Keys of the root go first, or they would land in the section above them.
        let (root, rest): (Vec<_>, Vec<_>) = sections.partition(|section| !section.starts_with('['));
        let text = [root, rest].concat().concat();
        match parsed(&text) {
            Err(report) => {
                prop_assert!(report.errors() > 0);
                prop_assert!(report.colored().contains("error"));
            }
            Ok(loaded) => prop_assert_eq!(loaded.warnings.errors(), 0),
        }
    }
}
