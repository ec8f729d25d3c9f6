//! Known answers, and what must not be accepted.

use super::*;

#[derive(serde::Deserialize)]
struct File {
    vectors: Vec<Vector>,
}

#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    ident: String,
    user: String,
    password: String,
    timestamp: String,
    a: String,
    b: String,
    salt: String,
    salt_padded: String,
    secret_block_b64: String,
    v: String,
    #[serde(rename = "A")]
    srp_a: String,
    #[serde(rename = "B")]
    srp_b: String,
    signature: String,
}

impl Vector {
    fn who(&self) -> Identity<'_> {
        Identity { pool_name: &self.ident, user_id: &self.user }
    }

    fn verifier(&self) -> Verifier {
        verifier(self.who(), &self.password, &number(&self.salt))
    }
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("../../../tests/data/srp_vectors.json");
    let vectors = serde_json::from_str::<File>(text).unwrap().vectors;
    assert_eq!(vectors.len(), 11);
    vectors
}

fn number(hex: &str) -> Number {
    Number::from_hex(hex, "test").unwrap()
}

#[test]
fn the_multiplier_is_the_hash_of_group_and_generator() {
    let n = Number::from_bytes(Modulus::modulus().to_be_bytes().as_slice());
    assert_eq!(n.padded().len(), 385);
    let k = hash(&[&n.padded(), &[2]]);
    assert_eq!(MULTIPLIER.retrieve(), U256::from_be_slice(&k).resize());
}

impl Modulus {
    fn modulus() -> U3072 {
        use crypto_bigint::modular::ConstMontyParams;
        *Self::PARAMS.modulus().as_ref()
    }
}

#[test]
fn the_client_matches_every_vector() {
    for vector in vectors() {
        let client = ClientStart::new(&number(&vector.a).bytes).unwrap();
        assert_eq!(client.srp_a(), vector.srp_a, "{}", vector.name);
        let signature = client.respond(
            vector.who(),
            &vector.password,
            &vector.salt,
            &vector.srp_b,
            &vector.secret_block_b64,
            &vector.timestamp,
        );
        assert_eq!(signature.as_deref(), Ok(vector.signature.as_str()), "{}", vector.name);
    }
}

#[test]
fn the_server_matches_every_vector() {
    for vector in vectors() {
        let verifier = vector.verifier();
        assert_eq!(Number::from_bytes(verifier.expose()).to_hex(), vector.v, "{}", vector.name);
        let server = ServerStart::new(&number(&vector.b).bytes, &verifier).unwrap();
        assert_eq!(server.srp_b(), vector.srp_b, "{}", vector.name);
        let verify = |signature: &str| {
            let v = &vector;
            server.verify(v.who(), &v.srp_a, &v.secret_block_b64, &v.timestamp, signature)
        };
        assert_eq!(verify(&vector.signature), Ok(()), "{}", vector.name);
        assert_eq!(verify("AAAA"), Err(Error::Mismatch), "{}", vector.name);
        let padded: String = number(&vector.salt).padded().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(padded, vector.salt_padded);
    }
}

#[test]
fn both_ends_agree_with_fresh_secrets_and_only_on_the_right_password() {
    let who = Identity { pool_name: "AbCdEf123", user_id: "demo" };
    let salt = Number::from_bytes(&random::<16>());
    let server = ServerStart::random(&verifier(who, "right", &salt)).unwrap();
    let client = ClientStart::random().unwrap();
    let outcome = |password: &str| {
        let signature = client.respond(who, password, &salt.to_hex(), &server.srp_b(), "c2VjcmV0", "now").unwrap();
        server.verify(who, &client.srp_a(), "c2VjcmV0", "now", &signature)
    };
    assert_eq!(outcome("right"), Ok(()));
    assert_eq!(outcome("wrong"), Err(Error::Mismatch));
    assert_ne!(verifier(who, "right", &salt), verifier(who, "wrong", &salt));
}

#[test]
fn values_that_are_zero_modulo_n_are_refused_on_both_ends() {
    let who = Identity { pool_name: "p", user_id: "u" };
    let salt = Number::from_bytes(&[1]);
    let n = Number::from_bytes(Modulus::modulus().to_be_bytes().as_slice()).to_hex();
    let client = ClientStart::random().unwrap();
    let server = ServerStart::random(&verifier(who, "x", &salt)).unwrap();
    for zero in ["0", "000", n.as_str()] {
        assert_eq!(client.respond(who, "x", "01", zero, "AA==", "t"), Err(Error::Degenerate));
        assert_eq!(server.verify(who, zero, "AA==", "t", "AA=="), Err(Error::Degenerate));
    }
    assert_eq!(client.respond(who, "x", "01", "xyz", "AA==", "t"), Err(Error::Malformed("SRP_B")));
    assert_eq!(client.respond(who, "x", "01", &"f".repeat(769), "AA==", "t"), Err(Error::Malformed("SRP_B")));
    assert_eq!(client.respond(who, "x", "", "2", "AA==", "t"), Err(Error::Malformed("SALT")));
    assert_eq!(client.respond(who, "x", "1", "2", "*", "t"), Err(Error::Malformed("SECRET_BLOCK")));
}

#[test]
fn hex_is_minimal_and_padding_is_that_of_big_integers() {
    for (hex, out, bytes) in [
        ("0", "0", vec![0]),
        ("00ff", "ff", vec![0, 0xff]),
        ("7F", "7f", vec![0x7f]),
        ("123", "123", vec![1, 0x23]),
        ("080", "80", vec![0, 0x80]),
    ] {
        assert_eq!((number(hex).to_hex().as_str(), number(hex).padded()), (out, bytes));
    }
    assert!(Number::from_hex("1é", "n").is_err());
}

#[test]
fn timestamps_have_the_exact_text_and_read_back() {
    for (seconds, text) in [
        (1_767_582_249, "Mon Jan 5 03:04:09 UTC 2026"),
        (1_798_761_599, "Thu Dec 31 23:59:59 UTC 2026"),
        (951_782_400, "Tue Feb 29 00:00:00 UTC 2000"),
        (4_107_542_400, "Mon Mar 1 00:00:00 UTC 2100"),
    ] {
        assert_eq!(timestamp(Timestamp::from_seconds(seconds)), text);
        assert_eq!(parse_timestamp(text), Ok(Timestamp::from_seconds(seconds)));
    }
    for bad in ["", "Mon Jan 5", "Mon Jan 32 03:04:09 UTC 2026", "Mon Jan 5 25:04:09 UTC 2026", "Mon Jan 5 3 UTC 2026"]
    {
        assert!(parse_timestamp(bad).is_err(), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn any_number_survives_hex(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..=384)) {
        let number = Number::from_bytes(&bytes);
        proptest::prop_assert_eq!(Number::from_hex(&number.to_hex(), "n"), Ok(number));
    }

    #[test]
    fn no_timestamp_text_panics(text in ".{0,40}") {
        let _outcome = parse_timestamp(&text).is_ok();
    }
}
