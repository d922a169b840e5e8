//! One inbound JSON call to a stored record, or the faults that keep it out.
