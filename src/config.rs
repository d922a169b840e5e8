//! The process's settings: defaults, file, environment and flags, in that order; read once, checked whole.
//!
//! Every fault is reported at once with its key and where it came from, before any port is bound. Modules
//! own their `Options`; this file only fills them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::secret::Secret;

/// Defaults and documentation in one.
pub const DEFAULTS: &str = include_str!("aqueduct.default.toml");

/// Environment variables of ours begin with this.
const PREFIX: &str = "AQUEDUCT_";

/// Settings never shown.
const SECRETS: [&str; 3] = ["admin_token", "write_key", "encryption_keys"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `aqueduct.default.toml`.
    Default,
    /// The `--config` file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting's key.
    pub key: String,
    /// Where the value came from.
    pub origin: String,
    /// What is wrong and the way out.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.origin, self.message)
    }
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Fault>);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// The settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Ingest listener.
    pub ingest_listen: SocketAddr,
    /// Admin listener.
    pub admin_listen: SocketAddr,
    /// Metrics and health listener.
    pub metrics_listen: SocketAddr,
    /// Calls a minute per admin token; 0 = no limit.
    pub admin_rate: u32,
    /// Admin token given from outside.
    pub admin_token: Option<Secret>,
    /// Write key of the source `default` given from outside.
    pub write_key: Option<Secret>,
    /// Encryption keys given from outside.
    pub encryption_keys: Option<Secret>,
    /// Entries of the outbound allow-list.
    pub egress_allow: Vec<String>,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
    /// Largest request body in bytes, after decompression.
    pub max_body_bytes: usize,
    /// Open ingest connections.
    pub max_connections: usize,
    /// Seconds for a request's head.
    pub header_timeout_s: u64,
    /// Seconds for a request's body.
    pub body_timeout_s: u64,
    /// Events a second per source; none = no limit.
    pub source_rate: Option<u32>,
    /// Seconds for draining.
    pub drain_s: u64,
    /// How long repeated posts are recognised, in seconds.
    pub dedup_window_s: u64,
    /// Memory for that, in bytes.
    pub dedup_bytes: usize,
    /// How long settled blocks are kept, in seconds.
    pub retain_s: u64,
    /// How many bytes of them.
    pub retain_bytes: u64,
    /// Free disk below which no events are accepted, in bytes.
    pub free_bytes_min: u64,
    /// How long attempts are kept, in seconds.
    pub attempts_keep_s: u64,
    /// How many bytes of them.
    pub attempts_bytes: u64,
    /// How long an assignment that is not renewed is kept, in seconds.
    pub assignments_keep_s: u64,
    /// Each setting's value as shown to people, and where it came from.
    pub effective: BTreeMap<String, (String, Origin)>,
}

/// What the settings are read from. Handed in, so that tests need no process environment.
#[derive(Debug, Default)]
pub struct Inputs {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// Flags: key and value.
    pub flags: Vec<(String, String)>,
}

impl Inputs {
    /// The process's own environment.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one door to the environment")]
    pub fn process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        Self {
            file,
            environment: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            flags,
        }
    }
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(inputs: &Inputs) -> Result<Self, ConfigError> {
        let mut reader = Reader::new();
        reader.defaults();
        if let Some(path) = &inputs.file {
            reader.file(path, &inputs.environment);
        }
        reader.environment(&inputs.environment);
        for (key, value) in &inputs.flags {
            reader.set(key, value.clone(), Origin::Flag);
        }
        reader.finish()
    }
}

/// Collects values by key, later ones winning, and the faults on the way.
struct Reader {
    values: BTreeMap<String, (String, Origin)>,
    faults: Vec<Fault>,
}

