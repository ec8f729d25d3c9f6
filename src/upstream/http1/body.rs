//! The body of an answer as it comes off the wire: pure functions of the bytes so far.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use memchr::memchr;

/// The line that says how long a chunk is, with its extensions.
const MAX_SIZE_LINE: usize = 1024;
/// All trailers of one body.
const MAX_TRAILERS: usize = 8 * 1024;
const MAX_TRAILER_LINES: usize = 64;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Framing {
    /// After so many bytes, or so many more.
    Length(u64),
    /// RFC 9112 §7.1.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Where in a body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind it.
    End,
    /// Before so many bytes, the last ones.
    Length(u64),
    /// Before bytes whose number nobody knows.
    UntilClose,
    /// Before the size of a chunk.
    Size,
    /// Before so many bytes of a chunk.
    Chunk(u64),
    /// Before the line end behind a chunk.
    ChunkEnd,
    /// Before the trailers, or the empty line.
    Trailers,
}

impl Place {
    /// Before the body.
    pub(super) const fn start(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::End,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Size,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Takes the next frame off the front of `buffer`; `None` when more bytes are needed, or at the end.
    ///
    /// # Errors
    /// What is wrong with the chunks.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, &'static str> {
        loop {
            match *self {
                Self::End => return Ok(None),
                _ if buffer.is_empty() => return Ok(None),
                Self::UntilClose => return Ok(Some(Frame::data(buffer.split().freeze()))),
                Self::Length(left) => {
                    let data = up_to(left, buffer);
                    *self = match left - data.len() as u64 {
                        0 => Self::End,
                        left => Self::Length(left),
                    };
                    return Ok(Some(Frame::data(data)));
                }
                Self::Chunk(left) => {
                    let data = up_to(left, buffer);
                    *self = match left - data.len() as u64 {
                        0 => Self::ChunkEnd,
                        left => Self::Chunk(left),
                    };
                    return Ok(Some(Frame::data(data)));
                }
                // To the parser, no digit at all is a zero: the end.
                Self::Size if !buffer.first().is_some_and(u8::is_ascii_hexdigit) => {
                    return Err("the size of a chunk is missing");
                }
                Self::Size => match httparse::parse_chunk_size(buffer) {
                    // To the parser, anything goes in an extension: a line feed, too, which others take for its end.
                    Ok(httparse::Status::Complete((length, _))) if first_line(buffer) != Some(length) => {
                        return Err("the size of a chunk is malformed");
                    }
                    Ok(httparse::Status::Partial) if first_line(buffer).is_some() => {
                        return Err("the size of a chunk is malformed");
                    }
                    Ok(httparse::Status::Complete((length, size))) => {
                        buffer.advance(length);
                        *self = if size == 0 { Self::Trailers } else { Self::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) if buffer.len() <= MAX_SIZE_LINE => return Ok(None),
                    _ => return Err("the size of a chunk is malformed"),
                },
                Self::ChunkEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        *self = Self::Size;
                    }
                    None if buffer.starts_with(b"\r") => return Ok(None),
                    _ => return Err("a chunk is longer than it says"),
                },
                Self::Trailers => {
                    let Some((length, fields)) = trailers(buffer)? else { return Ok(None) };
                    buffer.advance(length);
                    *self = Self::End;
                    return Ok((!fields.is_empty()).then(|| Frame::trailers(fields)));
                }
            }
        }
    }

    /// Whether the body may end where it is, with the connection.
    pub(super) fn may_end(self) -> bool {
        matches!(self, Self::End | Self::UntilClose)
    }
}

/// The length of the first line, of those that are looked at. None is longer than a size line may be.
fn first_line(bytes: &[u8]) -> Option<usize> {
    memchr(b'\n', bytes.get(..MAX_SIZE_LINE).unwrap_or(bytes)).map(|at| at + 1)
}

fn up_to(left: u64, buffer: &mut BytesMut) -> Bytes {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    buffer.split_to(length).freeze()
}

