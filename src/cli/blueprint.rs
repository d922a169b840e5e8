//! `aqueduct check` and `aqueduct try`: blueprints from the command line.
//!
//! Both give text and whether all is well, so that they can be tested without a process. They read the
//! files they are given and nothing else: no network, no data directory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::blueprint::{
    self, Blueprint, Config, ConfigValue, FieldKind, FieldTrace, Mapping, Part, PartResult, Plan,
    Table, Tables,
};
use crate::clock::Millis;

/// What a command says.
#[derive(Debug)]
pub struct Output {
    /// For the terminal.
    pub text: String,
    /// Exit code 0.
    pub success: bool,
}

/// What `aqueduct try` is asked.
#[derive(Debug, Default, clap::Args)]
pub struct Try {
    /// A file, or a shipped blueprint such as `optimizely/default`.
    pub blueprint: String,
    /// A file with one event, or a list of them.
    pub event: PathBuf,
    /// A field of the integration's config, as key=value (may be repeated).
    #[arg(long = "field", value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// A table's rows as `{key: value}`, or the document it is read from, as name=file.json (may be repeated).
    #[arg(long = "table", value_name = "NAME=FILE")]
    pub tables: Vec<String>,
    /// The document all tables are read from.
    #[arg(long, value_name = "FILE")]
    pub datafile: Option<PathBuf>,
}

/// Checks blueprints and runs their examples; without files, the shipped ones.
#[must_use]
pub fn run_check(files: &[PathBuf]) -> Output {
    let mut text = String::new();
    let mut success = true;
    for (name, read) in sources(files) {
        match read {
            Ok(source) => success &= check_one(&name, &source, &mut text),
            Err(error) => {
                success = false;
                let _ = writeln!(text, "error: {name} cannot be read: {error}\n");
            }
        }
    }
    Output { text, success }
}

/// As [`run_check`], for programs: one JSON object a file, with its remarks.
#[must_use]
pub fn run_check_json(files: &[PathBuf]) -> Output {
    let mut text = String::new();
    let mut success = true;
    for (name, read) in sources(files) {
        let row = match read {
            Ok(source) => {
                let checked = blueprint::check(&source);
                success &= checked.blueprint.is_some();
                json!({"file": name, "ok": checked.blueprint.is_some(), "diagnostics": checked.diagnostics})
            }
            Err(error) => {
                success = false;
                json!({"file": name, "ok": false, "error": format!("cannot be read: {error}")})
            }
        };
        let _ = writeln!(text, "{row}");
    }
    Output { text, success }
}

/// Name and text of each file; without files, of the shipped blueprints.
fn sources(files: &[PathBuf]) -> Vec<(String, std::io::Result<String>)> {
    if files.is_empty() {
        let shipped = blueprint::builtin().iter();
        return shipped
            .map(|(name, text)| (format!("{name}.yaml"), Ok((*text).to_owned())))
            .collect();
    }
    files
        .iter()
        .map(|file| (file.display().to_string(), std::fs::read_to_string(file)))
        .collect()
}

fn check_one(name: &str, source: &str, text: &mut String) -> bool {
    let checked = blueprint::check(source);
    text.push_str(&blueprint::render(name, source, &checked.diagnostics));
    let count = |severity| {
        checked
            .diagnostics
            .iter()
            .filter(|remark| remark.severity == severity)
            .count()
    };
    let errors = count(blueprint::Severity::Error);
    let warnings = count(blueprint::Severity::Warning);
    let said = match &checked.blueprint {
        Some(blueprint) => format!("ok, {} examples hold", blueprint.run_examples().len()),
        None => format!("{errors} {}", if errors == 1 { "error" } else { "errors" }),
    };
    let warned = match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        many => format!(", {many} warnings"),
    };
    let _ = writeln!(text, "{name}: {said}{warned}");
    checked.blueprint.is_some()
}

/// Shows each request an event would become, and the line that made each field.
#[must_use]
pub fn run_try(asked: &Try, now_ms: Millis) -> Output {
    match try_it(asked, now_ms) {
        Ok(text) => Output {
            text,
            success: true,
        },
        Err(text) => Output {
            text,
            success: false,
        },
    }
}

