//! Filling an integration's config into a blueprint.

use std::sync::Arc;
use std::time::Duration;

use super::compile::time_of;
use super::entry::{Entries, Entry};
use super::expr::{Expr, TableRef, simplify, surely_not};
use super::function::Fun;
use super::plan::{OncePlan, Plan, RequestPlan, TableSource, Wire, unknown};
use super::ready::ReadyEntries;
use super::template::{Member, Name, Tpl};
use super::travel::{Time, digest};
use super::wire::{RequestDef, header_text, leaves};
use super::writer::head;
use super::{Blueprint, Config, ConfigValue, FieldFault, FieldKind};
use crate::secret::Secret;

impl Blueprint {
    /// Fills in the config.
    ///
    /// # Errors
    /// Fields that are missing, unknown or of another kind; addresses that are not https (unless
    /// `insecure_ok(url)`); line breaks and non-ASCII where a header or URL is made.
    pub fn bind(
        &self,
        config: &Config,
        insecure_ok: &dyn Fn(&str) -> bool,
    ) -> Result<Plan, Vec<FieldFault>> {
        let faults = self.config_faults(config, insecure_ok);
        if !faults.is_empty() {
            return Err(faults);
        }
        let binder = Binder {
            blueprint: self,
            config,
        };
        let wires: Vec<Wire> = self.requests.iter().map(|def| binder.wire(def)).collect();
        let requests = wires.iter().map(|wire| request_plan(&wire.def)).collect();
        let mut sources = Vec::new();
        let mut rows = Vec::new();
        for table in &self.tables {
            let (Some(remote), TableRef::Remote(about)) = (&table.remote, &table.reference) else {
                continue;
            };
            let url = match binder.url(&remote.from) {
                Expr::Text(text) => text.to_string(),
                _ => {
                    return Err(vec![FieldFault {
                        field: "config".to_owned(),
                        code: "missing".to_owned(),
                        message: format!(
                            "the config does not say where `{}` is read from",
                            table.name
                        ),
                    }]);
                }
            };
            sources.push(TableSource {
                name: table.name.clone(),
                url: Secret::new(url),
                refresh: remote.refresh,
                hold: about.hold,
                unknown: unknown(&about.label),
            });
            rows.push(remote.rows.clone());
        }
        let mut entries = self.entries.map(&mut |expr| binder.expr(expr));
        entries.freeze();
        // A request the config rules out is no part of any event.
        let out = |at: usize| {
            let when = wires.get(at).map(|wire| wire.def.when.as_slice());
            when.is_some_and(|when| when.iter().any(surely_not))
        };
        entries.retain(&|send| !out(send.request));
        Ok(Plan {
            entries: ReadyEntries::of(&entries, &wires),
            requests,
            wires,
            sources,
            rows,
        })
    }

    fn config_faults(
        &self,
        config: &Config,
        insecure_ok: &dyn Fn(&str) -> bool,
    ) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, code: &str, message: String| {
            faults.push(FieldFault {
                field: format!("config.{key}"),
                code: code.to_owned(),
                message,
            });
        };
        for key in config.keys() {
            if !self.fields.iter().any(|field| field.key == *key) {
                fault(key, "unknown_field", format!("there is no field `{key}`"));
            }
        }
        let on_wire = self.on_wire();
        let times = self.times();
        for field in &self.fields {
            let value = config.get(&field.key);
            let key = field.key.as_str();
            let Some(value) = value else {
                if !field.optional && field.default.is_none() {
                    fault(key, "missing", format!("`{}` is needed", field.label));
                }
                continue;
            };
            let fits = matches!(
                (&field.kind, value),
                (FieldKind::Secret, ConfigValue::Secret(_))
                    | (
                        FieldKind::Text | FieldKind::Url | FieldKind::Choice(_),
                        ConfigValue::Text(_)
                    )
                    | (FieldKind::Number, ConfigValue::Number(_))
                    | (FieldKind::YesNo, ConfigValue::YesNo(_))
            );
            if !fits {
                fault(
                    key,
                    "wrong_type",
                    format!("`{}` is of another kind", field.label),
                );
                continue;
            }
            let text = config_text(value);
            if times.contains(&field.key.as_str()) && time_of(&text).is_none() {
                fault(
                    key,
                    "not_a_time",
                    format!(
                        "`{}` is a time, such as 500 ms, 30 s, 5 min, 2 h or 7 d",
                        field.label
                    ),
                );
            } else if on_wire.contains(&field.key) && !header_text(&text) {
                fault(
                    key,
                    "not_ascii",
                    format!(
                        "`{}` is part of an address or a header: it must be one line of printable ASCII",
                        field.label
                    ),
                );
            } else if field.kind == FieldKind::Url
                && let Err((code, message)) = url_fault(&text, insecure_ok)
            {
                fault(key, code, format!("`{}` {message}", field.label));
            }
        }
        faults
    }

    /// Config fields that hold a time.
    fn times(&self) -> Vec<&str> {
        self.requests
            .iter()
            .flat_map(|request| request.travel.times())
            .collect()
    }

    /// Config fields that stand in an address or a header.
    fn on_wire(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |expr: &Expr| {
            expr.walk(&mut |part| {
                if let Expr::Config(name) = part {
                    found.push(name.to_string());
                }
            });
        };
        for request in &self.requests {
            note(&request.url);
            request.headers.iter().for_each(|(_, header)| note(header));
        }
        for remote in self.tables.iter().filter_map(|table| table.remote.as_ref()) {
            note(&remote.from);
        }
        found
    }
}

