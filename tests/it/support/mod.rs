//! What every test stands on.

pub(crate) mod app;
pub(crate) mod clock;
pub(crate) mod process;

pub(crate) use app::{Setup, TestApp};
