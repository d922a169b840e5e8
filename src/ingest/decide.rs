//! `POST /v1/decide`: flags decided here, by the installed Optimizely datafile, as the SDKs would decide them.
//!
//! Each decision is an event of its own (origin `gateway`) and durable before it is answered: what an app was told is
//! what vendors are told. A flag nobody knows, or that cannot be decided here, is answered with its reason and is no
//! event, as in the SDKs. Knows datafiles and who tells segments of users only by what is handed in.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::auth::Account;
use super::refusal::Refusal;
use super::{Backend, Gate};
use crate::clock::Millis;
use crate::datafile::{self, Known, Odp, RuleKind, Traits, User};
use crate::event::decision::{self, Origin};
use crate::event::parse::Body as Events;
use crate::event::{Kind, event_id, time};
use crate::journal::Record;

mod ask;

use ask::{Ask, Chosen};

/// How a cache of segments is to be used, by the SDKs' names of the options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentsCache {
    /// `IGNORE_CACHE`: neither read nor written.
    pub ignore: bool,
    /// `RESET_CACHE`: emptied first.
    pub reset: bool,
}

/// Knows which segments a user is in.
pub trait Segments: Send + Sync {
    /// Those of `wanted` the user is in; in words, why they could not be had.
    fn qualified<'a>(
        &'a self,
        odp: &'a Odp,
        wanted: &'a [String],
        user_id: &'a str,
        cache: SegmentsCache,
    ) -> BoxFuture<'a, Result<Arc<[String]>, String>>;
}

impl<B: Backend> Gate<B> {
    /// Decides, records, answers.
    pub(super) async fn decide(&self, parts: &Parts, body: Body) -> Result<Response, Refusal> {
        if self.draining() {
            return Err(Refusal::Draining);
        }
        let account = self.keys.of_headers(&parts.headers)?;
        let body = self.held.read(&parts.headers, body, &self.limits).await?;
        let text =
            std::str::from_utf8(&body).map_err(|error| Refusal::NotUtf8(error.valid_up_to()))?;
        let write_key = Events::single(text)
            .map_err(|fault| Refusal::of_body(fault, text))?
            .write_key()
            .map(std::borrow::Cow::into_owned);
        let account = match account {
            Some(account) => account,
            None => self.keys.of_body(write_key.as_deref())?,
        };
        let now_ms = self.clock.now_ms();
        let origin = self.page(&account, &parts.headers, now_ms)?;
        if account
            .permit
            .admits()
            .is_some_and(|admits| !admits.kind(Kind::Decision))
        {
            return Err(Refusal::Type(Kind::Decision.as_str()));
        }
        let ask = Ask::read(parts, text, &self.limits)?;
        drop(body);
        let known = self.datafiles(&ask)?;
        let keys = ask.flag_keys(&known);
        account.take(keys.len(), now_ms)?;
        let (segments, trouble) = self.segments_of(&ask, &known).await;
        let (answer, records) = {
            let decisions = decisions(&ask, &known, &keys, &segments);
            let answer = ask.answer(&decisions, trouble.as_deref());
            (answer, self.records(&ask, &account, &decisions, now_ms))
        };
        let recorded = records.len() as u64;
        if recorded > 0 {
            self.backend.append(records).await?;
            account.accepted(Kind::Decision, recorded, now_ms);
        }
        let mut answer = super::json(answer.to_string());
        if let Some(origin) = origin {
            super::for_origin(&mut answer, origin);
        }
        Ok(answer)
    }

