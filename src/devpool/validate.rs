//! What members of a request may look like ("Amazon Cognito user pools API Reference", the
//! constraints of each member), and the texts for those that do not.

use std::collections::BTreeMap;

use super::refusal::Refusal;
use crate::cognito::wire::Attribute;

/// Checks one after the other and reports all that failed in one text, as Cognito does.
#[derive(Default)]
pub(super) struct Checks(Vec<String>);

impl Checks {
    /// A user name: 1 to 128 characters, none of them a space or a control character.
    #[must_use]
    pub(super) fn username(self, value: &str) -> Self {
        let plain = |letter: char| !letter.is_whitespace() && !letter.is_control();
        self.length("username", value, 1, 128).pattern(
            "username",
            value.chars().all(plain),
            r"[\p{L}\p{M}\p{S}\p{N}\p{P}]+",
        )
    }

    /// A password under the name that it has in the request: up to 256 characters without spaces.
    #[must_use]
    pub(super) fn password(self, name: &str, value: &str) -> Self {
        self.length(name, value, 1, 256).pattern(name, !value.contains(char::is_whitespace), r"[\S]+")
    }

    /// A confirmation code: 1 to 2048 characters without spaces.
    #[must_use]
    pub(super) fn code(self, value: &str) -> Self {
        self.length("confirmationCode", value, 1, 2048).pattern(
            "confirmationCode",
            !value.contains(char::is_whitespace),
            r"[\S]+",
        )
    }

    /// A length in characters.
    #[must_use]
    pub(super) fn length(mut self, name: &str, value: &str, least: usize, most: usize) -> Self {
        let length = value.chars().count();
        if length < least {
            self.failed(name, &format!("Member must have length greater than or equal to {least}"));
        } else if length > most {
            self.failed(name, &format!("Member must have length less than or equal to {most}"));
        }
        self
    }

    /// A number.
    #[must_use]
    pub(super) fn range(mut self, name: &str, value: u64, least: u64, most: u64) -> Self {
        if value < least {
            self.failed(name, &format!("Member must have value greater than or equal to {least}"));
        } else if value > most {
            self.failed(name, &format!("Member must have value less than or equal to {most}"));
        }
        self
    }

    /// One of a closed set of words.
    #[must_use]
    pub(super) fn one_of(mut self, name: &str, value: &str, words: &[&str]) -> Self {
        if !words.contains(&value) {
            self.failed(name, &format!("Member must satisfy enum value set: [{}]", words.join(", ")));
        }
        self
    }

    /// The verdict.
    ///
    /// # Errors
    /// InvalidParameterException that lists everything.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        let count = self.0.len();
        if count == 0 {
            return Ok(());
        }
        let noun = if count == 1 { "error" } else { "errors" };
        Err(Refusal::invalid(format!("{count} validation {noun} detected: {}", self.0.join("; "))))
    }

    fn pattern(mut self, name: &str, fits: bool, pattern: &str) -> Self {
        if !fits {
            self.failed(name, &format!("Member must satisfy regular expression pattern: {pattern}"));
        }
        self
    }

    fn failed(&mut self, name: &str, constraint: &str) {
        self.0.push(format!("Value at '{name}' failed to satisfy constraint: {constraint}"));
    }
}

/// The text for a member that has to be there.
pub(super) fn missing(member: &str) -> Refusal {
    let mut letters = member.chars();
    let name: String = letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect();
    Refusal::invalid(format!(
        "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must not be null"
    ))
}

/// Who writes attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// The user: nothing that says whether an address is verified.
    User,
    /// An administrator.
    Administrator,
}

/// Standard attributes of OpenID Connect Core 1.0 §5.1 that a user pool has.
const STANDARD: &[&str] = &[
    "address",
    "birthdate",
    "email",
    "family_name",
    "gender",
    "given_name",
    "locale",
    "middle_name",
    "name",
    "nickname",
    "phone_number",
    "picture",
    "preferred_username",
    "profile",
    "updated_at",
    "website",
    "zoneinfo",
];

