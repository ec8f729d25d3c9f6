//! State that outlives a request, in few verbs.
//!
//! What is revoked now; limits and sessions, and a store that replicas share, come on top.

mod memory;

pub use memory::Memory;

/// Which claim a revocation goes by (Cognito developer guide: `origin_jti` names a whole sign-in, `jti`
/// one token of it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Every token that came from one sign-in.
    OriginJti,
    /// One token.
    Jti,
}

impl Kind {
    /// The kind as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OriginJti => "origin_jti",
            Self::Jti => "jti",
        }
    }
}
