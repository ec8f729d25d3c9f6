//! The addresses behind a server's name.
//!
//! The control runtime looks them up again every `resolve`, so that no request waits for DNS but
//! the first. A failing look-up keeps the last good set: DNS that is down is no reason for the
//! servers to be.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{Backend, Upstream};

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    known: Mutex<Known>,
    /// Grows with each change of the set.
    generation: AtomicU64,
    /// Which address comes first; the next connection begins with the next one.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    /// The last good set; empty before the first.
    addresses: Arc<[SocketAddr]>,
    /// The last look-up failed.
    is_stale: bool,
}

/// What came of a look-up, when that is something to tell.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// There are other addresses than before.
    Changed,
    /// It fails, and did not before.
    Failing,
    /// It works again, and says what it said.
    Working,
}

impl Resolved {
    /// The last good set in the order in which to try them; empty before the first look-up.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = Arc::clone(&self.lock().addresses);
        interleaved(&addresses, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// How often the set has changed.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Whether the name still means this address.
    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        self.lock().addresses.contains(&address)
    }

    /// Takes the outcome of a look-up.
    pub(super) fn learn(&self, name: &str, found: &io::Result<Vec<SocketAddr>>) {
        match (self.take(found), found) {
            (Some(News::Changed), Ok(addresses)) => tracing::debug!(name, ?addresses, "a server has these addresses"),
            (Some(News::Working), _) => tracing::info!(name, "a server's name is found again"),
            (Some(News::Failing), Err(error)) => {
                tracing::warn!(name, %error, "a server's name is not found; its last addresses are kept");
            }
            (Some(News::Failing), Ok(_)) => {
                tracing::warn!(name, "a server's name has no address; its last addresses are kept");
            }
            _ => {}
        }
    }

    fn take(&self, found: &io::Result<Vec<SocketAddr>>) -> Option<News> {
        let mut known = self.lock();
        let mut addresses = match found {
            Ok(addresses) if !addresses.is_empty() => addresses.clone(),
            _ => return (!std::mem::replace(&mut known.is_stale, true)).then_some(News::Failing),
        };
        let was_stale = std::mem::replace(&mut known.is_stale, false);
        // Name servers turn their answers around; that is no change.
        addresses.sort_unstable();
        addresses.dedup();
        if *known.addresses == *addresses {
            return was_stale.then_some(News::Working);
        }
        known.addresses = addresses.into();
        self.generation.fetch_add(1, Ordering::Relaxed);
        Some(News::Changed)
    }

    /// A panic while it is held leaves a set that is as good as any.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks every name of the upstream's servers up again and again, until nobody else holds it.
/// Belongs on the control runtime. Ends at once when no server has a name.
pub async fn resolve(upstream: Weak<Upstream>) {
    let mut names = JoinSet::new();
    {
        let Some(alive) = upstream.upgrade() else { return };
        for (index, backend) in alive.backends().iter().enumerate() {
            if backend.resolved.is_some() {
                names.spawn(resolve_one(Weak::clone(&upstream), index, alive.config.resolve));
            }
        }
    }
    names.join_all().await;
}

async fn resolve_one(upstream: Weak<Upstream>, index: usize, every: std::time::Duration) {
    // The first connection does the first look-up, if it is sooner.
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let Some(backend) = upstream.backends().get(index) else { return };
        let found = timeout(every, look_up(backend)).await;
        if let Some(resolved) = &backend.resolved {
            let found = found.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
            resolved.learn(&backend.endpoint.host, &found);
        }
    }
}

/// Asks the system's resolver.
pub(super) async fn look_up(backend: &Backend) -> io::Result<Vec<SocketAddr>> {
    let endpoint = &backend.endpoint;
    Ok(lookup_host((endpoint.host.as_str(), endpoint.port)).await?.collect())
}

/// Addresses of both families in turn, IPv6 first (RFC 8305 §4), each family beginning at `turn`.
fn interleaved(addresses: &[SocketAddr], turn: usize) -> Vec<SocketAddr> {
    let family = |is_ipv6: bool| -> Vec<SocketAddr> {
        let mut family: Vec<_> = addresses.iter().copied().filter(|address| address.is_ipv6() == is_ipv6).collect();
        if !family.is_empty() {
            let first = turn % family.len();
            family.rotate_left(first);
        }
        family
    };
    let (six, four) = (family(true), family(false));
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(six.next());
        order.extend(four.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_so_do_their_addresses() {
        let all = addresses(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "[::1]:80", "[::2]:80"]);
        let first = addresses(&["[::1]:80", "10.0.0.1:80", "[::2]:80", "10.0.0.2:80", "10.0.0.3:80"]);
        assert_eq!(interleaved(&all, 0), first);
        let second = addresses(&["[::2]:80", "10.0.0.2:80", "[::1]:80", "10.0.0.3:80", "10.0.0.1:80"]);
        assert_eq!(interleaved(&all, 1), second);
        assert!(interleaved(&[], 7).is_empty());
    }

    #[test]
    fn a_look_up_that_fails_changes_nothing_and_is_told_once() {
        let resolved = Resolved::default();
        let good = || Ok(addresses(&["10.0.0.2:80", "10.0.0.1:80"]));
        let failed = || Err(io::ErrorKind::NotFound.into());
        assert_eq!(resolved.take(&good()), Some(News::Changed));
        assert_eq!(resolved.take(&failed()), Some(News::Failing));
        assert_eq!(resolved.take(&failed()), None);
        assert_eq!(resolved.take(&Ok(Vec::new())), None, "no address is a failure as well");
        assert_eq!(resolved.addresses(), addresses(&["10.0.0.1:80", "10.0.0.2:80"]), "the last good set");
        assert_eq!(resolved.take(&good()), Some(News::Working));
        assert_eq!(resolved.generation(), 1);
        assert_eq!(resolved.take(&Ok(addresses(&["10.0.0.3:80"]))), Some(News::Changed));
        assert_eq!(resolved.generation(), 2);
        assert!(!resolved.contains("10.0.0.1:80".parse().unwrap()));
    }
}
