//! cli

pub mod blueprint;
pub mod journal;
