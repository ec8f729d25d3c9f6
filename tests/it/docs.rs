//! What the documents say, held against the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::auth::ROUTES;
use portcullis::config::{self, Config};
use portcullis::gateway::route::Routes;
use portcullis::path::normalize;
use portcullis::problem::Code;
use serde_json::Value;

use crate::support::{EMBEDDED, Portcullis};

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CHANGELOG.md",
    "docs/ARCHITECTURE.md",
    "docs/DEVPOOL.md",
    "docs/HTTP.md",
    "docs/LOGGING.md",
    "docs/METRICS.md",
];

#[test]
fn the_table_of_codes_is_the_programs() {
    let documented: Vec<(u16, String)> = codes().map(|row| (row[0].parse().unwrap(), bare(&row[1]))).collect();
    let real: Vec<_> = Code::ALL.iter().map(|code| (code.status().as_u16(), code.as_str().to_owned())).collect();
    assert_eq!(documented, real);
}

#[test]
fn codes_that_nothing_sends_are_marked() {
    let sources: String = files("src").iter().filter(|path| !path.ends_with("tests.rs")).map(read).collect();
    for (row, code) in codes().zip(Code::ALL) {
        let variant = format!("Code::{code:?}");
        let sent = sources.split(&variant).skip(1).any(|rest| !rest.starts_with(char::is_alphanumeric));
        assert_eq!(row[2].contains("*not sent yet*"), !sent, "{}", code.as_str());
    }
}

#[test]
fn every_identity_route_has_its_section() {
    let text = read("docs/HTTP.md");
    let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let routes: Vec<String> = ROUTES.iter().map(|route| format!("{} /auth{}", route.method, route.path)).collect();
    assert_eq!(sections, routes);
}

#[test]
fn examples_are_json_and_the_problem_is_a_real_one() {
    let text = read("docs/HTTP.md");
    let examples: Vec<Value> = fences(&text, "json")
        .map(|example| serde_json::from_str(example).unwrap_or_else(|error| panic!("{error}: {example}")))
        .collect();
    let problem = &examples[0];
    let code = Code::ALL.iter().find(|code| problem["code"] == code.as_str()).unwrap();
    assert_eq!((&problem["title"], &problem["status"]), (&code.title().into(), &code.status().as_u16().into()));
}

#[tokio::test]
async fn every_admin_endpoint_is_there_and_documented() {
    let endpoints = |text: &str| -> BTreeSet<String> {
        let rows = text.lines().filter(|line| line.trim_start_matches("//! ").starts_with("| `"));
        rows.flat_map(|line| line.split('`').filter(|word| word.starts_with("GET /")).map(str::to_owned)).collect()
    };
    let in_code = endpoints(&read("src/admin.rs"));
    assert!(in_code.len() > 5, "{in_code:?}");
    assert_eq!(endpoints(&read("docs/HTTP.md")), in_code);
    assert_eq!(endpoints(&read("README.md")), in_code);
    let gate = Portcullis::start(EMBEDDED).await;
    for endpoint in in_code {
        let reply = gate.admin_get(endpoint.strip_prefix("GET ").unwrap()).await;
        assert_eq!(reply.status, 200, "{endpoint}");
    }
    assert_eq!(gate.admin_get("/log-level").await.status, 405);
}

#[test]
fn every_address_in_the_readme_leads_somewhere() {
    let text = read("README.md");
    let config = shipped();
    let routes = Routes::new(config.routes.iter().cloned());
    let (public, admin) = (config.listeners[0].address.tcp().unwrap().port(), config.admin.address.port());
    let admin_code = read("src/admin.rs");
    let mut seen = 0;
    for address in text.split("localhost:").skip(1) {
        let (port, path) = address.split_once('/').unwrap();
        let path = format!("/{}", path.split([' ', '`', '\'', '"', '\n', ')']).next().unwrap());
        if port == admin.to_string() {
            assert!(admin_code.contains(&format!("\"{path}\" ")), "{path} of the admin listener");
        } else if let Some(below) = path.strip_prefix("/auth") {
            assert_eq!(port, public.to_string());
            assert!(ROUTES.iter().any(|route| route.path == below), "{path}");
        } else {
            assert_eq!(port, public.to_string());
            assert!(routes.find("localhost", &normalize(&path).unwrap(), &http::Method::GET).is_ok(), "{path}");
        }
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} addresses were found");
}

#[test]
fn the_readmes_configuration_can_be_used() {
    let text = read("README.md");
    let mut seen = 0;
    for block in fences(&text, "toml") {
        let mut whole = format!("{block}\nversion = 1\n");
        // A key at the top of a file must come before its first section.
        for (section, rest) in [
            ("[[listener]]", "listener = [{ address = \"127.0.0.1:8080\" }]\n"),
            ("[pool.", "pool.main = { id = \"eu-west-1_AbC123xyz\", client_id = \"4hrtnexample\" }\n"),
            ("[upstream.", "upstream.app.servers = [\"whoami:\"]\n"),
            ("[[route]]", "route = [{ path = \"/*\", upstream = \"app\" }]\n"),
        ] {
            if !block.contains(section) {
                whole.push_str(rest);
            }
        }
        let (block, top) = whole.split_at(block.len());
        let whole = format!("{top}\n{block}");
        let loaded = config::parse(&whole, Path::new("README.toml"), &|_| Some("secret".to_owned()));
        let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
        assert!(loaded.warnings.diagnostics.is_empty(), "{}", loaded.warnings);
        seen += 1;
    }
    assert!(seen >= 3, "only {seen} blocks were found");
}

