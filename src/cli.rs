//! cli
pub mod token;

pub mod blueprint;
