//! Integration tests: the product through its front door, in one binary.

mod dashboards;