    /// The datafiles that may be asked, in the order they are.
    fn datafiles(&self, ask: &Ask) -> Result<Vec<Arc<Known>>, Refusal> {
        let all = self.datafiles.load();
        let Some(chosen) = &ask.chosen else {
            if all.is_empty() {
                return Err(Refusal::NoDatafile);
            }
            return Ok(all.to_vec());
        };
        let found = all.iter().find(|known| match chosen {
            Chosen::Integration(id) => known.integration == *id,
            Chosen::SdkKey(key) => match known.datafile.sdk_key() {
                Some(own) => own == key,
                None => !known.sdk_key_tail.is_empty() && key.ends_with(&known.sdk_key_tail),
            },
        });
        match found {
            Some(known) => Ok(vec![Arc::clone(known)]),
            None => Err(Refusal::NoChosenDatafile(match chosen {
                Chosen::Integration(id) => format!("the integration `{id}`"),
                // The key itself is a credential of sorts: only its end is shown.
                Chosen::SdkKey(key) => {
                    let start = key.len().saturating_sub(4);
                    let tail = key.get(key.ceil_char_boundary(start)..).unwrap_or_default();
                    format!("the SDK key that ends in `{tail}`")
                }
            })),
        }
    }

    /// The user's segments, and why they are not known when they should be. No answer of a third party may keep an app
    /// from its flags.
    async fn segments_of(
        &self,
        ask: &Ask,
        known: &[Arc<Known>],
    ) -> (Arc<[String]>, Option<String>) {
        if !ask.fetch_segments {
            return (ask.segments.clone(), None);
        }
        let none = |why: String| {
            (
                ask.segments.clone(),
                Some(format!("Qualified segments were not fetched: {why}.")),
            )
        };
        let Some(source) = &self.segments else {
            return none("this gateway asks nobody for segments".to_owned());
        };
        let mut all: Vec<String> = ask.segments.to_vec();
        for known in known {
            let Some(odp) = known.datafile.odp() else {
                continue;
            };
            let wanted = known.datafile.segments();
            if wanted.is_empty() {
                return (ask.segments.clone(), None);
            }
            match source.qualified(odp, wanted, &ask.user_id, ask.cache).await {
                Ok(segments) => all.extend(segments.iter().cloned()),
                Err(why) => return none(why),
            }
            return (all.into(), None);
        }
        none("the datafile has no ODP integration".to_owned())
    }

    /// The decisions as events.
    fn records(
        &self,
        ask: &Ask,
        account: &Account,
        decisions: &[Decided<'_>],
        now_ms: Millis,
    ) -> Vec<Record> {
        let given = ask
            .message_id
            .clone()
            .unwrap_or_else(|| self.make_id(now_ms).to_string());
        let source = &account.source.id;
        decisions
            .iter()
            .filter(|decided| decided.decision.error.is_none())
            .map(|decided| {
                // One call, several events: each needs an id of its own, the same when the call is repeated.
                let message_id = if ask.single() {
                    given.clone()
                } else {
                    format!("{given}:{}", decided.decision.flag_key)
                };
                let mut event = decided.event(ask, source, &message_id);
                event.enrich(&*self.rules);
                Record {
                    fingerprint: self.backend.fingerprint(source, &message_id),
                    bytes: record(ask, source, &message_id, &event, now_ms),
                }
            })
            .collect()
    }
}

/// A decision, and the revision of the datafile it was made with.
struct Decided<'d> {
    decision: datafile::Decision<'d>,
    revision: &'d str,
}

/// Decides every flag asked for, each by the first datafile that has it.
fn decisions<'d>(
    ask: &Ask,
    known: &'d [Arc<Known>],
    keys: &'d [String],
    segments: &[String],
) -> Vec<Decided<'d>> {
    let user = User {
        id: &ask.user_id,
        traits: Traits {
            attributes: &ask.attributes,
            segments,
        },
        forced: &ask.forced,
    };
    keys.iter()
        .filter_map(|key| {
            let has = |known: &&Arc<Known>| known.datafile.has_flag(key);
            let known = known.iter().find(has).or(known.first())?;
            Some(Decided {
                decision: known.datafile.decide(key, user, ask.options),
                revision: known.datafile.revision(),
            })
        })
        .collect()
}

