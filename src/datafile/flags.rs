//! What reported decisions are filled in from: every published datafile, and the slugs of their flags.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Datafile, Known, Shared};
use crate::event::decision::{Facts, Rules, slug};

/// Slugs of the flags of one datafile.
#[derive(Debug)]
struct Slugs {
    datafile: Arc<Datafile>,
    by_flag: HashMap<String, String>,
}

/// Looks decisions up in the published datafiles. Clones share what they worked out.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    shared: Shared,
    slugs: Arc<ArcSwap<Vec<Arc<Slugs>>>>,
}

impl Flags {
    /// Reads what is published in `shared`.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            slugs: Arc::default(),
        }
    }

    /// The slugs of a datafile: worked out once, and again when others were published.
    fn slugs(&self, known: &Known) -> Arc<Slugs> {
        let is_it = |slugs: &&Arc<Slugs>| Arc::ptr_eq(&slugs.datafile, &known.datafile);
        if let Some(found) = self.slugs.load().iter().find(is_it) {
            return Arc::clone(found);
        }
        let fresh = Arc::new(Slugs {
            datafile: Arc::clone(&known.datafile),
            by_flag: slug::among(known.datafile.flag_keys()),
        });
        let published = self.shared.load();
        self.slugs.rcu(|all| {
            let mut all: Vec<_> = all
                .iter()
                .filter(|old| {
                    published
                        .iter()
                        .any(|known| Arc::ptr_eq(&known.datafile, &old.datafile))
                })
                .cloned()
                .collect();
            all.push(Arc::clone(&fresh));
            all
        });
        fresh
    }
}

impl Rules for Flags {
    fn facts(&self, flag_key: &str, rule_key: Option<&str>, variation_key: Option<&str>) -> Facts {
        let Some(known) = self.shared.with_flag(flag_key) else {
            return Facts::default();
        };
        let slug = self.slugs(&known).by_flag.get(flag_key).cloned();
        let info = known.datafile.rule_info(flag_key, rule_key, variation_key);
        let text = |text: Option<&str>| text.map(str::to_owned);
        Facts {
            slug,
            rule_kind: info.as_ref().map(|info| info.kind),
            experiment_key: info.as_ref().and_then(|info| text(info.experiment_key)),
            experiment_id: info.as_ref().and_then(|info| text(info.experiment_id)),
            variation_id: info.as_ref().and_then(|info| text(info.variation_id)),
            layer_id: info.as_ref().and_then(|info| text(info.layer_id)),
            revision: Some(known.datafile.revision().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::RuleKind;
    use super::*;

    fn publish(shared: &Shared, integration: &str, revision: &str, flags: &[&str]) {
        let flags: Vec<_> = flags
            .iter()
            .map(|key| json!({"id": key, "key": key, "rolloutId": "", "experimentIds": [], "variables": []}))
            .collect();
        let document = json!({"version": "4", "revision": revision, "featureFlags": flags});
        shared.publish(Known {
            integration: integration.to_owned(),
            sdk_key_tail: String::new(),
            datafile: Arc::new(Datafile::read(&document).unwrap()),
        });
    }

    #[test]
    fn the_golden_datafile_names_kinds_and_ids() {
        let shared = Shared::default();
        let flags = Flags::new(shared.clone());
        assert_eq!(flags.facts("dark_mode", None, None), Facts::default());
        let text = include_bytes!("../../tests/fixtures/optimizely/datafiles/golden_v4.json");
        shared.publish(Known {
            integration: "int_1".to_owned(),
            sdk_key_tail: String::new(),
            datafile: Arc::new(Datafile::parse(text).unwrap()),
        });
        for (flag, rule, variation, kind, ids) in [
            (
                "checkout_redesign",
                Some("checkout_redesign_ab"),
                Some("control"),
                RuleKind::Experiment,
                [Some("20001"), Some("40001")],
            ),
            (
                "free_shipping",
                Some("free_shipping_premium"),
                Some("on"),
                RuleKind::Rollout,
                [Some("20002"), Some("40003")],
            ),
            (
                "dark_mode",
                Some("default-rollout-103"),
                Some("off"),
                RuleKind::EveryoneElse,
                [Some("default-rollout-103"), Some("51031")],
            ),
            (
                "checkout_redesign",
                None,
                Some("treatment"),
                RuleKind::Forced,
                [None, Some("40002")],
            ),
            ("no_rollout", None, None, RuleKind::None, [None, None]),
        ] {
            let facts = flags.facts(flag, rule, variation);
            assert_eq!(facts.rule_kind, Some(kind), "{flag}");
            assert_eq!(
                [
                    facts.experiment_id.as_deref(),
                    facts.variation_id.as_deref()
                ],
                ids,
                "{flag}"
            );
            assert_eq!(
                (facts.revision.as_deref(), facts.slug.as_deref()),
                (Some("42"), Some(flag))
            );
        }
    }

    #[test]
    fn slugs_follow_the_datafile() {
        let shared = Shared::default();
        let flags = Flags::new(shared.clone());
        publish(&shared, "int_1", "1", &["new-nav"]);
        assert_eq!(
            flags.facts("new-nav", None, None).slug.as_deref(),
            Some("new_nav")
        );
        publish(&shared, "int_1", "2", &["new-nav", "new_nav"]);
        let facts = flags.facts("new-nav", None, None);
        assert_eq!(
            (facts.slug.as_deref(), facts.revision.as_deref()),
            (Some("new_nav_3d75"), Some("2"))
        );
        assert_eq!(
            flags.facts("new_nav", None, None).slug.as_deref(),
            Some("new_nav")
        );
        assert_eq!(flags.slugs.load().len(), 1, "the older one is forgotten");
    }
}
