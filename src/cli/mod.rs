//! The commands, one file each.

pub mod health;
pub mod keygen;
