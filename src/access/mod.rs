//! Who is calling, and may they.
//!
//! Three values in a row, each of which only its maker can build: a [`Credential`] says what the
//! request shows of its sender, a [`Permit`] that a route lets it pass, and a
//! [`identity::Vetted`] request is the only thing that can be sent to an upstream.

pub mod assertion;
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
    certificate: Option<Arc<str>>,
}

impl Permit {
    /// Whom it was given to; `None` for an anonymous caller.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Whom the TLS certificate was given to that the client showed, whether a rule asked for it or not.
    pub fn certificate(&self) -> Option<&Arc<str>> {
        self.certificate.as_ref()
    }

    /// The same, where the permit has served its purpose.
    pub fn into_principal(self) -> Option<Arc<Principal>> {
        self.principal
    }
}

/// The decision that it may not, with the exact reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The route wants a token and there is none.
    Missing,
    /// What is there is not good.
    Refused(Refusal),
    /// What is there is good but lacks something.
    Lacking(Lack),
}

/// What a caller lacks that has shown nothing bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// None of the groups that the rule names.
    Group,
    /// This scope.
    Scope(String),
    /// This claim, or a value of it that the rule takes.
    Claim(String),
    /// A TLS certificate that was given to somebody whom the rule names.
    Certificate,
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
            Self::Lacking(Lack::Certificate) => "certificate",
        }
    }
}

/// Decides on a request. Evaluated for every one, also when its token comes from the cache.
/// `certificate` tells whom the client's TLS certificate was given to, if it showed one.
///
/// # Errors
/// When the route does not let it pass.
pub fn authorize(access: &Access, credential: &Credential, certificate: Option<&Arc<str>>) -> Result<Permit, Denial> {
    let permit = |principal: Option<&Arc<Principal>>| {
        Ok(Permit { principal: principal.cloned(), certificate: certificate.cloned() })
    };
    match (access, credential) {
        (_, Credential::Refused(refusal @ Refusal::Ambiguous)) => Err(Denial::Refused(*refusal)),
        (Access::Public, _) | (Access::Optional, Credential::Absent) => permit(None),
        (_, Credential::Refused(refusal)) => Err(Denial::Refused(*refusal)),
        (Access::Optional, Credential::Accepted(principal)) => {
            satisfies(&Rule::default(), principal.verified.claims(), principal.verified.pool())?;
            permit(Some(principal))
        }
        (Access::Required(rule), Credential::Absent) => {
            shows(rule, certificate.map(|subject| &**subject))?;
            if rule.wants_token() { Err(Denial::Missing) } else { permit(None) }
        }
        (Access::Required(rule), Credential::Accepted(principal)) => {
            shows(rule, certificate.map(|subject| &**subject))?;
            satisfies(rule, principal.verified.claims(), principal.verified.pool())?;
            permit(Some(principal))
        }
    }
}

