//! The data of a pool that no process serves, for the command line.

use serde_json::Value;

use super::operations::{self, Operation};
use super::service::Service;
use super::{Error, refusal};
use crate::clock::Clock;
use crate::config;

/// The operation was refused; the text is the exception's name and message.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Refused(#[from] refusal::Refusal);

/// An embedded pool's data, opened without a server. While it is open, no server can be.
pub struct Local {
    service: Service,
    clock: Clock,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Local")
    }
}

impl Local {
    /// Opens the data file, or makes it with everything that a first start of the server makes.
    ///
    /// # Errors
    /// When the pool is not embedded, a server has the file, or the file cannot be used.
    pub fn open(pool: &config::Pool, clock: Clock) -> Result<Self, Error> {
        let embedded = pool.embedded.as_ref().ok_or_else(|| Error::NotEmbedded(pool.name.to_string()))?;
        // Nothing that is done here issues a token, so the issuer does not matter.
        let base_url = format!("http://{}", embedded.address);
        let service = Service::open(pool, embedded.data.as_deref(), &embedded.users, base_url, clock.now())?;
        Ok(Self { service, clock })
    }

    /// Runs the operation that an `X-Amz-Target` names, as the server would for an administrator.
    /// Blocks.
    ///
    /// # Errors
    /// What the operation refuses.
    pub fn call(&self, target: &str, request: &Value) -> Result<Value, Refused> {
        let operation = Operation::find(target).ok_or_else(refusal::Refusal::unknown_operation)?;
        let reply = operations::run(&self.service, operation, request.to_string().as_bytes(), self.clock.now())?;
        // What an operation wrote as JSON is JSON; no bytes are no members.
        Ok(serde_json::from_slice(&reply).unwrap_or_default())
    }
}
