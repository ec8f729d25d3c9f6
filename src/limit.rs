//! Rate limits: how often somebody may ask.
//!
//! A bucket holds `burst` requests and is refilled at the rate; who finds it empty is refused. What is
//! kept of a bucket is one number, the time at which it is full again (the generic cell rate
//! algorithm), so that a decision is arithmetic on that number and `now`, and a full bucket need
//! not be kept at all.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;

use crate::clock::Timestamp;
use crate::config;
use crate::http::Peer;
use crate::telemetry::metrics::{self, Count, Metrics};

/// Who is counted together.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// An IPv4 address, or the /64 network of an IPv6 address: that is what one subscriber gets. All
    /// without an address are one.
    Client(Peer),
    /// A user, by the pool's name and the `sub` claim.
    Subject(&'a str, &'a str),
}

/// Somebody asked too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub limit: config::Limit,
    /// When the next request may pass.
    pub wait: Duration,
}

/// One limit with its buckets, shared by all workers.
///
/// It is bounded: there is room for [`BUCKETS`]. When a shard is full, buckets that are full again are
/// forgotten, which changes nothing, and if those are too few, so are the fullest of the rest. Who
/// comes from many addresses to push others out can push out only those that matter least.
#[derive(Debug)]
pub struct Limiter {
    limit: config::Limit,
    seed: RandomState,
    /// By a seeded hash of the key, when the bucket is full again in nanoseconds since 1970. Two
    /// keys of the same 64 bits would share a bucket; nobody can look for them without the seed.
    shards: [Mutex<HashMap<u64, u64, RandomState>>; SHARDS],
    refused: Count,
}

/// How many buckets a limit keeps, about 2 MB.
pub const BUCKETS: usize = SHARDS * SHARD_SIZE;
const SHARDS: usize = 16;
const SHARD_SIZE: usize = 4096;
/// How many go at once when a shard is full, so that a flood does not sort it for each request.
const EVICTED: usize = SHARD_SIZE / 8;

impl Limiter {
    /// A limit with all buckets full, which counts refusals under `label`.
    pub fn new(limit: config::Limit, label: &str, metrics: &Metrics) -> Self {
        let refused = metrics.rate_limited.get_or_create_owned(&metrics::Limit::new(label.to_owned()));
        Self { limit, seed: RandomState::default(), shards: std::array::from_fn(|_| Mutex::default()), refused }
    }

    /// Whom the limit counts.
    pub fn by(&self) -> config::LimitBy {
        self.limit.by
    }

    /// Takes one request out of the key's bucket.
    ///
    /// # Errors
    /// When there is none in it; then it stays as it is.
    pub fn take(&self, key: Key<'_>, now: Timestamp) -> Result<(), Exceeded> {
        let key = match key {
            Key::Client(Peer::Ip(IpAddr::V4(address))) => self.seed.hash_one((4_u8, address.octets())),
            Key::Client(Peer::Ip(IpAddr::V6(address))) => self.seed.hash_one((6_u8, address.to_bits() >> 64)),
            Key::Client(Peer::Unix | Peer::Unknown) => self.seed.hash_one(0_u8),
            Key::Subject(pool, subject) => self.seed.hash_one((pool, subject)),
        };
        let now = nanos(Duration::from_millis(now.millis()));
        // The lowest bits choose the shard; the map hashes the whole number once more.
        let Some(shard) = self.shards.get(key as usize % SHARDS) else { return Ok(()) };
        // A number is there or not; a panic elsewhere cannot have left half of one.
        let mut buckets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        match spend(&self.limit, buckets.get(&key).copied().unwrap_or_default(), now) {
            Ok(full_at) => {
                if buckets.len() >= SHARD_SIZE && !buckets.contains_key(&key) {
                    make_room(&mut buckets, now);
                }
                buckets.insert(key, full_at);
                Ok(())
            }
            Err(wait) => {
                self.refused.inc();
                Err(Exceeded { limit: self.limit, wait: Duration::from_nanos(wait) })
            }
        }
    }
}

/// When a bucket that is full at `full_at` is full again after one request more, or how long until
/// that request may be made. All in nanoseconds.
fn spend(limit: &config::Limit, full_at: u64, now: u64) -> Result<u64, u64> {
    let each = (nanos(limit.per) / u64::from(limit.rate.max(1))).max(1);
    let whole = each.saturating_mul(u64::from(limit.burst));
    // A clock that was set back must not keep anybody out for longer than an empty bucket does.
    let full_at = full_at.clamp(now, now.saturating_add(whole)).saturating_add(each);
    match full_at.saturating_sub(now).checked_sub(whole) {
        None | Some(0) => Ok(full_at),
        Some(wait) => Err(wait),
    }
}

