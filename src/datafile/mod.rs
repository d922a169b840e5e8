//! The Optimizely datafile, read. Pure.