/// The trailers up to the empty line, and their length; `None` as long as they are not complete.
fn trailers(bytes: &[u8]) -> Result<Option<(usize, HeaderMap)>, &'static str> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILER_LINES];
    match httparse::parse_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete((length, lines))) if length <= MAX_TRAILERS => {
            let mut fields = HeaderMap::with_capacity(lines.len());
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_invalid| "a trailer is malformed")?;
                let value = HeaderValue::from_bytes(line.value).map_err(|_invalid| "a trailer is malformed")?;
                fields.append(name, value);
            }
            Ok(Some((length, fields)))
        }
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_TRAILERS => Ok(None),
        _ => Err("the trailers are malformed"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body's text and trailers when its bytes come in pieces of `size`, where it ended, and
    /// what was left over.
    fn read(framing: Framing, bytes: &[u8], size: usize) -> Result<(String, HeaderMap, Place, usize), &'static str> {
        let (mut place, mut buffer) = (Place::start(framing), BytesMut::new());
        let (mut text, mut fields) = (Vec::new(), HeaderMap::new());
        for piece in bytes.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = place.take(&mut buffer)? {
                match frame.into_data() {
                    Ok(data) => text.extend_from_slice(&data),
                    Err(frame) => fields = frame.into_trailers().unwrap(),
                }
            }
        }
        Ok((String::from_utf8(text).unwrap(), fields, place, buffer.len()))
    }

    #[test]
    fn a_body_ends_where_it_says() {
        for size in [1, 2, 3, 100] {
            let (text, _, place, left) = read(Framing::Length(5), b"helloHTTP", size).unwrap();
            assert_eq!((text.as_str(), place, left), ("hello", Place::End, 4));
            let (text, _, place, _) = read(Framing::Length(9), b"hello", size).unwrap();
            assert_eq!((text.as_str(), place), ("hello", Place::Length(4)));
            assert!(!place.may_end());
            let bytes = b"5;a=b\r\nhello\r\n0a\r\n, my world\r\n0\r\nx-sum: 1\r\n\r\nHTTP";
            let (text, fields, place, left) = read(Framing::Chunked, bytes, size).unwrap();
            assert_eq!((text.as_str(), place, left), ("hello, my world", Place::End, 4));
            assert_eq!(fields["x-sum"], "1");
            let (text, _, place, _) = read(Framing::UntilClose, b"hello", size).unwrap();
            assert_eq!((text.as_str(), place.may_end()), ("hello", true));
        }
        assert_eq!(Place::start(Framing::Length(0)), Place::End);
    }

    #[test]
    fn chunks_that_are_read_in_two_ways_are_refused() {
        let long = format!("1;{}", "x".repeat(2 * MAX_SIZE_LINE));
        let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_TRAILER_LINES + 1));
        let large = format!("0\r\nx: {}", "y".repeat(2 * MAX_TRAILERS));
        for bytes in [
            "5\r\nhello!\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "-5\r\n",
            "0x5\r\n",
            "\r\n",
            "5 5\r\n",
            "ffffffffffffffff1\r\n",
            "5\nhello",
            "5;a\nhello",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            &long,
            &many,
            &large,
        ] {
            assert!(read(Framing::Chunked, bytes.as_bytes(), 1).is_err(), "{bytes:.40}");
        }
    }

    proptest! {
        #[test]
        fn chunks_come_out_as_they_went_in(parts in proptest::collection::vec("[a-z]{1,20}", 0..8), size in 1usize..40) {
            let mut wire = String::new();
            for part in &parts {
                wire.push_str(&format!("{:x}\r\n{part}\r\n", part.len()));
            }
            wire.push_str("0\r\n\r\n");
            let (text, _, place, left) = read(Framing::Chunked, wire.as_bytes(), size).unwrap();
            prop_assert_eq!((text, place, left), (parts.concat(), Place::End, 0));
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), size in 1usize..9) {
            let mut wire = b"3\r\nabc\r\n".to_vec();
            wire.extend_from_slice(&bytes);
            let mut place = Place::start(Framing::Chunked);
            let mut buffer = BytesMut::new();
            for piece in wire.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Ok(Some(_)) = place.take(&mut buffer) {}
            }
        }
    }
}
