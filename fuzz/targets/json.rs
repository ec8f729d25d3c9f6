//! The strict JSON reader: it takes a subset of what serde_json takes, and reads it the same way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::json::strict_parse;
use serde_json::Value;

const DEPTH: usize = 16;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = strict_parse(data, DEPTH) else { return };
    let lenient: Value = serde_json::from_slice(data).expect("the strict reader takes nothing else");
    assert_eq!(value, lenient);
    assert!(depth(&value) <= DEPTH);
    // serde_json reads long fractions to within one unit of the last place: written and read again
    // they may differ in it. Nothing here depends on fractions.
    if !has_fraction(&value) {
        let text = serde_json::to_vec(&value).expect("values serialize");
        assert_eq!(strict_parse(&text, DEPTH), Ok(value), "written and read again");
    }
});

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Array(members) => members.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        value => value.is_f64(),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(members) => 1 + members.iter().map(depth).max().unwrap_or_default(),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}
