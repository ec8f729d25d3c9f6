//! Reads one section of the file: each getter returns a value or notes the mistake and goes on with
//! the default, so that one look at the file finds all mistakes.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::diagnostic::{Diagnostic, Span, closest};
use crate::config::file::{self, Shape, Unavailable};
use crate::config::values::{self, Invalid};
use crate::config::watch::Contents;

/// What the reading of every section shares.
pub(super) struct Reader<'a> {
    /// What relative paths are relative to.
    pub(super) folder: &'a Path,
    /// Environment variables.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// What was found so far.
    found: RefCell<Vec<Diagnostic>>,
    /// What files of secrets held.
    pub(super) contents: RefCell<Contents>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(folder: &'a Path, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { folder, env, found: RefCell::default(), contents: RefCell::default() }
    }

    /// Notes a mistake or a warning.
    pub(super) fn note(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    /// Notes that a text is not what it should be.
    pub(super) fn invalid(&self, title: String, span: Span, invalid: Invalid) {
        let diagnostic = Diagnostic::error(title).at(span, invalid.why);
        self.note(Diagnostic { help: invalid.help, ..diagnostic });
    }

    /// Everything that was noted, and what was read for it.
    pub(super) fn finish(self) -> (Vec<Diagnostic>, Contents) {
        (self.found.into_inner(), self.contents.into_inner())
    }

    /// Notes and tells when `key = value` belongs to a part that does not exist yet.
    pub(super) fn is_unavailable(&self, shape: &Shape, key: &str, value: &Spanned<DeValue<'_>>) -> bool {
        let Some(line) = Unavailable::find(shape, key, value.get_ref()) else { return false };
        let title = format!("{} is not available in this version", line.what);
        let refused = Diagnostic::error(title).at(value.span(), "not built yet");
        self.note(Diagnostic { help: line.advice(), ..refused });
        true
    }

    /// Notes a value of the wrong type.
    pub(super) fn wrong_type(&self, key: &str, expected: &str, value: &Spanned<DeValue<'_>>) {
        let title = format!("`{key}` is not {expected}");
        self.note(Diagnostic::error(title).at(value.span(), format!("this is {}", describe(value.get_ref()))));
    }

    /// The elements of a list of texts.
    pub(super) fn texts<'v>(&self, key: &str, value: &'v Spanned<DeValue<'_>>) -> Vec<Spanned<&'v str>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, "a list of texts", value);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(array.len());
        for element in array.iter() {
            match element.get_ref().as_str() {
                Some(text) => texts.push(Spanned::new(element.span(), text)),
                None => self.wrong_type(key, "a list of texts", element),
            }
        }
        texts
    }
}

/// One section, or the lack of it: then every key has its default.
#[derive(Clone)]
pub(super) struct Section<'a> {
    pub(super) reader: &'a Reader<'a>,
    shape: &'static Shape,
    /// The header, or the inline table.
    pub(super) place: Span,
    table: Option<&'a DeTable<'a>>,
}

