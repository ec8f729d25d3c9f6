//! What the gateway needs to know of a certificate and rustls does not tell: the host names and the
//! end of its life (RFC 5280 §4.1). Whether it is sound is rustls's to judge.

use crate::clock::Timestamp;
use crate::distinguished_name::{self, Value};

/// `id-ce-subjectAltName`, RFC 5280 §4.2.1.6.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// DNS names, in lower case, in their order. What is no host name is left out.
    pub(super) names: Vec<String>,
    /// The last second of its life.
    pub(super) not_after: Timestamp,
}

/// Reads a DER certificate. `None` when it is not one.
pub(super) fn facts(certificate: &[u8]) -> Option<Facts> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.take(SEQUENCE)?);
    let mut signed = Reader(certificate.take(SEQUENCE)?);
    signed.take_if(VERSION);
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        signed.next()?;
    }
    let mut validity = Reader(signed.take(SEQUENCE)?);
    validity.next()?;
    let (kind, time) = validity.next()?;
    // The clock begins in 1970, and what ended before has ended.
    let not_after = Timestamp::from_seconds(u64::try_from(time_of(kind, time)?).unwrap_or(0));
    let mut names = Vec::new();
    // Subject, public key, and in old certificates two identifiers lie before the extensions.
    while let Some((tag, content)) = signed.next() {
        if tag == EXTENSIONS {
            names = alternative_names(content).unwrap_or_default();
        }
    }
    Some(Facts { names, not_after })
}

/// The subject of a DER certificate as text. `None` when it has none, or is no certificate.
pub(super) fn subject(certificate: &[u8]) -> Option<String> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.take(SEQUENCE)?);
    let mut signed = Reader(certificate.take(SEQUENCE)?);
    signed.take_if(VERSION);
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        signed.next()?;
    }
    let mut parts = Vec::new();
    let mut name = Reader(signed.take(SEQUENCE)?);
    while !name.0.is_empty() {
        let (mut part, mut attributes) = (Reader(name.take(SET)?), Vec::new());
        while !part.0.is_empty() {
            let mut attribute = Reader(part.take(SEQUENCE)?);
            let kind = numbers(attribute.take(OBJECT_IDENTIFIER)?)?;
            let encoded = attribute.0;
            let value = match attribute.next()? {
                (UTF8_STRING | NUMERIC_STRING | PRINTABLE_STRING | IA5_STRING, text) => {
                    Value::Text(std::str::from_utf8(text).ok()?)
                }
                _ => Value::Encoded(encoded),
            };
            attributes.push((kind, value));
        }
        parts.push(attributes);
    }
    Some(distinguished_name::text(&parts)).filter(|text| !text.is_empty())
}

/// An object identifier with dots (X.690 §8.19).
fn numbers(bytes: &[u8]) -> Option<String> {
    let (mut all, mut number) = (Vec::new(), 0_u64);
    for byte in bytes {
        number = number.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            all.push(std::mem::take(&mut number));
        }
    }
    let first = *all.first()?;
    let root = (first / 40).min(2);
    let rest = all.iter().skip(1).map(ToString::to_string);
    let all = [root.to_string(), (first - root * 40).to_string()].into_iter().chain(rest);
    Some(all.collect::<Vec<_>>().join("."))
}

fn alternative_names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut extensions = Reader(Reader(extensions).take(SEQUENCE)?);
    while let Some(extension) = extensions.take(SEQUENCE) {
        let mut extension = Reader(extension);
        let is_wanted = extension.take(OBJECT_IDENTIFIER)? == SUBJECT_ALT_NAME;
        extension.take_if(BOOLEAN);
        if !is_wanted {
            continue;
        }
        let mut value = Reader(extension.take(OCTET_STRING)?);
        let mut general = Reader(value.take(SEQUENCE)?);
        let mut names = Vec::new();
        while let Some((tag, content)) = general.next() {
            if tag == DNS_NAME {
                names.extend(host_name(content));
            }
        }
        return Some(names);
    }
    None
}

