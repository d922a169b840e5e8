//! Heap: ids that cannot be right. What is sent stands in its blueprints; Heap offers nothing to check a config with.

use super::Vendor;
use super::settings::{common_faults, fault, text};
use crate::blueprint::{Config, FieldFault};

pub mod replies;

/// Heap (by Contentsquare).
#[derive(Debug, Clone, Copy)]
pub struct Heap;

impl Vendor for Heap {
    fn name(&self) -> &'static str {
        "heap"
    }

    /// Environment ids are digits. A wrong id of digits is accepted by Heap in silence: nobody can see it from here.
    fn check_config(&self, config: &Config) -> Vec<FieldFault> {
        let mut faults = common_faults(config);
        if let Some(id) = text(config, "app_id")
            && !id.bytes().all(|byte| byte.is_ascii_digit())
        {
            faults.push(fault(
                "app_id",
                "wrong_format",
                "is the environment's id, digits only: copy it from Account › Manage › Environments",
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::ConfigValue;

    #[test]
    fn an_app_id_has_digits_only_and_addresses_end_before_the_path() {
        let config = |id: &str, url: &str, from: &str| {
            Config::from(
                [("app_id", id), ("base_url", url), ("identity_from", from)]
                    .map(|(key, value)| (key.to_owned(), ConfigValue::Text(value.to_owned()))),
            )
        };
        assert_eq!(
            Heap.check_config(&config("11", "https://h.example", "attributes.id")),
            vec![]
        );
        let faults = Heap.check_config(&config("app-11", "https://h.example/", "attributes."));
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            ["config.identity_from", "config.base_url", "config.app_id"]
        );
    }
}