/// Holds the name in a client's TLS certificate against a rule.
///
/// # Errors
/// When the rule names others.
pub fn shows(rule: &Rule, certificate: Option<&str>) -> Result<(), Denial> {
    let is_named = || certificate.is_some_and(|subject| rule.certificates.iter().any(|named| named == subject));
    if rule.certificates.is_empty() || is_named() { Ok(()) } else { Err(Denial::Lacking(Lack::Certificate)) }
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::TokenUse;
    use crate::token::testing;

    fn accepted(claims: &Value) -> Credential {
        let verified = testing::verified(claims);
        let subject = verified.claims().sub.as_str().into();
        Credential::Accepted(Arc::new(Principal { verified, headers: Ok(Vec::new()), subject }))
    }

    /// Whether the decision is to let it pass, and as whom.
    fn decide(access: &Access, credential: &Credential) -> Result<Option<String>, Denial> {
        authorize(access, credential, None)
            .map(|permit| permit.principal().map(|principal| principal.subject().to_string()))
    }

    /// What a rule says of an access token with some claims more.
    fn hold(rule: &Rule, more: &Value) -> Result<(), Denial> {
        let mut claims = testing::access_claims();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let verified = testing::verified(&claims);
        satisfies(rule, verified.claims(), verified.pool())
    }

    fn refused(reason: Reason) -> Result<(), Denial> {
        Err(Denial::Refused(Refusal::Token(reason.into())))
    }

    fn refusals() -> Vec<Refusal> {
        let tokens = Reason::ALL.iter().map(|reason| token::Error::Refused(*reason));
        let tokens = tokens.chain([token::Error::KeysUnavailable]).map(Refusal::Token);
        tokens.chain([Refusal::Ambiguous, Refusal::Scheme]).collect()
    }

    #[test]
    fn every_access_meets_every_credential() {
        let required = Access::Required(Rule::default());
        let (user, id) = (accepted(&testing::access_claims()), accepted(&testing::id_claims()));
        let subject = Some("7f0c1f6e-0000-4000-8000-000000000001".to_owned());
        let wrong_use = Err(Denial::Refused(Refusal::Token(Reason::WrongUse.into())));

        assert_eq!(decide(&Access::Public, &Credential::Absent), Ok(None));
        assert_eq!(decide(&Access::Public, &user), Ok(None), "nobody looked, so nobody is named");
        assert_eq!(decide(&Access::Optional, &Credential::Absent), Ok(None));
        assert_eq!(decide(&Access::Optional, &user), Ok(subject.clone()));
        assert_eq!(decide(&Access::Optional, &id), wrong_use, "the pool's rule holds here as well");
        assert_eq!(decide(&required, &Credential::Absent), Err(Denial::Missing));
        assert_eq!(decide(&required, &user), Ok(subject));
        assert_eq!(decide(&required, &id), wrong_use);
        for refusal in refusals() {
            let credential = Credential::Refused(refusal);
            let public = if refusal == Refusal::Ambiguous { Err(Denial::Refused(refusal)) } else { Ok(None) };
            assert_eq!(decide(&Access::Public, &credential), public, "{refusal:?}");
            for access in [&Access::Optional, &required] {
                assert_eq!(decide(access, &credential), Err(Denial::Refused(refusal)), "{access:?}");
            }
        }
    }

    #[test]
    fn a_certificate_stands_beside_a_token_or_for_itself() {
        let named = Rule { certificates: vec!["CN=batch,O=Example".into(), "CN=backup".into()], ..Rule::default() };
        let both = Rule { pool: Some("main".into()), ..named.clone() };
        let lacking = Err(Denial::Lacking(Lack::Certificate));
        let user = accepted(&testing::access_claims());
        let bad = Credential::Refused(Refusal::Scheme);
        let decide = |rule: &Rule, credential: &Credential, certificate: Option<&str>| {
            let certificate = certificate.map(Arc::from);
            let permit = authorize(&Access::Required(rule.clone()), credential, certificate.as_ref())?;
            assert_eq!(permit.certificate(), certificate.as_ref());
            Ok(permit.principal().is_some())
        };
        for good in ["CN=batch,O=Example", "CN=backup"] {
            assert_eq!(decide(&named, &Credential::Absent, Some(good)), Ok(false), "it is enough");
            assert_eq!(decide(&named, &user, Some(good)), Ok(true), "a token that is there says who calls");
            assert_eq!(decide(&named, &bad, Some(good)), Err(Denial::Refused(Refusal::Scheme)));
            assert_eq!(decide(&both, &Credential::Absent, Some(good)), Err(Denial::Missing));
            assert_eq!(decide(&both, &user, Some(good)), Ok(true));
        }
        for other in [None, Some("CN=batch"), Some("CN=batch,O=Example,C=DE"), Some("cn=backup"), Some("")] {
            for (rule, credential) in [(&named, &Credential::Absent), (&named, &user), (&both, &user)] {
                assert_eq!(decide(rule, credential, other), lacking, "{other:?}");
            }
        }
        assert_eq!(decide(&Rule::default(), &Credential::Absent, Some("CN=backup")), Err(Denial::Missing));
    }

    #[test]
    fn every_denial_has_a_word_of_its_own() {
        let lacking =
            [Lack::Group, Lack::Scope("a".into()), Lack::Claim("a".into()), Lack::Certificate].map(Denial::Lacking);
        let denials = refusals().into_iter().map(Denial::Refused).chain(lacking).chain([Denial::Missing]);
        let words: Vec<&str> = denials.map(|denial| denial.as_str()).collect();
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len(), "{words:?}");
        assert_eq!(words.len(), Reason::ALL.len() + 3 + 4 + 1);
    }

    #[test]
    fn any_of_the_groups_and_all_of_the_scopes() {
        let groups = |names: &[&str]| {
            let groups = names.iter().map(|name| (*name).to_owned()).collect();
            hold(&Rule { groups, ..Rule::default() }, &json!({"cognito:groups": ["admin", "staff"]}))
        };
        assert_eq!(groups(&["staff"]), Ok(()));
        assert_eq!(groups(&["nobody", "admin"]), Ok(()));
        for bad in ["nobody", "Admin", "adm", "admin,staff", ""] {
            assert_eq!(groups(&[bad]), Err(Denial::Lacking(Lack::Group)), "{bad:?}");
        }
        let scopes = |names: &[&str]| {
            let scopes = names.iter().map(|name| (*name).to_owned()).collect();
            hold(&Rule { scopes, ..Rule::default() }, &json!({"scope": "a orders/read"}))
        };
        assert_eq!(scopes(&["orders/read", "a"]), Ok(()));
        assert_eq!(scopes(&["a", "b", "c"]), Err(Denial::Lacking(Lack::Scope("b".into()))), "the first that lacks");
        for bad in ["orders", "A", "a orders/read", ""] {
            assert_eq!(scopes(&[bad]), Err(Denial::Lacking(Lack::Scope(bad.into()))));
        }
    }

    #[test]
    fn claims_are_compared_whole() {
        let more = json!({
            "text": "a", "empty": "", "number": 5, "fraction": 1.5, "flag": true, "null": null,
            "list": ["a", 5, false], "nested": [["a"]], "objects": [{"a": "b"}], "object": {"a": "b"},
        });
        let claim = |name: &str, values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            hold(&Rule { claims: vec![(name.to_owned(), values)], ..Rule::default() }, &more).is_ok()
        };
        for (name, value) in [
            ("text", "a"),
            ("empty", ""),
            ("number", "5"),
            ("fraction", "1.5"),
            ("flag", "true"),
            ("list", "a"),
            ("list", "5"),
            ("list", "false"),
        ] {
            assert!(claim(name, &[value]), "{name} is {value}");
            assert!(claim(name, &["other", value]), "any of the values");
            assert!(!claim(name, &[]), "no value is any of none");
        }
        for (name, value) in [
            ("text", "A"),
            ("text", "a "),
            ("text", ""),
            ("empty", " "),
            ("number", "5.0"),
            ("number", "05"),
            ("flag", "1"),
            ("null", "null"),
            ("null", ""),
            ("list", "a,5"),
            ("list", r#"["a",5,false]"#),
            ("nested", "a"),
            ("nested", r#"["a"]"#),
            ("objects", "b"),
            ("object", "b"),
            ("object", r#"{"a":"b"}"#),
            ("absent", ""),
            ("absent", "null"),
        ] {
            assert!(!claim(name, &[value]), "{name} is not {value}");
        }
        let both = |second: &str| Rule {
            claims: vec![("text".into(), vec!["a".into()]), (second.into(), vec!["5".into()])],
            ..Rule::default()
        };
        assert_eq!(hold(&both("number"), &more), Ok(()));
        assert_eq!(hold(&both("flag"), &more), Err(Denial::Lacking(Lack::Claim("flag".into()))), "all of the claims");
    }

    #[test]
    fn use_client_and_pool_come_from_the_rule_or_else_from_the_pool() {
        let none = json!({});
        let uses = |uses: &[TokenUse]| hold(&Rule { token_use: Some(uses.to_vec()), ..Rule::default() }, &none);
        assert_eq!(uses(&[TokenUse::Id, TokenUse::Access]), Ok(()));
        assert_eq!(uses(&[TokenUse::Id]), refused(Reason::WrongUse));
        assert_eq!(uses(&[]), refused(Reason::WrongUse));
        let clients = |client: &str| hold(&Rule { clients: Some(vec![client.to_owned()]), ..Rule::default() }, &none);
        assert_eq!(clients(testing::CLIENT), Ok(()));
        assert_eq!(clients("other"), refused(Reason::WrongClient));
        let pool = |name: &str| hold(&Rule { pool: Some(name.into()), ..Rule::default() }, &none);
        assert_eq!(pool("main"), Ok(()));
        assert_eq!(pool("other"), refused(Reason::WrongIssuer));

        let verified = testing::verified(&testing::access_claims());
        let strict = Pool { clients: vec!["other".into()], token_use: vec![TokenUse::Id], ..testing::pool() };
        assert_eq!(satisfies(&Rule::default(), verified.claims(), &strict), refused(Reason::WrongUse));
        let access = Rule { token_use: Some(vec![TokenUse::Access]), ..Rule::default() };
        assert_eq!(satisfies(&access, verified.claims(), &strict), refused(Reason::WrongClient));
        let both = Rule { clients: Some(vec![testing::CLIENT.into()]), ..access };
        assert_eq!(satisfies(&both, verified.claims(), &strict), Ok(()));
    }
}
