//! The configuration: any text is either a configuration or a list of mistakes that can be shown.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portcullis::config;

fuzz_target!(|text: &str| {
    // A secret may be any file of the machine. Opening devices is not what is tested here.
    if text.contains("file") && text.contains(['/', '\\']) {
        return;
    }
    let path = Path::new("/nonexistent/portcullis.toml");
    let env = |name: &str| (name == "SECRET").then(|| "s3cret".to_owned());
    match config::parse(text, path, &env) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings.errors(), 0);
            assert!(!loaded.config.listeners.is_empty());
            for route in &loaded.config.routes {
                assert!(loaded.config.upstreams.iter().any(|upstream| upstream.name == route.upstream));
            }
        }
        Err(report) => {
            assert!(report.errors() > 0);
            assert!(!report.to_string().is_empty() && !report.colored().is_empty() && !report.summary().is_empty());
        }
    }
});
