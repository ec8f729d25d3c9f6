//! One record as a line of bytes: JSON for machines, text for terminals.
//!
//! No value can end the line or reach a terminal as a control sequence: both forms escape control
//! characters, and long values are cut.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use http::{HeaderValue, Version};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{Record, counted};
use crate::http::Peer;

/// Bytes of a value that a stranger chose, at most; what is longer ends in `…`.
const LONGEST: usize = 1024;

thread_local! {
    /// Reused, so that a line costs no allocation.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Gives the record's line, with its line feed, to `take`. `None` when there is no line: on a
/// thread that is ending.
pub(super) fn with<T>(
    record: &Record,
    (status, reason): (u16, Option<&str>),
    elapsed: Duration,
    text: bool,
    take: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    let line = Line {
        time: &record.time.rfc3339_bytes(),
        request_id: record.request_id.as_str(),
        trace_id: &record.trace.trace_id().digits(),
        client: record.client,
        method: record.method.as_str(),
        host: record.host.as_ref().map(HeaderValue::as_bytes),
        path: record.path.as_str().as_bytes(),
        route: record.route.as_ref().map(|route| &**route.label()),
        status,
        code: record.code,
        reason: reason.map(str::as_bytes),
        subject: record.subject.as_ref().map(|subject| subject.as_bytes()),
        pool: record.pool.as_deref(),
        bytes_in: counted(record.bytes_in.as_ref()),
        bytes_out: record.bytes_out,
        duration: Millis::from(elapsed),
        first_byte: record.first_byte.map(Millis::from),
        upstream: record.upstream.as_deref(),
        server: record.server.as_deref(),
        retries: record.retries,
        tls: record.tls,
        protocol: protocol(record.version),
    };
    BUFFER
        .try_with(|buffer| {
            let mut buffer = buffer.try_borrow_mut().ok()?;
            buffer.clear();
            let written = if text { line.write_text(&mut buffer) } else { line.write_json(&mut buffer) };
            written.ok()?;
            buffer.push(b'\n');
            Some(take(&buffer))
        })
        .ok()?
}

/// The fields, in the order of `docs/LOGGING.md`. What does not apply is left out.
struct Line<'a> {
    time: &'a [u8],
    request_id: &'a str,
    trace_id: &'a [u8],
    client: Peer,
    method: &'a str,
    host: Option<&'a [u8]>,
    path: &'a [u8],
    route: Option<&'a str>,
    status: u16,
    code: Option<&'a str>,
    reason: Option<&'a [u8]>,
    subject: Option<&'a [u8]>,
    pool: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    duration: Millis,
    first_byte: Option<Millis>,
    upstream: Option<&'a str>,
    server: Option<&'a str>,
    retries: u32,
    tls: Option<&'a str>,
    protocol: &'a str,
}

impl Line<'_> {
    /// Written out by hand, because this runs for every request: serde's derived form takes more
    /// than twice as long.
    fn write_json(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut object = Object(out);
        object.ascii("{\"time\":", self.time);
        object.ascii(",\"request_id\":", self.request_id.as_bytes());
        object.ascii(",\"trace_id\":", self.trace_id);
        object.peer(",\"client\":", self.client)?;
        object.ascii(",\"method\":", self.method.as_bytes());
        object.text(",\"host\":", self.host)?;
        object.text(",\"path\":", Some(self.path))?;
        object.text(",\"route\":", self.route.map(str::as_bytes))?;
        object.number(",\"status\":", self.status.into());
        object.text(",\"code\":", self.code.map(str::as_bytes))?;
        object.text(",\"reason\":", self.reason)?;
        object.text(",\"subject\":", self.subject)?;
        object.text(",\"pool\":", self.pool.map(str::as_bytes))?;
        object.number(",\"bytes_in\":", self.bytes_in);
        object.number(",\"bytes_out\":", self.bytes_out);
        object.millis(",\"duration_ms\":", self.duration);
        if let Some(first_byte) = self.first_byte {
            object.millis(",\"first_byte_ms\":", first_byte);
        }
        object.text(",\"upstream\":", self.upstream.map(str::as_bytes))?;
        object.text(",\"server\":", self.server.map(str::as_bytes))?;
        if self.retries > 0 {
            object.number(",\"retries\":", self.retries.into());
        }
        object.text(",\"tls\":", self.tls.map(str::as_bytes))?;
        object.ascii(",\"protocol\":", self.protocol.as_bytes());
        object.0.push(b'}');
        Ok(())
    }

    /// `time client method host path status duration`, then the rest as `name=value`.
    fn write_text(&self, out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(self.time);
        let (host, path) = (shown(self.host.unwrap_or(b"-")), shown(self.path));
        let (method, host, path) = (self.method.escape_debug(), host.escape_debug(), path.escape_debug());
        write!(out, " {} {method} {host} {path} {} {}ms", self.client, self.status, self.duration)?;
        let mut word = |name: &str, value: Option<&str>| match value {
            Some(value) if value.contains([' ', '"', '=']) || value.is_empty() => write!(out, " {name}={value:?}"),
            Some(value) => write!(out, " {name}={}", value.escape_debug()),
            None => Ok(()),
        };
        word("code", self.code)?;
        word("reason", self.reason.map(shown).as_deref())?;
        word("subject", self.subject.map(shown).as_deref())?;
        word("pool", self.pool)?;
        word("route", self.route)?;
        word("upstream", self.upstream)?;
        word("server", self.server)?;
        write!(out, " in={} out={}", self.bytes_in, self.bytes_out)?;
        if let Some(first_byte) = self.first_byte {
            write!(out, " first_byte={first_byte}ms")?;
        }
        if self.retries > 0 {
            write!(out, " retries={}", self.retries)?;
        }
        if let Some(tls) = self.tls {
            write!(out, " tls={tls}")?;
        }
        write!(out, " {} id={} trace=", self.protocol, self.request_id)?;
        out.extend_from_slice(self.trace_id);
        Ok(())
    }
}

