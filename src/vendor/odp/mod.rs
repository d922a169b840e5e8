//! Optimizely Data Platform (ODP): what data cannot say about it.

pub mod segments;