impl<'a> Section<'a> {
    /// Looks at every key: unknown ones, and those of parts that do not exist yet, are noted right here.
    pub(super) fn open(reader: &'a Reader<'a>, shape: &'static Shape, place: Span, table: &'a DeTable<'a>) -> Self {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if shape.keys.contains(&name) {
                reader.is_unavailable(shape, name, value);
                continue;
            }
            let is_section = std::ptr::eq(shape, &file::ROOT) && value.get_ref().is_table();
            let unknown = Diagnostic::error(if is_section {
                format!("unknown section [{name}]")
            } else {
                format!("unknown key `{name}` in {}", shape.place)
            });
            let similar = closest(name, shape.keys.iter().copied());
            reader.note(match (file::our_name(shape, name), similar) {
                (Some(ours), _) => unknown.at(key.span(), "called otherwise").help(format!("here it is {ours}")),
                (None, Some(similar)) => unknown.at(key.span(), format!("did you mean `{similar}`?")),
                (None, None) => {
                    let known = shape.keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
                    unknown.at(key.span(), "not known here").help(format!("known keys are {known}"))
                }
            });
        }
        Self { reader, shape, place, table: Some(table) }
    }

    /// Whether it stands in the file.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether it stands in the file without a single key.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_some_and(|table| table.is_empty())
    }

    /// A value that is there and belongs to a part that exists.
    pub(super) fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(self.shape.keys.contains(&key), "`{key}` is no key of {}", self.shape.place);
        self.table?.get(key).filter(|value| Unavailable::find(self.shape, key, value.get_ref()).is_none())
    }

    /// Where a key's value stands; the section's header when it does not.
    pub(super) fn place_of(&self, key: &str) -> Span {
        self.table.and_then(|table| table.get(key)).map_or_else(|| self.place.clone(), Spanned::span)
    }

    /// Notes that a key is missing, unless it is there, if only under another name.
    pub(super) fn require(&self, key: &str, example: &str) {
        let Some(table) = self.table else { return };
        let means_it = |name: &str| match file::our_name(self.shape, name) {
            Some(ours) => ours.starts_with(&format!("`{key}`")),
            None => !self.shape.keys.contains(&name) && closest(name, self.shape.keys.iter().copied()) == Some(key),
        };
        if !table.contains_key(key) && !table.keys().any(|name| means_it(name.get_ref())) {
            let missing = Diagnostic::error(format!("`{key}` is missing in {}", self.shape.place));
            self.reader
                .note(missing.at(self.place.clone(), "here").help(format!("add for instance {key} = {example}")));
        }
    }

    /// A text, as it is.
    pub(super) fn text(&self, key: &str) -> Option<Spanned<&'a str>> {
        let value = self.value(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(Spanned::new(value.span(), text)),
            None => {
                self.reader.wrong_type(key, "a text", value);
                None
            }
        }
    }

    /// A text that means something: `what` is for instance `a duration`.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<Spanned<T>> {
        let value = self.value(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.reader.wrong_type(key, what, value);
            return None;
        };
        match parse(text) {
            Ok(meaning) => Some(Spanned::new(value.span(), meaning)),
            Err(invalid) => {
                self.reader.invalid(format!("`{key}` is not {what}"), value.span(), invalid);
                None
            }
        }
    }

    /// A list of texts, each of which means something.
    pub(super) fn list<T>(
        &self,
        key: &str,
        what: &str,
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.value(key)?;
        let mut list = Vec::new();
        for text in self.reader.texts(key, value) {
            match parse(text.get_ref()) {
                Ok(meaning) => list.push(Spanned::new(text.span(), meaning)),
                Err(invalid) => {
                    let title = format!("`{}` in `{key}` is not {what}", text.get_ref());
                    self.reader.invalid(title, text.span(), invalid);
                }
            }
        }
        Some(list)
    }

    /// Notes a list that is there and empty, where that would mean something else than leaving it out.
    pub(super) fn refuse_empty(&self, key: &str, meaning: &str) {
        if let Some(value) = self.value(key)
            && value.get_ref().as_array().is_some_and(|array| array.is_empty())
        {
            let empty = Diagnostic::error(format!("`{key}` is empty"));
            self.reader.note(empty.at(value.span(), meaning).help(format!("leave out `{key}`, or name at least one")));
        }
    }

    /// A duration; zero is fine.
    pub(super) fn duration(&self, key: &str, default: Duration) -> Duration {
        self.parsed(key, "a duration", values::duration).map_or(default, Spanned::into_inner)
    }

    /// A duration above zero.
    pub(super) fn positive_duration(&self, key: &str, default: Duration) -> Duration {
        let duration = self.duration(key, default);
        if duration.is_zero() {
            self.reader.note(Diagnostic::error(format!("`{key}` is zero")).at(self.place_of(key), "must be more"));
        }
        duration
    }

    /// A size in bytes.
    pub(super) fn size(&self, key: &str) -> Option<Spanned<u64>> {
        self.parsed(key, "a size", values::size)
    }

    /// A whole number within limits.
    pub(super) fn count(&self, key: &str, default: usize, limits: RangeInclusive<usize>) -> usize {
        let Some(value) = self.value(key) else { return default };
        let Some(integer) = value.get_ref().as_integer() else {
            self.reader.wrong_type(key, "a whole number", value);
            return default;
        };
        let number = usize::from_str_radix(integer.as_str(), integer.radix()).ok();
        number.filter(|number| limits.contains(number)).unwrap_or_else(|| {
            let out = Diagnostic::error(format!("`{key}` is out of range"));
            let label = format!("must be from {} to {}", limits.start(), limits.end());
            self.reader.note(out.at(value.span(), label));
            default
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.reader.wrong_type(key, "true or false", value);
            default
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        self.parsed(key, "one of its words", |text| one_of(text, choices)).map_or(default, Spanned::into_inner)
    }

    /// A path, relative to the folder of the file.
    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        let not_empty = |text: &str| if text.is_empty() { Err(Invalid::new("empty")) } else { Ok(text.to_owned()) };
        self.parsed(key, "a path", not_empty).map(|path| self.reader.folder.join(path.into_inner()))
    }

    /// A section within this one; when it does not stand in the file, one in which every key has its default.
    pub(super) fn child(&self, key: &str, shape: &'static Shape) -> Self {
        let absent = Self { reader: self.reader, shape, place: self.place.clone(), table: None };
        let Some(value) = self.value(key) else { return absent };
        self.child_from(key, value, shape, "a table").unwrap_or(absent)
    }

    /// The tables of a list.
    pub(super) fn children(&self, key: &str, shape: &'static Shape) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            let title = format!("`{key}` is not a list of tables");
            let label = format!("this is {}", describe(value.get_ref()));
            let header = if shape.place.starts_with('[') { shape.place } else { "[{ … }]" };
            self.reader.note(Diagnostic::error(title).at(value.span(), label).help(format!("write {header}")));
            return Vec::new();
        };
        array.iter().filter_map(|value| self.child_from(key, value, shape, "a list of tables")).collect()
    }

    /// The tables of a table of named things, sorted by name.
    pub(super) fn named(&self, key: &str, shape: &'static Shape) -> Vec<(&'a str, Self)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let help = format!("each has a name: write [{key}.NAME]");
        let DeValue::Table(table) = value.get_ref() else {
            let title = format!("`{key}` is not a table of named sections");
            let label = format!("this is {}", describe(value.get_ref()));
            self.reader.note(Diagnostic::error(title).at(value.span(), label).help(help));
            return Vec::new();
        };
        let mut named = Vec::new();
        for (name, value) in table {
            let text = name.get_ref().as_ref();
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if let DeValue::Table(inner) = value.get_ref() {
                if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
                    let bad = Diagnostic::error(format!("`{text}` is not a name for [{key}.NAME]"));
                    self.reader.note(bad.at(name.span(), "letters, digits, - and _, at most 64"));
                }
                named.push((text, Self::open(self.reader, shape, value.span(), inner)));
            } else {
                let title = format!("[{key}.{text}] is not a section");
                let label = format!("this is {}", describe(value.get_ref()));
                self.reader.note(Diagnostic::error(title).at(value.span(), label).help(help.clone()));
            }
        }
        named
    }

    /// The section that a table makes.
    pub(super) fn child_from(
        &self,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
        shape: &'static Shape,
        expected: &str,
    ) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::open(self.reader, shape, value.span(), table)),
            _ => {
                self.reader.wrong_type(key, expected, value);
                None
            }
        }
    }
}

/// The choice that a text names.
pub(super) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Invalid> {
    let names = || choices.iter().map(|(name, _)| *name);
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*choice);
    }
    let all = names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let why = closest(text, names()).map_or_else(|| "not known".to_owned(), |name| format!("did you mean \"{name}\"?"));
    Err(Invalid::new(why).help(format!("write one of {all}")))
}

/// What a value is, with its article.
fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
