//! `portcullis run`: serves until it is told to stop.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::{Color, exit, load_and_note};
use crate::app::{App, Ended, Options, StartError, Supervisor};
use crate::config::{Config, Contents, ListenAddress, Listener, LogFormat};
use crate::server::{Descriptors, Inherited};
use crate::telemetry;
use crate::telemetry::access_log::Sink;

/// Serves the configuration in `path`. Returns the exit code.
pub fn run(path: &Path) -> u8 {
    // First of all, as long as there is no other thread.
    let passed = Inherited::take_all();
    let (config, contents) = match load_and_note(path) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match serve(config, contents, passed) {
        Ok(Ended::Drained) => exit::FINE,
        Ok(Ended::Cut) => exit::NOT_DRAINED,
        Err(error) => {
            super::print_error(&*error);
            match error.downcast_ref() {
                Some(StartError::Bind { .. } | StartError::Tls(_) | StartError::Upstream { .. }) => exit::BIND,
                _ => exit::OTHER,
            }
        }
    }
}

fn serve(
    config: Config,
    contents: Contents,
    passed: Vec<io::Result<Inherited>>,
) -> Result<Ended, Box<dyn std::error::Error>> {
    let log = telemetry::init(&config.log)?;
    let log_level = log.level.clone();
    let access_log = if config.log.access { Sink::Stdout(config.log.format) } else { Sink::Off };
    let show_banner = config.log.format != LogFormat::Json && io::stderr().is_terminal()
        || config.pools.iter().any(|pool| pool.embedded.is_some());
    // Before anything can be asked to be finished: a signal in between would end the process at once.
    let hangups = Arc::new(Notify::new());
    let heard = hear_signals(Arc::clone(&hangups))?;
    raise_descriptors(config.server.limits.connections);
    let watch = Some(contents);
    let (log_level, inherited) = (Some(log_level), usable(passed, &config.listeners));
    let supervisor = Supervisor::from_environment(&|name| std::env::var(name).ok())?;
    let options = Options { access_log, log_level, watch, hangups, inherited, supervisor, ..Options::default() };
    let app = App::start(config, options)?;
    if show_banner {
        io::stderr().write_all(banner(&app, Color::of_stderr()).as_bytes())?;
    } else {
        let listeners: Vec<_> = app.listeners().iter().map(ToString::to_string).collect();
        tracing::info!(?listeners, admin = %app.admin(), "serving");
    }
    Ok(wait(app, &heard))
}

/// The sockets that can be used of those that were passed to the process. Whoever passed others
/// expected something of it.
fn usable(passed: Vec<io::Result<Inherited>>, listeners: &[Listener]) -> Vec<Inherited> {
    let mut usable = Vec::new();
    for socket in passed {
        match socket {
            Err(error) => tracing::warn!(%error, "a descriptor was passed that is of no use"),
            Ok(inherited) => {
                if !listeners.iter().any(|listener| inherited.is_meant_by(&listener.address)) {
                    let address = inherited.socket.address().map_or_else(|_| "?".to_owned(), |at| at.to_string());
                    tracing::warn!(%address, name = inherited.name, "a socket was passed that no [[listener]] asks for");
                }
                usable.push(inherited);
            }
        }
    }
    usable
}

/// Gets as many file descriptors as the process may have, and says so when they are too few.
fn raise_descriptors(connections: usize) {
    let descriptors = match Descriptors::raise() {
        Ok(descriptors) => descriptors,
        Err(error) => return tracing::warn!(%error, "the limit on open files could not be raised"),
    };
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let (before, now) = (shown(descriptors.before), shown(descriptors.now));
    match descriptors.wanted_for(connections) {
        None => tracing::info!(before, now, "open files"),
        Some(wanted) => tracing::warn!(
            before,
            now,
            wanted,
            connections,
            "the hard limit on open files is too low for so many connections: raise it, or lower \
             `connections` in [server.limits]"
        ),
    }
}

/// Waits for the first signal, then for the drain or the second one.
fn wait(app: App, heard: &Receiver<()>) -> Ended {
    // Without anybody who listens for signals it is time to stop as well.
    heard.recv().unwrap_or_default();
    tracing::info!(drain = ?app.config().server.drain, "stopping; once more to stop at once");
    let ended = app.shutdown(heard);
    tracing::info!(?ended, "stopped");
    ended
}