/// A name that a client can ask for; a NUL or a space in it would be somebody's attempt.
fn host_name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!labels.is_empty() && labels.bytes().all(fits)).then(|| text.to_ascii_lowercase())
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5), in seconds since 1970.
fn time_of(kind: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let mut parts = rest.chunks(2).map(number);
    let mut part = |limits: std::ops::RangeInclusive<i64>| parts.next()?.filter(|part| limits.contains(part));
    let (month, day, hour, minute, second) =
        (part(1..=12)?, part(1..=31)?, part(0..=23)?, part(0..=59)?, part(0..=60)?);
    // Days before a date of the Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &[u8]) -> Option<i64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Elements one after the other (X.690 §8.1), with definite lengths as DER has them.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Passes over the next element if it has this tag.
    fn take_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str], not_after: (i32, u8, u8)) -> Vec<u8> {
        let mut wanted =
            rcgen::CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        wanted.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
        let key = rcgen::KeyPair::generate().unwrap();
        wanted.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_the_end_are_read() {
        let names = ["App.example", "*.example.org", "127.0.0.1"];
        let found = facts(&certificate(&names, (2031, 2, 28))).unwrap();
        assert_eq!(found.names, ["app.example", "*.example.org"], "an address is no name");
        assert_eq!(found.not_after.seconds(), 1_930_003_200);
        // From 2050 on the time has four digits for the year.
        let found = facts(&certificate(&[], (2100, 3, 1))).unwrap();
        assert_eq!((found.names.len(), found.not_after.seconds()), (0, 4_107_542_400));
    }

    #[test]
    fn the_subject_is_text() {
        let mut wanted = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CountryName, "DE");
        name.push(rcgen::DnType::OrganizationName, "Über, uns");
        name.push(rcgen::DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), "batch");
        name.push(rcgen::DnType::CommonName, "app");
        wanted.distinguished_name = name;
        let key = rcgen::KeyPair::generate().unwrap();
        let whole = wanted.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(subject(&whole).as_deref(), Some("CN=app,UID=batch,O=Über\\, uns,C=DE"));
        for end in 0..whole.len() {
            assert_eq!(subject(&whole[..end]), None, "{end}");
        }
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        assert_eq!(subject(wanted.self_signed(&key).unwrap().der()), None, "a name without parts is nobody's");
    }

    #[test]
    fn names_that_nobody_can_ask_for_are_left_out() {
        for (bytes, name) in [
            (&b"a.example"[..], Some("a.example")),
            (b"*.A.example", Some("*.a.example")),
            (b"good.example\0.evil.example", None),
            (b"a*.example", None),
            (b"*.", None),
            (b"", None),
            (b"\xff", None),
        ] {
            assert_eq!(host_name(bytes).as_deref(), name);
        }
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(time_of(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time_of(UTC_TIME, b"240229235959Z"), Some(1_709_251_199));
        assert_eq!(time_of(GENERALIZED_TIME, b"20500101000000Z"), Some(2_524_608_000));
        for bad in [&b"7001010000Z"[..], b"700101000000", b"701301000000Z", b"7001010x0000Z", b""] {
            assert_eq!(time_of(UTC_TIME, bad), None);
        }
        assert_eq!(time_of(SEQUENCE, b"700101000000Z"), None);
    }

    #[test]
    fn no_cut_of_a_certificate_is_one() {
        let whole = certificate(&["a.example"], (2031, 1, 1));
        for end in 0..whole.len() {
            assert_eq!(facts(&whole[..end]), None, "{end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn bytes_are_no_reason_to_panic(at in 0usize..400, byte: u8) {
            let mut bytes = certificate(&["a.example"], (2031, 1, 1));
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _read = facts(&bytes).is_some();
            let _named = subject(&bytes).is_some();
        }
    }
}