impl Reader {
    fn new() -> Self {
        Self {
            values: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, key: &str, origin: &Origin, message: impl Into<String>) {
        self.faults.push(Fault {
            key: key.to_owned(),
            origin: origin.to_string(),
            message: message.into(),
        });
    }

    fn defaults(&mut self) {
        let table: toml::Table = match DEFAULTS.parse() {
            Ok(table) => table,
            Err(error) => {
                return self.fault("aqueduct.default.toml", &Origin::Default, error.to_string());
            }
        };
        for (key, value) in table {
            self.values
                .insert(key, (plain(&value).unwrap_or_default(), Origin::Default));
        }
    }

    fn set(&mut self, key: &str, value: String, origin: Origin) {
        if self.values.contains_key(key) {
            self.values.insert(key.to_owned(), (value, origin));
        } else {
            let help = match near(key, self.values.keys()) {
                Some(known) => format!("there is no such setting; did you mean `{known}`?"),
                None => {
                    "there is no such setting; see aqueduct.default.toml for all of them".to_owned()
                }
            };
            self.fault(key, &origin, help);
        }
    }

    fn file(&mut self, path: &Path, environment: &BTreeMap<String, String>) {
        let origin = Origin::File(path.to_owned());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.fault("--config", &origin, format!("cannot be read: {error}"));
            }
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return self.fault("--config", &origin, format!("is not TOML: {error}")),
        };
        for (key, value) in table {
            let Some(text) = plain(&value) else {
                self.fault(
                    &key,
                    &origin,
                    "must be a text, a number, true or false, or a list of texts",
                );
                continue;
            };
            match expand(&text, environment) {
                Ok(text) => self.set(&key, text, origin.clone()),
                Err(name) => self.fault(
                    &key,
                    &origin,
                    format!("names ${{{name}}}, and the environment variable {name} is not set"),
                ),
            }
        }
    }

    fn environment(&mut self, environment: &BTreeMap<String, String>) {
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let key = rest.to_ascii_lowercase();
            let origin = Origin::Environment(name.clone());
            match key
                .strip_suffix("_file")
                .filter(|base| SECRETS.contains(base))
            {
                Some(base) => match std::fs::read_to_string(value) {
                    Ok(text) => self.set(base, text.trim().to_owned(), origin),
                    Err(error) => {
                        self.fault(base, &origin, format!("{value} cannot be read: {error}"))
                    }
                },
                None => self.set(&key, value.clone(), origin),
            }
        }
    }

    /// The text of a setting; every key asked for stands in the default file (a test holds the two together).
    fn text(&self, key: &str) -> (String, Origin) {
        self.values
            .get(key)
            .cloned()
            .unwrap_or_else(|| (String::new(), Origin::Default))
    }

    fn parsed<T: std::str::FromStr>(&mut self, key: &str, fallback: T, wanted: &str) -> T {
        let (text, origin) = self.text(key);
        if let Ok(value) = text.trim().parse() {
            return value;
        }
        self.fault(key, &origin, format!("`{text}` is not {wanted}"));
        fallback
    }

    fn number(&mut self, key: &str) -> u64 {
        self.parsed(key, 0, "a whole number, 0 or more")
    }

    /// A number that must not be 0.
    fn positive(&mut self, key: &str) -> u64 {
        let number = self.number(key);
        let (text, origin) = self.text(key);
        if number == 0 && text.trim() == "0" {
            self.fault(key, &origin, "must be more than 0");
        }
        number
    }

    fn size(&mut self, key: &str) -> usize {
        usize::try_from(self.positive(key)).unwrap_or(usize::MAX)
    }

    fn address(&mut self, key: &str) -> SocketAddr {
        self.parsed(
            key,
            SocketAddr::from(([127, 0, 0, 1], 0)),
            "an address and port such as 127.0.0.1:8080",
        )
    }

    fn secret(&self, key: &str) -> Option<Secret> {
        let (text, _) = self.text(key);
        (!text.trim().is_empty()).then(|| Secret::new(text.trim()))
    }

    fn finish(mut self) -> Result<Settings, ConfigError> {
        let (store, store_origin) = self.text("store");
        if store.starts_with("postgres:") || store.starts_with("postgresql:") {
            self.fault(
                "store",
                &store_origin,
                "Postgres is not available in this version; leave it at `sqlite:`",
            );
        } else if store != "sqlite:" {
            self.fault(
                "store",
                &store_origin,
                format!("`{store}` is not a store; use `sqlite:`"),
            );
        }
        let (data_dir, data_origin) = self.text("data_dir");
        if data_dir.trim().is_empty() {
            self.fault("data_dir", &data_origin, "must name a directory");
        }
        let (format, format_origin) = self.text("log_format");
        let log_format = match format.as_str() {
            "json" => LogFormat::Json,
            "pretty" => LogFormat::Pretty,
            other => {
                self.fault(
                    "log_format",
                    &format_origin,
                    format!("`{other}` is not a format; use json or pretty"),
                );
                LogFormat::Json
            }
        };
        let (log, log_origin) = self.text("log");
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log) {
            self.fault(
                "log",
                &log_origin,
                format!("`{log}` is not a log filter: {error}"),
            );
        }
        let (allow, allow_origin) = self.text("egress_allow");
        let egress_allow: Vec<String> = allow
            .split(',')
            .map(|entry| entry.trim().to_owned())
            .filter(|entry| !entry.is_empty())
            .collect();
        for entry in &egress_allow {
            if let Err(fault) = crate::vendor::guard::Guard::parse(&[entry]) {
                self.fault("egress_allow", &allow_origin, fault.to_string());
            }
        }
        for key in ["admin_token", "write_key"] {
            let (text, origin) = self.text(key);
            if !text.trim().is_empty()
                && (text.trim().len() < 8
                    || !text
                        .trim()
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && b != b':'))
            {
                self.fault(
                    key,
                    &origin,
                    "must be at least 8 characters of printable ASCII, without spaces and colons",
                );
            }
        }
        let settings = Settings {
            data_dir: PathBuf::from(data_dir),
            ingest_listen: self.address("ingest_listen"),
            admin_listen: self.address("admin_listen"),
            admin_rate: u32::try_from(self.number("admin_rate")).unwrap_or(u32::MAX),
            metrics_listen: self.address("metrics_listen"),
            admin_token: self.secret("admin_token"),
            write_key: self.secret("write_key"),
            encryption_keys: self.secret("encryption_keys"),
            egress_allow,
            log,
            log_format,
            max_body_bytes: self.size("max_body_bytes"),
            max_connections: self.size("max_connections"),
            header_timeout_s: self.positive("header_timeout_s"),
            body_timeout_s: self.positive("body_timeout_s"),
            source_rate: Some(self.parsed(
                "source_rate",
                0,
                "a whole number of events a second, 0 for no limit",
            ))
            .filter(|rate| *rate > 0),
            drain_s: self.positive("drain_s"),
            dedup_window_s: self.positive("dedup_window_s"),
            dedup_bytes: self.size("dedup_bytes"),
            retain_s: self.number("retain_s"),
            retain_bytes: self.number("retain_bytes"),
            free_bytes_min: self.number("free_bytes_min"),
            attempts_keep_s: self.positive("attempts_keep_s"),
            attempts_bytes: self.positive("attempts_bytes"),
            assignments_keep_s: self.positive("assignments_keep_s"),
            effective: self
                .values
                .iter()
                .map(|(key, (value, origin))| (key.clone(), (shown(key, value), origin.clone())))
                .collect(),
        };
        if self.faults.is_empty() {
            Ok(settings)
        } else {
            Err(ConfigError(self.faults))
        }
    }
}