/// Listens for signals on a thread of its own. Every request to stop comes out of the channel; a
/// hangup asks for a reload.
fn hear_signals(hangups: Arc<Notify>) -> io::Result<Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (requests, heard) = sync_channel(4);
    let signals = {
        let _inside = runtime.enter();
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal)
    };
    let [terminate, interrupt, hangup] = signals;
    let listening = listen(terminate?, interrupt?, hangup?, requests, hangups);
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(listening))?;
    Ok(heard)
}

async fn listen(
    mut terminate: Signal,
    mut interrupt: Signal,
    mut hangup: Signal,
    requests: SyncSender<()>,
    hangups: Arc<Notify>,
) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                // One that comes while it reads makes it read once more.
                hangups.notify_one();
                continue;
            }
        }
        if requests.try_send(()).is_err() {
            return;
        }
    }
}

/// What a newcomer needs to know: where everything is, who may enter, what to type next.
fn banner(app: &App, color: Color) -> String {
    let config = app.config();
    let bold = |text: &str| color.bold(text);
    let scheme = |at: usize| match config.listeners.get(at).and_then(|listener| listener.tls.as_ref()) {
        Some(_) => "https",
        None => "http",
    };
    let listeners = app.listeners();
    let shown = |(at, address): (usize, &ListenAddress)| match address {
        ListenAddress::Tcp(address) => format!("{}://{address}", scheme(at)),
        ListenAddress::Unix(_) | ListenAddress::Inherited(_) => address.to_string(),
    };
    let listening: Vec<_> = listeners.iter().enumerate().map(shown).collect();
    let mut lines = vec![
        String::new(),
        format!("  {} {}", bold("Portcullis"), env!("CARGO_PKG_VERSION")),
        String::new(),
        format!("  listening   {}", listening.join(", ")),
        format!("  admin       http://{}  (/ready /metrics /routes /keys /outbox)", app.admin()),
    ];
    for pool in &config.pools {
        let place = match &pool.embedded {
            Some(embedded) => format!("embedded at http://{}, for development only", embedded.address),
            None => pool.endpoint.clone(),
        };
        lines.push(format!("  pool {:<6} {}, {place}", pool.name, pool.id));
    }
    // curl takes an address without a scheme for plain HTTP.
    let by_tcp = listeners.iter().position(|address| address.tcp().is_some());
    let entry = match (by_tcp, listeners.first()) {
        (Some(at), _) => listening.get(at).map(|entry| entry.strip_prefix("http://").unwrap_or(entry).to_owned()),
        (None, Some(socket)) => Some(through_socket(socket, scheme(0))),
        (None, None) => None,
    };
    let entry = entry.unwrap_or_default();
    let seeded =
        config.pools.iter().filter_map(|pool| pool.embedded.as_ref()).flat_map(|embedded| &embedded.users).next();
    if let (Some(user), Some(auth)) = (seeded, &config.auth) {
        // Its password stands in the configuration, next to its name: the embedded pool is for
        // development, and its users are no secret.
        let (name, password) = (&user.username, user.password.expose());
        lines.push(format!("  demo user   {name} / {password}"));
        lines.push(String::new());
        lines.push(format!("  {}", bold("Now type, in another terminal:")));
        lines.push(String::new());
        lines.push(format!(
            "    curl -s {entry}{}/login -H 'content-type: application/json' -d '{{\"username\":\"{name}\",\"password\":\"{password}\"}}'",
            auth.prefix
        ));
        lines.push(format!(
            "    curl -s {entry}/hello -H \"Authorization: Bearer $TOKEN\"    # with the access_token from above"
        ));
    }
    lines.push(String::new());
    lines.push(String::new());
    lines.join("\n")
}

/// What curl needs in place of an address to reach a unix socket.
fn through_socket(address: &ListenAddress, scheme: &str) -> String {
    let path = address.to_string();
    format!("--unix-socket '{}' {scheme}://localhost", path.trim_start_matches("unix:"))
}
