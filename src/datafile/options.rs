//! What a caller may ask of a decision, by the SDKs' names.

/// Options of a decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `DISABLE_DECISION_EVENT`: no impression is sent.
    pub disable_decision_event: bool,
    /// `ENABLED_FLAGS_ONLY`: of several flags, only those that are on are answered.
    pub enabled_flags_only: bool,
    /// `INCLUDE_REASONS`: how it came to the decision is answered.
    pub include_reasons: bool,
    /// `EXCLUDE_VARIABLES`: variables are not answered.
    pub exclude_variables: bool,
}

/// A name that is no option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no decide option {0:?}; there are DISABLE_DECISION_EVENT, ENABLED_FLAGS_ONLY, INCLUDE_REASONS and EXCLUDE_VARIABLES"
)]
pub struct UnknownOption(pub String);

impl Options {
    /// Switches on what a name says. Options about things this gateway does not keep (user profiles, CMAB caches) are
    /// taken and change nothing.
    ///
    /// # Errors
    /// When there is no such option.
    pub fn set(&mut self, name: &str) -> Result<(), UnknownOption> {
        match name {
            "DISABLE_DECISION_EVENT" => self.disable_decision_event = true,
            "ENABLED_FLAGS_ONLY" => self.enabled_flags_only = true,
            "INCLUDE_REASONS" => self.include_reasons = true,
            "EXCLUDE_VARIABLES" => self.exclude_variables = true,
            "IGNORE_USER_PROFILE_SERVICE"
            | "IGNORE_CMAB_CACHE"
            | "RESET_CMAB_CACHE"
            | "INVALIDATE_USER_CMAB_CACHE" => {}
            other => return Err(UnknownOption(other.chars().take(80).collect())),
        }
        Ok(())
    }
}
