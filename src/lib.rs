//! aqueduct: an HTTP event-forwarding gateway.
//!
//! In the order of an event's life: an app posts to [`ingest`], which turns the
//! call into an [`event`] and appends it to the [`journal`]; 200 is answered once that is on stable
//! storage. [`delivery`] reads the journal with one cursor per integration, maps each event through the
//! integration's [`blueprint`], cuts batches and sends them through [`vendor`]; every event ends in one
//! named outcome, settled in the journal. [`registry`] knows what is installed, [`admin`] is the
//! management API over it and [`console`] its pages, [`logbook`] keeps the bounded logs people look at, and [`app`] wires all.

pub mod app;
pub mod clock;
pub mod config;
pub mod crew;
pub mod lifecycle;
pub mod metrics;
pub mod net;
pub mod secret;
pub mod telemetry;

pub mod admin;
pub mod agent;
pub mod alerts;
pub mod assignments;
pub mod blueprint;
pub mod console;
pub mod datafile;
pub mod delivery;
pub mod event;
pub mod ingest;
pub mod journal;
pub mod logbook;
pub mod registry;
pub mod sandbox;
pub mod vendor;

pub mod cli;
pub mod demo;
pub mod ops;
