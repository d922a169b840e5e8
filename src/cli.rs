//! cli
pub mod token;