fn url_fault(
    text: &str,
    insecure_ok: &dyn Fn(&str) -> bool,
) -> Result<(), (&'static str, &'static str)> {
    let Ok(url) = url::Url::parse(text) else {
        return Err(("not_a_url", "is not an address: write https://host/path"));
    };
    if url.host_str().is_none_or(str::is_empty)
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err((
            "not_a_url",
            "must be an address with a host and without a user name",
        ));
    }
    if url.scheme() != "https" && !(url.scheme() == "http" && insecure_ok(text)) {
        return Err((
            "not_https",
            "must start with https:// (other addresses must be allowed in AQUEDUCT_EGRESS_ALLOW)",
        ));
    }
    Ok(())
}

/// A config value as text.
fn config_text(value: &ConfigValue) -> String {
    match value {
        ConfigValue::Text(text) => text.clone(),
        ConfigValue::Secret(secret) => secret.expose().to_owned(),
        ConfigValue::Number(number) => number.to_string(),
        ConfigValue::YesNo(yes) => yes.to_string(),
    }
}

fn fixed(time: &Time) -> Option<Duration> {
    time.bound(&|_| None)
}

fn request_plan(def: &RequestDef) -> RequestPlan {
    let travel = &def.travel;
    RequestPlan {
        name: def.name.clone(),
        batched: def.batched,
        items_max: def.items_max,
        bytes_max: def.bytes_max,
        wait: def.wait,
        lane: travel.lane.is_some(),
        lane_with: travel.lane_with,
        pace: travel.pace.as_ref().and_then(fixed),
        newest: travel.newest.is_some(),
        newest_without: travel.newest_without.clone(),
        once: travel.once.as_ref().and_then(|once| {
            let lasts = fixed(&once.lasts)?;
            Some(OncePlan { lasts })
        }),
        combine: travel.combine,
        rates: travel.rates.clone(),
        bucket: match &travel.bucket {
            Some(Expr::Text(text)) => Some(digest(&["bucket", text])),
            _ => None,
        },
        spill: travel.spill.filter(|_| !yes(&travel.spill_never)),
        spill_always: yes(&travel.spill_always),
        in_flight: travel.in_flight,
        gate: travel.gate.clone(),
        requeue: travel.requeue.clone(),
        stale_after: travel.stale_after,
        dead_after: travel.dead_after,
        retry_for: travel.retry_for,
        replies: def.replies.clone(),
    }
}

/// Whether tests of the config are all true.
fn yes(tests: &[Expr]) -> bool {
    !tests.is_empty() && tests.iter().all(|test| matches!(test, Expr::YesNo(true)))
}

/// Puts config values where their names stand.
struct Binder<'b> {
    blueprint: &'b Blueprint,
    config: &'b Config,
}

