//! What a stranger sends to the server's side of an SRP exchange, a line each: `SRP_A`, the secret
//! block, `TIMESTAMP`, the signature.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::cognito::srp::{Identity, Number, ServerStart, parse_timestamp, timestamp, verifier};

const WHO: Identity<'static> = Identity { pool_name: "AbC123xyz", user_id: "demo" };

static START: LazyLock<ServerStart> = LazyLock::new(|| {
    let salt = Number::from_bytes(&[7; 16]);
    ServerStart::new(&[3; 32], &verifier(WHO, "Portcullis-1", &salt)).expect("a sound verifier")
});

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (srp_a, secret_block, time, signature) = (line(), line(), line(), line());
    if let Ok(number) = Number::from_hex(srp_a, "SRP_A") {
        assert_eq!(Number::from_hex(&number.to_hex(), "SRP_A"), Ok(number), "written and read again");
    }
    if let Ok(moment) = parse_timestamp(time) {
        assert_eq!(parse_timestamp(&timestamp(moment)), Ok(moment), "written and read again");
    }
    // Nobody guesses a proof, whatever SRP_A is: 0, N and multiples of it are what attackers send.
    assert!(START.verify(WHO, srp_a, secret_block, time, signature).is_err());
});
