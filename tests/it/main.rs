//! The product through its front door: one binary, real HTTP, real SQLite, the vendor sandbox.

mod support;

mod alerts;
mod canaries;
mod dashboards;
mod decide;
mod decisions;
mod delivery;
mod deploy;
mod fanout;
mod ingest;
mod power_loss;
mod process;
mod restart;
mod rooms;
mod schemathesis;
mod sdk;
mod vendors;
