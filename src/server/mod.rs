//! The data plane's front: listeners, workers, connections.

mod body;
mod connection;
mod descriptors;
mod entrance;
pub mod framing;
pub(crate) mod http2;
mod io;
mod preface;
pub mod tls;
mod worker;

pub use body::RequestBody;
pub use connection::{ConnectionLimits, Lifecycle, Service};
pub use descriptors::Descriptors;
pub use entrance::Entrance;
pub use io::Patience;
pub use worker::{Admission, Inboxes, Workers, bind};
