//! cli

pub mod journal;
