//! The product through its front door: one binary, real HTTP, real SQLite, the vendor sandbox.

mod support;

mod canaries;
mod dashboards;
mod decide;
mod decisions;
mod delivery;
mod ingest;
mod power_loss;
mod process;
mod schemathesis;
mod sdk;
