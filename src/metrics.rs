//! Every metric: name, labels, unit; one function each.
