//! What an engine must do to hold a journal. Blocks are opaque bytes, equal on every engine.

/// A storage engine.
pub trait Store: Send {}
