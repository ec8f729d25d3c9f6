//! `portcullis check`: says what is wrong with the configuration, all of it at once.

use std::io::{self, Write};
use std::path::Path;

use super::{Color, exit, online};
use crate::clock::Clock;
use crate::config::{self, Config, Diagnostic, Place, Report};
use crate::server::tls::{self, Tls};

/// Checks a file with this process's environment. The report goes to standard error, the sentence
/// that all is fine to standard output. With `online`, key sets are fetched and upstreams reached.
///
/// Returns the exit code: 0, or [`exit::CONFIG`] on mistakes and, when `strict`, on warnings; or
/// [`exit::BIND`] when only certificates and keys are no good.
pub fn run(path: &Path, strict: bool, online: bool) -> u8 {
    let color = Color::of_stderr().is_on();
    let env = |name: &str| std::env::var(name).ok();
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let code = match check(path, strict, &env, color, &mut out, &mut err) {
        Ok(exit::FINE) if online => online::check(path, &env, &mut out),
        other => other,
    };
    code.unwrap_or(exit::OTHER)
}

fn check(
    path: &Path,
    strict: bool,
    env: &dyn Fn(&str) -> Option<String>,
    color: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let (report, config, failure) = match config::load(path, env) {
        Ok(loaded) => {
            let report = with_tls(path, &loaded.config, loaded.warnings);
            let config = (report.errors() == 0).then_some(loaded.config);
            (report, config, exit::BIND)
        }
        Err(report) => (report, None, exit::CONFIG),
    };
    if !report.diagnostics.is_empty() {
        let text = if color { report.colored() } else { report.to_string() };
        writeln!(err, "{text}\n")?;
    }
    let found = found(&report);
    match config {
        Some(config) if report.diagnostics.is_empty() => {
            writeln!(out, "{} is fine: {}", path.display(), contents(&config))?;
            Ok(0)
        }
        Some(config) if !strict => {
            writeln!(out, "{} can be used, with {found}: {}", path.display(), contents(&config))?;
            Ok(0)
        }
        Some(_) => {
            writeln!(err, "{} cannot be used: {found}", path.display())?;
            Ok(exit::CONFIG)
        }
        None => {
            writeln!(err, "{} cannot be used: {found}", path.display())?;
            Ok(failure)
        }
    }
}

/// The warnings with what is wrong with the files that listeners' TLS needs.
fn with_tls(path: &Path, config: &Config, warnings: Report) -> Report {
    let now = Clock::System.now();
    let found: Vec<Diagnostic> = match Tls::prepare(&config.listeners, None, now) {
        Ok(prepared) => {
            let expired = prepared.tls().expired(now).into_iter();
            expired.map(|error| at_place(Diagnostic::warning(error.to_string()), &error.place)).collect()
        }
        Err(errors) => errors
            .iter()
            .map(|error| match error {
                tls::Error::File(file) => at_place(Diagnostic::error(error.to_string()), &file.place),
                tls::Error::Setup(cause) => Diagnostic::error(format!("{error}: {cause}")),
            })
            .collect(),
    };
    if found.is_empty() {
        return warnings;
    }
    // It was read a moment ago; without it only the quoted lines are missing.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Report::new(path, &text, warnings.diagnostics.into_iter().chain(found).collect())
}

fn at_place(diagnostic: Diagnostic, place: &Place) -> Diagnostic {
    diagnostic.at(place.0.clone(), "named here")
}

/// How much was found: `2 errors, 1 warning`.
fn found(report: &Report) -> String {
    let errors = report.errors();
    let kinds = [(errors, "error"), (report.diagnostics.len() - errors, "warning")];
    let kinds: Vec<String> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| counted(*count, what)).collect();
    kinds.join(", ")
}

/// What the file is about, in one line.
fn contents(config: &Config) -> String {
    [
        counted(config.listeners.len(), "listener"),
        counted(config.routes.len(), "route"),
        counted(config.upstreams.len(), "upstream"),
        counted(config.pools.len(), "user pool"),
    ]
    .join(", ")
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code, stdout and stderr for a file with this text.
    fn check_text(text: &str, strict: bool) -> (u8, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        std::fs::write(&path, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&path, strict, &|_| None, false, &mut out, &mut err).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(path.to_str().unwrap(), "p.toml");
        (code, text(out), text(err))
    }

    const GOOD: &str = "version = 1\nlistener = [{ address = \"127.0.0.1:1\" }]\n";

    #[test]
    fn a_good_file_is_fine_on_stdout() {
        let sentence = "p.toml is fine: 1 listener, 0 routes, 0 upstreams, 0 user pools\n";
        assert_eq!(check_text(GOOD, true), (0, sentence.to_owned(), String::new()));
    }

    #[test]
    fn warnings_are_shown_and_fail_only_when_strict() {
        let text = format!("{GOOD}admin.address = \"0.0.0.0:1234\"\n");
        let (code, out, err) = check_text(&text, false);
        assert_eq!(code, 0);
        assert!(out.starts_with("p.toml can be used, with 1 warning: "), "{out}");
        assert!(err.starts_with("warning: "), "{err}");
        let (code, out, err) = check_text(&text, true);
        assert_eq!((code, out.as_str()), (exit::CONFIG, ""));
        assert!(err.ends_with("\n\np.toml cannot be used: 1 warning\n"), "{err}");
    }

    #[test]
    fn mistakes_and_missing_files_fail() {
        let (code, out, err) = check_text("version = 2\nx = 1\n", false);
        assert_eq!((code, out.as_str()), (exit::CONFIG, ""));
        assert!(err.ends_with("p.toml cannot be used: 3 errors\n"), "{err}");
        let mut err = Vec::new();
        let code = check(Path::new("/nowhere.toml"), false, &|_| None, false, &mut Vec::new(), &mut err).unwrap();
        assert_eq!(code, exit::CONFIG);
        assert!(String::from_utf8(err).unwrap().starts_with("error: cannot read /nowhere.toml: "));
    }
}
