//! Who is calling, and may they.
//!
//! Three values in a row, each of which only its maker can build: a [`Credential`] says what the
//! request shows of its sender, a [`Permit`] that a route lets it pass, and a
//! [`identity::Vetted`] request is the only thing that can be sent to an upstream.

pub mod authenticate;
pub mod forwarded;
pub mod identity;

use std::sync::Arc;

use crate::config::{Access, Pool, Rule};
use crate::token::{self, Claims, Reason, Verified};

pub use authenticate::Authenticator;

/// What a request shows of its sender. Absent and refused are not the same: what is there and bad
/// never becomes anonymous.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing.
    Absent,
    /// A token that was verified and is not revoked.
    Accepted(Arc<Principal>),
    /// Something that is not good.
    Refused(Refusal),
}

/// Why a credential is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is more than one: taking either would be a guess.
    Ambiguous,
    /// It is not a bearer token (RFC 6750 §2.1).
    Scheme,
    /// The token is not good, or nobody can tell at present.
    Token(token::Error),
}

impl Refusal {
    /// The exact reason, for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Scheme => "scheme",
            Self::Token(token::Error::Refused(reason)) => reason.as_str(),
            Self::Token(token::Error::KeysUnavailable) => "keys_unavailable",
        }
    }
}

/// A verified caller, with what every request of theirs needs prepared.
#[derive(Debug)]
pub struct Principal {
    verified: Verified,
    headers: Result<identity::Headers, identity::Unrepresentable>,
    subject: Arc<str>,
}

impl Principal {
    /// The token behind it.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The `sub` claim.
    pub fn subject(&self) -> &Arc<str> {
        &self.subject
    }
}

/// The decision that a request may pass. Only [`authorize`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    principal: Option<Arc<Principal>>,
}

impl Permit {
    /// Whom it was given to; `None` for an anonymous caller.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }
}

/// The decision that it may not, with the exact reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The route wants a token and there is none.
    Missing,
    /// What is there is not good.
    Refused(Refusal),
    /// The token is good but lacks something.
    Lacking(Lack),
}

/// What a good token lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// None of the groups that the rule names.
    Group,
    /// This scope.
    Scope(String),
    /// This claim, or a value of it that the rule takes.
    Claim(String),
}

impl Denial {
    /// The exact reason, for logs, metrics and `explain`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Refused(refusal) => refusal.as_str(),
            Self::Lacking(Lack::Group) => "group",
            Self::Lacking(Lack::Scope(_)) => "scope",
            Self::Lacking(Lack::Claim(_)) => "claim",
        }
    }
}

/// Decides on a request. Evaluated for every one, also when its token comes from the cache.
///
/// # Errors
/// When the route does not let it pass.
pub fn authorize(access: &Access, credential: &Credential) -> Result<Permit, Denial> {
    match (access, credential) {
        (Access::Public, _) | (Access::Optional, Credential::Absent) => Ok(Permit { principal: None }),
        (Access::Required(_), Credential::Absent) => Err(Denial::Missing),
        (_, Credential::Refused(refusal)) => Err(Denial::Refused(*refusal)),
        (Access::Optional, Credential::Accepted(principal)) => permit(&Rule::default(), principal),
        (Access::Required(rule), Credential::Accepted(principal)) => permit(rule, principal),
    }
}

fn permit(rule: &Rule, principal: &Arc<Principal>) -> Result<Permit, Denial> {
    satisfies(rule, principal.verified.claims(), principal.verified.pool())?;
    Ok(Permit { principal: Some(Arc::clone(principal)) })
}

/// Holds the claims of a token of `pool` against a rule.
///
/// # Errors
/// The first thing that is not as the rule wants it.
pub fn satisfies(rule: &Rule, claims: &Claims, pool: &Pool) -> Result<(), Denial> {
    let refused = |reason| Err(Denial::Refused(Refusal::Token(token::Error::Refused(reason))));
    if rule.pool.as_ref().is_some_and(|name| *name != pool.name) {
        return refused(Reason::WrongIssuer);
    }
    if !rule.token_use.as_ref().unwrap_or(&pool.token_use).contains(&claims.token_use) {
        return refused(Reason::WrongUse);
    }
    if !rule.clients.as_ref().unwrap_or(&pool.clients).contains(&claims.client) {
        return refused(Reason::WrongClient);
    }
    if !rule.groups.is_empty() && !rule.groups.iter().any(|group| claims.groups.contains(group)) {
        return Err(Denial::Lacking(Lack::Group));
    }
    if let Some(scope) = rule.scopes.iter().find(|wanted| !claims.scopes().any(|scope| scope == *wanted)) {
        return Err(Denial::Lacking(Lack::Scope(scope.clone())));
    }
    let fits = |(name, values): &&(String, Vec<String>)| {
        claims.get(name).is_some_and(|claim| values.iter().any(|value| is_value(claim, value)))
    };
    if let Some((name, _)) = rule.claims.iter().find(|wanted| !fits(wanted)) {
        return Err(Denial::Lacking(Lack::Claim(name.clone())));
    }
    Ok(())
}

/// Whether a claim is, or as a list contains, the wanted text. Compared whole, never in part:
/// numbers and booleans by their JSON text.
fn is_value(claim: &serde_json::Value, wanted: &str) -> bool {
    match claim {
        serde_json::Value::String(text) => text == wanted,
        serde_json::Value::Number(number) => number.to_string() == wanted,
        serde_json::Value::Bool(flag) => flag.to_string() == wanted,
        serde_json::Value::Array(members) => {
            members.iter().any(|member| !member.is_array() && is_value(member, wanted))
        }
        serde_json::Value::Null | serde_json::Value::Object(_) => false,
    }
}
