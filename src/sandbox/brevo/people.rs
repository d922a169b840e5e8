//! Brevo's contacts and attributes: who is known under which identifier, and which values an attribute takes. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock::Millis;
use crate::sandbox::exchange::{is_iso_time, text};

/// Contacts kept; more are counted, not remembered.
const CONTACTS_MAX: usize = 500_000;

/// An attribute of the account.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attribute {
    /// In capitals.
    pub(super) name: String,
    /// `normal`, `category`, `transactional`, …
    #[serde(default = "normal")]
    pub(super) category: String,
    /// `text`, `date`, `float`, `boolean`, `id`, `category`, `multiple-choice`, `user`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Values of a `category`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) enumeration: Vec<EnumValue>,
    /// Values of a `multiple-choice`.
    #[serde(
        default,
        rename = "multiCategoryOptions",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(super) options: Vec<String>,
}

/// One value of a `category` attribute.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnumValue {
    /// Number.
    pub(super) value: i64,
    /// Name.
    pub(super) label: String,
}

fn normal() -> String {
    "normal".to_owned()
}

/// What a contact can be found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// Email, in lower case.
    Email,
    /// The account's own id.
    ExtId,
    /// Attribute SMS.
    Phone,
    /// Attribute WHATSAPP.
    Whatsapp,
    /// Attribute LANDLINE_NUMBER.
    Landline,
}

impl Key {
    /// As messages and `metadata.duplicate_identifiers` name it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::ExtId => "ext_id",
            Self::Phone => "SMS",
            Self::Whatsapp => "WHATSAPP",
            Self::Landline => "LANDLINE_NUMBER",
        }
    }

    /// By the names `identifierType` and event identifiers use.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "email_id" => Self::Email,
            "ext_id" => Self::ExtId,
            "phone_id" => Self::Phone,
            "whatsapp_id" => Self::Whatsapp,
            "landline_number_id" => Self::Landline,
            _ => return None,
        })
    }

    fn of_attribute(name: &str) -> Option<Self> {
        Some(match name {
            "SMS" => Self::Phone,
            "WHATSAPP" => Self::Whatsapp,
            "LANDLINE_NUMBER" => Self::Landline,
            "EMAIL" => Self::Email,
            _ => return None,
        })
    }

    /// The form values are compared in: emails without case, numbers without what precedes the country code.
    fn normal(self, value: &str) -> String {
        match self {
            Self::Email => value.trim().to_lowercase(),
            Self::ExtId => value.to_owned(),
            Self::Phone | Self::Whatsapp | Self::Landline => value
                .trim_start_matches('+')
                .trim_start_matches("00")
                .to_owned(),
        }
    }
}

/// A contact.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// Brevo's id.
    pub(super) id: i64,
    /// What it is found by.
    pub(super) keys: BTreeMap<Key, String>,
    /// Values by attribute name.
    pub(super) attributes: Map<String, Value>,
    /// Lists it is on.
    pub(super) lists: Vec<i64>,
    /// No emails.
    pub(super) email_blacklisted: bool,
    /// No text messages.
    pub(super) sms_blacklisted: bool,
    created_ms: Millis,
}

impl Contact {
    /// As `GET /contacts/{id}` shows it.
    pub(super) fn shown(&self) -> Value {
        let at = jiff::Timestamp::from_millisecond(self.created_ms)
            .map(|at| at.to_string())
            .unwrap_or_default();
        json!({
            "id": self.id,
            "email": self.keys.get(&Key::Email),
            "ext_id": self.keys.get(&Key::ExtId),
            "emailBlacklisted": self.email_blacklisted,
            "smsBlacklisted": self.sms_blacklisted,
            "createdAt": at,
            "listIds": self.lists,
            "attributes": self.attributes,
        })
    }

    /// ext_id, else email, else the number.
    pub(super) fn name(&self) -> String {
        self.keys
            .get(&Key::ExtId)
            .or_else(|| self.keys.get(&Key::Email))
            .cloned()
            .unwrap_or_else(|| self.id.to_string())
    }
}

