//! Sockets that were open before the process was: systemd's socket activation (sd_listen_fds(3)).
//!
//! Whoever starts us may bind addresses for us that we may not, and hold them while nobody runs. The
//! sockets are descriptors from 3 on, which the environment counts (`LISTEN_FDS`), names
//! (`LISTEN_FDNAMES`) and addresses to one process (`LISTEN_PID`).

use std::io;

use listenfd::ListenFd;

use super::socket::ListeningSocket;
use crate::config::ListenAddress;

/// A socket that was passed to this process.
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=` of its unit, or the unit's own name; empty if nobody named it.
    pub name: String,
    /// The socket. It stays open for as long as the process runs: it is not ours to close.
    pub socket: ListeningSocket,
}

impl Inherited {
    /// All of them, with an error for each that is no listening socket. To be called before there is a
    /// second thread: the environment is rid of what nobody else is to take for its own.
    pub fn take_all() -> Vec<io::Result<Self>> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let count = descriptors.len();
        // One that has no name is called so by systemd.
        let mut names = names.split(':').map(|name| if name == "unknown" { "" } else { name });
        let take = |index| {
            let name = names.next().unwrap_or_default().to_owned();
            Ok(Self { name, socket: take(&mut descriptors, index)? })
        };
        (0..count).map(take).collect()
    }

    /// Whether this is the socket that a listener asks for, by its name or by where it is.
    pub fn is_meant_by(&self, wanted: &ListenAddress) -> bool {
        match wanted {
            ListenAddress::Inherited(name) => self.name == *name,
            ListenAddress::Tcp(_) | ListenAddress::Unix(_) => {
                self.socket.address().is_ok_and(|address| address == *wanted)
            }
        }
    }
}

fn take(descriptors: &mut ListenFd, index: usize) -> io::Result<ListeningSocket> {
    let no_listener = || io::Error::new(io::ErrorKind::InvalidInput, "no listening stream socket");
    // One of another kind stays where it is.
    if let Ok(Some(listener)) = descriptors.take_tcp_listener(index) {
        return ListeningSocket::of_tcp(listener).ok_or_else(no_listener);
    }
    let listener = descriptors.take_unix_listener(index)?.ok_or_else(no_listener)?;
    ListeningSocket::of_unix(listener).ok_or_else(no_listener)
}
