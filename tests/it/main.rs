<<<<<<< HEAD
//! The product through its front door: one binary, real HTTP, real SQLite, the vendor sandbox.

mod support;

mod delivery;
mod ingest;
mod process;
mod sdk;
=======
mod power_loss;
>>>>>>> journal