impl Decided<'_> {
    fn event(&self, ask: &Ask, source: &str, message_id: &str) -> decision::Decision {
        let made = &self.decision;
        let own = |text: Option<&str>| text.map(str::to_owned);
        let mut event = decision::Decision::of(Origin::Gateway, made.flag_key, made.enabled);
        event.variation_key = own(made.variation_key);
        event.rule_key = own(made.rule_key);
        event.rule_kind = Some(made.kind);
        event.experiment_key = own(made.rule_key);
        event.experiment_id = own(made.experiment_id);
        event.variation_id = own(made.variation_id);
        event.layer_id = own(made.layer_id);
        event.revision = Some(self.revision.to_owned());
        event.dispatched = Some(made.impression);
        event.impression = made.impression;
        event.variables.clone_from(&made.variables);
        event.reasons = made.reasons.iter().map(|reason| json!(reason)).collect();
        event.attributes.clone_from(&ask.attributes);
        event.held_out = made.held_out.map(|held| decision::HeldOut {
            experiment_id: held.id.to_owned(),
            rule_key: held.key.to_owned(),
            variation_id: held.variation_id.to_owned(),
            variation_key: held.variation_key.to_owned(),
            enabled: held.enabled,
            impression_id: event_id(source, &format!("{message_id}:held_out")),
        });
        event
    }
}

/// The canonical record: what every event has, what was posted beside the question, and the decision.
fn record(
    ask: &Ask,
    source: &str,
    message_id: &str,
    event: &decision::Decision,
    now_ms: Millis,
) -> Bytes {
    let now = String::from_utf8_lossy(&time::write(now_ms)).into_owned();
    let mut record = Map::new();
    for (key, value) in [
        ("type", Kind::Decision.as_str()),
        ("eventId", &event_id(source, message_id).to_string()),
        ("source", source),
        ("messageId", message_id),
        ("receivedAt", &now),
        ("timestamp", &now),
        ("userId", &ask.user_id),
    ] {
        record.insert(key.to_owned(), value.into());
    }
    for (key, value) in &ask.beside {
        record.insert(key.clone(), value.clone());
    }
    record.insert("decision".to_owned(), event.to_json().into());
    Bytes::from(Value::Object(record).to_string())
}

impl Ask {
    /// Whether one flag was asked for: answered as an object, not as an array.
    fn single(&self) -> bool {
        self.keys.len() == 1
    }

    /// The flags to decide: those asked for, or all of the first datafile.
    fn flag_keys(&self, known: &[Arc<Known>]) -> Vec<String> {
        if self.keys.is_empty() {
            let all = known.first().map(|known| &known.datafile);
            return all
                .into_iter()
                .flat_map(|datafile| datafile.flag_keys().map(str::to_owned))
                .collect();
        }
        let mut seen = HashSet::new();
        let fresh = self.keys.iter().filter(|key| seen.insert(key.as_str()));
        fresh.cloned().collect()
    }

    /// As Optimizely's Agent answers, with null where a key is missing, as the SDKs have it.
    fn answer(&self, decisions: &[Decided<'_>], trouble: Option<&str>) -> Value {
        let one = |decided: &Decided<'_>| {
            let made = &decided.decision;
            let mut reasons: Vec<&str> = trouble.into_iter().collect();
            reasons.extend(made.reasons.iter().map(String::as_str));
            let mut answer = json!({
                "flagKey": made.flag_key,
                "enabled": made.enabled,
                "variationKey": made.variation_key,
                "ruleKey": made.rule_key,
                "variables": made.variables,
                "reasons": reasons,
                "userContext": { "userId": self.user_id, "attributes": self.attributes },
                "isEveryoneElseVariation": made.kind == RuleKind::EveryoneElse,
            });
            if let Some(error) = made.error
                && let Some(members) = answer.as_object_mut()
            {
                members.insert("error".to_owned(), error.into());
            }
            answer
        };
        if let (true, [decided]) = (self.single(), decisions) {
            return one(decided);
        }
        // A single flag is answered whether it is on or not.
        decisions
            .iter()
            .filter(|decided| !self.options.enabled_flags_only || decided.decision.enabled)
            .map(one)
            .collect()
    }
}
