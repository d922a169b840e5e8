//! What every test stands on.

pub mod app;
pub mod process;

pub use app::{Setup, TestApp};
