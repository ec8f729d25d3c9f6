//! A JWK Set: whatever the endpoint answers, only sound RSA keys come out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::token::jwks::fuzzing::keys;

fuzz_target!(|data: &[u8]| {
    let Some(keys) = keys(data) else { return };
    assert!((1..=32).contains(&keys.len()));
    for (at, (kid, n, e)) in keys.iter().enumerate() {
        assert!((1..=256).contains(&kid.len()));
        assert!(keys.iter().skip(at + 1).all(|(other, ..)| other != kid), "{kid} is there twice");
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        assert!((2048..=8192).contains(&bits) && n.last().is_some_and(|byte| byte % 2 == 1));
        assert!((1..=4).contains(&e.len()) && e.last().is_some_and(|byte| byte % 2 == 1) && **e != [1]);
        assert!(e.first() != Some(&0));
    }
});
