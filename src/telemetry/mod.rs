//! What operators see: the log, one access line per request, and metrics.
//!
//! The log goes to standard error, access lines to standard output (`docs/LOGGING.md`).

pub mod access_log;
pub mod metrics;
pub mod trace;
mod writer;

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use tracing::{Level, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

use self::writer::Writer as LineWriter;
use crate::clock::Clock;
use crate::config::{Log, LogFormat};

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `init` can be called once in a process.
    #[error("the log is open already")]
    AlreadyOpen,
    /// The thread that writes it could not be started.
    #[error("the log's thread could not be started")]
    Thread(#[source] io::Error),
}

/// Opens the process's log as the config says, on standard error. Nobody who logs waits for whoever
/// reads there: lines that find no room are lost.
///
/// # Errors
/// When it is open already, or its thread cannot be started.
pub fn init(log: &Log) -> Result<OpenLog, Error> {
    let terminal = io::stderr().is_terminal();
    let looks = Looks { text: is_text(log.format, terminal), color: terminal };
    // What cannot be written cannot be complained about in the log either.
    let writer = LineWriter::start("log", Box::new(io::stderr()), |_lines, _error| {}).map_err(Error::Thread)?;
    let writer = Arc::new(writer);
    let out = BoxMakeWriter::new(LogLines(Arc::clone(&writer)));
    let (subscriber, level) = subscriber(log.level, looks, out);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| Error::AlreadyOpen)?;
    Ok(OpenLog { level, writer })
}

/// The open log. Dropping it writes what is pending and ends it.
#[derive(Debug)]
pub struct OpenLog {
    /// Its level.
    pub level: LogLevel,
    writer: Arc<LineWriter>,
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.writer.close(LAST_LINES);
    }
}

/// How long the last lines may take to be written.
pub const LAST_LINES: Duration = Duration::from_secs(2);

/// Where tracing writes its lines: each in one piece.
struct LogLines(Arc<LineWriter>);

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl io::Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A line that finds no room is lost; to wait for room could stop the gateway.
        let _room: bool = self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log's level, which can be changed while it is open.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// From now on writes what is at least as severe as `level`.
    pub fn set(&self, level: Level) {
        // Fails only when the subscriber is gone, and then nobody writes a log anyway.
        if self.0.reload(targets(level)).is_ok() {
            // Not named `level`: every JSON line has a member of that name.
            tracing::info!(least = %level, "the log level has changed");
        }
    }
}

struct Looks {
    text: bool,
    color: bool,
}

fn subscriber(level: Level, looks: Looks, out: BoxMakeWriter) -> (impl Subscriber + Send + Sync, LogLevel) {
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = tracing_subscriber::fmt::layer().with_timer(OurTime).with_writer(out);
    let lines = if looks.text {
        lines.with_ansi(looks.color).with_target(false).fmt_fields(debug_fn(write_field).delimited(" ")).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    (tracing_subscriber::registry().with(filter).with(lines), LogLevel(handle))
}

/// Our own events from `level` on. Of our dependencies only warnings: what they write below that
/// may hold requests, which are none of the log's business.
fn targets(level: Level) -> Targets {
    let of_others = LevelFilter::from_level(level).min(LevelFilter::WARN);
    let of_strangers = OF_STRANGERS.map(|target| (target, LevelFilter::ERROR));
    Targets::new().with_target(env!("CARGO_CRATE_NAME"), level).with_default(of_others).with_targets(of_strangers)
}

/// What these warn of is what peers send, a line for each frame: any stranger could fill the log.
const OF_STRANGERS: [&str; 2] = ["h2", "rustls"];

/// Whether lines are for people.
fn is_text(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    }
}

/// RFC 3339 in UTC, as in access lines.
struct OurTime;

impl FormatTime for OurTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.write_str(&Clock::System.now().rfc3339())
    }
}

/// One field of a text line. Its value may quote a peer, whose line feeds and terminal sequences
/// are escaped (JSON does that by itself).
fn write_field(out: &mut Writer<'_>, field: &tracing::field::Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(Escaped(out), "{value:?}"),
        name => write!(Escaped(out), "{name}={value:?}"),
    }
}

struct Escaped<'a, 'b>(&'a mut Writer<'b>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() {
                write!(self.0, "{}", character.escape_default())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the log holds after `act`, line by line.
    fn logged(text: bool, act: impl FnOnce(&LogLevel)) -> Vec<String> {
        let buffer = Buffer::default();
        let out = buffer.clone();
        let looks = Looks { text, color: false };
        let (subscriber, level) = subscriber(Level::INFO, looks, BoxMakeWriter::new(move || out.clone()));
        with_default(subscriber, || act(&level));
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn json_lines_are_flat_objects_with_our_time() {
        let lines = logged(false, |_| tracing::warn!(pool = "main", tries = 3, "no keys\nyet"));
        let line: serde_json::Value = serde_json::from_str(&lines.concat()).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["pool"]),
            (&"WARN".into(), &"no keys\nyet".into(), &"main".into())
        );
        assert_eq!(line["tries"], 3);
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn a_peer_cannot_forge_a_line_of_text() {
        let said = "oops\n2026-01-01T00:00:00.000Z INFO all is well\u{1b}[2J";
        let lines = logged(true, |_| tracing::warn!(error = %said, "a peer said {said}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains('\u{1b}'), "{lines:?}");
        assert!(lines[0].contains(r"oops\n2026"), "{lines:?}");
    }

    #[test]
    fn the_level_can_be_changed_and_dependencies_stay_quiet() {
        let lines = logged(true, |level| {
            tracing::debug!("one");
            level.set(Level::DEBUG);
            tracing::debug!("two");
            tracing::debug!(target: "hyper::proto", "headers of a request");
            tracing::warn!(target: "hyper::proto", "three");
            tracing::warn!(target: "h2::proto::ping_pong", "a stranger's frame");
            tracing::warn!(target: "rustls::common_state", "a stranger's alert");
            level.set(Level::ERROR);
            tracing::warn!("four");
            tracing::warn!(target: "hyper::proto", "five");
        });
        let said = |word: &str| lines.iter().any(|line| line.contains(word));
        assert_eq!(
            ["one", "two", "headers", "three", "stranger", "four", "five"].map(said),
            [false, true, false, true, false, false, false],
            "{lines:?}"
        );
    }
}
