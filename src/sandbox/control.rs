//! The sandbox's own API, under `/_sandbox`:
//!
//! | call | |
//! |---|---|
//! | `DELETE /_sandbox` | forgets everything but the datafiles, the policies and the time |
//! | `GET/PUT/DELETE /_sandbox/faults` | the fault script ([`super::faults::Script`]; a bare list of rules will do) |
//! | `GET/DELETE /_sandbox/requests?limit=&since=&path=` | the request log, entries after number `since` |
//! | `GET/PUT /_sandbox/settings` | `{"log": bool, "remember": bool}`: both off for the fastest runs; also `?log=off` |
//! | `GET/DELETE /_sandbox/optimizely/summary?at=` | counts of the plain path, or of `/at/{label}` |
//! | `POST /_sandbox/optimizely/missing?at=` | which of the uuids in the body (one a line) never came |
//! | `GET/PUT/DELETE /_sandbox/optimizely/datafiles/{sdk_key}` | what the datafile host serves |
//! | `POST /_sandbox/optimizely/datafiles/{sdk_key}/events` | `{"key": "signup"}` adds an event, revision + 1 |
//! | `GET/PUT/DELETE /_sandbox/config` | policies of the other vendors ([`super::config::Config`]); PUT takes a part |
//! | `GET/POST /_sandbox/clock` | the sandbox's time; `{"advance_ms": n}` moves it on |
//! | `GET/PUT/DELETE /_sandbox/state/{vendor}?at=&user=&limit=` | what a vendor holds; PUT adds to it |
//! | `GET /_sandbox/values/{vendor}?at=&user=&flag=` | variation by user and flag as the vendor now shows it |
//! | `GET/DELETE /_sandbox/breaches?at=` | broken limits by rule, of one label or of all |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::book::Book;
use super::faults::{Rule, Script};
use super::serve::{Body, full};
use super::world::Look;
use crate::clock::Clock;

/// Longest body of a control call, in bytes.
const BODY_MAX: usize = 64 << 20;
/// Missing uuids named in one answer.
const SAMPLE_MAX: usize = 100;

type Reply = Result<Value, (StatusCode, String)>;

