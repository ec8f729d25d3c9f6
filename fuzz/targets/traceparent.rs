//! W3C trace context, and the ids of requests that trusted proxies pass on.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use portcullis::telemetry::trace::{RequestId, TraceContext};

fuzz_target!(|data: &[u8]| {
    if let Ok(trace) = TraceContext::parse(data) {
        let text = trace.header_value();
        assert_eq!(text.len(), TraceContext::LENGTH);
        assert_eq!(TraceContext::parse(text.as_bytes()), Ok(trace), "written and read again");
        assert_eq!(data[3..35], trace.trace_id().digits(), "the trace goes on");
        let child = trace.child();
        assert_eq!(child.trace_id().digits(), trace.trace_id().digits());
        assert_eq!(child.is_sampled(), trace.is_sampled());
        assert!(TraceContext::parse(child.header_value().as_bytes()).is_ok());
    }
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    if let Some(id) = RequestId::continued(&value) {
        assert!((1..=RequestId::LONGEST).contains(&id.as_str().len()));
        assert_eq!(id.header_value(), value);
        // It stands in log lines and problem bodies.
        assert!(!id.as_str().contains(['"', '\\', ' ', '\r', '\n', '<']));
    }
});
