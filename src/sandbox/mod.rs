//! A vendor sandbox over real HTTP.
