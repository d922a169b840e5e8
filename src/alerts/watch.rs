//! When an alert begins, is told again, and is over. Pure: what was measured and the time are arguments.
//!
//! It fires once when a value passes its threshold, again every few hours while that lasts, and is over only when
//! nothing was seen of it for a while, so that something that comes and goes is one alert and not fifty.

use std::collections::HashMap;

use crate::clock::Millis;
use crate::registry::alert_log::AlertRow;
use crate::registry::alerts::{AlertSettings, Rule};

/// What was found of one rule about one integration (or the whole gateway).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Measure {
    pub rule: Rule,
    /// Empty: the whole gateway. Of a rule about sources, the source.
    pub integration: String,
    pub integration_name: String,
    /// In the rule's unit.
    pub value: u64,
    /// Since when, where that is known better than by looking.
    pub since_ms: Option<Millis>,
    /// For pauses.
    pub reason: Option<String>,
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    /// It began.
    Firing,
    /// It lasts.
    Again,
    /// It is over.
    Resolved,
    /// It is not watched any more: over, without a word.
    Dropped,
}

/// One rule-book at work: an endpoint's, or the gateway's own.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    /// Of which endpoint: one made anew under an old name begins anew.
    made_ms: Millis,
    open: HashMap<(Rule, String), Open>,
}

#[derive(Debug, Clone)]
struct Open {
    row: AlertRow,
    /// Since when nothing is seen of it.
    quiet_ms: Option<Millis>,
}

impl Watch {
    /// The watch of an endpoint made then.
    pub(super) fn new(made_ms: Millis) -> Self {
        Self {
            made_ms,
            open: HashMap::new(),
        }
    }

    /// When its endpoint was made.
    pub(super) fn made_ms(&self) -> Millis {
        self.made_ms
    }

    /// Takes over an alert that was open when the process last ended.
    pub(super) fn adopt(&mut self, row: AlertRow) {
        let key = (row.rule, row.integration.clone());
        self.open.insert(
            key,
            Open {
                row,
                quiet_ms: None,
            },
        );
    }

    /// How many alerts of a rule are open.
    pub(super) fn firing(&self, rule: Rule) -> usize {
        self.open.keys().filter(|(of, _)| *of == rule).count()
    }

    /// Looks at what was measured now. Returns the alerts that changed, and what is to be told of each.
    pub(super) fn step(
        &mut self,
        endpoint: &str,
        settings: &AlertSettings,
        measures: &[Measure],
        now_ms: Millis,
        new_id: &mut dyn FnMut() -> String,
    ) -> Vec<(AlertRow, Tell)> {
        let mut told = Vec::new();
        for measure in measures {
            let Some(threshold) = fires(settings, measure) else {
                continue;
            };
            let key = (measure.rule, measure.integration.clone());
            match self.open.get_mut(&key) {
                None => {
                    let row = fresh(endpoint, measure, threshold, now_ms, new_id());
                    told.push((row.clone(), Tell::Firing));
                    let open = Open {
                        row,
                        quiet_ms: None,
                    };
                    self.open.insert(key, open);
                }
                Some(open) => {
                    open.quiet_ms = None;
                    let repeat_ms = Millis::from(settings.repeat_h) * 3_600_000;
                    if repeat_ms > 0 && now_ms - open.row.noticed_ms >= repeat_ms {
                        open.row.value = measure.value;
                        open.row.threshold = threshold;
                        open.row.reason.clone_from(&measure.reason);
                        open.row.summary = summary(measure, threshold);
                        open.row.noticed_ms = now_ms;
                        open.row.notices = open.row.notices.saturating_add(1);
                        told.push((open.row.clone(), Tell::Again));
                    }
                }
            }
        }
        self.close(settings, measures, now_ms, &mut told);
        told
    }

    fn close(
        &mut self,
        settings: &AlertSettings,
        measures: &[Measure],
        now_ms: Millis,
        told: &mut Vec<(AlertRow, Tell)>,
    ) {
        let quiet_for_ms = Millis::from(settings.resolve_after_s) * 1_000;
        self.open.retain(|(rule, integration), open| {
            let watched =
                settings.rules.threshold(*rule).is_some() && concerns(settings, *rule, integration);
            let seen = measures.iter().any(|measure| {
                measure.rule == *rule
                    && measure.integration == *integration
                    && fires(settings, measure).is_some()
            });
            if watched && seen {
                return true;
            }
            let quiet_ms = *open.quiet_ms.get_or_insert(now_ms);
            if watched && now_ms - quiet_ms < quiet_for_ms {
                return true;
            }
            open.row.resolved_ms = Some(now_ms);
            let tell = if watched {
                Tell::Resolved
            } else {
                Tell::Dropped
            };
            told.push((open.row.clone(), tell));
            false
        });
    }
}

/// The threshold it passes; none when it does not, or nobody watches.
fn fires(settings: &AlertSettings, measure: &Measure) -> Option<u64> {
    let threshold = settings.rules.threshold(measure.rule)?;
    // A pause is seen only while there is one: `0` means at once.
    let passes = match measure.rule {
        Rule::IntegrationPaused => measure.value >= threshold,
        _ => measure.value > threshold,
    };
    (passes && concerns(settings, measure.rule, &measure.integration)).then_some(threshold)
}

fn concerns(settings: &AlertSettings, rule: Rule, integration: &str) -> bool {
    integration.is_empty()
        || rule.is_about_source()
        || settings
            .integrations
            .as_ref()
            .is_none_or(|only| only.iter().any(|id| id == integration))
}

