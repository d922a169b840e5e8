//! stub
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use super::book::Marks;
use super::exchange::{Ask, Reply};
use super::world::Look;
/// Policies.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policies { }
/// Host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host { /// app
App, /// data
Data }
/// State.
#[derive(Debug, Default)]
pub struct Pendo {}
/// Seed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {}
impl Pendo {
    /// Answers.
    pub fn answer(&mut self, _ask: &Ask<'_>, _host: Host, _policies: &Policies, _grace_ms: u64, _marks: &mut Marks) -> Reply { Reply::empty(501) }
    /// State.
    pub fn state(&self, _look: &Look) -> Value { json!({}) }
    /// Seed.
    pub fn seed(&mut self, _seed: Seed ) -> Result<(), String> { Ok(()) }
    /// Values.
    pub fn values(&self, _user: Option<&str>) -> Value { json!({}) }
}