/// Attributes of a request as a map. Any `custom:` attribute counts as declared: the embedded pool
/// has no schema to forget one in.
///
/// # Errors
/// InvalidParameterException for one that the schema lacks or a value of the wrong form,
/// NotAuthorizedException for one that the writer may not set.
pub(super) fn attributes(list: &[Attribute], writer: Writer) -> Result<BTreeMap<String, String>, Refusal> {
    let mut map = BTreeMap::new();
    for Attribute { name, value } in list {
        let value = value.as_deref().unwrap_or_default();
        Checks::default()
            .length("userAttributes.member.name", name, 1, 32)
            .length("userAttributes.member.value", value, 0, 2048)
            .finish()?;
        match name.as_str() {
            "email_verified" | "phone_number_verified" if writer == Writer::Administrator => {
                if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") {
                    return Err(Refusal::invalid(format!(
                        "Attributes did not conform to the schema: {name}: the value must be true or false"
                    )));
                }
                map.insert(name.clone(), value.to_ascii_lowercase());
                continue;
            }
            "email_verified" | "phone_number_verified" => {
                return Err(Refusal::not_authorized("A client attempted to write unauthorized attribute"));
            }
            "email" if !is_email(value) => return Err(Refusal::invalid("Invalid email address format.")),
            "phone_number" if !is_phone(value) => return Err(Refusal::invalid("Invalid phone number format.")),
            other if STANDARD.contains(&other) || other.strip_prefix("custom:").is_some_and(|own| !own.is_empty()) => {}
            other => {
                return Err(Refusal::invalid(format!(
                    "Attributes did not conform to the schema: Type for attribute {{{other}}} could not be determined"
                )));
            }
        }
        map.insert(name.clone(), value.to_owned());
    }
    Ok(map)
}

/// Good enough to send to: something, an at sign, a domain; no spaces.
pub(super) fn is_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
    })
}

/// A number in the form of ITU-T E.164: a plus sign and 1 to 15 digits.
fn is_phone(text: &str) -> bool {
    text.strip_prefix('+')
        .is_some_and(|digits| (1..=15).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(name: &str, value: &str) -> Vec<Attribute> {
        vec![Attribute { name: name.to_owned(), value: Some(value.to_owned()) }]
    }

    #[test]
    fn all_failures_stand_in_one_text() {
        let refusal = Checks::default().username("").password("password", "a b").finish().unwrap_err();
        assert_eq!(
            refusal.text,
            r"2 validation errors detected: Value at 'username' failed to satisfy constraint: Member must have length greater than or equal to 1; Value at 'password' failed to satisfy constraint: Member must satisfy regular expression pattern: [\S]+"
        );
        assert!(Checks::default().username("jürgen").code("123456").range("limit", 60, 0, 60).finish().is_ok());
        assert!(Checks::default().username(&"a".repeat(129)).finish().is_err());
        assert!(missing("ClientId").text.contains("'clientId'"));
    }

    #[test]
    fn attributes_are_held_against_the_schema_and_the_writer() {
        assert!(attributes(&attribute("email", "a@example.com"), Writer::User).is_ok());
        assert!(attributes(&attribute("custom:tenant", "a"), Writer::User).is_ok());
        assert!(
            attributes(&attribute("email_verified", "True"), Writer::Administrator)
                .is_ok_and(|map| map["email_verified"] == "true")
        );
        for (name, value) in [
            ("email_verified", "true"),
            ("email", "nobody"),
            ("phone_number", "123"),
            ("sub", "x"),
            ("cognito:groups", "admin"),
            ("custom:", "x"),
            ("nonsense", "x"),
        ] {
            assert!(attributes(&attribute(name, value), Writer::User).is_err(), "{name}");
        }
    }
}
