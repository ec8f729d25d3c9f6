//! The beginning of a request's body, kept for another try.
//!
//! Pieces are handles on memory that was read anyway; nothing is copied. What grows beyond the
//! bounds is let go, and then the request cannot be sent a second time.

use std::cell::RefCell;

use bytes::Bytes;

/// Bytes of one body that are kept.
pub(super) const MAX_BYTES: u64 = 64 * 1024;

/// Pieces of one body that are kept: each costs a handle, and may hold on to more memory than it shows.
const MAX_PIECES: usize = 64;

/// What was taken from a client's body so far, as long as that is little.
#[derive(Debug, Default)]
pub(super) struct Replay(RefCell<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Most bodies are one piece, which needs no list.
    first: Option<Bytes>,
    rest: Vec<Bytes>,
    bytes: u64,
    /// Something was taken and is not here.
    is_cut: bool,
}

impl Replay {
    /// Keeps what comes next in the body, unless that would be too much.
    pub(super) fn keep(&self, piece: &Bytes) {
        let mut kept = self.0.borrow_mut();
        let bytes = kept.bytes + piece.len() as u64;
        if kept.is_cut || bytes > MAX_BYTES || kept.rest.len() + 1 >= MAX_PIECES {
            *kept = Kept { is_cut: true, ..Kept::default() };
            return;
        }
        kept.bytes = bytes;
        match kept.first {
            None => kept.first = Some(piece.clone()),
            Some(_) => kept.rest.push(piece.clone()),
        }
    }

    /// Lets go of everything, and of what is still to come.
    pub(super) fn forget(&self) {
        self.0.replace(Kept { is_cut: true, ..Kept::default() });
    }

    /// Everything that was taken so far; `None` when some of it is not here.
    pub(super) fn pieces(&self) -> Option<Vec<Bytes>> {
        let kept = self.0.borrow();
        (!kept.is_cut).then(|| kept.first.iter().chain(&kept.rest).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_in_order_and_are_not_copied() {
        let replay = Replay::default();
        assert_eq!(replay.pieces(), Some(Vec::new()));
        let body = Bytes::from(vec![7; 100]);
        let pieces = [body.slice(..10), body.slice(10..), Bytes::new()];
        pieces.iter().for_each(|piece| replay.keep(piece));
        let again = replay.pieces().unwrap();
        assert_eq!(again, pieces);
        assert_eq!(again[1].as_ptr(), pieces[1].as_ptr());
    }

    #[test]
    fn what_is_too_much_is_let_go_at_once() {
        let body = Bytes::from(vec![7; MAX_BYTES as usize]);
        let full = Replay::default();
        full.keep(&body);
        assert!(full.pieces().is_some());
        full.keep(&body.slice(..1));
        assert_eq!((full.pieces(), full.0.borrow().first.clone()), (None, None));
        full.keep(&body.slice(..1));
        assert_eq!(full.pieces(), None, "a body without its beginning is none");

        let crumbs = Replay::default();
        (0..MAX_PIECES).for_each(|_| crumbs.keep(&body.slice(..1)));
        assert_eq!(crumbs.pieces().map(|pieces| pieces.len()), Some(MAX_PIECES));
        crumbs.keep(&body.slice(..1));
        assert_eq!(crumbs.pieces(), None);
    }
}
