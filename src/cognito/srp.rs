//! SRP-6a as Cognito speaks it, both ends, without I/O.
//!
//! It is RFC 5054's 3072-bit group with SHA-256, but with encodings of its own: numbers are hashed
//! in the shortest two's-complement form (one zero byte in front only if the top bit is set), travel
//! as hex without leading zeros, and the key comes from one block of HKDF with the info text
//! "Caldera Derived Key". Device sign-in is the same with the device group key as pool name and the
//! device key as user id.
//!
//! The exponentiations take milliseconds: callers keep them off the threads that serve requests.

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use crypto_bigint::modular::ConstMontyForm;
use crypto_bigint::{U256, U512, U1536, U3072, const_monty_params};

use crate::clock::Timestamp;
use crate::secret::{Secret, constant_time_eq, random};

/// Bytes of a group element.
const ELEMENT: usize = 384;
/// Bytes of the private numbers that we draw: as strong as the group.
const PRIVATE: usize = 32;
/// Bytes of the largest private number that is taken from a caller.
const PRIVATE_MAX: usize = 128;
/// Bytes of the product of two hashes.
const PRODUCT: usize = 64;

const_monty_params!(
    Modulus,
    U3072,
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa051015728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200cbbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a93ad2caffffffffffffffff",
    "RFC 3526 group 15, the prime N of every exchange."
);

/// A number modulo N.
type Element = ConstMontyForm<Modulus, { U3072::LIMBS }>;

/// The generator g.
const GENERATOR: Element = Element::new(&U3072::from_u8(2));
/// k = H(pad(N) ‖ pad(g)); a test computes it.
const MULTIPLIER: Element = Element::new(
    &U256::from_be_hex("538282c4354742d7cbbde2359fcf67f9f5b3a6b08791e5011b43b8a5b66d9ee6").resize::<{ U3072::LIMBS }>(),
);

/// Why an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The named value is not a hex or base64 text of acceptable size.
    #[error("{0} is not in the form that SRP uses")]
    Malformed(&'static str),
    /// A public value is zero modulo N, or the scrambling parameter is zero: going on would make
    /// the result independent of the password.
    #[error("a public value is degenerate")]
    Degenerate,
    /// The other end does not know the password.
    #[error("the password proof does not match")]
    Mismatch,
}

/// Whose password is proven, in which pool.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// What follows the underscore in the pool id; for devices the device group key.
    pub pool_name: &'a str,
    /// `USER_ID_FOR_SRP`, never the alias that was typed; for devices the device key.
    pub user_id: &'a str,
}

/// A public number: salt, `SRP_A` or `SRP_B`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// Big-endian without leading zeros; empty for zero.
    bytes: Vec<u8>,
}

impl Number {
    /// The number that big-endian bytes stand for.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self { bytes: bytes.iter().skip(zeros).copied().collect() }
    }

    /// Reads hex of either case, with or without leading zeros. `name` goes into the error.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is empty, not hex, or longer than 3072 bits.
    pub fn from_hex(text: &str, name: &'static str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > 2 * ELEMENT {
            return Err(Error::Malformed(name));
        }
        let mut bytes = Vec::with_capacity(ELEMENT);
        let mut high = None;
        // A text of odd length begins with half a byte.
        if text.len() % 2 == 1 {
            high = Some(0);
        }
        for digit in text.chars() {
            let digit = digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(Error::Malformed(name))?;
            match high.take() {
                Some(high) => bytes.push(high << 4 | digit),
                None => high = Some(digit),
            }
        }
        Ok(Self::from_bytes(&bytes))
    }

    /// Lower-case hex without leading zeros, possibly of odd length, as it travels.
    pub fn to_hex(&self) -> String {
        let text: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match text.trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_owned(),
        }
    }

    /// As it is hashed: Java's `BigInteger.toByteArray`.
    fn padded(&self) -> Vec<u8> {
        padded(&self.bytes)
    }

    /// As a member of the group, unless it is zero modulo N.
    fn element(&self, name: &'static str) -> Result<Element, Error> {
        let element = Element::new(&U3072::from_be_slice(&widened::<ELEMENT>(&self.bytes, name)?));
        if element == Element::ZERO { Err(Error::Degenerate) } else { Ok(element) }
    }
}

impl From<Element> for Number {
    fn from(element: Element) -> Self {
        Self::from_bytes(element.retrieve().to_be_bytes().as_slice())
    }
}

/// What a pool stores in place of the password: v = g^x mod N. Whoever reads it can guess passwords
/// at the speed of SHA-256.
#[derive(Clone, Debug, PartialEq)]
pub struct Verifier(Secret<Vec<u8>>);

impl Verifier {
    /// From what [`Verifier::expose`] gave.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() == ELEMENT { Ok(Self(Secret::new(bytes.to_vec()))) } else { Err(Error::Malformed("verifier")) }
    }

    /// 384 bytes, big-endian, for storage.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    fn element(&self) -> Result<Element, Error> {
        Number::from_bytes(self.expose()).element("verifier")
    }
}

