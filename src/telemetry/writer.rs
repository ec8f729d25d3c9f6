//! A thread that writes lines, so that nobody else waits for whoever reads them.
//!
//! Everybody else appends to a shared buffer under a lock that is held for a copy of one line; the thread
//! takes the whole buffer at once. It lets lines gather for a moment, so that a busy gateway pays
//! for a wake-up and a write a few dozen times a second and not for every request.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may wait for the thread. What comes on top is dropped.
const MOST: usize = 4 << 20;
/// Bytes that are worth a write at once.
const ENOUGH: usize = 256 << 10;
/// How long lines gather.
const GATHER: Duration = Duration::from_millis(20);

/// The thread's other end. The thread writes what it has and ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    pending: Mutex<Pending>,
    /// For the thread: there is something to do.
    wake: Condvar,
    /// For [`Writer::close`]: the thread is through.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    lines: u64,
    closing: bool,
    ended: bool,
}

impl Writer {
    /// Starts a thread of that name. `lost` is told of lines that `out` does not take.
    pub(super) fn start(
        name: &str,
        out: Box<dyn Write + Send>,
        lost: impl Fn(u64, &std::io::Error) + Send + 'static,
    ) -> std::io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let of_thread = queue.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || of_thread.drain(out, lost))?;
        Ok(Self(queue))
    }

    /// Appends a line. `false` when there is no room for it, or the log is closed.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut pending = self.0.lock();
        let before = pending.bytes.len();
        if pending.closing || before + line.len() > MOST {
            return false;
        }
        pending.bytes.extend_from_slice(line);
        pending.lines += 1;
        drop(pending);
        if before == 0 || (before < ENOUGH && before + line.len() >= ENOUGH) {
            self.0.wake.notify_one();
        }
        true
    }

    /// Takes no more lines and waits until the pending ones are written, or for `deadline`: a
    /// reader who stopped reading must not keep the process alive.
    pub(super) fn close(&self, deadline: Duration) -> bool {
        let mut pending = self.0.lock();
        pending.closing = true;
        self.0.wake.notify_one();
        let ended = self.0.ended.wait_timeout_while(pending, deadline, |pending| !pending.ended);
        let (pending, _) = ended.unwrap_or_else(PoisonError::into_inner);
        pending.ended
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.lock().closing = true;
        self.0.wake.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life.
    fn drain(&self, mut out: Box<dyn Write + Send>, lost: impl Fn(u64, &std::io::Error)) {
        let mut batch = Vec::new();
        loop {
            let (lines, closing) = self.take(&mut batch);
            if let Err(error) = out.write_all(&batch).and_then(|()| out.flush()) {
                lost(lines, &error);
            }
            batch.clear();
            if closing {
                self.lock().ended = true;
                self.ended.notify_all();
                return;
            }
        }
    }

    /// Waits for lines, swaps them into `batch`, and tells how many they are and whether they are
    /// the last.
    fn take(&self, batch: &mut Vec<u8>) -> (u64, bool) {
        let idle = |pending: &mut Pending| pending.bytes.is_empty() && !pending.closing;
        let gathering = |pending: &mut Pending| pending.bytes.len() < ENOUGH && !pending.closing;
        let pending = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let gathered = self.wake.wait_timeout_while(pending, GATHER, gathering);
        let (mut pending, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut pending.bytes, batch);
        (std::mem::take(&mut pending.lines), pending.closing)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;
    use crate::telemetry::metrics::Count;

    /// Takes a write only when somebody receives it: a reader who can be slow.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn pipe() -> (Writer, Receiver<Vec<u8>>, Count) {
        let (sender, receiver) = sync_channel(0);
        let dropped = Count::default();
        let lost = dropped.clone();
        let writer = Writer::start("test", Box::new(Pipe(sender)), move |lines, _| {
            lost.inc_by(lines);
        })
        .unwrap();
        (writer, receiver, dropped)
    }

    #[test]
    fn lines_come_out_in_order_and_are_all_there_after_close() {
        let (writer, out, dropped) = pipe();
        let reader = std::thread::spawn(move || out.iter().flatten().collect::<Vec<u8>>());
        for number in 0..1000 {
            assert!(writer.push(format!("{number}\n").as_bytes()));
        }
        assert!(writer.close(Duration::from_secs(10)));
        assert!(!writer.push(b"late\n"), "a closed log takes nothing");
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(reader.join().unwrap()).unwrap(), expected);
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_line_comes_out_without_a_close() {
        let (writer, out, _) = pipe();
        assert!(writer.push(b"one\n"));
        assert_eq!(out.recv_timeout(Duration::from_secs(10)).unwrap(), b"one\n");
        assert!(writer.push(b"two\n"));
        assert_eq!(out.recv_timeout(Duration::from_secs(10)).unwrap(), b"two\n");
        drop(writer);
        assert!(out.recv_timeout(Duration::from_secs(10)).is_err(), "the thread ends with its writer");
    }

    #[test]
    fn a_reader_who_stops_costs_lines_but_never_time() {
        let (writer, out, _) = pipe();
        let line = [b'x'; 1 << 16];
        let taken = (0..1000).take_while(|_| writer.push(&line)).count();
        // One batch may be in the thread's hands while the next fills up.
        let room = MOST / line.len();
        assert!((room..=3 * room).contains(&taken), "{taken}");
        assert!(!writer.close(Duration::from_millis(10)), "closing does not wait for ever either");
        drop(out);
    }

    #[test]
    fn lines_that_nobody_takes_are_counted() {
        let (writer, out, dropped) = pipe();
        drop(out);
        assert!(writer.push(b"one\n"));
        assert!(writer.close(Duration::from_secs(10)));
        assert_eq!(dropped.get(), 1);
    }
}
