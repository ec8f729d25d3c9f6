//! The request, on one page.

pub mod path;
pub mod route;
