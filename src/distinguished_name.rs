//! Names of certificates' owners, as text (RFC 4514).
//!
//! There are many texts for one name. Here each has one: types by their short names, no spaces
//! between the parts, only what must be escaped is, and parts of one rank are sorted. So two names
//! are the same when their texts are.

/// Types that have a short name (RFC 4514 §3, and two more that OpenSSL knows).
const TYPES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// Something else, as its DER encoding.
    Encoded(&'a [u8]),
}

/// The text of a name: the parts in the order of a certificate, each with its attributes by the
/// number of their type.
pub fn text(parts: &[Vec<(String, Value<'_>)>]) -> String {
    let attribute = |(kind, value): &(String, Value<'_>)| match (short(kind), value) {
        (Some(short), Value::Text(text)) => format!("{short}={}", escaped(text)),
        (short, Value::Encoded(bytes)) => format!("{}=#{}", short.unwrap_or(kind), hex(bytes)),
        // RFC 4514 §2.4 wants the encoding of what has no short name; the text is what people see.
        (None, Value::Text(text)) => format!("{kind}={}", escaped(text)),
    };
    let parts = parts.iter().rev().map(|part| joined(part.iter().map(attribute).collect()));
    parts.collect::<Vec<_>>().join(",")
}

/// The one text for the name that somebody wrote. `None` when it is none.
pub fn normal(written: &str) -> Option<String> {
    let mut rest = written;
    let (mut parts, mut part) = (Vec::new(), Vec::new());
    loop {
        let (kind, after) = rest.split_once('=')?;
        let kind = kind.trim_matches(' ');
        let is_number = kind.split('.').count() > 1
            && kind.split('.').all(|arc| !arc.is_empty() && arc.bytes().all(|byte| byte.is_ascii_digit()));
        let kind = match TYPES.iter().find(|(number, short)| *number == kind || short.eq_ignore_ascii_case(kind)) {
            Some((_, short)) => short,
            None if is_number => kind,
            None => return None,
        };
        let (value, end, after) = value(after)?;
        part.push(format!("{kind}={value}"));
        if end != Some('+') {
            parts.push(joined(std::mem::take(&mut part)));
        }
        if end.is_none() {
            return Some(parts.join(","));
        }
        rest = after;
    }
}

/// Reads a value up to its end; returns its normal text, what ended it, and what follows.
fn value(text: &str) -> Option<(String, Option<char>, &str)> {
    let text = text.trim_start_matches(' ');
    let (mut bytes, mut length, mut escape) = (Vec::new(), 0, false);
    let mut characters = text.char_indices();
    let (end, rest) = loop {
        match characters.next() {
            None => break (None, ""),
            Some((at, end @ (',' | '+'))) => break (Some(end), text.get(at + 1..)?),
            Some((_, '"' | ';' | '<' | '>')) => return None,
            Some((_, '\\')) => {
                let (_, first) = characters.next()?;
                if first.is_ascii_hexdigit() {
                    let (_, second) = characters.next()?;
                    bytes.push(u8::try_from(first.to_digit(16)? << 4 | second.to_digit(16)?).ok()?);
                } else if " \"#+,;<=>\\".contains(first) {
                    bytes.push(u8::try_from(first).ok()?);
                } else {
                    return None;
                }
                (length, escape) = (bytes.len(), true);
            }
            Some((_, character)) => {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                if character != ' ' {
                    length = bytes.len();
                }
            }
        }
    };
    // Spaces before the end count only when they are escaped.
    bytes.truncate(length);
    let text = String::from_utf8(bytes).ok()?;
    let encoded = text.strip_prefix('#').filter(|_| !escape);
    let value = match encoded {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("#{}", digits.to_ascii_lowercase())
        }
        Some(_) => return None,
        None => escaped(&text),
    };
    Some((value, end, rest))
}

fn short(number: &str) -> Option<&'static str> {
    TYPES.iter().find(|(known, _)| *known == number).map(|(_, short)| *short)
}

/// Attributes of one rank, in an order of their own.
fn joined(mut attributes: Vec<String>) -> String {
    attributes.sort();
    attributes.join("+")
}

fn escaped(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut escaped = String::with_capacity(text.len());
    for (at, character) in text.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => escaped.extend(['\\', character]),
            ' ' if at == 0 || at == last => escaped.push_str("\\ "),
            '#' if at == 0 => escaped.push_str("\\#"),
            _ if character.is_control() => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    escaped.push_str(&format!("\\{byte:02x}"));
                }
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_name_has_one_text() {
        for (written, normal_text) in [
            ("CN=app", "CN=app"),
            ("cn = app , o = Example GmbH ,C=DE", "CN=app,O=Example GmbH,C=DE"),
            ("2.5.4.3=app", "CN=app"),
            ("UID=u+CN=app,DC=example", "CN=app+UID=u,DC=example"),
            ("CN=a\\,b", "CN=a\\,b"),
            ("CN=a\\2cb", "CN=a\\,b"),
            ("CN=\\C3\\BCber", "CN=über"),
            ("CN=\\ a\\ ", "CN=\\ a\\ "),
            ("CN=\\#1", "CN=\\#1"),
            ("CN=a\\=b=c", "CN=a=b=c"),
            ("1.2.3=#0C0161", "1.2.3=#0c0161"),
            ("EMAILADDRESS=a@example.org", "emailAddress=a@example.org"),
            ("CN=a\\00b", "CN=a\\00b"),
            ("CN=", "CN="),
        ] {
            assert_eq!(normal(written).as_deref(), Some(normal_text), "{written}");
            assert_eq!(normal(normal_text).as_deref(), Some(normal_text), "{normal_text}");
        }
    }

    #[test]
    fn what_is_no_name_has_no_text() {
        for written in [
            "",
            "app",
            "CN",
            "CN=a,",
            "CN=a,,O=b",
            "=a",
            "XY=a",
            "1=a",
            "1..2=a",
            "/CN=app/O=b",
            "CN=\"a\"",
            "CN=a;O=b",
            "CN=a\\",
            "CN=a\\x",
            "CN=a\\4",
            "CN=#zz",
            "CN=\\ff",
        ] {
            assert_eq!(normal(written), None, "{written}");
        }
    }

    #[test]
    fn a_certificates_name_begins_with_its_last_part() {
        let name = [
            vec![("2.5.4.6".to_owned(), Value::Text("DE"))],
            vec![
                ("0.9.2342.19200300.100.1.1".to_owned(), Value::Text("u")),
                ("2.5.4.3".to_owned(), Value::Text("a, b")),
            ],
            vec![("2.5.4.97".to_owned(), Value::Text("id")), ("2.5.4.11".to_owned(), Value::Encoded(&[0x1e, 1, 0xff]))],
        ];
        assert_eq!(text(&name), "2.5.4.97=id+OU=#1e01ff,CN=a\\, b+UID=u,C=DE");
        assert_eq!(text(&[]), "");
    }

    proptest! {
        #[test]
        fn the_text_of_a_name_stands_for_itself(a in any::<String>(), b in any::<String>()) {
            let name = [vec![("2.5.4.10".to_owned(), Value::Text(&a))], vec![("2.5.4.3".to_owned(), Value::Text(&b))]];
            let text = text(&name);
            prop_assert_eq!(normal(&text), Some(text));
        }

        #[test]
        fn no_text_is_a_reason_to_panic(text in any::<String>()) {
            if let Some(once) = normal(&text) {
                prop_assert_eq!(normal(&once), Some(once));
            }
        }
    }
}