/// A JSON object as it grows. Names come with the punctuation around them.
struct Object<'a>(&'a mut Vec<u8>);

impl Object<'_> {
    /// Text that by its type has nothing to escape: ids, times, methods, fixed words.
    fn ascii(&mut self, name: &str, text: &[u8]) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'"');
        self.0.extend_from_slice(text);
        self.0.push(b'"');
    }

    /// Any other text.
    fn text(&mut self, name: &str, text: Option<&[u8]>) -> io::Result<()> {
        let Some(text) = text else { return Ok(()) };
        // Without a way out in the middle, the compiler looks at many bytes at once.
        let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\');
        if text.len() <= LONGEST && text.iter().fold(true, |all, byte| all & is_plain(*byte)) {
            self.ascii(name, text);
            return Ok(());
        }
        self.0.extend_from_slice(name.as_bytes());
        Ok(shown(text).serialize(&mut Serializer::with_formatter(&mut *self.0, Printable))?)
    }

    fn number(&mut self, name: &str, number: u64) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn millis(&mut self, name: &str, Millis(micros): Millis) {
        self.number(name, micros / 1000);
        let rest = micros % 1000;
        let digit = |place| b'0' + (rest / place % 10) as u8;
        self.0.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }

    fn peer(&mut self, name: &str, peer: Peer) -> io::Result<()> {
        self.0.extend_from_slice(name.as_bytes());
        Ok(serde_json::to_writer(&mut *self.0, &peer)?)
    }
}

