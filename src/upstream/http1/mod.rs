//! HTTP/1.1 as its client, over one socket.
//!
//! hyper's client runs each connection as a task of its own, which costs two hand-overs for each
//! exchange, and takes the request apart before it is known to have arrived. Here the exchange
//! itself reads and writes, and a request stays whole until its answer begins. Heads and chunks are
//! read by httparse, which is hyper's own parser.

mod body;
mod connection;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod pump;

pub(super) use connection::{Broken, Connection, Socket};
pub(super) use pump::{Failure, Pump};
