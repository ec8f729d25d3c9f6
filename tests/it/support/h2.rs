//! An HTTP/2 client that sends exactly the frames it is given (RFC 9113 §4).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Stream;
use super::soon;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITIZED: u8 = 0x20;

/// RFC 9113 §7.
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL: u32 = 1;
    pub(crate) const FLOW_CONTROL: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE: u32 = 6;
    pub(crate) const REFUSED: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION: u32 = 9;
    pub(crate) const CALM: u32 = 11;
}

/// A frame, as bytes; its length is that of the payload.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS that hold these fields and end their block.
pub(crate) fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, block(fields))
}

/// A whole GET.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(END_STREAM, stream, &request("GET", path, &[]))
}

/// The fields of a request for the host `gw`.
pub(crate) fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "gw"), (":path", path)];
    pseudo.iter().chain(more).copied().collect()
}

/// A header block of literals without indexing and without Huffman codes (RFC 7541 §6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect()
}

pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], length(name.len()).as_slice(), name, length(value.len()).as_slice(), value].concat()
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(mut length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![length as u8];
    }
    length -= 127;
    let mut bytes = vec![127];
    while length >= 128 {
        bytes.push((length % 128) as u8 | 128);
        length /= 128;
    }
    bytes.push(length as u8);
    bytes
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The four bytes at this place of the payload: an error code, for instance.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// `:status`, which stands first in the head of an answer (RFC 9113 §8.3.2).
    fn status(&self) -> u16 {
        let mut block = self.payload.as_slice();
        while block[0] & 0xe0 == 0x20 {
            block = &block[1..];
        }
        match block[0] {
            index @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
            // A literal whose name is one of these indexes; digits have Huffman codes of 5 or 6 bits.
            _ => {
                let (value, huffman) = (&block[2..2 + usize::from(block[1] & 0x7f)], block[1] & 0x80 != 0);
                let text = if huffman { digits(value) } else { String::from_utf8(value.to_vec()).unwrap() };
                text.parse().unwrap_or_else(|_| panic!("no status: {block:?}"))
            }
        }
    }
}

/// Three digits in Huffman code (RFC 7541, Appendix B): `0`, `1`, `2` are 00000, 00001, 00010, the
/// others 011001 to 011111.
fn digits(bytes: &[u8]) -> String {
    let mut bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let mut text = String::new();
    while text.len() < 3 {
        let number = |bits: &[u8]| bits.iter().fold(0, |number, bit| number << 1 | bit);
        let (digit, used) = match number(&bits[..5]) {
            digit @ 0..=2 => (digit, 5),
            _ => (number(&bits[..6]) - 0b011001 + 3, 6),
        };
        text.push(char::from(b'0' + digit));
        bits.drain(..used);
    }
    text
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer, to its end.
    Answer { status: u16, body: String, trailers: bool },
    /// RST_STREAM, after an answer or without one.
    Reset(u32),
    /// The connection is ending, with this GOAWAY.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
}

impl Outcome {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Answer { status, .. } => *status,
            other => panic!("no answer: {other:?}"),
        }
    }

    pub(crate) fn body(&self) -> &str {
        match self {
            Self::Answer { body, .. } => body,
            other => panic!("no answer: {other:?}"),
        }
    }
}

/// One connection to the gateway.
#[derive(Debug)]
pub(crate) struct H2 {
    stream: Box<dyn Stream>,
    pending: Vec<u8>,
    /// Frames that were read while others were waited for.
    kept: Vec<Frame>,
}