impl Binder<'_> {
    fn value(&self, name: &str) -> Expr {
        let field = self.blueprint.fields.iter().find(|field| field.key == name);
        match self.config.get(name) {
            Some(ConfigValue::Text(text)) if !text.is_empty() => Expr::Text(text.as_str().into()),
            Some(ConfigValue::Secret(secret)) => Expr::Text(secret.expose().into()),
            Some(ConfigValue::Number(number)) => Expr::Number(number.to_string().into()),
            Some(ConfigValue::YesNo(yes)) => Expr::YesNo(*yes),
            _ => match field.and_then(|field| Some((&field.kind, field.default.as_deref()?))) {
                Some((FieldKind::Number, text)) => Expr::Number(text.into()),
                Some((FieldKind::YesNo, text)) => Expr::YesNo(text == "true"),
                Some((_, text)) => Expr::Text(text.into()),
                None => Expr::Missing,
            },
        }
    }

    /// What a field says as a time.
    fn time(&self, name: &str) -> Option<Duration> {
        match self.value(name) {
            Expr::Text(text) => time_of(&text),
            _ => None,
        }
    }

    fn expr(&self, expr: &Expr) -> Expr {
        simplify(expr.replace(&mut |part| match part {
            Expr::Config(name) => Some(self.value(name)),
            _ => None,
        }))
    }

    /// As `expr`, with everything that is filled into an address percent-encoded, but for addresses and
    /// choices of the config.
    fn url(&self, expr: &Expr) -> Expr {
        let bound = match expr {
            Expr::Call(fun, args) => Expr::Call(
                *fun,
                args.iter()
                    .enumerate()
                    .map(|(at, arg)| {
                        if at == 0 && *fun == Fun::If {
                            self.expr(arg)
                        } else {
                            self.url(arg)
                        }
                    })
                    .collect(),
            ),
            Expr::Pieces(parts) => {
                let parts: Vec<Expr> = parts
                    .iter()
                    .enumerate()
                    .map(|(at, part)| match part {
                        // The start of an address may be chosen.
                        Expr::Call(Fun::First | Fun::If | Fun::Required, _) if at == 0 => {
                            self.url_start(part, parts.get(1))
                        }
                        part => self.url_part(part, parts.get(at + 1)),
                    })
                    .collect();
                Expr::Pieces(parts.into())
            }
            other => self.expr(other),
        };
        simplify(bound)
    }

    fn url_start(&self, start: &Expr, next: Option<&Expr>) -> Expr {
        match start {
            Expr::Call(fun, args) => {
                let test = *fun == Fun::If;
                let args = args.iter().enumerate().map(|(at, arg)| {
                    if test && at == 0 {
                        self.expr(arg)
                    } else {
                        self.url_start(arg, next)
                    }
                });
                Expr::Call(*fun, args.collect())
            }
            Expr::Config(_) => self.url_part(start, next),
            other => self.url(other),
        }
    }

    fn url_part(&self, part: &Expr, next: Option<&Expr>) -> Expr {
        let plain = |name: &str| {
            self.blueprint
                .fields
                .iter()
                .any(|f| f.key == name && matches!(f.kind, FieldKind::Url | FieldKind::Choice(_)))
        };
        match part {
            Expr::Text(_) => part.clone(),
            Expr::Config(name) if plain(name) => match (self.value(name), next) {
                (Expr::Text(base), Some(Expr::Text(next))) if next.starts_with('/') => {
                    Expr::Text(base.trim_end_matches('/').into())
                }
                (value, _) => value,
            },
            // What is written out here is meant as it stands: `?create=true`.
            written if all_written(written) => self.expr(written),
            other => Expr::Encoded(Arc::new(self.expr(other))),
        }
    }

    fn wire(&self, def: &RequestDef) -> Wire {
        let mut bound = def.clone();
        bound.url = self.url(&def.url);
        for (_, header) in &mut bound.headers {
            *header = self.expr(header);
        }
        bound.body = def
            .body
            .as_ref()
            .map(|body| frozen(body.map(&mut |expr| self.expr(expr))));
        // Shapes are inlined already.
        bound.shape = None;
        bound.when = def.when.iter().map(|test| self.expr(test)).collect();
        bound.by = def.by.as_ref().map(|by| self.expr(by));
        bound.travel = def.travel.map(&mut |expr| self.expr(expr));
        if let Some(by) = &def.travel.rates_by
            && let Expr::Text(chosen) = self.value(&by.field)
            && let Some((_, rates)) = by.of.iter().find(|(value, _)| **value == *chosen)
        {
            bound.travel.rates.clone_from(rates);
        }
        // `0 s` switches either off.
        let config = |name: &str| self.time(name);
        let pace = bound.travel.pace.and_then(|pace| pace.bound(&config));
        bound.travel.pace = pace.map(Time::Fixed);
        bound.travel.once = bound.travel.once.and_then(|mut once| {
            once.lasts = Time::Fixed(once.lasts.bound(&config)?);
            Some(once)
        });
        let mut lookups = Vec::new();
        let mut note = |expr: &Expr| {
            expr.walk(&mut |part| {
                if matches!(part, Expr::Call(Fun::Lookup, _)) {
                    lookups.push(part.clone());
                }
            });
        };
        note(&bound.url);
        bound.headers.iter().for_each(|(_, header)| note(header));
        if let Some(body) = &bound.body {
            body.walk(&mut note);
        }
        Wire {
            def: bound,
            lookups,
        }
    }
}

