//! The drawing of the architecture, held against the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of `src/lib.rs`, by layer; imports go down, never up, and never sideways in layer 3.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["clock", "distinguished_name", "es256", "http", "json", "outbound", "path", "secret", "websocket"]),
    (1, &["config"]),
    (2, &["certificates", "telemetry"]),
    (3, &["cognito", "server", "store", "token", "upstream"]),
    (4, &["limit"]),
    (5, &["access"]),
    (6, &["problem"]),
    (7, &["auth"]),
    (8, &["gateway"]),
    (9, &["admin", "app"]),
];

/// The embedded pool stands aside: only these know it, and it knows only those.
const KNOW_DEVPOOL: &[&str] = &["app", "cli"];
const DEVPOOL_KNOWS: &[&str] = &["clock", "http", "json", "outbound", "secret", "config", "cognito"];

/// `cli` is the binary's; it may know everything.
const BINARY: &str = "cli";

#[test]
fn imports_go_down_the_list_and_never_sideways() {
    let layers: BTreeMap<&str, u8> =
        LAYERS.iter().flat_map(|(layer, names)| names.iter().map(|name| (*name, *layer))).collect();
    let mut violations = Vec::new();
    for (path, source) in sources() {
        let module = module_of(&path);
        if module == BINARY || module == "lib" || module == "main" {
            continue;
        }
        for import in imports(&source) {
            let allowed = match (module.as_str(), import.as_str()) {
                (a, b) if a == b => true,
                ("devpool", import) => DEVPOOL_KNOWS.contains(&import),
                (module, "devpool") => KNOW_DEVPOOL.contains(&module),
                ("app", "admin") => true,
                (module, import) => {
                    let layer =
                        |name: &str| *layers.get(name).unwrap_or_else(|| panic!("{name} is in no layer ({path:?})"));
                    layer(import) < layer(module) || (layer(import) == layer(module) && layer(module) < 3)
                }
            };
            if !allowed {
                violations.push(format!("{}: {module} imports {import}", path.display()));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn the_list_in_lib_rs_is_the_drawing() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<&str> =
        lib.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let drawn: BTreeSet<&str> =
        LAYERS.iter().flat_map(|(_, names)| names.iter().copied()).chain(["devpool", BINARY]).collect();
    let unknown: Vec<_> = declared.difference(&drawn).collect();
    assert!(unknown.is_empty(), "modules in no layer: {unknown:?}");
    // The order of the file is the order of the layers.
    let order: Vec<u8> = lib
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter_map(|name| LAYERS.iter().find(|(_, names)| names.contains(&name)).map(|(layer, _)| *layer))
        .collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn nothing_reaches_an_upstream_but_through_the_one_door() {
    let mut callers = BTreeSet::new();
    for (path, source) in sources() {
        if module_of(&path) != "upstream" && source.contains("upstream::forward(") {
            callers.insert(path.strip_prefix(root().join("src")).unwrap().display().to_string());
        }
    }
    assert_eq!(callers.into_iter().collect::<Vec<_>>(), ["access/identity.rs"]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file with what is not shipped taken out: comments, and unit tests at the end.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut files, mut folders) = (Vec::new(), vec![root().join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test_file(&path) {
                let source = std::fs::read_to_string(&path).unwrap();
                files.push((path, shipped(&source)));
            }
        }
    }
    assert!(files.len() > 10, "the sources were found");
    files
}

fn is_test_file(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem == "tests" || stem == "testing" || path.components().any(|part| part.as_os_str() == "tests")
}

fn shipped(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The top-level module that a file belongs to.
fn module_of(path: &Path) -> String {
    let inner = path.strip_prefix(root().join("src")).unwrap();
    let first = inner.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The top-level modules that follow `crate::`, alone or in braces.
fn imports(source: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
    };
    let mut found = BTreeSet::new();
    for after in source.split("crate::").skip(1) {
        if let Some(list) = after.strip_prefix('{') {
            let mut depth = 0;
            let mut begin = true;
            for (at, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begin = true,
                    c if begin && !c.is_whitespace() => {
                        found.insert(word(list.get(at..).unwrap_or_default()));
                        begin = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.insert(word(after));
        }
    }
    // Macros and items of the crate root are no modules.
    found.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let source =
        "use crate::{config::Pool, token::{self, jwks}, secret};\nlet x = crate::http::single();\n// crate::never\n";
    assert_eq!(imports(&shipped(source)).into_iter().collect::<Vec<_>>(), ["config", "http", "secret", "token"]);
}
