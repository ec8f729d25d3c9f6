//! Wall-clock time, injected.
//!
//! Everything that compares a date (`exp` of a token, expiry of a code, age of a key set) takes a
//! [`Timestamp`] as an argument; only the edges ask a [`Clock`]. Deadlines and timeouts use
//! `tokio::time::Instant` instead, which never jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch: the NumericDate of RFC 7519 §2.
    pub const fn seconds(self) -> i64 {
        (self.0 / 1000) as i64
    }

    /// This time and a while later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The calendar date and time in UTC.
    pub fn civil(self) -> Civil {
        Civil::from_millis(self.0)
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-22T15:45:59.120Z`.
    pub fn rfc3339(self) -> String {
        String::from_utf8_lossy(&self.rfc3339_bytes()).into_owned()
    }

    /// The same as ASCII without an allocation, for the access line. Years after 9999, which RFC
    /// 3339 cannot write, show as their last four digits.
    pub fn rfc3339_bytes(self) -> [u8; 24] {
        let c = self.civil();
        let digit = |value: u64, place: u64| b'0' + (value / place % 10) as u8;
        [
            digit(c.year, 1000),
            digit(c.year, 100),
            digit(c.year, 10),
            digit(c.year, 1),
            b'-',
            digit(c.month, 10),
            digit(c.month, 1),
            b'-',
            digit(c.day, 10),
            digit(c.day, 1),
            b'T',
            digit(c.hour, 10),
            digit(c.hour, 1),
            b':',
            digit(c.minute, 10),
            digit(c.minute, 1),
            b':',
            digit(c.second, 10),
            digit(c.second, 1),
            b'.',
            digit(c.milli, 100),
            digit(c.milli, 10),
            digit(c.milli, 1),
            b'Z',
        ]
    }
}

/// A [`Timestamp`] as a person reads it, in UTC (proleptic Gregorian calendar).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year of the common era.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
    /// 0 to 23.
    pub hour: u64,
    /// 0 to 59.
    pub minute: u64,
    /// 0 to 59; leap seconds do not exist in Unix time.
    pub second: u64,
    /// 0 to 999.
    pub milli: u64,
    /// 0 is Sunday.
    pub weekday: u64,
}

impl Civil {
    fn from_millis(millis: u64) -> Self {
        let (seconds, milli) = (millis / 1000, millis % 1000);
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        // Days are counted from 0000-03-01, so that the leap day is the last of its year and the
        // month lengths follow (153 * m + 2) / 5.
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            milli,
            weekday: (days + 4) % 7,
        }
    }
}

/// Where the time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A clock that a test sets; clones share it.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands still until [`Clock::advance`] is called.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(start.millis())))
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
            }
            Self::Manual(millis) => Timestamp(millis.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock forward. The system clock cannot be moved: nothing happens.
    pub fn advance(&self, duration: Duration) {
        if let Self::Manual(millis) = self {
            millis.store(self.now().after(duration).millis(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_match_known_ones() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_767_582_249, "2026-01-05T03:04:09.000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::from_seconds(seconds).rfc3339(), text);
        }
        assert_eq!(Timestamp::from_seconds(1_767_582_249).civil().weekday, 1, "a Monday");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_seconds(100));
        let copy = clock.clone();
        clock.advance(Duration::from_millis(1500));
        assert_eq!(copy.now().millis(), 101_500);
        assert_eq!(copy.now().since(Timestamp::from_seconds(200)), Duration::ZERO);
    }
}
