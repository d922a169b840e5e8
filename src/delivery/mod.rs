//! Journal to vendor: one pipeline per integration.