/// Computes what a pool stores for a user. Two verifiers are equal exactly if the passwords are.
pub fn verifier(who: Identity<'_>, password: &str, salt: &Number) -> Verifier {
    let element = GENERATOR.pow(&private_key(who, password, salt));
    Verifier(Secret::new(element.retrieve().to_be_bytes().as_slice().to_vec()))
}

/// The client's first message and the secret behind it.
#[derive(Debug)]
pub struct ClientStart {
    private: Secret<Vec<u8>>,
    public: Number,
}

impl ClientStart {
    /// An exchange with a fresh secret.
    ///
    /// # Errors
    /// Never in practice; see [`ClientStart::new`].
    pub fn random() -> Result<Self, Error> {
        Self::new(&random::<PRIVATE>())
    }

    /// An exchange with a given secret of at most 128 bytes, for tests against known answers.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the secret is longer.
    pub fn new(a: &[u8]) -> Result<Self, Error> {
        let public = Number::from(power(GENERATOR, &exponent(a, "a")?, a.len()));
        Ok(Self { private: Secret::new(a.to_vec()), public })
    }

    /// `SRP_A` for InitiateAuth.
    pub fn srp_a(&self) -> String {
        self.public.to_hex()
    }

    /// Answers PASSWORD_VERIFIER: `PASSWORD_CLAIM_SIGNATURE` for `SALT`, `SRP_B` and `SECRET_BLOCK`
    /// of the challenge and the `TIMESTAMP` that is sent along.
    ///
    /// # Errors
    /// When the challenge is malformed or would make the proof worthless.
    pub fn respond(
        &self,
        who: Identity<'_>,
        password: &str,
        salt: &str,
        srp_b: &str,
        secret_block: &str,
        timestamp: &str,
    ) -> Result<String, Error> {
        let salt = Number::from_hex(salt, "SALT")?;
        let srp_b = Number::from_hex(srp_b, "SRP_B")?;
        let b = srp_b.element("SRP_B")?;
        let scrambler = Scrambler::new(&self.public, &srp_b)?;
        let x = private_key(who, password, &salt);
        let product: U512 = scrambler.0.concatenating_mul(&x);
        // At most 1024 bits and 512 bits: the sum cannot wrap around 1536.
        let exponent = exponent(self.private.expose(), "a")?.wrapping_add(&product.resize());
        let length = self.private.expose().len().max(PRODUCT) + 1;
        let shared = power(b - MULTIPLIER * GENERATOR.pow(&x), &exponent, length);
        let proof = prove(&scrambler, shared, who, secret_block, timestamp)?;
        Ok(STANDARD.encode(proof))
    }
}

/// The server's side of one exchange.
#[derive(Clone, Debug)]
pub struct ServerStart {
    private: Secret<Vec<u8>>,
    verifier: Verifier,
    public: Number,
}

impl ServerStart {
    /// An exchange with a fresh secret.
    ///
    /// # Errors
    /// [`Error::Degenerate`] when the verifier is zero.
    pub fn random(verifier: &Verifier) -> Result<Self, Error> {
        Self::new(&random::<PRIVATE>(), verifier)
    }

    /// An exchange with a given secret of at most 128 bytes: for tests against known answers, and to
    /// go on with an exchange that was stored.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the secret is longer, [`Error::Degenerate`] when `SRP_B` would be zero.
    pub fn new(b: &[u8], verifier: &Verifier) -> Result<Self, Error> {
        let element = MULTIPLIER * verifier.element()? + power(GENERATOR, &exponent(b, "b")?, b.len());
        if element == Element::ZERO {
            return Err(Error::Degenerate);
        }
        Ok(Self { private: Secret::new(b.to_vec()), verifier: verifier.clone(), public: Number::from(element) })
    }

    /// `SRP_B` for the challenge.
    pub fn srp_b(&self) -> String {
        self.public.to_hex()
    }

    /// Checks the client's proof, in a time that does not depend on it.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a wrong password, [`Error::Degenerate`] for a forged `SRP_A`.
    pub fn verify(
        &self,
        who: Identity<'_>,
        srp_a: &str,
        secret_block: &str,
        timestamp: &str,
        signature: &str,
    ) -> Result<(), Error> {
        let srp_a = Number::from_hex(srp_a, "SRP_A")?;
        let a = srp_a.element("SRP_A")?;
        let scrambler = Scrambler::new(&srp_a, &self.public)?;
        let base = a * self.verifier.element()?.pow(&scrambler.0);
        let b = self.private.expose();
        let shared = power(base, &exponent(b, "b")?, b.len());
        let proof = prove(&scrambler, shared, who, secret_block, timestamp)?;
        let signature = STANDARD.decode(signature).map_err(|_| Error::Malformed("PASSWORD_CLAIM_SIGNATURE"))?;
        if constant_time_eq(&proof, &signature) { Ok(()) } else { Err(Error::Mismatch) }
    }
}

