//! The frames of an HTTP/2 connection, counted as they come in (RFC 9113 §4.1).
//!
//! The `h2` crate bounds what a frame may make the gateway *keep*. It does not bound what frames make
//! it *do*: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown and empty frames cost their sender
//! nothing, and opening a stream only to reset it costs the gateway a request (CVE-2023-44487). A
//! [`Tracker`] reads nothing but the nine bytes in front of each frame and keeps two accounts; a
//! client that overdraws one of them loses its connection.

use tokio::time::Instant;

use super::PREFACE;

/// What a client did too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Frames that carry nothing.
    Control,
    /// Requests that were withdrawn.
    Reset,
}

/// Frames without use that a connection may send at once, and then per second. Each request that is
/// opened pays for [`FRAMES_PER_REQUEST`] of them, and so does each [`BYTES_PER_FRAME`] of bodies in
/// either direction, which have to be acknowledged with WINDOW_UPDATE.
const CONTROL: Account = Account::holding(1000, 100);
const FRAMES_PER_REQUEST: u32 = 8;
const BYTES_PER_FRAME: usize = 512;
/// Requests that a connection may withdraw at once, and then per second: a page with hundreds of
/// images that is left is no attack.
const RESETS: Account = Account::holding(500, 50);

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Follows the bytes of one connection from frame to frame.
#[derive(Debug)]
pub(super) struct Tracker {
    /// Bytes of the connection preface that are still to come.
    preface: usize,
    head: [u8; FRAME_HEAD],
    /// How much of `head` is there.
    filled: usize,
    /// Payload of the present frame that is still to come.
    left: usize,
    /// Between a HEADERS frame and the end of its header block.
    block: bool,
    control: Account,
    resets: Account,
    /// Bytes of bodies that have not bought a frame yet.
    paid: usize,
}

impl Tracker {
    /// A tracker at the start of a connection, before its preface.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            preface: PREFACE.len(),
            head: [0; FRAME_HEAD],
            filled: 0,
            left: 0,
            block: false,
            control: CONTROL.opened(now),
            resets: RESETS.opened(now),
            paid: 0,
        }
    }

    /// Takes the next bytes of the connection. The clock is asked only when an account is empty.
    ///
    /// # Errors
    /// When the client overdraws an account.
    pub(super) fn feed(&mut self, bytes: &[u8], now: &dyn Fn() -> Instant) -> Result<(), Flood> {
        let mut rest = bytes.get(self.preface..).unwrap_or_default();
        self.preface = self.preface.saturating_sub(bytes.len());
        loop {
            let payload = self.left.min(rest.len());
            self.left -= payload;
            rest = rest.get(payload..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            let (_, room) = self.head.split_at_mut(self.filled);
            let part = room.len().min(rest.len());
            let (new, after) = rest.split_at(part);
            room.iter_mut().zip(new).for_each(|(to, from)| *to = *from);
            self.filled += part;
            rest = after;
            if self.filled == FRAME_HEAD {
                self.filled = 0;
                self.begin(now)?;
            }
        }
    }

    /// Whether a header block has begun and not ended, so that a request is on its way; the preface,
    /// which every client sends at once, counts as one.
    pub(super) fn in_head(&self) -> bool {
        let [_, _, _, kind, ..] = self.head;
        self.preface > 0 || self.block || (self.left > 0 && matches!(kind, HEADERS | CONTINUATION))
    }

    /// Bytes were sent to the client, which it will have to acknowledge.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.paid += bytes;
        let frames = u32::try_from(self.paid / BYTES_PER_FRAME).unwrap_or(u32::MAX);
        self.paid %= BYTES_PER_FRAME;
        self.control.give(frames);
    }

    /// The head of a frame is complete.
    fn begin(&mut self, now: &dyn Fn() -> Instant) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            DATA if self.left > 0 => self.sent(self.left),
            DATA if flags & END_STREAM != 0 => {}
            HEADERS | CONTINUATION => {
                self.block = flags & END_HEADERS == 0;
                // How many CONTINUATION frames there may be is bounded in `h2`.
                if kind == HEADERS {
                    self.control.give(FRAMES_PER_REQUEST);
                }
            }
            RST_STREAM => {
                self.resets.take(now).ok_or(Flood::Reset)?;
                self.control.take(now).ok_or(Flood::Control)?;
            }
            _ => self.control.take(now).ok_or(Flood::Control)?,
        }
        Ok(())
    }
}

/// A token bucket that looks at the clock only when it is empty.
#[derive(Debug)]
struct Account {
    left: u32,
    most: u32,
    per_second: u32,
    /// When it was filled up last.
    since: Option<Instant>,
}

