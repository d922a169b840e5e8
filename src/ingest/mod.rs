//! HTTP to durable event to answer.