#[test]
fn links_lead_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = root().join(document).parent().unwrap().to_owned();
            let path = if file.is_empty() { root().join(document) } else { folder.join(file) };
            assert!(path.exists(), "{document}: {target}");
            if !anchor.is_empty() {
                let there = fs::read_to_string(path).unwrap().lines().any(|line| anchor_of(line) == anchor);
                assert!(there, "{document}: {target}");
            }
        }
    }
}

#[test]
fn the_layers_are_the_modules() {
    let text = read("docs/ARCHITECTURE.md");
    let drawn: Vec<String> = rows(&text, "layer").map(|row| bare(row[1])).collect();
    for path in &drawn {
        assert!(root().join(path).exists(), "{path}");
    }
    let name = |path: &String| path.trim_start_matches("src/").trim_end_matches(".rs").to_owned();
    assert_eq!(drawn.iter().map(name).collect::<Vec<_>>(), modules());
}

#[test]
fn modules_that_are_named_exist() {
    let text = read("docs/ARCHITECTURE.md");
    let known = modules();
    let mut seen = 0;
    for name in text.split('`').skip(1).step_by(2).filter(|word| word.contains("::")) {
        let parts: Vec<&str> = name.split("::").collect();
        if !known.iter().any(|module| module == parts[0]) {
            continue;
        }
        let (last, parents) = parts.split_last().unwrap();
        // Either the whole is a module, or its last part is an item of one.
        let item = module_file(parents).is_some_and(|path| {
            let source = fs::read_to_string(path).unwrap();
            ["fn", "struct", "enum", "mod"].iter().any(|kind| source.contains(&format!("{kind} {last}")))
        });
        // Or a function of a type of a module.
        let method = parents
            .split_last()
            .is_some_and(|(kind, module)| kind.starts_with(char::is_uppercase) && module_file(module).is_some());
        assert!(module_file(&parts).is_some() || item || method, "{name}");
        seen += 1;
    }
    assert!(seen > 20, "only {seen} modules were found");
}

/// The repository is about the product: nothing in it belongs to one machine, or to those who wrote it.
#[test]
fn nothing_of_the_workshop_is_left_behind() {
    let strange = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/Us", "ers/"],
        ["clau", "de"],
        ["anthr", "opic"],
        ["chat", "gpt"],
        ["language ", "model"],
        ["sub", "agent"],
        ["work", "tree"],
    ];
    let mut found = Vec::new();
    for path in files("") {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            if strange.iter().any(|word| lower.contains(&word.concat().to_lowercase())) {
                found.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn dependencies_come_from_the_public_registries() {
    let cargo = read("Cargo.lock");
    let sources = cargo.lines().filter_map(|line| line.strip_prefix("source = "));
    let foreign: Vec<&str> =
        sources.filter(|source| *source != "\"registry+https://github.com/rust-lang/crates.io-index\"").collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let npm = read("tests/interop/js/package-lock.json");
    let addresses = npm.split("\"resolved\": \"").skip(1);
    let foreign: Vec<&str> = addresses.filter(|rest| !rest.starts_with("https://registry.npmjs.org/")).collect();
    assert!(foreign.is_empty(), "{:?}", foreign.first());
    let python = read("tests/interop/requirements.txt");
    assert!(!python.contains("index-url") && !python.contains("://"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shipped() -> Config {
    let path = root().join("config/portcullis.toml");
    config::load(&path, &|_| None).unwrap_or_else(|report| panic!("{report}")).config
}

/// The rows of the one table whose first heading is this, as cells.
fn rows<'t>(text: &'t str, heading: &str) -> impl Iterator<Item = Vec<&'t str>> {
    let start = format!("| {heading} |");
    let table = text.lines().skip_while(move |line| !line.starts_with(&start)).skip(2);
    table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

fn codes() -> impl Iterator<Item = Vec<String>> {
    let text = read("docs/HTTP.md");
    let rows: Vec<Vec<String>> =
        rows(&text, "status").map(|row| row.into_iter().map(str::to_owned).collect()).collect();
    rows.into_iter()
}

/// A cell without its backticks.
fn bare(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// The contents of the fenced blocks of a language.
fn fences<'t>(text: &'t str, language: &str) -> impl Iterator<Item = &'t str> {
    let start = format!("```{language}\n");
    let blocks: Vec<&str> = text.split(&start).skip(1).collect();
    blocks.into_iter().map(|rest| rest.split("```").next().unwrap_or_default())
}

/// The anchor that a heading gets.
fn anchor_of(line: &str) -> String {
    let Some(heading) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim()) else {
        return String::new();
    };
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The modules of `src/lib.rs`, in its order.
fn modules() -> Vec<String> {
    let text = read("src/lib.rs");
    text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned)).collect()
}

/// The file of a module, if it is one.
fn module_file(parts: &[&str]) -> Option<PathBuf> {
    if parts.is_empty() {
        return None;
    }
    let path = root().join("src").join(parts.join("/"));
    [path.with_extension("rs"), path.join("mod.rs")].into_iter().find(|path| path.exists())
}

/// The files below a folder, by their paths in the repository, without what is built or kept there.
fn files(folder: &str) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
            if entry.file_type().unwrap().is_dir() {
                if !["target", "data", ".git"].iter().any(|skipped| name == *skipped) {
                    folders.push(path);
                }
            } else if name != ".git" {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}
