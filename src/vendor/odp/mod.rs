//! ODP (Optimizely Data Platform): the region a key belongs to can be read off the key.

use super::Vendor;
use super::flags;
use super::settings::{common_faults, fault, on, text};
use crate::blueprint::{Config, FieldFault};

pub mod replies;
pub mod segments;

/// Optimizely Data Platform.
#[derive(Debug, Clone, Copy)]
pub struct Odp;

impl Vendor for Odp {
    fn name(&self) -> &'static str {
        "odp"
    }

    /// Another region's host takes the data into a separate profile, or fails.
    fn check_config(&self, config: &Config) -> Vec<FieldFault> {
        let mut faults = common_faults(config);
        if let Some(key) = text(config, "api_key") {
            let chosen = text(config, "region").unwrap_or("us");
            let of_key = region_of(key);
            if chosen != of_key {
                faults.push(fault(
                    "region",
                    "region_mismatch",
                    format!("is `{chosen}`, but api_key belongs to the region `{of_key}`: choose that one"),
                ));
            }
        }
        faults
    }

    fn remarks(&self, config: &Config, flags: &[String]) -> Vec<FieldFault> {
        if on(config, "per_flag_attributes") {
            flags::collisions(flags, |name| format!("optimizely_{name}"))
        } else {
            Vec::new()
        }
    }
}

/// The region after the public part's last `-` (Zaius Node SDK, `configure.ts`); a private key has a `.` and its
/// secret after that.
fn region_of(key: &str) -> &'static str {
    let public = key.rsplit_once('.').map_or(key, |(public, _)| public);
    if public.ends_with("-eu1") {
        "eu"
    } else if public.ends_with("-au1") {
        "au"
    } else {
        "us"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::ConfigValue;
    use crate::secret::Secret;

    #[test]
    fn the_key_says_its_region() {
        let faults = |key: &str, region: &str| {
            let secret = ConfigValue::Secret(Secret::new(key.to_owned()));
            let mut config = Config::from([("api_key".to_owned(), secret)]);
            if !region.is_empty() {
                config.insert("region".to_owned(), ConfigValue::Text(region.to_owned()));
            }
            Odp.check_config(&config)
        };
        assert_eq!(faults("W4WzcEs-ABgXorzY7h1LCQ", ""), vec![]);
        assert_eq!(faults("W4WzcEs-eu1.c2VjcmV0", "eu"), vec![]);
        assert_eq!(faults("W4WzcEs-au1", "au"), vec![]);
        let wrong = faults("W4WzcEs-eu1.c2VjcmV0", "us");
        assert_eq!(wrong[0].code, "region_mismatch");
        assert!(wrong[0].message.contains("`eu`") && !wrong[0].message.contains("W4Wz"));
    }
}