impl Account {
    const fn holding(most: u32, per_second: u32) -> Self {
        Self { left: most, most, per_second, since: None }
    }

    fn opened(self, now: Instant) -> Self {
        Self { since: Some(now), ..self }
    }

    fn give(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }

    fn take(&mut self, now: &dyn Fn() -> Instant) -> Option<()> {
        if self.left == 0 {
            let now = now();
            let elapsed = self.since.replace(now).map_or(0.0, |since| (now - since).as_secs_f64());
            // Above `most` it makes no difference, and a cast saturates.
            self.give((elapsed * f64::from(self.per_second)) as u32);
        }
        self.left = self.left.checked_sub(1)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Feeds the frames in pieces of this size; returns how many went through.
    fn feed(tracker: &mut Tracker, frames: &[Vec<u8>], piece: usize, now: Instant) -> Result<(), Flood> {
        let bytes: Vec<u8> = frames.concat();
        bytes.chunks(piece).try_for_each(|piece| tracker.feed(piece, &|| now))
    }

    fn opened() -> (Tracker, Instant) {
        let now = Instant::now();
        let mut tracker = Tracker::new(now);
        tracker.feed(PREFACE, &|| now).unwrap();
        (tracker, now)
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        for piece in [1, 2, 8, 9, 10, 4096] {
            let now = Instant::now();
            let mut tracker = Tracker::new(now);
            let bytes = [PREFACE.to_vec(), frame(4, 0, &[0; 12]), frame(HEADERS, 0, &[1, 2, 3])].concat();
            bytes.chunks(piece).for_each(|piece| tracker.feed(piece, &|| now).unwrap());
            assert!(tracker.in_head(), "{piece}");
            feed(&mut tracker, &[frame(CONTINUATION, END_HEADERS, &[4])], piece, now).unwrap();
            assert!(!tracker.in_head(), "{piece}");
            let head = frame(HEADERS, END_HEADERS, &[1, 2, 3]);
            feed(&mut tracker, &[head[..11].to_vec()], piece, now).unwrap();
            assert!(tracker.in_head(), "the payload is not there yet");
            feed(&mut tracker, &[head[11..].to_vec()], piece, now).unwrap();
            assert!(!tracker.in_head(), "{piece}");
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_limited_and_time_forgives() {
        for (kind, flags) in [(2, 0), (4, 0), (4, 1), (6, 0), (8, 0), (DATA, 0), (0x77, 0)] {
            let (mut tracker, now) = opened();
            let many = vec![frame(kind, flags, &[]); 1000];
            assert_eq!(feed(&mut tracker, &many, 4096, now), Ok(()), "{kind}");
            assert_eq!(feed(&mut tracker, &many[..1], 4096, now), Err(Flood::Control), "{kind}");
            let later = now + Duration::from_secs(2);
            assert_eq!(feed(&mut tracker, &many[..200], 4096, later), Ok(()), "{kind}");
            assert_eq!(feed(&mut tracker, &many[..1], 4096, later), Err(Flood::Control), "{kind}");
        }
    }

    #[test]
    fn requests_and_bodies_pay_for_what_goes_with_them() {
        let (mut tracker, now) = opened();
        let exchange = [
            frame(HEADERS, END_HEADERS, &[0]),
            frame(DATA, 0, &[0; 2048]),
            frame(DATA, END_STREAM, &[]),
            frame(8, 0, &[0; 4]),
            frame(8, 0, &[0; 4]),
            frame(6, 0, &[0; 8]),
        ]
        .concat();
        for _ in 0..5000 {
            assert_eq!(tracker.feed(&exchange, &|| now), Ok(()));
            tracker.sent(16 << 10);
            (0..32).for_each(|_| tracker.feed(&frame(8, 0, &[0; 4]), &|| now).unwrap());
        }
    }

    #[test]
    fn withdrawn_requests_are_limited_although_requests_are_not() {
        let (mut tracker, now) = opened();
        let pair = frame(HEADERS, END_HEADERS | END_STREAM, &[0; 20]);
        let reset = frame(RST_STREAM, 0, &[0; 4]);
        for _ in 0..500 {
            tracker.feed(&[pair.clone(), reset.clone()].concat(), &|| now).unwrap();
        }
        assert_eq!(tracker.feed(&reset, &|| now), Err(Flood::Reset));
        assert_eq!(tracker.feed(&reset, &|| now + Duration::from_secs(1)), Ok(()));
    }
}