fn try_it(asked: &Try, now_ms: Millis) -> Result<String, String> {
    let (name, source) = read_blueprint(&asked.blueprint)?;
    let checked = blueprint::check(&source);
    let Some(blueprint) = checked.blueprint else {
        return Err(blueprint::render(&name, &source, &checked.diagnostics));
    };
    let config = blueprint.trial_config(&entered(&blueprint, &asked.config)?)?;
    // A trial sends nothing, so any address may be shown.
    let plan = blueprint.bind(&config, &|_| true).map_err(|faults| {
        faults.iter().fold(String::new(), |mut text, fault| {
            let _ = writeln!(text, "error: {}: {}", fault.field, fault.message);
            text
        })
    })?;
    let tables = read_tables(&plan, asked)?;
    let events = match read_json(&asked.event)? {
        Value::Array(events) => events,
        one => vec![one],
    };
    let shown = Shown {
        plan: &plan,
        tables: &tables,
        config: &config,
        file: &name,
    };
    let mut text = String::new();
    for (at, posted) in events.iter().enumerate() {
        if events.len() > 1 {
            let _ = writeln!(text, "# event {}\n", at + 1);
        }
        let event = blueprint::event_of(posted, now_ms)
            .map_err(|error| format!("error: {}: {error}", asked.event.display()))?;
        let (mapping, traces) = plan.map_traced(&event, &tables);
        match mapping {
            Mapping::Skipped(why) => {
                let _ = writeln!(text, "sent nowhere: {why}\n");
            }
            Mapping::Parts(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    let trace = traces.get(at).map_or(&[][..], Vec::as_slice);
                    shown.part(part, trace, &mut text)?;
                }
            }
        }
    }
    Ok(text)
}

fn read_blueprint(name: &str) -> Result<(String, String), String> {
    if let Some((path, source)) = blueprint::builtin().iter().find(|(path, _)| *path == name) {
        return Ok((format!("{path}.yaml"), (*source).to_owned()));
    }
    match std::fs::read_to_string(name) {
        Ok(source) => Ok((name.to_owned(), source)),
        Err(error) => {
            let shipped: Vec<&str> = blueprint::builtin().iter().map(|(path, _)| *path).collect();
            Err(format!(
                "error: {name} cannot be read: {error}\nShipped blueprints: {}\n",
                shipped.join(", ")
            ))
        }
    }
}

fn read_json(file: &Path) -> Result<Value, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("error: {shown} cannot be read: {error}\n"))?;
    serde_json::from_str(&text).map_err(|error| format!("error: {shown} is not JSON: {error}\n"))
}

/// `key=value` as the kinds the fields are of.
fn entered(blueprint: &Blueprint, pairs: &[String]) -> Result<Map<String, Value>, String> {
    let mut entered = Map::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!(
                "error: `--config {pair}`: write --config key=value\n"
            ));
        };
        let kind = blueprint
            .fields()
            .iter()
            .find(|field| field.key == key)
            .map(|field| &field.kind);
        let value = match (kind, value) {
            (Some(FieldKind::YesNo), "true" | "false") => Value::Bool(value == "true"),
            _ => Value::from(value),
        };
        entered.insert(key.to_owned(), value);
    }
    Ok(entered)
}

fn read_tables(plan: &Plan, asked: &Try) -> Result<Tables, String> {
    let mut tables = Tables::default();
    if let Some(file) = &asked.datafile {
        let document = read_json(file)?;
        for source in plan.tables() {
            let table = Table::read(plan, &source.name, &document)
                .map_err(|error| format!("error: {}: {error}\n", file.display()))?;
            tables.tables.insert(source.name.clone(), Arc::new(table));
        }
    }
    for pair in &asked.tables {
        let known: Vec<&str> = plan.tables().iter().map(|t| t.name.as_str()).collect();
        let (name, file) = pair
            .split_once('=')
            .filter(|(name, _)| known.contains(name))
            .ok_or_else(|| {
                let known = known.join(", ");
                format!(
                    "error: `--table {pair}`: write --table name=file.json with one of: {known}\n"
                )
            })?;
        let document = read_json(Path::new(file))?;
        let table = match (Table::read(plan, name, &document), document) {
            (Ok(table), _) => table,
            (Err(_), Value::Object(rows)) => Table::of(rows),
            (Err(error), _) => return Err(format!("error: {file}: {error}\n")),
        };
        tables.tables.insert(name.to_owned(), Arc::new(table));
    }
    Ok(tables)
}

/// What is shown, and with what it was made.
struct Shown<'s> {
    plan: &'s Plan,
    tables: &'s Tables,
    config: &'s Config,
    file: &'s str,
}

