//! The blueprints that come with the binary.

/// (path such as `optimizely/default`, text)
pub(super) const SHIPPED: &[(&str, &str)] = &[
    (
        "optimizely/default",
        include_str!("../../blueprints/optimizely/default.yaml"),
    ),
    (
        "optimizely/sdk",
        include_str!("../../blueprints/optimizely/sdk.yaml"),
    ),
];
