//! `portcullis keygen`: a session key.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret;

/// Writes a fresh key of 32 random bytes as base64 to `out`, and a line on what to do with it to
/// `notes`. With standard output and standard error, `portcullis keygen > session.key` makes a key
/// file that holds nothing else.
///
/// # Errors
/// When one of the two cannot be written.
pub fn run(out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<()> {
    writeln!(notes, "# a session key: keep it secret, give it to every replica, name it in [session] keys")?;
    notes.flush()?;
    let key = Zeroizing::new(secret::random::<32>());
    writeln!(out, "{}", Zeroizing::new(STANDARD.encode(key.as_slice())).as_str())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keygen() -> (String, String) {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        run(&mut out, &mut notes).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())
    }

    #[test]
    fn a_key_is_32_fresh_bytes_on_one_line() {
        let (key, notes) = keygen();
        assert_eq!(STANDARD.decode(key.strip_suffix('\n').unwrap()).unwrap().len(), 32);
        assert!(notes.starts_with("# ") && notes.lines().count() == 1, "{notes}");
        assert_ne!(keygen().0, key);
    }
}