/// A setting's value as it may be shown.
fn shown(key: &str, value: &str) -> String {
    if SECRETS.contains(&key) && !value.is_empty() {
        "(secret)".to_owned()
    } else {
        value.to_owned()
    }
}

/// The text of a TOML value; a list of texts is joined by commas.
fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map(|texts| texts.join(",")),
        _ => None,
    }
}

/// Fills in `${NAME}`; the error is the name of a variable that is not set.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start + 2..].find('}') else {
            break;
        };
        let name = &rest[start + 2..start + 2 + length];
        out.push_str(&rest[..start]);
        out.push_str(environment.get(name).ok_or(name)?);
        rest = &rest[start + 3 + length..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The known key most like this one, when it is close.
fn near<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .filter(|(distance, _)| *distance <= 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::{Inputs, Origin, Settings};

    fn with(pairs: &[(&str, &str)]) -> Inputs {
        Inputs {
            environment: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Inputs::default()
        }
    }

    #[test]
    fn the_default_file_is_a_valid_configuration_and_names_every_setting() {
        let settings = Settings::load(&Inputs::default()).expect("defaults");
        assert_eq!(settings.admin_listen.port(), 8084);
        assert!(
            settings
                .effective
                .values()
                .all(|(_, origin)| *origin == Origin::Default)
        );
        // Every key that is read stands in the file: a key missing there would have parsed as an empty text and failed.
        assert_eq!(settings.effective.len(), 26);
    }

    #[test]
    fn the_environment_beats_the_file_and_flags_beat_both() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("aqueduct.toml");
        std::fs::write(&path, "data_dir = \"${ROOT}/events\"\ndrain_s = 7\negress_allow = [\"127.0.0.1:9\", \"10.0.0.0/8\"]\n").expect("write");
        let mut inputs = with(&[("ROOT", "/srv"), ("AQUEDUCT_DRAIN_S", "8")]);
        inputs.file = Some(path);
        inputs.flags = vec![("ingest_listen".to_owned(), "127.0.0.1:0".to_owned())];
        let settings = Settings::load(&inputs).expect("valid");
        assert_eq!(settings.data_dir.to_str(), Some("/srv/events"));
        assert_eq!(settings.drain_s, 8);
        assert_eq!(settings.ingest_listen.port(), 0);
        assert_eq!(settings.egress_allow, ["127.0.0.1:9", "10.0.0.0/8"]);
    }

    #[test]
    fn every_fault_is_reported_at_once_with_its_key_and_the_way_out() {
        let inputs = with(&[
            ("AQUEDUCT_INGEST_LISTEN", "8080"),
            ("AQUEDUCT_DRAIN_S", "soon"),
            ("AQUEDUCT_DATADIR", "/x"),
            ("AQUEDUCT_STORE", "postgres://db/x"),
            ("AQUEDUCT_LOG_FORMAT", "xml"),
            ("AQUEDUCT_EGRESS_ALLOW", "not an address"),
            ("AQUEDUCT_WRITE_KEY", "a b"),
        ]);
        let faults = Settings::load(&inputs).expect_err("faults").0;
        let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        for key in [
            "ingest_listen",
            "drain_s",
            "datadir",
            "store",
            "log_format",
            "egress_allow",
            "write_key",
        ] {
            assert!(keys.contains(&key), "{key} in {keys:?}");
        }
        assert!(
            faults
                .iter()
                .any(|fault| fault.message.contains("did you mean `data_dir`?"))
        );
        assert!(
            !faults.iter().any(|fault| fault.message.contains("a b")),
            "a secret is never repeated"
        );
    }

    #[test]
    fn an_unset_variable_in_the_file_is_named() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("aqueduct.toml");
        std::fs::write(&path, "write_key = \"${NO_SUCH_VARIABLE}\"\n").expect("write");
        let faults = Settings::load(&Inputs {
            file: Some(path),
            ..Inputs::default()
        })
        .expect_err("fault")
        .0;
        assert!(faults[0].message.contains("NO_SUCH_VARIABLE"));
    }
}