pub(super) async fn answer(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let reply = match Limited::new(incoming, BODY_MAX).collect().await {
        Ok(body) => {
            let path = parts.uri.path().trim_start_matches("/_sandbox");
            let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            let call = Call {
                state,
                method: &parts.method,
                query: parts.uri.query().unwrap_or(""),
                body: body.to_bytes(),
            };
            call.route(&segments)
        }
        Err(error) => Err((StatusCode::PAYLOAD_TOO_LARGE, error.to_string())),
    };
    let (status, body) = match reply {
        Ok(value) => (StatusCode::OK, value),
        Err((status, message)) => (status, json!({"message": message})),
    };
    let mut response = Response::new(full(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

struct Call<'a> {
    state: &'a State,
    method: &'a Method,
    query: &'a str,
    body: Bytes,
}

impl Call<'_> {
    fn route(&self, path: &[&str]) -> Reply {
        match (self.method.as_str(), path) {
            ("GET", []) => Ok(json!({"calls": [
                "faults", "requests", "settings", "optimizely/summary", "optimizely/missing",
                "optimizely/datafiles/{sdk_key}", "optimizely/datafiles/{sdk_key}/events",
                "config", "clock", "state/{vendor}", "values/{vendor}", "breaches",
            ], "vendors": super::PREFIXES})),
            ("DELETE", []) => {
                self.state.set_faults(Script::default());
                self.state.log.lock().clear();
                self.state.tallies.lock().clear();
                self.state.worlds.lock().clear();
                Ok(json!({}))
            }
            (_, ["config"]) => self.config(),
            (_, ["clock"]) => self.clock(),
            (_, ["state", vendor]) => self.vendor_state(vendor),
            ("GET", ["values", vendor]) => self.values(vendor),
            (_, ["breaches"]) => self.breaches(),
            (_, ["faults"]) => self.faults(),
            (_, ["requests"]) => self.requests(),
            (_, ["settings"]) => self.settings(),
            ("GET", ["optimizely", "summary"]) => {
                Ok(self.state.optimizely_summary(&self.param("at")))
            }
            ("DELETE", ["optimizely", "summary"]) => {
                self.state.tallies.lock().remove(&self.param("at"));
                Ok(json!({}))
            }
            ("POST", ["optimizely", "missing"]) => self.missing(),
            (_, ["optimizely", "datafiles", sdk_key]) => self.datafile(sdk_key),
            ("POST", ["optimizely", "datafiles", sdk_key, "events"]) => self.add_event(sdk_key),
            _ => Err((StatusCode::NOT_FOUND, "no such control call".to_owned())),
        }
    }

    fn faults(&self) -> Reply {
        match self.method.as_str() {
            "GET" => {}
            "DELETE" => self.state.set_faults(Script::default()),
            "PUT" => self.state.set_faults(script(&self.body)?),
            _ => return Err(wrong_method()),
        }
        Ok(self.state.faults.lock().report())
    }

    fn requests(&self) -> Reply {
        let mut log = self.state.log.lock();
        match self.method.as_str() {
            "GET" => {
                let limit = usize::try_from(self.number("limit", 100)?).unwrap_or(usize::MAX);
                Ok(log.page(self.number("since", 0)?, &self.param("path"), limit))
            }
            "DELETE" => {
                log.clear();
                Ok(json!({}))
            }
            _ => Err(wrong_method()),
        }
    }

    fn settings(&self) -> Reply {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields)]
        struct Settings {
            log: Option<bool>,
            remember: Option<bool>,
        }
        let mut settings = Settings::default();
        if self.method == Method::PUT {
            if !self.body.is_empty() {
                settings =
                    serde_json::from_slice(&self.body).map_err(|error| bad(error.to_string()))?;
            }
            settings.log = settings.log.or(self.switch("log")?);
            settings.remember = settings.remember.or(self.switch("remember")?);
        } else if self.method != Method::GET {
            return Err(wrong_method());
        }
        let set = |cell: &AtomicBool, value: Option<bool>| {
            if let Some(value) = value {
                cell.store(value, Ordering::Relaxed);
            }
            cell.load(Ordering::Relaxed)
        };
        Ok(json!({
            "log": set(&self.state.logging, settings.log),
            "remember": set(&self.state.remember, settings.remember),
            "connections": self.state.connections.load(Ordering::Relaxed),
        }))
    }

    fn missing(&self) -> Reply {
        let Ok(text) = std::str::from_utf8(&self.body) else {
            return Err(bad("the body is not UTF-8".to_owned()));
        };
        let label = self.param("at");
        let uuids = || text.lines().map(str::trim).filter(|line| !line.is_empty());
        let tallies = self.state.tallies.lock();
        let (asked, missing) = match tallies.get(&label) {
            Some(tally) => tally.missing(uuids()),
            None => (uuids().count() as u64, uuids().collect()),
        };
        Ok(json!({
            "asked": asked,
            "missing": missing.len(),
            "sample": &missing[..missing.len().min(SAMPLE_MAX)],
        }))
    }

    fn datafile(&self, sdk_key: &str) -> Reply {
        let mut datafiles = self.state.datafiles.lock();
        let unknown = || {
            (
                StatusCode::NOT_FOUND,
                format!("no datafile under `{sdk_key}`"),
            )
        };
        match self.method.as_str() {
            "GET" => datafiles.document(sdk_key).cloned().ok_or_else(unknown),
            "PUT" => {
                let document =
                    serde_json::from_slice(&self.body).map_err(|error| bad(error.to_string()))?;
                datafiles
                    .put(sdk_key, document, self.state.clock.now_ms())
                    .map_err(bad)
            }
            "DELETE" if datafiles.remove(sdk_key) => Ok(json!({})),
            "DELETE" => Err(unknown()),
            _ => Err(wrong_method()),
        }
    }

    fn config(&self) -> Reply {
        match self.method.as_str() {
            "GET" => {}
            "PUT" => return self.state.configure(&self.json()?).map_err(bad),
            "DELETE" => self.state.config.store(Arc::default()),
            _ => return Err(wrong_method()),
        }
        Ok(self.state.config())
    }

    fn clock(&self) -> Reply {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Move {
            advance_ms: u64,
        }
        match self.method.as_str() {
            "GET" => {}
            "POST" => {
                let by: Move =
                    serde_json::from_slice(&self.body).map_err(|error| bad(error.to_string()))?;
                self.state.clock.advance(by.advance_ms);
            }
            _ => return Err(wrong_method()),
        }
        let clock = &self.state.clock;
        Ok(json!({"now_ms": clock.now_ms(), "advanced_ms": clock.offset_ms()}))
    }

    fn vendor_state(&self, vendor: &str) -> Reply {
        let world = self.state.world(&self.param("at"));
        let user = self.param("user");
        let look = Look {
            user: Some(user).filter(|user| !user.is_empty()),
            limit: usize::try_from(self.number("limit", 1_000)?).unwrap_or(usize::MAX),
        };
        match self.method.as_str() {
            "GET" => {}
            "PUT" => {
                let now_ms = self.state.clock.now_ms();
                world
                    .seed(vendor, self.json()?, now_ms)
                    .map_err(|message| bad(format!("{vendor}: {message}")))?;
            }
            "DELETE" if world.clear(vendor) => {}
            "DELETE" => return Err(no_vendor(vendor)),
            _ => return Err(wrong_method()),
        }
        world.state(vendor, &look).ok_or_else(|| no_vendor(vendor))
    }

    fn values(&self, vendor: &str) -> Reply {
        let (user, flag) = (self.param("user"), self.param("flag"));
        if vendor == "optimizely" {
            let who = Some(user.as_str()).filter(|user| !user.is_empty());
            let all = self.state.impressions(&self.param("at"), who);
            let one = |of: &str| all.get(of)?.get(&flag).cloned();
            return Ok(match &*flag {
                "" => all,
                _ => json!({"user": user, "flag": flag, "value": one(&user)}),
            });
        }
        let world = self.state.world(&self.param("at"));
        let values = if !flag.is_empty() {
            if user.is_empty() {
                return Err(bad("`flag` needs `user` beside it".to_owned()));
            }
            world
                .value(vendor, &user, &flag)
                .map(|value| json!({"user": user, "flag": flag, "value": value}))
        } else {
            world.values(vendor, Some(user.as_str()).filter(|user| !user.is_empty()))
        };
        values.ok_or_else(|| no_vendor(vendor))
    }

    fn breaches(&self) -> Reply {
        let label = self.given("at");
        match self.method.as_str() {
            "GET" => {}
            "DELETE" => {
                for (of, world) in self.state.worlds.lock().iter() {
                    if label.as_ref().is_none_or(|label| label == of) {
                        *world.book.lock() = Book::default();
                    }
                }
            }
            _ => return Err(wrong_method()),
        }
        Ok(self.state.breaches(label.as_deref()))
    }

    fn add_event(&self, sdk_key: &str) -> Reply {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct NewEvent {
            key: String,
        }
        let event: NewEvent =
            serde_json::from_slice(&self.body).map_err(|error| bad(error.to_string()))?;
        self.state
            .datafiles
            .lock()
            .add_event(sdk_key, &event.key, self.state.clock.now_ms())
            .map_err(bad)
    }

    fn json(&self) -> Reply {
        serde_json::from_slice(&self.body).map_err(|error| bad(error.to_string()))
    }

    /// A query parameter, "" when absent.
    fn param(&self, name: &str) -> String {
        self.given(name).unwrap_or_default()
    }

    fn given(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, (StatusCode, String)> {
        let text = self.param(name);
        match text.parse() {
            Ok(number) => Ok(number),
            Err(_) if text.is_empty() => Ok(default),
            Err(_) => Err(bad(format!("`{name}` is `{text}`, not a number"))),
        }
    }

    fn switch(&self, name: &str) -> Result<Option<bool>, (StatusCode, String)> {
        match self.param(name).as_str() {
            "" => Ok(None),
            "on" | "true" => Ok(Some(true)),
            "off" | "false" => Ok(Some(false)),
            other => Err(bad(format!("`{name}` is `{other}`, not on or off"))),
        }
    }
}

