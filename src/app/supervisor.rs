//! What a service manager is told of the process, in the words of sd_notify(3).
//!
//! Each message is one datagram to the socket that `NOTIFY_SOCKET` names. Nobody answers, and nothing
//! here waits: a manager that does not listen is not our failure.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The service manager that started this process. By default there is none, and nobody is told.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// After how long without a sign of life it takes us for dead.
    patience: Option<Duration>,
}

/// The environment says that there is a manager, but not how to reach it.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// `NOTIFY_SOCKET` is of a kind that this program does not know.
    #[error("NOTIFY_SOCKET is {0:?}, which is neither a path nor the name of an abstract socket")]
    Address(String),
    /// There is no socket to be had.
    #[error("no socket for messages to the service manager")]
    Socket(#[source] io::Error),
}

impl Supervisor {
    /// As the environment has it: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// # Errors
    /// When it cannot be reached. It would wait in vain, and end the process.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SupervisorError> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(Self::default()) };
        let address = match (name.strip_prefix('@'), name.starts_with('/')) {
            (Some(hidden), _) => SocketAddr::from_abstract_name(hidden),
            (None, true) => SocketAddr::from_pathname(&name),
            (None, false) => return Err(SupervisorError::Address(name)),
        };
        let address = address.map_err(|_| SupervisorError::Address(name))?;
        let socket = UnixDatagram::unbound().map_err(SupervisorError::Socket)?;
        socket.set_nonblocking(true).map_err(SupervisorError::Socket)?;
        let number = |name| variable(name).and_then(|text| text.parse::<u64>().ok());
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_for_us).map(Duration::from_micros);
        Ok(Self { socket: Some(Arc::new((socket, address))), patience })
    }

    /// Requests are taken, under the present configuration. `status` is a line for people.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// A new configuration is being read; `ready` follows in any case.
    pub(super) fn reloading(&self) {
        // The manager tells by the time whether this is the answer to its own request.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration"));
    }

    /// Open requests are finished, and then the process ends.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing open requests");
    }

    /// Gives signs of life, twice as often as they are due, if anybody asked for them. Run where the
    /// accept loops and the operator's listener run, it shows that these do.
    pub(super) fn watchdog(&self) -> impl Future<Output = ()> + Send + use<> {
        let this = self.clone();
        async move {
            let Some(patience) = this.patience else { return };
            let mut beat = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
            loop {
                beat.tick().await;
                this.tell("WATCHDOG=1");
            }
        }
    }

    fn tell(&self, message: &str) {
        let Some((socket, address)) = self.socket.as_deref() else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, message, "the service manager was not reached");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor(variables: &[(&str, &str)]) -> Result<Supervisor, SupervisorError> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Supervisor::from_environment(&find)
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_reach_a_path_and_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let hidden = format!("portcullis-test-{}", std::process::id());
        let managers = [
            (path.display().to_string(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{hidden}"), UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&hidden).unwrap()).unwrap()),
        ];
        for (name, manager) in managers {
            let supervisor = supervisor(&[("NOTIFY_SOCKET", &name)]).unwrap();
            supervisor.ready("fine");
            assert_eq!(heard(&manager), "READY=1\nSTATUS=fine");
            supervisor.stopping();
            assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=finishing open requests");
            let now = || clock_gettime(ClockId::Monotonic).tv_sec;
            let before = now();
            supervisor.reloading();
            let message = heard(&manager);
            let micros = message.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<i64>().ok());
            assert!(message.starts_with("RELOADING=1\n") && (before..=now()).contains(&(micros.unwrap() / 1_000_000)));
        }
    }

    #[test]
    fn without_a_manager_nobody_is_told_and_one_that_left_is_no_failure() {
        supervisor(&[]).unwrap().ready("");
        supervisor(&[("NOTIFY_SOCKET", "")]).unwrap().ready("");
        supervisor(&[("NOTIFY_SOCKET", "/nonexistent/notify")]).unwrap().ready("");
        for other in ["vsock:2:1234", "relative"] {
            assert!(matches!(supervisor(&[("NOTIFY_SOCKET", other)]), Err(SupervisorError::Address(_))), "{other}");
        }
    }

    #[test]
    fn signs_of_life_are_given_when_they_are_asked_of_this_process() {
        let own = std::process::id().to_string();
        let patience = |variables: &[(&str, &str)]| {
            supervisor(&[&[("NOTIFY_SOCKET", "/n")][..], variables].concat()).unwrap().patience
        };
        assert_eq!(patience(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(30)));
        assert_eq!(patience(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", &own)]), Some(Duration::from_secs(30)));
        assert_eq!(patience(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")]), None);
        assert_eq!(patience(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(patience(&[("WATCHDOG_USEC", "soon")]), None);
        assert_eq!(patience(&[]), None);
    }
}
