//! What is wrong with a configuration file, shown at its place in the file.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};

use crate::config::mask;

/// Bytes of the file.
pub type Span = Range<usize>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and somebody should look at it.
    Warning,
}

/// One mistake, or one thing that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// One sentence that makes sense on its own, without a full stop.
    pub title: String,
    /// Places, the one it is about first. Empty when no place in the file is to blame.
    pub labels: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A mistake, as yet without a place.
    pub fn error(title: impl Into<String>) -> Self {
        Self { severity: Severity::Error, title: title.into(), labels: Vec::new(), help: None }
    }

    /// Something that works and that somebody should look at, as yet without a place.
    pub fn warning(title: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(title) }
    }

    /// The same with one more place; the first one is what the diagnostic is about.
    #[must_use]
    pub fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn help(self, text: impl Into<String>) -> Self {
        Self { help: Some(text.into()), ..self }
    }

    /// Where it is sorted: mistakes without a place come first.
    fn start(&self) -> usize {
        self.labels.first().map_or(0, |(span, _)| span.start)
    }
}

/// Nobody reads more; a file of garbage could have one in every byte.
const MOST_SHOWN: usize = 100;

/// Everything that was found in one file, sorted by place. As an error it holds at least one mistake.
#[derive(Clone, Debug)]
pub struct Report {
    /// How the file is called in the text.
    pub path: PathBuf,
    /// What was found.
    pub diagnostics: Vec<Diagnostic>,
    /// The file, with literal secrets blanked out: its lines are quoted to terminals and logs.
    text: String,
}

impl Report {
    /// What was found in the file `path` that holds `text`.
    pub fn new(path: &Path, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(Diagnostic::start);
        Self { path: path.to_owned(), diagnostics, text: mask::secrets(text) }
    }

    /// How many are mistakes; the rest are warnings.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// The text of `Display` with colors for a terminal.
    pub fn colored(&self) -> String {
        self.render(&Renderer::styled())
    }

    /// The first mistake in one line, for logs: `file:line:col: sentence (and 2 more)`.
    pub fn summary(&self) -> String {
        let errors = self.errors();
        let Some(first) = self.diagnostics.iter().find(|one| one.severity == Severity::Error) else {
            return format!("{}: no mistakes", self.path.display());
        };
        let (line, column) = self.position(first.start());
        let place = format!("{}:{line}:{column}", self.path.display());
        let more = if errors > 1 { format!(" (and {} more)", errors - 1) } else { String::new() };
        format!("{place}: {}{more}", normalize_untrusted_str(&first.title))
    }

    /// 1-based line and column, in characters, of a place in the file.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.bytes().filter(|byte| *byte == b'\n').count() + 1, line.chars().count() + 1)
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut shown: Vec<String> =
            self.diagnostics.iter().take(MOST_SHOWN).map(|one| self.render_one(renderer, one)).collect();
        let left_out = self.diagnostics.len() - shown.len();
        if left_out > 0 {
            shown.push(format!("… and {left_out} more"));
        }
        shown.join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(diagnostic.title.as_str()));
        if !diagnostic.labels.is_empty() {
            let annotations = diagnostic.labels.iter().enumerate().map(|(index, (span, label))| {
                let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
                // The renderer does not clean labels and messages as it cleans titles.
                kind.span(self.within(span)).label(normalize_untrusted_str(label))
            });
            let path = self.path.to_string_lossy().into_owned();
            group = group.element(Snippet::source(self.text.as_str()).path(path).annotations(annotations));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        renderer.render(&[group])
    }

    /// The span, cut to what the text has.
    fn within(&self, span: &Span) -> Span {
        let boundary = |offset: usize| {
            (0..=offset.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or_default()
        };
        let start = boundary(span.start);
        start..boundary(span.end).max(start)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Report {}

/// The candidate that somebody who wrote `name` most likely meant.
pub(super) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let tolerated = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_come_in_the_order_of_the_file_with_place_caret_and_help() {
        let found = vec![
            Diagnostic::warning("second").at(6..9, "here"),
            Diagnostic::error("first").at(0..1, "this").help("do that"),
        ];
        let report = Report::new(Path::new("f.toml"), "a = 1\nbcd = 2\n", found);
        let expected = "\
error: first
 --> f.toml:1:1
  |
1 | a = 1
  | ^ this
  |
  = help: do that

warning: second
 --> f.toml:2:1
  |
2 | bcd = 2
  | ^^^ here";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.errors(), 1);
        assert_eq!(report.summary(), "f.toml:1:1: first");
        assert!(report.colored().contains("\u{1b}["));
    }

    #[test]
    fn a_span_outside_of_the_text_or_inside_of_a_character_is_no_reason_to_panic() {
        let report =
            Report::new(Path::new("f"), "é\r\n\u{1b}[31m", vec![Diagnostic::error("x\u{1b}[1m").at(1..900, "\u{1b}y")]);
        assert!(!report.to_string().contains('\u{1b}'), "escape sequences of the file reach no terminal");
        assert_eq!(report.position(4), (2, 1));
        assert_eq!(report.position(10_000), (2, 6));
    }

    #[test]
    fn the_closest_name_wins_and_a_far_one_does_not() {
        let names = ["listener", "upstream", "route"];
        assert_eq!(closest("lisetner", names), Some("listener"));
        assert_eq!(closest("Routes", names), Some("route"));
        assert_eq!(closest("zebra", names), None);
    }
}
