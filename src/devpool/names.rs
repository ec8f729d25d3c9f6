//! Ids, codes and masks, in the shapes that Cognito gives them.

use uuid::Uuid;

use crate::secret::random;

const DIGITS: &[u8] = b"0123456789";
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const SYMBOLS: &[u8] = b"!#%*+-=?@_";

/// A user pool id: the region, an underscore, nine letters and digits. Clients check this
/// shape, and take the region from it.
pub(super) fn pool_id(region: &str) -> String {
    format!("{region}_{}", text(9, &[DIGITS, UPPER, LOWER]))
}

/// An app client id: 26 lower-case letters and digits.
pub(super) fn client_id() -> String {
    text(26, &[LOWER, DIGITS])
}

/// An app client's secret: 52 lower-case letters and digits.
pub(super) fn client_secret() -> String {
    text(52, &[LOWER, DIGITS])
}

/// A verification code: six digits.
pub(super) fn code() -> String {
    text(6, &[DIGITS])
}

/// A temporary password that meets every policy a pool can have up to its length.
pub(super) fn temporary_password(length: usize) -> String {
    let classes = [UPPER, LOWER, DIGITS, SYMBOLS];
    let mut password: String = classes.iter().map(|class| text(1, &[class])).collect();
    password.push_str(&text(length.max(12) - classes.len(), &classes));
    password
}

/// A `sub`, `jti` or `event_id`.
pub(super) fn uuid() -> String {
    Uuid::new_v4().to_string()
}

/// The name under which a user stands in the store. Names are case-insensitive, as in a pool made
/// in the console, and so the lower-case form is the only one that any answer contains: whoever
/// types another case cannot tell from the answer whether the user exists.
pub(super) fn canonical(username: &str) -> String {
    username.to_lowercase()
}

/// The destination of a message as the caller may see it: `a***@e***`, `+*******1234`.
pub(super) fn masked(destination: &str) -> String {
    let initial = |text: &str| text.chars().next().map(String::from).unwrap_or_default();
    if let Some((local, domain)) = destination.split_once('@') {
        return format!("{}***@{}***", initial(local), initial(domain));
    }
    let digits = destination.chars().count().saturating_sub(1);
    let shown: String = destination.chars().skip(1 + digits.saturating_sub(4)).collect();
    format!("+{}{shown}", "*".repeat(digits.saturating_sub(4)))
}

/// `length` characters, each one equally likely to be any of the alphabets'.
fn text(length: usize, alphabets: &[&[u8]]) -> String {
    let alphabet = alphabets.concat();
    let pick = || {
        // The bias of a 64-bit remainder is below 2^-57.
        let index = u64::from_le_bytes(random()) % alphabet.len() as u64;
        alphabet.get(usize::try_from(index).unwrap_or_default()).copied().map_or('0', char::from)
    };
    std::iter::repeat_with(pick).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_shapes_that_clients_check() {
        let id = pool_id("eu-west-1");
        assert!(id.starts_with("eu-west-1_") && id.len() == 19, "{id}");
        assert_eq!((client_id().len(), client_secret().len(), code().len()), (26, 52, 6));
        assert!(code().bytes().all(|byte| byte.is_ascii_digit()));
        assert_ne!(client_id(), client_id());
    }

    #[test]
    fn destinations_are_masked() {
        assert_eq!(masked("alice@example.com"), "a***@e***");
        assert_eq!(masked("+12065550123"), "+*******0123");
        assert_eq!(masked("+12"), "+12");
    }

    #[test]
    fn every_class_is_in_a_temporary_password() {
        let password = temporary_password(8);
        assert_eq!(password.len(), 12);
        for class in [UPPER, LOWER, DIGITS, SYMBOLS] {
            assert!(password.bytes().any(|byte| class.contains(&byte)), "{password}");
        }
    }
}
