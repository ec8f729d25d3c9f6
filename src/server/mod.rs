//! The data plane's front: listeners, workers, connections.

mod body;
mod connection;
mod descriptors;
mod entrance;
pub mod framing;
pub(crate) mod http2;
mod inherited;
mod io;
mod preface;
mod proxied;
pub mod proxy_protocol;
mod socket;
pub mod tls;
mod upgrade;
mod worker;

pub use body::RequestBody;
pub use connection::{ConnectionLimits, Lifecycle, Service};
pub use descriptors::Descriptors;
pub use entrance::Entrance;
#[cfg(fuzzing)]
pub use http2::fuzzing;
pub use inherited::Inherited;
pub use io::Patience;
pub use socket::ListeningSocket;
pub use upgrade::{Upgrade, Upgraded};
pub use worker::{Admission, Inboxes, Terms, Workers};
