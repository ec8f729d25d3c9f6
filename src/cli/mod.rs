//! The commands, one file each, and what they share: exit codes, colors, how errors look.

pub mod check;
pub mod explain;
pub mod health;
pub mod keygen;
mod online;
#[cfg(feature = "devpool")]
pub mod pool;
pub mod run;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use crate::config::{self, Config, Contents};

/// How a process ended; `portcullis --help` prints these.
pub mod exit {
    /// All is well.
    pub const FINE: u8 = 0;
    /// Anything that is not below.
    pub const OTHER: u8 = 1;
    /// The configuration cannot be used.
    pub const CONFIG: u8 = 3;
    /// An address cannot be bound, or the files of TLS cannot be loaded.
    pub const BIND: u8 = 4;
    /// The time to drain was over before every request was finished.
    pub const NOT_DRAINED: u8 = 10;
}

/// Whether to write in colors: on a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Color(bool);

impl Color {
    /// For standard error.
    pub(crate) fn of_stderr() -> Self {
        Self(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    /// Whether there are any.
    pub(crate) const fn is_on(self) -> bool {
        self.0
    }

    /// The text, bold if it can be.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.0 { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Reads the configuration, prints what is to be said of it, and gives it or the exit code.
pub(crate) fn load(path: &Path) -> Result<Config, u8> {
    load_and_note(path).map(|(config, _)| config)
}

/// The same with what was read for it.
pub(crate) fn load_and_note(path: &Path) -> Result<(Config, Contents), u8> {
    let (outcome, contents) = config::load_and_note(path, &|name| std::env::var(name).ok());
    let (outcome, report) = match outcome {
        Ok(loaded) => (Ok((loaded.config, contents)), loaded.warnings),
        Err(report) => (Err(exit::CONFIG), report),
    };
    if !report.diagnostics.is_empty() {
        let text = if Color::of_stderr().is_on() { report.colored() } else { report.to_string() };
        say(&format!("{text}\n"));
    }
    outcome
}

/// Runs a command that needs the configuration. Returns the exit code.
pub fn with_config(path: &Path, command: impl FnOnce(Config) -> Result<(), Box<dyn Error>>) -> u8 {
    match load(path) {
        Ok(config) => finish(command(config)),
        Err(code) => code,
    }
}

/// The exit code of an outcome; an error is printed.
pub fn finish<E: Into<Box<dyn Error>>>(outcome: Result<(), E>) -> u8 {
    match outcome {
        Ok(()) => exit::FINE,
        Err(error) => {
            print_error(&*error.into());
            exit::OTHER
        }
    }
}

/// An error with everything behind it, on one line.
pub(crate) fn print_error(error: &dyn Error) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing into a String cannot fail.
        write!(text, ": {error}").unwrap_or_default();
        cause = error.source();
    }
    say(&text);
}

/// A line on standard error. Where that is closed, nobody listens.
fn say(text: &str) {
    writeln!(io::stderr(), "{text}").unwrap_or_default();
}