impl H2 {
    /// Connects and says nothing.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// A connection that is there already.
    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), pending: Vec::new(), kept: Vec::new() }
    }

    /// Connects and sends the preface, with no room for HPACK's dynamic table on our side.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[]).await
    }

    /// The same with further settings.
    pub(crate) async fn open_with(address: SocketAddr, more: &[(u16, u32)]) -> Self {
        let mut client = Self::connect(address).await;
        client.begin(more).await;
        client
    }

    /// Sends the preface with these settings.
    pub(crate) async fn begin(&mut self, more: &[(u16, u32)]) {
        let settings = [&[(1, 0)], more].concat();
        self.send(PREFACE).await;
        self.send(frame(SETTINGS, 0, 0, payload(&settings))).await;
    }

    /// Sends these bytes. A peer that has closed already is not a failure: what it said may be there.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("room to send", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// The next frame that is neither SETTINGS nor WINDOW_UPDATE; `None` at the end. SETTINGS and
    /// PING are acknowledged on the way.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any().await?;
            match frame.kind {
                SETTINGS if !frame.has(ACK) => drop(self.send(super::h2::frame(SETTINGS, ACK, 0, [])).await),
                PING if !frame.has(ACK) => drop(self.send(super::h2::frame(PING, ACK, 0, &frame.payload)).await),
                SETTINGS | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next frame, whatever it is.
    pub(crate) async fn any(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.pending.get(..9) {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
                if self.pending.len() >= 9 + length {
                    let payload = self.pending.drain(..9 + length).skip(9).collect();
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            self.pending.reserve(16 * 1024);
            let read = soon("a frame or the end", self.stream.read_buf(&mut self.pending)).await;
            if !read.is_ok_and(|read| read > 0) {
                return None;
            }
        }
    }

    /// The next frame of this kind; others are dropped. `None` when the end comes first.
    pub(crate) async fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind == kind => return Some(frame),
                None => return None,
                Some(_) => {}
            }
        }
    }

    /// What becomes of a stream. Frames of other streams are kept for when they are asked for.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body, mut trailers) = (None, Vec::new(), false);
        let mut kept = std::mem::take(&mut self.kept).into_iter();
        loop {
            let frame = match kept.next() {
                Some(frame) => frame,
                None => match self.next().await {
                    Some(frame) => frame,
                    None => return Outcome::Closed,
                },
            };
            match frame.kind {
                GOAWAY if frame.number(4) != code::NO_ERROR => return Outcome::GoAway(frame.number(4)),
                _ if frame.stream != stream => {
                    self.kept.push(frame);
                    continue;
                }
                RST_STREAM => {
                    self.kept.extend(kept);
                    return Outcome::Reset(frame.number(0));
                }
                HEADERS if status.is_none() => status = Some(frame.status()),
                HEADERS => trailers = true,
                DATA => body.extend_from_slice(&frame.payload),
                kind => panic!("frame {kind} on a stream"),
            }
            if frame.has(END_STREAM) {
                self.kept.extend(kept);
                let body = String::from_utf8_lossy(&body).into_owned();
                return Outcome::Answer { status: status.expect("a head"), body, trailers };
            }
        }
    }

    /// Sends these bytes and says what becomes of the stream.
    pub(crate) async fn exchange(&mut self, bytes: impl AsRef<[u8]>, stream: u32) -> Outcome {
        self.send(bytes).await;
        self.outcome(stream).await
    }

    /// Whether the gateway still answers a PING.
    pub(crate) async fn is_alive(&mut self) -> bool {
        let token = *b"are you?";
        self.send(frame(PING, 0, 0, token)).await;
        loop {
            match self.any().await {
                Some(frame) if frame.kind == PING && frame.has(ACK) && frame.payload == token => return true,
                Some(frame) if frame.kind == GOAWAY && frame.number(4) != code::NO_ERROR => return false,
                Some(frame) => self.kept.push(frame),
                None => return false,
            }
        }
    }

    /// The next RST_STREAM or GOAWAY with an error, or the end.
    pub(crate) async fn end_or_reset(&mut self) -> Outcome {
        while let Some(frame) = self.next().await {
            match frame.kind {
                RST_STREAM => return Outcome::Reset(frame.number(0)),
                GOAWAY if frame.number(4) != code::NO_ERROR => return Outcome::GoAway(frame.number(4)),
                _ => {}
            }
        }
        Outcome::Closed
    }

    /// Reads up to the end; returns the error code of the GOAWAY before it, if there was one.
    pub(crate) async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.any().await {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    }
}

/// The payload of a SETTINGS frame.
pub(crate) fn payload(settings: &[(u16, u32)]) -> Vec<u8> {
    settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect()
}
