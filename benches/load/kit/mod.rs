//! What the load harness and the crash test share: processes under test, a load generator, reconciliation.
//!
//! Knows the gateway from outside only: its commands, settings, HTTP calls and metrics.

pub(crate) mod generator;
pub(crate) mod http;
pub(crate) mod kill9;
pub(crate) mod lab;
pub(crate) mod process;
