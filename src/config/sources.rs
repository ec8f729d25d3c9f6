//! Secrets, which stand in the environment, in files of their own, or in the configuration itself.

use std::io::{ErrorKind, Read};

use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::Diagnostic;
use crate::config::file::SECRET;
use crate::config::section::Section;
use crate::config::values::Invalid;
use crate::secret::Secret;

/// A file for one secret is never larger.
const SECRET_FILE_LIMIT: u64 = 64 * 1024;

impl Section<'_> {
    /// A secret: `{ env = "NAME" }`, `{ file = "PATH" }`, or the text itself.
    pub(super) fn secret(&self, key: &str, warn_literal: bool) -> Option<Secret<String>> {
        self.secret_in(key, self.value(key)?, warn_literal)
    }

    /// The same of a value: that of `key`, or one in a list there.
    pub(super) fn secret_in(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        warn_literal: bool,
    ) -> Option<Secret<String>> {
        if let DeValue::String(literal) = value.get_ref() {
            if literal.is_empty() {
                self.reader.invalid(format!("`{key}` is empty"), value.span(), Invalid::new("no characters"));
                return None;
            }
            if warn_literal {
                let help = "write { env = \"NAME\" } or { file = \"PATH\" }: configuration files get copied";
                let literal = Diagnostic::warning(format!("`{key}` stands in the file itself"));
                self.reader.note(literal.at(value.span(), "a literal secret").help(help));
            }
            return Some(Secret::from(literal.clone().into_owned()));
        }
        let DeValue::Table(table) = value.get_ref() else {
            self.reader.wrong_type(key, "a secret", value);
            return None;
        };
        let source = Section::open(self.reader, &SECRET, value.span(), table);
        let (env, file) = (source.text("env"), source.text("file"));
        match (source.value("env"), source.value("file")) {
            (Some(env), Some(file)) => {
                let both = Diagnostic::error(format!("`{key}` has two sources"));
                self.reader.note(both.at(env.span(), "this one").at(file.span(), "and this one"));
                return None;
            }
            (None, None) => {
                let none = Diagnostic::error(format!("`{key}` has no source"));
                self.reader.note(none.at(source.place.clone(), "neither `env` nor `file`"));
                return None;
            }
            _ => {}
        }
        let from_env = env.map(|name| (name.span(), self.read_env(name.get_ref())));
        let from_file = file.map(|path| (path.span(), self.read_file(path.get_ref())));
        let (span, read) = from_env.or(from_file)?;
        read.map_err(|invalid| self.reader.invalid(format!("`{key}` cannot be read"), span, invalid)).ok()
    }

    fn read_env(&self, name: &str) -> Result<Secret<String>, Invalid> {
        match (self.reader.env)(name) {
            None => Err(Invalid::new("this environment variable is not set")),
            Some(text) if text.is_empty() => Err(Invalid::new("this environment variable is empty")),
            Some(text) => Ok(Secret::from(text)),
        }
    }

    /// The file's text without the line end that editors and `echo` put behind it.
    fn read_file(&self, path: &str) -> Result<Secret<String>, Invalid> {
        let path = self.reader.folder.join(path);
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(SECRET_FILE_LIMIT + 1).read_to_end(&mut bytes).map(drop));
        self.reader.contents.borrow_mut().note(&path, SECRET_FILE_LIMIT + 1, read.is_ok().then_some(&bytes));
        let text = read.and_then(|()| String::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData.into()));
        let text = text.map_err(|error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => Invalid::new("there is no such file"),
            ErrorKind::InvalidData => Invalid::new("this file is not UTF-8"),
            _ => Invalid::new("this file cannot be read").help(error.to_string()),
        })?;
        let text = Secret::from(text);
        let trimmed = text.expose().strip_suffix('\n').unwrap_or(text.expose());
        let trimmed = trimmed.strip_suffix('\r').unwrap_or(trimmed);
        match trimmed.len() as u64 {
            0 => Err(Invalid::new("this file is empty")),
            length if length > SECRET_FILE_LIMIT => Err(Invalid::new("this file is too large for a secret")),
            _ => Ok(Secret::from(trimmed.to_owned())),
        }
    }
}