/// Microseconds, written as milliseconds.
#[derive(Clone, Copy)]
struct Millis(u64);

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// serde_json's compact form, which escapes only what JSON demands, with the other characters
/// escaped as well that a terminal or a log reader takes for a control or for the end of a line.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for character in fragment.chars() {
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}') {
                write!(out, "\\u{:04x}", u32::from(character))?;
            } else {
                out.write_all(character.encode_utf8(&mut [0; 4]).as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Text from outside, of a length that a log can bear.
fn shown(bytes: &[u8]) -> Cow<'_, str> {
    match bytes.get(..LONGEST) {
        Some(start) if bytes.len() > LONGEST => {
            let mut text = String::from_utf8_lossy(start).into_owned();
            // The cut may have gone through a character.
            text.truncate(text.trim_end_matches('\u{fffd}').len());
            text.push('…');
            Cow::Owned(text)
        }
        // The lossy conversion looks at each character.
        _ => std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Uri};
    use proptest::prelude::*;

    use super::super::{AccessLog, Path};
    use super::*;
    use crate::clock::Timestamp;
    use crate::telemetry::metrics::RouteMetrics;

    fn record() -> Box<Record> {
        let (log, _) = AccessLog::collect();
        let request = Request::get("/a?b").header("host", "app.example.com").body(()).unwrap();
        Record::begin(&log, Timestamp::from_seconds(1_767_582_249), [192, 0, 2, 7].into(), &request)
    }

    fn line(record: &Record, text: bool) -> String {
        let elapsed = Duration::from_micros(1234);
        with(record, (200, record.reason.as_deref()), elapsed, text, |line| String::from_utf8(line.to_vec()).unwrap())
            .unwrap()
    }

    /// The names in the first column of the table, with those that are marked as always there.
    fn documented() -> (Vec<&'static str>, Vec<&'static str>) {
        let rows = include_str!("../../../docs/LOGGING.md").lines().filter_map(|row| row.strip_prefix("| `"));
        let rows: Vec<_> = rows.filter_map(|row| row.split_once("` | ")).collect();
        let always = rows.iter().filter(|(_, rest)| rest.starts_with('●')).map(|(name, _)| *name).collect();
        (rows.iter().map(|(name, _)| *name).collect(), always)
    }

    fn members(json: &str) -> Vec<&str> {
        json.split([',', '{']).filter_map(|member| member.trim().strip_prefix('"')?.split('"').next()).collect()
    }

    #[test]
    fn the_documented_fields_are_those_of_the_line_in_its_order() {
        let (all, always) = documented();
        let (log, _) = AccessLog::collect();
        let request = Request::get("/").body(()).unwrap();
        let mut record = Record::begin(&log, Timestamp::from_seconds(0), [192, 0, 2, 7].into(), &request);
        assert_eq!(members(&line(&record, false)), always);
        record.host = Some(HeaderValue::from_static("a"));
        record.route = Some(RouteMetrics::new(log.metrics(), "/*").into());
        (record.code, record.reason, record.tls) = (Some("internal"), Some("a".into()), Some("1.3"));
        (record.subject, record.pool) = (Some("a".into()), Some("a".into()));
        (record.upstream, record.server) = (Some("a".into()), Some("a".into()));
        (record.first_byte, record.retries) = (Some(Duration::ZERO), 1);
        assert_eq!(members(&line(&record, false)), all);
    }

    #[test]
    fn text_lines_read_from_left_to_right() {
        let mut record = record();
        record.subject = Some("1f0c".into());
        record.reason = Some("the group is missing".into());
        let (request_id, trace_id) = (record.request_id, record.trace.trace_id());
        assert_eq!(
            line(&record, true),
            format!(
                "2026-01-05T03:04:09.000Z 192.0.2.7 GET app.example.com /a 200 1.234ms \
                 reason=\"the group is missing\" subject=1f0c in=0 out=0 HTTP/1.1 id={request_id} trace={trace_id}\n"
            )
        );
    }

    #[test]
    fn nothing_can_forge_a_second_line() {
        let attack = "x\n{\"status\":200}\r\u{85}\u{2028}\u{1b}[2J\u{9b}2J\u{202e}\u{7f}\"";
        let mut record = record();
        record.subject = Some(attack.into());
        record.reason = Some(attack.into());
        record.host = Some(HeaderValue::from_bytes(b"a\xff\xc2\x85\xc2\x9bb").unwrap());
        let (json, text) = (line(&record, false), line(&record, true));
        for line in [&json, &text] {
            let inner = line.strip_suffix('\n').unwrap();
            assert!(!inner.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{202e}'), "{inner:?}");
        }
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["subject"], attack, "and JSON still says what it was");
    }

    #[test]
    fn long_values_are_cut() {
        let mut record = record();
        let long = "/".to_owned() + &"é".repeat(5000);
        record.subject = Some(long.as_str().into());
        record.path = Path::from(&Uri::try_from("/".to_owned() + &"a".repeat(5000)).unwrap());
        let value: serde_json::Value = serde_json::from_str(&line(&record, false)).unwrap();
        assert_eq!(value["path"].as_str().unwrap().len(), LONGEST + '…'.len_utf8());
        assert_eq!(value["subject"], "/".to_owned() + &"é".repeat(511) + "…", "not through a character");
    }

    proptest! {
        #[test]
        fn any_text_stays_on_its_line_and_comes_back(text: String) {
            prop_assume!(text.len() <= LONGEST);
            let mut record = record();
            record.subject = Some(text.as_str().into());
            let json = line(&record, false);
            prop_assert_eq!(json.matches(char::is_control).count(), 1);
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&value["subject"], &text);
            prop_assert_eq!(line(&record, true).matches(char::is_control).count(), 1);
        }
    }
}
