//! `portcullis keygen`: a session key, or a key for assertions.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::es256::SigningKey;
use crate::secret;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32 random bytes as base64.
    Session,
    /// A private key of the curve P-256 as PEM.
    Assertion,
}

/// Writes a fresh key to `out`, and a line on what to do with it to `notes`. With standard output and
/// standard error, `portcullis keygen > session.key` makes a key file that holds nothing else.
///
/// # Errors
/// When one of the two cannot be written.
pub fn run(kind: Kind, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<()> {
    let (what, section) = match kind {
        Kind::Session => ("a session key", "[session]"),
        Kind::Assertion => ("a key for assertions", "[assertion]"),
    };
    writeln!(notes, "# {what}: keep it secret, give it to every replica, name it in {section} keys")?;
    notes.flush()?;
    match kind {
        Kind::Session => {
            let key = Zeroizing::new(secret::random::<32>());
            writeln!(out, "{}", Zeroizing::new(STANDARD.encode(key.as_slice())).as_str())?;
        }
        Kind::Assertion => out.write_all(SigningKey::generate().to_pem().expose().as_bytes())?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn keygen(kind: Kind) -> (String, String) {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        run(kind, &mut out, &mut notes).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())
    }

    #[test]
    fn a_key_is_32_fresh_bytes_on_one_line() {
        let (key, notes) = keygen(Kind::Session);
        assert_eq!(STANDARD.decode(key.strip_suffix('\n').unwrap()).unwrap().len(), 32);
        assert!(notes.starts_with("# ") && notes.lines().count() == 1, "{notes}");
        assert_ne!(keygen(Kind::Session).0, key);
    }

    #[test]
    fn a_key_for_assertions_is_one() {
        let (pem, notes) = keygen(Kind::Assertion);
        assert!(notes.starts_with("# ") && notes.contains("[assertion]") && notes.lines().count() == 1, "{notes}");
        assert!(SigningKey::from_pem(&Secret::from(pem)).is_ok());
    }
}