fn bad(message: String) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, message)
}

fn no_vendor(vendor: &str) -> (StatusCode, String) {
    let message = format!("`{vendor}` is none of brevo, heap, pendo, odp");
    (StatusCode::NOT_FOUND, message)
}

fn wrong_method() -> (StatusCode, String) {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        "not by this method".to_owned(),
    )
}

/// Reads and checks a script, or a bare list of rules.
fn script(body: &[u8]) -> Result<Script, (StatusCode, String)> {
    let read = |error: serde_path_to_error::Error<serde_json::Error>| bad(error.to_string());
    let mut json = serde_json::Deserializer::from_slice(body);
    let script = if body.trim_ascii_start().starts_with(b"[") {
        let rules: Vec<Rule> = serde_path_to_error::deserialize(&mut json).map_err(read)?;
        Script { seed: 0, rules }
    } else {
        serde_path_to_error::deserialize(&mut json).map_err(read)?
    };
    for (index, rule) in script.rules.iter().enumerate() {
        let action = &rule.action;
        // 1xx would leave the caller waiting for the real answer.
        if action
            .status
            .is_some_and(|status| !(200..1000).contains(&status))
        {
            return Err(bad(format!(
                "rules[{index}].action.status is no final status"
            )));
        }
        if rule
            .probability
            .is_some_and(|chance| !(0.0..=1.0).contains(&chance))
        {
            return Err(bad(format!("rules[{index}].probability is not 0 to 1")));
        }
        for (name, value) in &action.headers {
            if header::HeaderName::try_from(name.as_str()).is_err()
                || header::HeaderValue::try_from(value.as_str()).is_err()
            {
                return Err(bad(format!(
                    "rules[{index}].action.headers.{name} is no header"
                )));
            }
        }
    }
    Ok(script)
}
