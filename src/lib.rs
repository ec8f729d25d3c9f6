//! Portcullis: a reverse proxy that lets a request pass only after it verified the caller.
//!
//! The crate is one package in layers. Imports go down the list, never up, and never sideways
//! between the siblings of layer 3 (`tests/it/layers.rs` holds the sources against this rule).
//!
//! To read how one request is answered, start with [`gateway`].

// 0: things everybody may use. No knowledge of the product.
pub mod clock;
pub mod distinguished_name;
pub mod es256;
pub mod http;
pub mod json;
pub mod outbound;
pub mod path;
pub mod secret;
pub mod websocket;

// 1: what the user wrote and what it means.
pub mod config;

// 2: what operators see; certificates.
pub mod certificates;
pub mod telemetry;

// 3: the parts, which do not know each other.
pub mod cognito;
pub mod server;
pub mod store;
pub mod token;
pub mod upstream;

// 4: how often somebody may ask.
pub mod limit;

// 5: who is calling, and may they.
pub mod access;

// 6: the one table from failure to answer.
pub mod problem;

// 7: the identity routes.
pub mod auth;

// 8: the request, on one page.
pub mod gateway;

// 9: the operator's listener, the wiring, and the commands.
pub mod admin;
pub mod app;
pub mod cli;

// Aside: the embedded user pool. Only `app` and the command line know it.
#[cfg(feature = "devpool")]
pub mod devpool;
