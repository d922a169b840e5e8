//! Through a registry, a real client and a real listener.
