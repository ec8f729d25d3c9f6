//! The data plane's front: listeners, workers, connections.

mod body;
mod connection;
pub mod framing;
mod io;
pub mod tls;
mod worker;

pub use body::RequestBody;
pub use connection::{ConnectionLimits, Lifecycle, Service};
pub use io::Patience;
pub use worker::{Entrance, Workers, bind};
