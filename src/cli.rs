//! cli
pub mod token;

pub mod blueprint;
pub mod journal;
