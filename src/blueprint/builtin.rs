//! The blueprints that come with the binary.

macro_rules! shipped {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../blueprints/", $path, ".yaml")))),*]
    };
}

/// (path such as `optimizely/default`, text)
pub(super) const SHIPPED: &[(&str, &str)] = shipped![
    "optimizely/default",
    "optimizely/sdk",
    "brevo/decisions",
    "brevo/default",
    "heap/decisions",
    "heap/default",
    "odp/decisions",
    "odp/default",
    "pendo/decisions",
    "pendo/default",
];
