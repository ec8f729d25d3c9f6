//! The client of Amazon Cognito's user pool API, and what both of its ends share.

pub mod srp;
pub mod wire;
