//! `[assertion]` and `[upstream.NAME.assertion]`.

use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::{Diagnostic, Span};
use crate::config::file::{ASSERTION, UPSTREAM_ASSERTION};
use crate::config::section::Section;
use crate::config::values::{self, Invalid};
use crate::config::{Assertion, Assertions, Auth};
use crate::es256::SigningKey;

/// What stands in `iss` when the file says nothing.
const ISSUER: &str = "portcullis";
/// For `ttl`: an assertion is for one request, which is under way already.
const LONGEST: Duration = Duration::from_secs(60);

/// `[assertion]`: who signs, and with what. Somewhere the keys have to be published.
pub(super) fn assertions(root: &Section<'_>, auth: Option<&Auth>) -> Assertions {
    let section = root.child("assertion", &ASSERTION);
    let issuer = section.parsed("issuer", "a name", name);
    let keys = keys(&section);
    match first_use(root) {
        Some(place) => check_use(&section, place, auth),
        None if section.is_present() => {
            let unused = Diagnostic::warning("[assertion] has no effect");
            root.reader.note(unused.at(section.place.clone(), "no upstream has an `assertion`"));
        }
        None => {}
    }
    Assertions { issuer: issuer.map_or_else(|| Arc::from(ISSUER), |issuer| Arc::from(issuer.into_inner())), keys }
}

/// `keys`: the first signs, all are published.
fn keys(section: &Section<'_>) -> Vec<Arc<SigningKey>> {
    let Some(value) = section.value("keys") else { return Vec::new() };
    let DeValue::Array(elements) = value.get_ref() else {
        section.reader.wrong_type("keys", "a list of secrets", value);
        return Vec::new();
    };
    section.refuse_empty("keys", "nothing could be signed");
    let mut keys: Vec<Spanned<Arc<SigningKey>>> = Vec::new();
    for element in elements.iter() {
        let Some(pem) = section.secret_in("keys", element, true) else { continue };
        match SigningKey::from_pem(&pem) {
            Err(error) => {
                let invalid = Invalid::new(error.to_string()).help("`portcullis keygen --assertion` makes one");
                section.reader.invalid("this is not a key for assertions".to_owned(), element.span(), invalid);
            }
            Ok(key) => match keys.iter().find(|known| **known.get_ref() == key) {
                None => keys.push(Spanned::new(element.span(), Arc::new(key))),
                Some(known) => {
                    let twice = Diagnostic::error("the same key is there twice");
                    section.reader.note(twice.at(element.span(), "the second one").at(known.span(), "the first one"));
                }
            },
        }
    }
    keys.into_iter().map(Spanned::into_inner).collect()
}

/// `[upstream.NAME.assertion]`.
pub(super) fn of_upstream(upstream: &Section<'_>) -> Option<Assertion> {
    let section = upstream.child("assertion", &UPSTREAM_ASSERTION);
    if !section.is_present() {
        return None;
    }
    section.require("audience", "\"app\"");
    let audience = section.parsed("audience", "a name", name).map_or_else(String::new, Spanned::into_inner);
    let ttl = section.duration("ttl", LONGEST);
    if !(Duration::from_secs(1)..=LONGEST).contains(&ttl) {
        let out = Diagnostic::error("`ttl` is out of range").at(section.place_of("ttl"), "must be from 1s to 60s");
        section.reader.note(out.help("an assertion is for one request: what is long valid can be used again"));
    }
    Some(Assertion { audience, ttl })
}

/// What has to be there for the upstreams that get assertions.
fn check_use(section: &Section<'_>, place: Span, auth: Option<&Auth>) {
    if auth.is_none() {
        let hidden = Diagnostic::error("nobody could check the assertions: their keys are not published");
        let hidden = hidden.at(place.clone(), "needs the identity routes, below which the keys are");
        section.reader.note(hidden.help("add [auth] with pool = \"NAME\", the NAME of a [pool.NAME]"));
    }
    if section.value("keys").is_none() {
        let fresh = Diagnostic::warning("assertions are signed with a key that is made anew at each start");
        let fresh = fresh.at(place, "no other replica has it");
        let help = "make one with `portcullis keygen --assertion > assertion.key`, and name it: [assertion] keys = [{ file = \"assertion.key\" }]";
        section.reader.note(fresh.help(help));
    }
}

/// Where an `assertion` of an upstream stands, if there is one.
fn first_use(root: &Section<'_>) -> Option<Span> {
    let upstreams = root.value("upstream")?.get_ref().as_table()?;
    let uses = upstreams.values().filter_map(|upstream| upstream.get_ref().as_table()?.get("assertion"));
    uses.map(Spanned::span).min_by_key(|span| span.start)
}

/// Reads what stands in `iss` or `aud`: both ends compare it letter by letter (RFC 7519 §4.1.1).
fn name(text: &str) -> Result<String, Invalid> {
    values::claim_name(text).map_err(|_| Invalid::new("1 to 256 bytes without control characters"))
}
