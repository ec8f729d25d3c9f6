//! Cookies that come in several lines: one line goes upstream, with the same cookies in the same
//! order. Each line of the input is the value of a `Cookie` line.
#![no_main]

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::http::join_cookies;

fuzz_target!(|data: &[u8]| {
    let values = data.split(|byte| *byte == b'\n').take(64).filter_map(|line| HeaderValue::from_bytes(line).ok());
    let mut headers: HeaderMap = values.map(|value| (COOKIE, value)).collect();
    let before: Vec<Vec<u8>> = headers.get_all(COOKIE).iter().map(|value| value.as_bytes().to_vec()).collect();
    headers.append("x-other", HeaderValue::from_static("1"));
    headers.append("x-other", HeaderValue::from_static("2"));

    join_cookies(&mut headers);

    let after: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(after.len(), before.len().min(1), "one line");
    assert_eq!(after.concat(), before.join(&b"; "[..]), "the same cookies in the same order");
    assert_eq!(headers.get_all("x-other").iter().count(), 2, "nothing else changes");
    let joined = headers.clone();
    join_cookies(&mut headers);
    assert_eq!(headers, joined, "once is enough");
});