impl Shown<'_> {
    fn part(&self, part: &Part, trace: &[FieldTrace], text: &mut String) -> Result<(), String> {
        let name = self
            .plan
            .requests()
            .get(part.request)
            .map_or("", |request| request.name.as_str());
        match &part.result {
            PartResult::Item { json, .. } => {
                let request = self.plan.assemble(part.request, &[json], self.tables)?;
                let url = self.without_secrets(request.url.expose());
                let _ = writeln!(text, "{name}: {} {url}", request.method);
                for (header, value) in &request.headers {
                    let value = self.without_secrets(value.expose());
                    let _ = writeln!(text, "{header}: {value}");
                }
                let body = serde_json::from_slice::<Value>(&request.body)
                    .and_then(|body| serde_json::to_string_pretty(&body))
                    .unwrap_or_default();
                let _ = writeln!(text, "\n{body}\n");
                let width = trace.iter().map(|t| t.field.chars().count()).max();
                for made in trace {
                    let _ = writeln!(
                        text,
                        "  {:<width$}  {}:{}",
                        made.field,
                        self.file,
                        made.line,
                        width = width.unwrap_or(0)
                    );
                }
            }
            PartResult::Skipped { reason } => {
                let _ = writeln!(text, "{name}: skipped: {reason}");
            }
            PartResult::Refused { reason, detail } => {
                let _ = writeln!(text, "{name}: refused: {reason}\n  {detail}");
            }
            PartResult::Held {
                reason,
                detail,
                hold,
                ..
            } => {
                let minutes = hold.as_secs().div_ceil(60);
                let _ = writeln!(
                    text,
                    "{name}: held up to {minutes} min, then dead: {reason}\n  {detail}"
                );
                if self.tables.tables.is_empty() {
                    let _ = writeln!(text, "  give the document with --datafile FILE");
                }
            }
        }
        for note in &part.notes {
            let _ = writeln!(
                text,
                "  left out: {} ({}:{}): {}",
                note.field, self.file, note.line, note.reason
            );
        }
        text.push('\n');
        Ok(())
    }

    fn without_secrets(&self, shown: &str) -> String {
        self.config
            .values()
            .filter_map(|value| match value {
                ConfigValue::Secret(secret) => Some(secret),
                _ => None,
            })
            .filter(|secret| !secret.expose().is_empty() && !secret.expose().starts_with('<'))
            .fold(shown.to_owned(), |shown, secret| {
                shown.replace(secret.expose(), &secret.hint())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::{Try, run_check, run_try};
    use std::path::{Path, PathBuf};

    fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    #[test]
    fn check_says_what_is_wrong_and_where() {
        let shipped = run_check(&[]);
        assert!(shipped.success, "{}", shipped.text);
        assert!(
            shipped
                .text
                .contains("optimizely/default.yaml: ok, 14 examples hold")
        );

        let folder = tempfile::tempdir().expect("a folder");
        let broken = file(folder.path(), "broken.yaml", "blueprint: x/y\ntitel: X\n");
        let output = run_check(&[broken, folder.path().join("absent.yaml")]);
        assert!(!output.success);
        for wanted in [
            "broken.yaml:2:1",
            "did you mean `title`?",
            "absent.yaml cannot be read",
        ] {
            assert!(output.text.contains(wanted), "{wanted} in {}", output.text);
        }
    }

    #[test]
    fn try_shows_the_request_and_the_line_of_each_field() {
        let folder = tempfile::tempdir().expect("a folder");
        let event = file(
            folder.path(),
            "event.json",
            r#"{"type":"track","event":"Order Completed","userId":"u-1","properties":{"total":"19.99","coupon":{},"quantity":"many"}}"#,
        );
        let datafile = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/optimizely/datafiles/golden_v4.json");
        let asked = Try {
            blueprint: "optimizely/default".to_owned(),
            event,
            config: vec!["account_id=123".to_owned()],
            datafile: Some(datafile),
            ..Try::default()
        };
        let output = run_try(&asked, 1_795_183_407_412);
        assert!(output.success, "{}", output.text);
        for wanted in [
            "conversion: POST https://logx.optimizely.com/v1/events",
            "\"account_id\": \"123\"",
            "\"revenue\": 1999",
            "snapshots.0.events.0.tags.revenue",
            "optimizely/default.yaml:",
        ] {
            assert!(output.text.contains(wanted), "{wanted} in {}", output.text);
        }

        let held = run_try(
            &Try {
                datafile: None,
                ..asked
            },
            0,
        );
        assert!(held.text.contains("--datafile"), "{}", held.text);
    }
}