fn fresh(
    endpoint: &str,
    measure: &Measure,
    threshold: u64,
    now_ms: Millis,
    id: String,
) -> AlertRow {
    AlertRow {
        n: 0,
        id,
        endpoint: endpoint.to_owned(),
        rule: measure.rule,
        integration: measure.integration.clone(),
        integration_name: measure.integration_name.clone(),
        summary: summary(measure, threshold),
        reason: measure.reason.clone(),
        value: measure.value,
        threshold,
        since_ms: measure.since_ms.unwrap_or(now_ms),
        noticed_ms: now_ms,
        notices: 1,
        resolved_ms: None,
    }
}

fn summary(measure: &Measure, threshold: u64) -> String {
    let (name, value) = (&measure.integration_name, measure.value);
    match measure.rule {
        Rule::IntegrationPaused => {
            let reason = measure.reason.as_deref().unwrap_or("unknown");
            format!("{name} is paused: {reason}; its backlog is kept")
        }
        Rule::DeadLetters => {
            let letters = if value == 1 { "letter" } else { "letters" };
            format!("{name} has {value} dead {letters} (alert above {threshold})")
        }
        Rule::OldestWaiting => {
            format!("{name}: the oldest event has waited {value} s (alert above {threshold} s)")
        }
        Rule::DatafileStale => {
            format!(
                "{name}: the datafile was last confirmed {value} s ago (alert above {threshold} s)"
            )
        }
        Rule::ZeroTraffic => {
            format!("no event was accepted for {value} s (alert above {threshold} s)")
        }
        Rule::SourceSilent => {
            format!(
                "the source {name} has posted nothing for {value} s (alert above {threshold} s)"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::alerts::{Events, Rules};

    fn settings() -> AlertSettings {
        AlertSettings {
            rules: Rules {
                dead_letters: Some(Events { above: 10 }),
                ..Rules::usual()
            },
            ..AlertSettings::usual("https://example.org".to_owned())
        }
    }

    fn dead(value: u64) -> Vec<Measure> {
        vec![Measure {
            rule: Rule::DeadLetters,
            integration: "int_1".to_owned(),
            integration_name: "Optimizely".to_owned(),
            value,
            since_ms: None,
            reason: None,
        }]
    }

    /// Steps a watch through (time in s, measured) and says what was told.
    fn told(settings: &AlertSettings, steps: &[(Millis, Vec<Measure>)]) -> Vec<(Millis, Tell)> {
        let mut watch = Watch::default();
        let mut n = 0;
        let mut told = Vec::new();
        for (at_s, measures) in steps {
            let mut id = || {
                n += 1;
                format!("alt_{n}")
            };
            let changed = watch.step("ops", settings, measures, at_s * 1_000, &mut id);
            told.extend(changed.into_iter().map(|(_, tell)| (*at_s, tell)));
        }
        told
    }

    #[test]
    fn it_fires_above_the_threshold_once_and_again_after_the_hours_named() {
        let steps = [
            (0, dead(10)),
            (5, dead(11)),
            (10, dead(500)),
            (4 * 3_600 + 4, dead(500)),
            (4 * 3_600 + 5, dead(500)),
            (4 * 3_600 + 10, dead(500)),
        ];
        assert_eq!(
            told(&settings(), &steps),
            [(5, Tell::Firing), (4 * 3_600 + 5, Tell::Again)]
        );
        let once = AlertSettings {
            repeat_h: 0,
            ..settings()
        };
        assert_eq!(told(&once, &steps), [(5, Tell::Firing)]);
    }

    #[test]
    fn what_comes_and_goes_is_one_alert() {
        let mut steps = Vec::new();
        for flap in 0..50 {
            steps.push((flap * 10, dead(11)));
            steps.push((flap * 10 + 5, dead(0)));
        }
        steps.push((495 + 59, Vec::new()));
        assert_eq!(told(&settings(), &steps), [(0, Tell::Firing)]);
        steps.push((495 + 60, Vec::new()));
        steps.push((600, dead(11)));
        assert_eq!(
            told(&settings(), &steps),
            [
                (0, Tell::Firing),
                (555, Tell::Resolved),
                (600, Tell::Firing)
            ]
        );
    }

    #[test]
    fn a_rule_turned_off_ends_without_a_word_and_others_integrations_do_not_matter() {
        let mut watch = Watch::default();
        let mut id = || "alt_1".to_owned();
        let all = settings();
        assert_eq!(watch.step("ops", &all, &dead(11), 0, &mut id).len(), 1);
        let mut narrow = settings();
        narrow.integrations = Some(vec!["int_2".to_owned()]);
        let changed = watch.step("ops", &narrow, &dead(11), 1, &mut id);
        assert!(matches!(changed[..], [(_, Tell::Dropped)]));
        assert_eq!(watch.step("ops", &narrow, &dead(11), 2, &mut id), []);
    }

    #[test]
    fn what_was_open_before_a_restart_is_neither_told_again_nor_forgotten() {
        let mut before = Watch::default();
        let mut id = || "alt_1".to_owned();
        let row = before
            .step("ops", &settings(), &dead(11), 0, &mut id)
            .remove(0)
            .0;
        let mut after = Watch::default();
        after.adopt(row);
        assert_eq!(
            after.step("ops", &settings(), &dead(12), 1_000, &mut id),
            []
        );
        assert_eq!(after.firing(Rule::DeadLetters), 1);
        after.step("ops", &settings(), &[], 2_000, &mut id);
        let changed = after.step("ops", &settings(), &[], 62_000, &mut id);
        assert!(matches!(&changed[..], [(row, Tell::Resolved)] if row.id == "alt_1"));
    }
}
