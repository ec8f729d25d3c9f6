//! Blanks out literal secrets, so that a line of the file can be quoted.
//!
//! It works on the text and not on what was parsed, because files that cannot be parsed are quoted
//! as well, and a misspelled `client_secrt` hides no less than the right key does.

/// The text with every literal secret as stars. Lengths and lines stay, and with them all places.
pub(super) fn secrets(text: &str) -> String {
    let mut masked = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let word = word_at(text, at);
        if word.is_empty() {
            at += 1;
            continue;
        }
        let end = at + word.len();
        let lower = word.to_ascii_lowercase();
        if ["secr", "passw", "pwd"].iter().any(|part| lower.contains(part)) {
            mask_value(text, end, &mut masked);
        } else if text.get(end..).is_some_and(|rest| rest.starts_with("://")) {
            mask_user_info(text, end + 3, &mut masked);
        }
        at = end;
    }
    mask_private_keys(text, &mut masked);
    // Whole characters were replaced by as many stars as they have bytes: it is still UTF-8.
    String::from_utf8(masked).unwrap_or_default()
}

/// The bare word that starts here.
fn word_at(text: &str, at: usize) -> &str {
    let rest = text.get(at..).unwrap_or_default();
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

/// What stands behind the key that ends at `at`: everything to the end of the line or of a
/// multi-line string, but for `{ env = "…" }` and `{ file = "…" }`, which are no secrets.
fn mask_value(text: &str, at: usize, masked: &mut [u8]) {
    let rest = text.get(at..).unwrap_or_default();
    let value = rest.trim_start_matches(['"', '\'']).trim_start_matches([' ', '\t']);
    let Some(value) = value.strip_prefix('=') else { return };
    let value = value.trim_start_matches([' ', '\t']);
    let start = text.len() - value.len();
    let inner = value.strip_prefix('{').map(|inner| inner.trim_start_matches([' ', '\t']));
    if inner.is_some_and(|inner| matches!(word_at(inner, 0), "env" | "file")) {
        return;
    }
    let end = start + value_length(value);
    for (offset, byte) in masked.iter_mut().enumerate().take(end).skip(start) {
        let keep = matches!(text.as_bytes().get(offset), Some(b'\n' | b'\r' | b'"' | b'\''));
        if !keep {
            *byte = b'*';
        }
    }
}

/// How long a value is: a string with its quotes, or the rest of the line.
fn value_length(value: &str) -> usize {
    for (quote, escapes) in [("\"\"\"", true), ("'''", false), ("\"", true), ("'", false)] {
        let Some(body) = value.strip_prefix(quote) else { continue };
        let mut at = 0;
        while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
            if rest.starts_with(quote) {
                return at + 2 * quote.len();
            }
            if quote.len() == 1 && rest.starts_with('\n') {
                break;
            }
            let skipped = if escapes && rest.starts_with('\\') { 2 } else { 1 };
            at += rest.chars().take(skipped).map(char::len_utf8).sum::<usize>();
        }
        return at + quote.len();
    }
    value.find('\n').unwrap_or(value.len())
}

/// What stands between the lines that PEM begins and ends a private key with (RFC 7468 §2).
fn mask_private_keys(text: &str, masked: &mut [u8]) {
    const BEGINS: &str = "PRIVATE KEY-----";
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find(BEGINS)) {
        let start = at + found + BEGINS.len();
        let end = text.get(start..).and_then(|rest| rest.find("-----")).map_or(text.len(), |length| start + length);
        for byte in masked.iter_mut().take(end).skip(start) {
            if !matches!(*byte, b'\n' | b'\r') {
                *byte = b'*';
            }
        }
        // Behind the line that ends the key, whose last words are the same.
        at =
            text.get(end..).and_then(|rest| rest.find(BEGINS)).map_or(text.len(), |length| end + length + BEGINS.len());
    }
}

/// `user:password@` behind the `://` that ends at `at`.
fn mask_user_info(text: &str, at: usize, masked: &mut [u8]) {
    let rest = text.get(at..).unwrap_or_default();
    let authority = rest.find(|c: char| c == '/' || c == '"' || c == '\'' || c.is_whitespace()).unwrap_or(rest.len());
    let Some(end) = rest.get(..authority).and_then(|authority| authority.rfind('@')) else { return };
    for byte in masked.iter_mut().skip(at).take(end) {
        *byte = b'*';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_become_stars_and_nothing_moves() {
        for (text, expected) in [
            (r#"client_secret = "hunter2""#, r#"client_secret = "*******""#),
            (r#"client_secrt="hu\"nt" # x"#, r#"client_secrt="***"**" # x"#),
            (r#"{ password = 'a b', email = "e" }"#, r#"{ password = '***', email = "e" }"#),
            ("client_secret = \"\"\"a\nb\"\"\"\nx = 1", "client_secret = \"\"\"*\n*\"\"\"\nx = 1"),
            ("client_secret = hunter2\nx = 1", "client_secret = *******\nx = 1"),
            ("client_secret = \"hunter2\nx = 1", "client_secret = \"*******\nx = 1"),
            (r#"client_secret = { env = "NAME" }"#, r#"client_secret = { env = "NAME" }"#),
            (r#"client_secret = { literal = "s" }"#, r#"client_secret = ************"*"**"#),
            (r#""client_secret" = "é""#, r#""client_secret" = "**""#),
            (r#"url = "redis://user:pw@host/0""#, r#"url = "redis://*******@host/0""#),
            (r#"url = "https://host/a@b""#, r#"url = "https://host/a@b""#),
            (
                "keys = [\"\"\"-----BEGIN EC PRIVATE KEY-----\nMIG/h\n-----END EC PRIVATE KEY-----\"\"\"] # x",
                "keys = [\"\"\"-----BEGIN EC PRIVATE KEY-----\n*****\n-----END EC PRIVATE KEY-----\"\"\"] # x",
            ),
            ("[\"-----BEGIN PRIVATE KEY-----\\nMIG\"]\nx", "[\"-----BEGIN PRIVATE KEY-----*******\n*"),
            (r#"passwords are fun"#, r#"passwords are fun"#),
        ] {
            assert_eq!(secrets(text), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn lengths_and_line_ends_stay(text in r#"(\PC|\n|client_secret ?= ?|"|'|\\|://|@){0,40}"#) {
            let masked = secrets(&text);
            proptest::prop_assert_eq!(masked.len(), text.len());
            let ends = |text: &str| text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect::<Vec<_>>();
            proptest::prop_assert_eq!(ends(&masked), ends(&text));
        }
    }
}
