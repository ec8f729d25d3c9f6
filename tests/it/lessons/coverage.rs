//! Which lessons have a test, in which protocol.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A: which route is this? B: headers that carry identity. E: framing, protocol and resources.
const IN_BOTH: [(u8, u8); 3] = [(1, 10), (11, 19), (36, 40)];
/// Others that concern more than one place: a test in either protocol will do.
const ANYWHERE: [u8; 6] = [20, 26, 28, 31, 33, 34];
/// Floods of HTTP/2 frames, which HTTP/1.1 does not have.
const HTTP_2_ALONE: u8 = 38;
/// TLS, beneath both protocols.
const TLS: u8 = 39;

#[test]
fn every_lesson_of_a_b_and_e_has_a_test_in_both_protocols() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let http_2 = numbers_below(&folder.join("http2"));
    let http_1 = numbers_below(&folder.join("lessons"));
    let everywhere = numbers_below(&folder);
    let mut missing = Vec::new();
    let mut want = |lesson: u8, tested: &BTreeSet<u8>, place: &str| {
        if !tested.contains(&lesson) {
            missing.push(format!("lesson {lesson} over {place}"));
        }
    };
    for lesson in IN_BOTH.iter().flat_map(|(first, last)| *first..=*last) {
        match lesson {
            HTTP_2_ALONE => want(lesson, &http_2, "HTTP/2"),
            TLS if !has_tls() => {}
            TLS => want(lesson, &everywhere, "TLS"),
            _ => {
                want(lesson, &http_1, "HTTP/1.1");
                want(lesson, &http_2, "HTTP/2");
            }
        }
    }
    for lesson in ANYWHERE {
        want(lesson, &everywhere, "any protocol");
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn numbers_are_read_from_the_names_of_tests() {
    let text = "#[tokio::test]\nasync fn lesson_07_x() {\n#[test]\nfn lessons_11_to_13_y() {\nfn lesson_99_no_test() {\n\
                // fn lesson_98_x()\n#[tokio::test]\nasync fn lessons_of_none() {\n";
    assert_eq!(numbers(text).into_iter().collect::<Vec<_>>(), [7, 11, 12, 13]);
}

/// Whether a listener can speak TLS in this version.
fn has_tls() -> bool {
    let text = "version = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n";
    let report = portcullis::config::parse(text, Path::new("p.toml"), &|_| None).map(|_| ()).unwrap_err();
    !report.to_string().contains("[listener.tls] is not available")
}

fn numbers_below(folder: &Path) -> BTreeSet<u8> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(numbers_below(&path));
        } else {
            found.extend(numbers(&fs::read_to_string(path).unwrap()));
        }
    }
    found
}

/// The lessons that tests of a source are named after: `lesson_07_…`, or `lessons_11_to_13_…`.
fn numbers(source: &str) -> BTreeSet<u8> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines() {
        let name = line.trim_start_matches("async ").strip_prefix("fn lesson").filter(|_| is_test);
        is_test = line.ends_with("test]");
        let Some(name) = name else { continue };
        let words: Vec<&str> = name.trim_start_matches('s').trim_start_matches('_').split('_').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u8>().ok());
        match (number(0), words.get(1), number(2)) {
            (Some(first), Some(&"to"), Some(last)) => found.extend(first..=last),
            (Some(only), _, _) => found.extend([only]),
            _ => {}
        }
    }
    found
}
