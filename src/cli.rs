//! cli

pub mod blueprint;