impl Entries {
    /// What each entry that sends anything is sent as.
    fn sends_mut(&mut self) -> impl Iterator<Item = &mut Vec<super::entry::Send>> {
        self.track
            .values_mut()
            .chain(&mut self.any_other)
            .chain(self.calls.values_mut())
            .filter_map(|entry| match entry {
                Entry::Send { sends, .. } => Some(sends),
                Entry::Drop => None,
            })
    }

    fn retain(&mut self, keep: &dyn Fn(&super::entry::Send) -> bool) {
        for sends in self.sends_mut() {
            sends.retain(keep);
        }
    }

    fn freeze(&mut self) {
        for send in self.sends_mut().flatten() {
            send.item = frozen(std::mem::replace(&mut send.item, Tpl::Nothing));
        }
    }
}

/// Whether a formula only chooses between texts of the blueprint.
fn all_written(expr: &Expr) -> bool {
    let mut written = matches!(expr, Expr::Call(Fun::First | Fun::If | Fun::Required, _));
    leaves(expr, &mut |leaf| {
        written = written && matches!(leaf, Expr::Text(_) | Expr::Missing);
    });
    written
}

/// This with its constants as ready JSON.
pub(super) fn frozen(tpl: Tpl) -> Tpl {
    match tpl {
        Tpl::Value(Expr::Text(text)) => Tpl::constant(&serde_json::Value::from(text.as_ref())),
        Tpl::Value(Expr::YesNo(yes)) => Tpl::constant(&yes.into()),
        Tpl::Value(Expr::Number(text)) => Tpl::Raw(text.as_bytes().into()),
        Tpl::Group(members) => Tpl::Group(
            members
                .into_iter()
                .filter_map(|member| match member {
                    Member::Field {
                        key,
                        tpl,
                        line,
                        span,
                    } => Some(Member::Field {
                        key: match key {
                            Name::Plain(name) => {
                                let head = head(&name).into();
                                Name::Ready(name, head)
                            }
                            key => key,
                        },
                        tpl: frozen(tpl),
                        line,
                        span,
                    }),
                    Member::Spread {
                        from: Tpl::Nothing, ..
                    } => None,
                    Member::Spread {
                        from,
                        line,
                        span,
                        except,
                    } => Some(Member::Spread {
                        from: frozen(from),
                        line,
                        span,
                        except,
                    }),
                })
                .collect(),
        ),
        Tpl::List(mut items) => {
            for item in &mut items {
                item.tpl = frozen(std::mem::replace(&mut item.tpl, Tpl::Nothing));
            }
            Tpl::List(items)
        }
        Tpl::Fields(mut fields) => {
            if let Tpl::Group(members) = frozen(Tpl::Group(std::mem::take(&mut fields.members))) {
                fields.members = members;
            }
            Tpl::Fields(fields)
        }
        Tpl::Each(mut each) => {
            each.row = frozen(each.row);
            Tpl::Each(each)
        }
        same => same,
    }
}
