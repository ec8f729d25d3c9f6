//! `strip_prefix`, `rewrite`, `request_headers` and `response_headers` of a route.

use http::header::{self, HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::Diagnostic;
use crate::config::file::HEADER_EDITS;
use crate::config::section::Section;
use crate::config::values;
use crate::config::{HeaderEdits, Identity, PathPattern, Rewrite, path};
use crate::http::{HOP_BY_HOP, is_ours};

/// `strip_prefix` and `rewrite` of a route with this `path`.
pub(super) fn rewrite(section: &Section<'_>, route: Option<&PathPattern>, keep_slashes: bool) -> Option<Rewrite> {
    let strip = section.parsed("strip_prefix", "a path prefix", path::stripped).map(Spanned::into_inner);
    let to = section.parsed("rewrite", "a path in normal form", |text| path::pattern(text, keep_slashes));
    let to = to.map(Spanned::into_inner);
    let route = route?;
    if let Some(strip) = &strip
        && !begins_with(route, strip)
    {
        let outside = Diagnostic::error("`strip_prefix` is not the start of the route's path");
        let outside = outside.at(section.place_of("strip_prefix"), "not there to be removed");
        let outside = outside.at(section.place_of("path"), "this is what the route matches");
        section.reader.note(outside.help("both count whole segments: \"/api\" fits \"/api/*\" and \"/api/x\""));
    }
    match (strip, to) {
        (None, None) => None,
        (Some(strip), to) => Some(Rewrite { strip, to: to.unwrap_or(PathPattern::Prefix(String::new())) }),
        (None, Some(to)) => match (route, &to) {
            (PathPattern::Prefix(strip), _) => Some(Rewrite { strip: strip.clone(), to }),
            (PathPattern::Exact(_), PathPattern::Exact(_)) => Some(Rewrite { strip: String::new(), to }),
            (PathPattern::Exact(_), PathPattern::Prefix(_)) => {
                let nothing = Diagnostic::error("the star in `rewrite` stands for nothing");
                let nothing = nothing.at(section.place_of("rewrite"), "the route's path has no star");
                section.reader.note(nothing.help("write the whole path, or add `strip_prefix`"));
                None
            }
        },
    }
}

/// Whether every path of a route begins with a prefix, by whole segments.
fn begins_with(route: &PathPattern, prefix: &str) -> bool {
    let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = route;
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Which way the headers go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

/// `request_headers` or `response_headers`.
pub(super) fn headers(section: &Section<'_>, direction: Direction, identity: &Identity) -> HeaderEdits {
    let key = match direction {
        Direction::Request => "request_headers",
        Direction::Response => "response_headers",
    };
    let table = section.child(key, &HEADER_EDITS);
    table.refuse_empty("remove", "nothing would be removed");
    let remove: Vec<HeaderName> = table
        .list("remove", "a header name", values::header_name)
        .unwrap_or_default()
        .into_iter()
        .filter(|name| may_be_edited(&table, name, direction, identity))
        .map(Spanned::into_inner)
        .collect();
    let set = set(&table, direction, identity, &remove);
    HeaderEdits { remove, set }
}

/// `set`: names and values.
fn set(
    section: &Section<'_>,
    direction: Direction,
    identity: &Identity,
    removed: &[HeaderName],
) -> Vec<(HeaderName, HeaderValue)> {
    let Some(value) = section.value("set") else { return Vec::new() };
    let DeValue::Table(table) = value.get_ref() else {
        section.reader.wrong_type("set", "a table of headers", value);
        return Vec::new();
    };
    let mut in_file_order: Vec<_> = table.iter().collect();
    in_file_order.sort_by_key(|(key, _)| key.span().start);
    let mut set: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (key, value) in in_file_order {
        let name = match values::header_name(key.get_ref()) {
            Ok(name) => Spanned::new(key.span(), name),
            Err(invalid) => {
                section.reader.invalid(format!("`{}` is not a header name", key.get_ref()), key.span(), invalid);
                continue;
            }
        };
        if !may_be_edited(section, &name, direction, identity) {
            continue;
        }
        let name = name.into_inner();
        if removed.contains(&name) || set.iter().any(|(other, _)| *other == name) {
            let twice = Diagnostic::error(format!("there are two edits of `{name}`"));
            section.reader.note(twice.at(key.span(), "set here").help("`set` replaces what is there: one is enough"));
            continue;
        }
        let Some(text) = value.get_ref().as_str() else {
            section.reader.wrong_type(name.as_str(), "a text", value);
            continue;
        };
        match HeaderValue::from_str(text) {
            Ok(mut value) => {
                value.set_sensitive(is_secret(&name));
                set.push((name, value));
            }
            Err(_) => {
                let invalid = Diagnostic::error(format!("the value of `{name}` cannot stand in a header"));
                section.reader.note(invalid.at(value.span(), "only printable ASCII can"));
            }
        }
    }
    set
}

/// Whether an edit could not undo what the gateway itself does with a header; notes it if it could.
fn may_be_edited(section: &Section<'_>, name: &Spanned<HeaderName>, direction: Direction, identity: &Identity) -> bool {
    let (span, name) = (name.span(), name.get_ref());
    let framing = *name == header::CONTENT_LENGTH || HOP_BY_HOP.contains(name);
    let why = match direction {
        _ if framing => "it belongs to one connection, not to the message",
        Direction::Response => return true,
        Direction::Request if *name == header::HOST => "it is set by `host` of the upstream",
        Direction::Request if identity.manages(name) => "identity headers say who is calling, and nothing else",
        Direction::Request if is_ours(name) || *name == header::EXPECT => "only the gateway sets it",
        Direction::Request => return true,
    };
    section.reader.note(Diagnostic::error(format!("`{name}` cannot be edited")).at(span, why));
    false
}

/// Whether a header's value is likely to be a credential, which is never shown.
fn is_secret(name: &HeaderName) -> bool {
    let name = name.as_str();
    ["authorization", "cookie", "key", "token", "secret", "password"].iter().any(|part| name.contains(part))
}
