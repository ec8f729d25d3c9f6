//! Connections that a proxy passes on: whose they are stands before their first byte.

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::connection::Lifecycle;
use super::proxy_protocol::{Header, Malformed, Progress, parse};
use crate::http::{ConnInfo, Peer};

/// Why a connection is closed before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its header is none.
    Malformed(Malformed),
    /// It did not end in time.
    Late,
    /// Nobody waits for an answer: it closed, or the process does.
    Gone,
}

impl Refused {
    /// How the metric calls it, if it is to be counted. Probes of load balancers connect and leave.
    pub(super) const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Malformed(Malformed::Missing) => Some("missing"),
            Self::Malformed(_) => Some("malformed"),
            Self::Late => Some("late"),
            Self::Gone => None,
        }
    }
}

/// Reads the PROXY header of a connection from a proxy that is believed, and puts into `info` what
/// it says. Not one byte behind the header is taken.
///
/// # Errors
/// When there is no header to be had by `deadline`.
pub(super) async fn introduce<S: AsyncRead + Unpin>(
    stream: &mut S,
    info: &mut ConnInfo,
    deadline: Instant,
    mut lifecycle: watch::Receiver<Lifecycle>,
) -> Result<(), Refused> {
    let header = tokio::select! {
        biased;
        // There is no request yet that could be finished.
        _ = lifecycle.wait_for(|step| *step >= Lifecycle::Draining) => return Err(Refused::Gone),
        header = timeout_at(deadline, read(stream)) => header.unwrap_or(Err(Refused::Late))?,
    };
    match header {
        Header::Local => {}
        Header::Unknown => info.peer = Peer::Unknown,
        Header::Tcp { source, destination } => {
            info.peer = source.into();
            info.local = Some(destination);
        }
    }
    Ok(())
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, Refused> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes).map_err(Refused::Malformed)? {
            Progress::Complete(header) => return Ok(header),
            Progress::Need(more) => {
                let read = (&mut *stream).take(more as u64).read_buf(&mut bytes).await;
                if !read.is_ok_and(|read| read > 0) {
                    return Err(Refused::Gone);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 50000 443\r\n";

    fn info() -> ConnInfo {
        super::super::connection::tests::info()
    }

    async fn introduced(bytes: &[u8]) -> (Result<(), Refused>, ConnInfo, Vec<u8>) {
        let (mut client, mut server) = tokio::io::duplex(8192);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let (_switch, lifecycle) = watch::channel(Lifecycle::Running);
        let (mut info, mut rest) = (info(), Vec::new());
        let deadline = Instant::now() + Duration::from_secs(1);
        let outcome = introduce(&mut server, &mut info, deadline, lifecycle).await;
        server.read_to_end(&mut rest).await.unwrap();
        (outcome, info, rest)
    }

    #[tokio::test]
    async fn the_header_is_taken_and_nothing_behind_it() {
        for behind in ["", "G", "GET / HTTP/1.1\r\n\r\n", "PROXY UNKNOWN\r\n"] {
            let (outcome, info, rest) = introduced(&[LINE, behind.as_bytes()].concat()).await;
            assert_eq!(outcome, Ok(()));
            assert_eq!(info.peer, Peer::from([203, 0, 113, 9]));
            assert_eq!(info.local, Some(SocketAddr::from(([192, 0, 2, 1], 443))));
            assert_eq!(rest, behind.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_proxy_that_names_nobody() {
        let (outcome, unknown, rest) = introduced(b"PROXY UNKNOWN\r\nx").await;
        assert_eq!((outcome, unknown.peer, rest.as_slice()), (Ok(()), Peer::Unknown, &b"x"[..]));
        let (outcome, local, rest) = introduced(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0x").await;
        assert_eq!((outcome, local.peer, rest.as_slice()), (Ok(()), info().peer, &b"x"[..]));
    }

    #[tokio::test]
    async fn what_is_no_header_is_told_apart_from_nothing() {
        for (bytes, expected, label) in [
            (&b"GET / HTTP/1.1\r\n"[..], Refused::Malformed(Malformed::Missing), Some("missing")),
            (b"PROXY TCP5 1 2 3 4\r\n", Refused::Malformed(Malformed::Line), Some("malformed")),
            (b"", Refused::Gone, None),
            (LINE.get(..20).unwrap(), Refused::Gone, None),
        ] {
            let (outcome, info, _) = introduced(bytes).await;
            assert_eq!(outcome, Err(expected));
            assert_eq!(expected.as_str(), label);
            assert_eq!(info.peer, super::super::connection::tests::info().peer);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_comes_in_drops_has_one_deadline() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let (_switch, lifecycle) = watch::channel(Lifecycle::Running);
        let dripping = async {
            for byte in LINE {
                client.write_all(std::slice::from_ref(byte)).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (begun, mut info) = (Instant::now(), info());
        let deadline = begun + Duration::from_secs(10);
        tokio::select! {
            outcome = introduce(&mut server, &mut info, deadline, lifecycle) => assert_eq!(outcome, Err(Refused::Late)),
            () = dripping => unreachable!("it takes longer than the deadline"),
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn draining_ends_the_wait() {
        let (_client, mut server) = tokio::io::duplex(64);
        let (switch, lifecycle) = watch::channel(Lifecycle::Running);
        switch.send_replace(Lifecycle::Draining);
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(introduce(&mut server, &mut info(), deadline, lifecycle).await, Err(Refused::Gone));
    }
}