/// Identifiers in a contact body: email, ext_id and the telephone attributes.
pub(super) fn identifiers(body: &Map<String, Value>) -> Vec<(Key, String)> {
    let attributes = body.get("attributes").and_then(Value::as_object);
    let phone = |name, key: Key| {
        let value = attributes.and_then(|attributes| text(attributes, name))?;
        Some((key, key.normal(value)))
    };
    let plain = |name, key: Key| text(body, name).map(|value| (key, key.normal(value)));
    [
        plain("email", Key::Email),
        plain("ext_id", Key::ExtId),
        phone("SMS", Key::Phone),
        phone("WHATSAPP", Key::Whatsapp),
        phone("LANDLINE_NUMBER", Key::Landline),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// All contacts and attributes.
#[derive(Debug)]
pub(super) struct People {
    contacts: BTreeMap<i64, Contact>,
    index: HashMap<(Key, String), i64>,
    attributes: BTreeMap<String, Attribute>,
    /// Contacts beyond what is kept.
    pub(super) not_remembered: u64,
}

impl Default for People {
    /// An account as it comes: a few text attributes, nobody in it.
    fn default() -> Self {
        let names = [
            "FIRSTNAME",
            "LASTNAME",
            "SMS",
            "WHATSAPP",
            "LANDLINE_NUMBER",
            "EXT_ID",
            "JOB_TITLE",
            "LINKEDIN",
        ];
        let attribute = |name: &str| Attribute {
            name: name.to_owned(),
            category: normal(),
            kind: "text".to_owned(),
            enumeration: Vec::new(),
            options: Vec::new(),
        };
        Self {
            contacts: BTreeMap::new(),
            index: HashMap::new(),
            attributes: names
                .iter()
                .map(|name| ((*name).to_owned(), attribute(name)))
                .collect(),
            not_remembered: 0,
        }
    }
}

impl People {
    /// How many contacts there are.
    pub(super) fn len(&self) -> usize {
        self.contacts.len()
    }

    /// In the order they came.
    pub(super) fn contacts(&self) -> impl Iterator<Item = &Contact> {
        self.contacts.values()
    }

    /// The account's attributes.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.attributes.values()
    }

    /// Whether there is such an attribute.
    pub(super) fn has_attribute(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }

    /// Adds or replaces an attribute.
    pub(super) fn define(&mut self, attribute: Attribute) {
        self.attributes.insert(attribute.name.clone(), attribute);
    }

    /// By Brevo's id.
    pub(super) fn get_mut(&mut self, id: i64) -> Option<&mut Contact> {
        self.contacts.get_mut(&id)
    }

    /// By Brevo's id.
    pub(super) fn get(&self, id: i64) -> Option<&Contact> {
        self.contacts.get(&id)
    }

    /// By one identifier.
    pub(super) fn find(&self, key: Key, value: &str) -> Option<i64> {
        self.index.get(&(key, key.normal(value))).copied()
    }

    /// By whatever a tester types: ext_id, email, telephone, id.
    pub(super) fn find_any(&self, user: &str) -> Option<&Contact> {
        [Key::ExtId, Key::Email, Key::Phone]
            .iter()
            .find_map(|key| self.find(*key, user))
            .or_else(|| user.parse().ok())
            .and_then(|id| self.get(id))
    }

    /// The contacts a body's identifiers name, each once.
    pub(super) fn matches(&self, body: &Map<String, Value>) -> Vec<i64> {
        let mut found = Vec::new();
        for identifier in identifiers(body) {
            if let Some(id) = self.index.get(&identifier)
                && !found.contains(id)
            {
                found.push(*id);
            }
        }
        found
    }

    /// The identifiers of a body that belong to somebody other than `id`.
    pub(super) fn taken(&self, id: Option<i64>, body: &Map<String, Value>) -> Vec<&'static str> {
        identifiers(body)
            .iter()
            .filter(|identifier| {
                self.index
                    .get(*identifier)
                    .is_some_and(|owner| Some(*owner) != id)
            })
            .map(|(key, _)| key.label())
            .collect()
    }

    /// A new contact without anything.
    pub(super) fn create(&mut self, id: i64, now_ms: Millis) {
        if self.contacts.len() >= CONTACTS_MAX {
            self.not_remembered += 1;
            return;
        }
        let contact = Contact {
            id,
            created_ms: now_ms,
            ..Contact::default()
        };
        self.contacts.insert(id, contact);
    }

    /// Gives a contact the identifiers of a body, taking them from whoever had them.
    pub(super) fn identify(&mut self, id: i64, body: &Map<String, Value>) {
        for (key, value) in identifiers(body) {
            self.key(id, key, value);
        }
    }

    /// Gives a contact one identifier.
    pub(super) fn key(&mut self, id: i64, key: Key, value: String) {
        let Some(contact) = self.contacts.get_mut(&id) else {
            return;
        };
        let value = key.normal(&value);
        if let Some(old) = contact.keys.insert(key, value.clone()) {
            self.index.remove(&(key, old));
        }
        self.index.insert((key, value), id);
    }

    /// Deletes a contact; whether there was one.
    pub(super) fn remove(&mut self, id: i64) -> bool {
        let Some(contact) = self.contacts.remove(&id) else {
            return false;
        };
        for key in contact.keys {
            self.index.remove(&key);
        }
        true
    }

    /// Gives `into` all `from` has that it lacks, and deletes `from`.
    pub(super) fn merge(&mut self, into: i64, from: i64) {
        let Some(gone) = self.contacts.remove(&from) else {
            return;
        };
        for (key, value) in gone.keys {
            self.index.remove(&(key, value.clone()));
            if self
                .get(into)
                .is_some_and(|contact| !contact.keys.contains_key(&key))
            {
                self.key(into, key, value);
            }
        }
        if let Some(contact) = self.contacts.get_mut(&into) {
            for (name, value) in gone.attributes {
                contact.attributes.entry(name).or_insert(value);
            }
        }
    }

    /// Sets an attribute, as far as the account has it and its type allows.
    ///
    /// # Errors
    /// Why it was ignored.
    pub(super) fn set(
        &mut self,
        id: i64,
        name: &str,
        value: &Value,
        date_takes_time: bool,
    ) -> Result<(), &'static str> {
        if name != "EMAIL" {
            let attribute = self.attributes.get(name).ok_or("unknown")?;
            if !fits(attribute, value, date_takes_time) {
                return Err("wrong type");
            }
        }
        if let (Some(key), Some(text)) = (Key::of_attribute(name), value.as_str()) {
            self.key(id, key, text.to_owned());
        }
        if name != "EMAIL"
            && let Some(contact) = self.contacts.get_mut(&id)
        {
            contact.attributes.insert(name.to_owned(), value.clone());
        }
        Ok(())
    }
}

/// Whether an attribute takes a value. Empty text clears any.
fn fits(attribute: &Attribute, value: &Value, date_takes_time: bool) -> bool {
    if value.as_str() == Some("") {
        return true;
    }
    match attribute.kind.as_str() {
        "float" => value.is_number(),
        "boolean" => value.is_boolean(),
        "date" => value.as_str().is_some_and(|text| {
            let is_date = text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok();
            is_date || date_takes_time && is_iso_time(text)
        }),
        "id" => value.is_string() || value.is_number(),
        "category" => attribute.enumeration.iter().any(|option| {
            value.as_i64() == Some(option.value) || value.as_str() == Some(&option.label)
        }),
        "multiple-choice" => value.as_array().is_some_and(|list| {
            list.iter().all(|item| {
                item.as_str()
                    .is_some_and(|item| attribute.options.iter().any(|option| option == item))
            })
        }),
        _ => value.is_string(),
    }
}
