//! How many file descriptors the process may have, and how many it wants.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but clients and upstreams: listeners, files, runtimes, calls to user
/// pools, the operator.
const RESERVE: u64 = 256;

/// The limit on open files (getrlimit(2), RLIMIT_NOFILE); `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// What the process was started with.
    pub before: Option<u64>,
    /// What it has now.
    pub now: Option<u64>,
    /// The most it could have.
    pub most: Option<u64>,
}

impl Descriptors {
    /// Raises the process's limit as far as it may by itself. Shells and service managers start with
    /// 1024 for the sake of programs that use select(2).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn raise() -> io::Result<Self> {
        let Rlimit { current: before, maximum: most } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
        Ok(Self { before, now: getrlimit(Resource::Nofile).current, most })
    }

    /// How many so many client connections may take, if that is more than there are: two for each, its
    /// own and one to an upstream.
    pub fn wanted_for(&self, connections: usize) -> Option<u64> {
        let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(RESERVE);
        self.now.is_some_and(|now| now < wanted).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_for_each_connection_and_some_more() {
        let with = |now| Descriptors { before: Some(1024), now, most: now };
        assert_eq!(with(Some(40_256)).wanted_for(20_000), None);
        assert_eq!(with(Some(40_255)).wanted_for(20_000), Some(40_256));
        assert_eq!(with(None).wanted_for(usize::MAX), None);
        assert_eq!(with(Some(u64::MAX - 1)).wanted_for(usize::MAX), Some(u64::MAX));
    }

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        let raised = Descriptors::raise().unwrap();
        assert_eq!(raised.now, raised.most);
        assert_eq!(Descriptors::raise().unwrap().before, raised.most, "and stays there");
    }
}
