//! The product through its front door: one binary, real HTTP, real SQLite, the vendor sandbox.

mod support;

mod alerts;
mod dashboards;
mod decide;
mod decisions;
mod delivery;
mod deploy;
mod fanout;
mod ingest;
mod power_loss;
mod process;
mod sdk;
mod vendors;