/// Forgets what is full again, and then the fullest until there is room for some time.
fn make_room(buckets: &mut HashMap<u64, u64, RandomState>, now: u64) {
    buckets.retain(|_, full_at| *full_at > now);
    let excess = (buckets.len() + EVICTED).saturating_sub(SHARD_SIZE);
    if excess > 0 {
        let mut times: Vec<u64> = buckets.values().copied().collect();
        let (_, last, _) = times.select_nth_unstable(excess - 1);
        let last = *last;
        // Those that are equally full go together: it is the time that counts, not the key.
        buckets.retain(|_, full_at| *full_at > last);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limit, LimitBy};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn limiter(rate: u32, per: Duration, burst: u32) -> Limiter {
        Limiter::new(Limit { rate, per, burst, by: LimitBy::Client }, "/x", &Metrics::new())
    }

    fn client(text: &str) -> Key<'static> {
        Key::Client(text.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limiter = limiter(10, Duration::from_secs(1), 3);
        let at = |millis: u64| limiter.take(client("192.0.2.1"), NOW.after(Duration::from_millis(millis)));
        assert!(at(0).is_ok() && at(0).is_ok() && at(0).is_ok());
        assert_eq!(at(0).unwrap_err().wait, Duration::from_millis(100));
        assert_eq!(at(60).unwrap_err().wait, Duration::from_millis(40), "asking in vain costs nothing");
        assert!(at(100).is_ok());
        assert!(at(100).is_err());
        assert!(at(10_000).is_ok() && at(10_000).is_ok() && at(10_000).is_ok() && at(10_000).is_err(), "full again");
        assert_eq!(limiter.refused.get(), 4);
    }

    #[test]
    fn everybody_has_a_bucket_and_a_network_of_ipv6_is_one() {
        let limiter = limiter(1, Duration::from_secs(60), 1);
        let take = |key| limiter.take(key, NOW).is_ok();
        assert!(take(client("192.0.2.1")) && !take(client("192.0.2.1")) && !take(client("::ffff:192.0.2.1")));
        assert!(take(client("192.0.2.2")));
        assert!(take(Key::Client(Peer::Unix)) && !take(Key::Client(Peer::Unknown)), "nobody's addresses are one");
        assert!(take(client("2001:db8::1")) && !take(client("2001:db8::ffff:1")) && take(client("2001:db8:0:1::1")));
        assert!(
            take(Key::Subject("main", "a")) && !take(Key::Subject("main", "a")) && take(Key::Subject("other", "a"))
        );
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let limiter = limiter(1, Duration::from_secs(1), 2);
        let later = NOW.after(Duration::from_secs(86_400));
        assert!(limiter.take(client("192.0.2.1"), later).is_ok());
        let wait = limiter.take(client("192.0.2.1"), NOW).unwrap_err().wait;
        assert_eq!(wait, Duration::from_secs(1));
    }

    #[test]
    fn it_is_bounded_and_forgets_the_fullest_first() {
        let limiter = limiter(1, Duration::from_secs(3600), 3);
        for _ in 0..3 {
            limiter.take(client("192.0.2.1"), NOW).unwrap();
        }
        for number in 0..2 * BUCKETS as u32 {
            let address = IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + number));
            assert!(limiter.take(Key::Client(address.into()), NOW).is_ok(), "strangers are let in");
        }
        let kept: usize = limiter.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(kept <= BUCKETS, "{kept}");
        assert!(limiter.take(client("192.0.2.1"), NOW).is_err(), "an empty bucket outlives a flood of full ones");
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_pass(rate in 1_u32..50, burst in 1_u32..50, steps in proptest::collection::vec(0_u64..300, 1..200)) {
            let limit = Limit { rate, per: Duration::from_secs(1), burst, by: LimitBy::Client };
            let (mut now, mut full_at, mut passed) = (nanos(Duration::from_secs(1_000)), 0, 0_u64);
            let begun = now;
            for step in steps {
                now += step * 1_000_000;
                if let Ok(next) = spend(&limit, full_at, now) {
                    full_at = next;
                    passed += 1;
                }
                let each = 1_000_000_000 / u64::from(rate);
                let most = u64::from(burst) + (now - begun) / each;
                prop_assert!(passed <= most, "{passed} of {most}");
            }
            let wait = spend(&limit, full_at, now).err().unwrap_or_default();
            prop_assert!(spend(&limit, full_at, now + wait).is_ok(), "the wait is enough");
            prop_assert!(wait <= 1 || spend(&limit, full_at, now + wait - 1).is_err(), "and not too long");
        }
    }
}
