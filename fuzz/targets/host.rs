//! The effective host. The first line is the target, each further one a `Host` header.
#![no_main]

use http::header::{HOST, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::gateway::host::effective_host;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Ok(uri) = http::Uri::try_from(lines.next().unwrap_or_default()) else { return };
    let mut headers = HeaderMap::new();
    for line in lines.take(3) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(HOST, value);
    }
    let Ok(host) = effective_host(&uri, &headers) else { return };
    let lines = headers.get_all(HOST).iter().count();
    assert!(lines <= 1, "two hosts are none");
    assert_eq!(host.name.is_empty(), lines == 0 && uri.authority().is_none());

    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_[]:".contains(&byte);
    assert!(host.name.bytes().all(fine), "{:?}", host.name);
    assert!(!host.name.ends_with('.') && !host.name.starts_with('.') && !host.name.contains(".."));
    if let Some(value) = &host.value {
        // `Forwarded` quotes it as it is.
        let text = value.to_str().expect("ASCII");
        assert!(!text.contains(['"', '\\', ',', ';', '@', '/', ' ']), "{text:?}");
    }
    if !host.name.is_empty() {
        let again = HeaderMap::from_iter([(HOST, HeaderValue::from_str(&host.name).expect("checked above"))]);
        assert_eq!(effective_host(&http::Uri::from_static("/"), &again).expect("a normal name").name, host.name);
    }
});
