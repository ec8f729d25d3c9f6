//! A door for the fuzz target of these parsers: how an answer is taken apart is nobody else's
//! business.

use bytes::BytesMut;
use http::{HeaderMap, Method};

use super::body::Place;
use super::head;

/// What became of an answer's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The length of the head, once it was complete.
    pub head: Option<usize>,
    /// The body so far.
    pub body: Vec<u8>,
    /// Names and values of trailers.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Whether it is over, or may be if the connection ends here.
    pub may_end: bool,
    /// Bytes that were not taken.
    pub left: usize,
    /// Whether something was refused; nothing is taken from then on.
    pub refused: bool,
}

/// Reads the answer to a `method` request from bytes that come in pieces of this size.
pub fn answer(method: &Method, bytes: &[u8], piece: usize) -> Reading {
    let mut reading =
        Reading { head: None, body: Vec::new(), trailers: Vec::new(), may_end: false, left: 0, refused: false };
    let (mut buffer, mut place, mut fed) = (BytesMut::new(), None, 0);
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        fed += piece.len();
        if place.is_none() && !buffer.is_empty() {
            match head::take(&mut buffer, method, &mut HeaderMap::new()) {
                Ok(Some(head)) => {
                    reading.head = Some(fed - buffer.len());
                    place = Some(Place::start(head.framing));
                }
                Ok(None) => {}
                Err(_) => return Reading { refused: true, ..reading },
            }
        }
        let Some(place) = &mut place else { continue };
        loop {
            match place.take(&mut buffer) {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => reading.body.extend_from_slice(&data),
                    Err(frame) => reading.trailers.extend(frame.into_trailers().into_iter().flat_map(|fields| {
                        let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                            (name.to_string(), value.as_bytes().to_vec())
                        };
                        fields.iter().map(line).collect::<Vec<_>>()
                    })),
                },
                Ok(None) => break,
                Err(_) => return Reading { refused: true, ..reading },
            }
        }
    }
    Reading { may_end: place.is_some_and(Place::may_end), left: buffer.len(), ..reading }
}