/// `TIMESTAMP`: `Mon Jan 5 03:04:09 UTC 2026`, the day without a leading zero.
pub fn timestamp(now: Timestamp) -> String {
    let t = now.civil();
    let name = |names: &[&'static str], index: u64| -> &'static str {
        usize::try_from(index).ok().and_then(|index| names.get(index).copied()).unwrap_or_default()
    };
    let (weekday, month) = (name(&WEEKDAYS, t.weekday), name(&MONTHS, t.month.saturating_sub(1)));
    format!("{weekday} {month} {} {:02}:{:02}:{:02} UTC {}", t.day, t.hour, t.minute, t.second, t.year)
}

/// Reads a `TIMESTAMP` that a client sent. The weekday is not looked at.
///
/// # Errors
/// [`Error::Malformed`] when it is not a date.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, Error> {
    read_timestamp(text).ok_or(Error::Malformed("TIMESTAMP"))
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn read_timestamp(text: &str) -> Option<Timestamp> {
    let mut words = text.split_ascii_whitespace();
    let _weekday = words.next()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let day: u64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let mut clock = words.next()?.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if hour > 23 || minute > 59 || second > 60 || !matches!(words.next()?, "UTC" | "GMT") {
        return None;
    }
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    // Years begin in March, so that the leap day is the last one.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = (365 * shifted_year + leap_days + (153 * shifted_month + 2) / 5 + day - 1).checked_sub(719_468)?;
    Some(Timestamp::from_seconds(days * 86_400 + hour * 3600 + minute * 60 + second))
}

/// u = H(pad(A) ‖ pad(B)), never zero.
struct Scrambler(U256);

impl Scrambler {
    fn new(srp_a: &Number, srp_b: &Number) -> Result<Self, Error> {
        let u = U256::from_be_slice(&hash(&[&srp_a.padded(), &srp_b.padded()]));
        if u == U256::ZERO { Err(Error::Degenerate) } else { Ok(Self(u)) }
    }

    fn padded(&self) -> Vec<u8> {
        Number::from_bytes(self.0.to_be_bytes().as_slice()).padded()
    }
}

/// x = H(pad(salt) ‖ H(pool name ‖ user id ‖ ":" ‖ password)).
fn private_key(who: Identity<'_>, password: &str, salt: &Number) -> U256 {
    let inner = hash(&[who.pool_name.as_bytes(), who.user_id.as_bytes(), b":", password.as_bytes()]);
    U256::from_be_slice(&hash(&[&salt.padded(), &inner]))
}

/// The signature under the key that both ends derive from the shared secret.
fn prove(
    scrambler: &Scrambler,
    shared: Element,
    who: Identity<'_>,
    secret_block: &str,
    timestamp: &str,
) -> Result<[u8; 32], Error> {
    let secret_block = decode_lenient(secret_block).ok_or(Error::Malformed("SECRET_BLOCK"))?;
    let pseudorandom = authenticate(&scrambler.padded(), &[&Number::from(shared).padded()]);
    let block = authenticate(&pseudorandom, &[b"Caldera Derived Key", &[1]]);
    let (key, _rest) = block.split_at(16);
    Ok(authenticate(key, &[who.pool_name.as_bytes(), who.user_id.as_bytes(), &secret_block, timestamp.as_bytes()]))
}

/// Base64 of either alphabet, with or without padding, as the browsers' clients read it.
fn decode_lenient(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// `base^exponent`, in a time that depends only on `length`, the bytes of the exponent.
fn power(base: Element, exponent: &U1536, length: usize) -> Element {
    base.pow_bounded_exp(exponent, u32::try_from(8 * length).unwrap_or(U1536::BITS))
}

fn exponent(bytes: &[u8], name: &'static str) -> Result<U1536, Error> {
    if bytes.len() > PRIVATE_MAX {
        return Err(Error::Malformed(name));
    }
    Ok(U1536::from_be_slice(&widened::<{ U1536::BYTES }>(bytes, name)?))
}

/// Zeros in front, up to `N` bytes.
fn widened<const N: usize>(bytes: &[u8], name: &'static str) -> Result<[u8; N], Error> {
    let mut wide = [0; N];
    let start = N.checked_sub(bytes.len()).ok_or(Error::Malformed(name))?;
    for (target, source) in wide.iter_mut().skip(start).zip(bytes) {
        *target = *source;
    }
    Ok(wide)
}

/// `bytes` have no leading zeros. A zero byte keeps the sign bit clear; zero itself is one byte.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = Vec::with_capacity(bytes.len() + 1);
    if bytes.first().is_none_or(|first| *first >= 0x80) {
        padded.push(0);
    }
    padded.extend_from_slice(bytes);
    padded
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    sized(context.finish().as_ref())
}

fn authenticate(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    sized(context.sign().as_ref())
}

/// The 32 bytes that every SHA-256 output has.
fn sized(bytes: &[u8]) -> [u8; 32] {
    let mut sized = [0; 32];
    for (target, source) in sized.iter_mut().zip(bytes) {
        *target = *source;
    }
    sized
}

#[cfg(test)]
mod tests;
