//! Brevo's contact calls: create, change, batch, import, attributes, lists. Pure.

use serde_json::{Map, Value, json};

use super::events::body;
use super::people::{Attribute, Contact, EnumValue, Key, identifiers};
use super::{BatchUnknown, Brevo, Call, Policies, invalid, missing, refusal, unknown_path};
use crate::sandbox::book::Marks;
use crate::sandbox::exchange::{Reply, text};

/// Entries of one list addition.
const LIST_ADD_MAX: usize = 150;
/// Bytes of one import.
const IMPORT_BYTES_MAX: usize = 10 << 20;
/// Characters of one option of an attribute.
const OPTION_MAX: usize = 200;

impl Brevo {
    /// Everything under `/contacts`.
    pub(super) fn contact_calls(
        &mut self,
        method: &str,
        path: &[&str],
        call: &Call<'_>,
        marks: &mut Marks,
    ) -> Reply {
        let (endpoint, reply) = match (method, path) {
            ("POST", []) => ("POST contacts", self.post_contact(call, marks)),
            ("POST", ["batch"]) => ("POST contacts/batch", self.contact_batch(call, marks)),
            ("POST", ["import"]) => ("POST contacts/import", self.import(call, marks)),
            ("GET", ["attributes"]) => ("GET contacts/attributes", self.list_attributes()),
            ("POST", ["attributes", category, name]) => (
                "POST contacts/attributes",
                self.post_attribute(category, name, call, marks),
            ),
            ("GET", ["lists"]) => ("GET contacts/lists", self.get_lists()),
            ("POST", ["lists"]) => ("POST contacts/lists", self.post_list(call, marks)),
            ("POST", ["lists", list, "contacts", "add"]) => (
                "POST contacts/lists/add",
                self.change_list(list, true, call, marks),
            ),
            ("POST", ["lists", list, "contacts", "remove"]) => (
                "POST contacts/lists/remove",
                self.change_list(list, false, call, marks),
            ),
            ("GET", [id]) => (
                "GET contacts",
                self.one(id, call, marks, |brevo, id| {
                    let shown = brevo.people.get(id).map(Contact::shown);
                    Reply::json(200, &shown.unwrap_or_default())
                }),
            ),
            ("DELETE", [id]) => (
                "DELETE contacts",
                self.one(id, call, marks, |brevo, id| {
                    brevo.people.remove(id);
                    Reply::empty(204)
                }),
            ),
            ("PUT", [id]) => ("PUT contacts", self.put_contact(id, call, marks)),
            _ => ("unknown", unknown_path()),
        };
        marks.endpoint = endpoint;
        reply
    }

    fn post_contact(&mut self, call: &Call<'_>, marks: &mut Marks) -> Reply {
        let contact = match body(call, marks) {
            Ok(contact) => contact,
            Err(refused) => return refused,
        };
        if identifiers(contact).is_empty() {
            marks.refused("BR3", "no identifier");
            return missing("At least one of email, ext_id or attributes.SMS is required");
        }
        if let Err(refused) = self.check(contact, call.policies, marks) {
            return refused;
        }
        let matches = self.people.matches(contact);
        let wants = |name: &str| contact.get(name).and_then(Value::as_bool) == Some(true);
        let id = match matches.as_slice() {
            [] => {
                let id = self.new_id();
                self.people.create(id, call.ask.now_ms);
                self.people.identify(id, contact);
                self.change(id, contact, call.policies, marks);
                return Reply::json(201, &json!({"id": id}));
            }
            [_, ..] if !wants("updateEnabled") => {
                let taken = self.people.taken(None, contact);
                marks.refused("BR8", format!("{} in use", taken.join(", ")));
                return self.duplicate("create", &taken, call.policies);
            }
            [id] => *id,
            [id, others @ ..] if wants("forceMerge") => {
                for other in others {
                    self.people.merge(*id, *other);
                }
                *id
            }
            [id, ..] => {
                let taken = self.people.taken(Some(*id), contact);
                marks.refused("BR10", "identifiers of different contacts");
                return self.duplicate("update", &taken, call.policies);
            }
        };
        self.people.identify(id, contact);
        self.change(id, contact, call.policies, marks);
        Reply::empty(204)
    }

    fn put_contact(&mut self, id: &str, call: &Call<'_>, marks: &mut Marks) -> Reply {
        let Some(id) = self.lookup(id, call) else {
            marks.refused("BR9", "PUT of an unknown contact");
            return refusal(404, "document_not_found", "Contact does not exist");
        };
        let mut contact = match body(call, marks) {
            Ok(contact) => contact.clone(),
            Err(refused) => return refused,
        };
        // The address of a contact is changed through an attribute.
        if let Some(email) = contact
            .get("attributes")
            .and_then(|attributes| attributes.get("EMAIL"))
            .cloned()
        {
            contact.insert("email".to_owned(), email);
        }
        if let Err(refused) = self.check(&contact, call.policies, marks) {
            return refused;
        }
        let taken = self.people.taken(Some(id), &contact);
        if !taken.is_empty() {
            if contact.get("forceMerge").and_then(Value::as_bool) != Some(true) {
                marks.refused("BR10", "identifiers of different contacts");
                return self.duplicate("update", &taken, call.policies);
            }
            for other in self.people.matches(&contact) {
                if other != id {
                    self.people.merge(id, other);
                }
            }
        }
        self.people.identify(id, &contact);
        self.change(id, &contact, call.policies, marks);
        Reply::empty(204)
    }

    /// What both forms refuse before looking anybody up.
    fn check(
        &self,
        contact: &Map<String, Value>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Result<(), Reply> {
        if text(contact, "email").is_some_and(|email| !is_email(email)) {
            marks.refused("BR3", "no email address");
            return Err(invalid("Invalid email address"));
        }
        let unknown = contact
            .get("attributes")
            .and_then(Value::as_object)
            .and_then(|attributes| {
                attributes
                    .keys()
                    .find(|name| *name != "EMAIL" && !self.people.has_attribute(name))
            });
        if policies.strict_attributes
            && let Some(name) = unknown
        {
            marks.refused("BR7", format!("unknown attribute {name}"));
            return Err(invalid("Transactional attribute as primary Key is missing"));
        }
        for list in ids(contact, "listIds") {
            if !self.lists.contains_key(&list) {
                marks.refused("BR3", "unknown list");
                return Err(invalid("List ID does not exist"));
            }
        }
        Ok(())
    }

    /// Applies what a contact body says beside identifiers.
    pub(super) fn change(
        &mut self,
        id: i64,
        contact: &Map<String, Value>,
        policies: &Policies,
        marks: &mut Marks,
    ) {
        if let Some(attributes) = contact.get("attributes").and_then(Value::as_object) {
            self.set_attributes(id, attributes, policies, marks);
        }
        let flag = |name: &str| contact.get(name).and_then(Value::as_bool);
        let (add, remove) = (ids(contact, "listIds"), ids(contact, "unlinkListIds"));
        let Some(known) = self.people.get_mut(id) else {
            return;
        };
        known.email_blacklisted = flag("emailBlacklisted").unwrap_or(known.email_blacklisted);
        known.sms_blacklisted = flag("smsBlacklisted").unwrap_or(known.sms_blacklisted);
        known.lists.extend(add);
        known.lists.sort_unstable();
        known.lists.dedup();
        known.lists.retain(|list| !remove.contains(list));
    }

    /// `duplicate_parameter`, or every second time what else has been seen for it.
    fn duplicate(&mut self, verb: &str, taken: &[&'static str], policies: &Policies) -> Reply {
        self.duplicates_told += 1;
        let code = if policies.flaky_codes && self.duplicates_told.is_multiple_of(2) {
            "invalid_parameter"
        } else {
            "duplicate_parameter"
        };
        let message = format!(
            "Unable to {verb} contact, {} is already associated with another Contact",
            taken.join(", ")
        );
        Reply::json(
            400,
            &json!({"code": code, "message": message, "metadata": {"duplicate_identifiers": taken}}),
        )
    }

    /// A contact by the identifier in a path.
    fn lookup(&self, id: &str, call: &Call<'_>) -> Option<i64> {
        match call.ask.param("identifierType").as_deref() {
            Some("contact_id") => self.people.get(id.parse().ok()?).map(|contact| contact.id),
            Some(kind) => self.people.find(Key::of(kind)?, id),
            None => self
                .people
                .find(Key::Email, id)
                .or_else(|| self.people.get(id.parse().ok()?).map(|contact| contact.id)),
        }
    }

    fn one(
        &mut self,
        id: &str,
        call: &Call<'_>,
        marks: &mut Marks,
        then: impl FnOnce(&mut Self, i64) -> Reply,
    ) -> Reply {
        match self.lookup(id, call) {
            Some(id) => then(self, id),
            None => {
                marks.refused("BR9", "an unknown contact");
                refusal(404, "document_not_found", "Contact does not exist")
            }
        }
    }

    fn contact_batch(&mut self, call: &Call<'_>, marks: &mut Marks) -> Reply {
        let items = match body(call, marks).map(|body| body.get("contacts")) {
            Ok(Some(Value::Array(items))) if !items.is_empty() => items,
            Ok(_) => return missing("contacts is required"),
            Err(refused) => return refused,
        };
        let (mut good, mut unknown) = (Vec::new(), Vec::new());
        for item in items {
            let none = Map::new();
            let item = item.as_object().unwrap_or(&none);
            let id = item.get("id").and_then(Value::as_i64);
            let given = [text(item, "email"), text(item, "sms")];
            if usize::from(id.is_some()) + given.iter().flatten().count() != 1 {
                marks.refused("BR12", "not exactly one of email, id, sms");
                return invalid("Each contact needs exactly one of email, id or sms");
            }
            let found = match given {
                [Some(email), _] => self.people.find(Key::Email, email),
                [_, Some(sms)] => self.people.find(Key::Phone, sms),
                _ => id.and_then(|id| self.people.get(id).map(|contact| contact.id)),
            };
            match found {
                Some(id) => good.push((id, item.clone())),
                None => unknown.push(id.unwrap_or(0)),
            }
        }
        if !unknown.is_empty() {
            marks.refused("BR12", format!("{} unknown contacts", unknown.len()));
            if call.policies.contacts_batch_unknown == BatchUnknown::NotFound {
                return refusal(404, "document_not_found", "Contact does not exist");
            }
        }
        for (id, item) in &good {
            self.change(*id, item, call.policies, marks);
        }
        if unknown.is_empty() {
            return Reply::empty(204);
        }
        let good: Vec<i64> = good.iter().map(|(id, _)| *id).collect();
        Reply::json(207, &json!({"successIds": good, "failureIds": unknown}))
    }

    fn import(&mut self, call: &Call<'_>, marks: &mut Marks) -> Reply {
        if call.ask.body_bytes > IMPORT_BYTES_MAX {
            marks.limit("BR5", format!("an import of {} bytes", call.ask.body_bytes));
            return invalid("The import body exceeds 10MB");
        }
        let import = match body(call, marks) {
            Ok(import) => import,
            Err(refused) => return refused,
        };
        let sources = ["jsonBody", "fileBody", "fileUrl"];
        if sources
            .iter()
            .filter(|name| import.contains_key(**name))
            .count()
            != 1
        {
            return missing("One of jsonBody, fileBody or fileUrl is required");
        }
        let mut lists = ids(import, "listIds");
        if let Some(name) = import
            .get("newList")
            .and_then(Value::as_object)
            .and_then(|list| text(list, "listName"))
        {
            lists.push(self.new_list(name));
        }
        if lists.is_empty() {
            return missing("listIds or newList is required");
        }
        if lists.iter().any(|list| !self.lists.contains_key(list)) {
            return invalid("List ID does not exist");
        }
        let update = import
            .get("updateExistingContacts")
            .and_then(Value::as_bool)
            != Some(false);
        let rows = import.get("jsonBody").and_then(Value::as_array);
        for row in rows.into_iter().flatten().filter_map(Value::as_object) {
            if text(row, "email").is_none_or(|email| !is_email(email)) {
                continue;
            }
            let known = self.people.matches(row).first().copied();
            if known.is_some() && !update {
                continue;
            }
            let id = known.unwrap_or_else(|| {
                let id = self.new_id();
                self.people.create(id, call.ask.now_ms);
                id
            });
            self.people.identify(id, row);
            let mut row = row.clone();
            row.insert("listIds".to_owned(), json!(lists));
            self.change(id, &row, call.policies, marks);
        }
        let process = self.new_id();
        let takes_ms = i64::try_from(call.policies.import_ms).unwrap_or(i64::MAX);
        self.processes
            .insert(process, call.ask.now_ms.saturating_add(takes_ms));
        Reply::json(202, &json!({"processId": process}))
    }

    fn list_attributes(&self) -> Reply {
        let attributes: Vec<_> = self.people.attributes().collect();
        Reply::json(200, &json!({"attributes": attributes}))
    }

    fn post_attribute(
        &mut self,
        category: &str,
        name: &str,
        call: &Call<'_>,
        marks: &mut Marks,
    ) -> Reply {
        let given = match body(call, marks) {
            Ok(given) => given,
            Err(refused) => return refused,
        };
        let kind = text(given, "type").unwrap_or(if category == "category" {
            "category"
        } else {
            ""
        });
        let allowed = match kind {
            "text" | "date" | "float" | "boolean" => {
                ["normal", "transactional"].contains(&category)
            }
            "user" | "multiple-choice" => category == "normal",
            "id" => category == "transactional",
            "category" => category == "category",
            _ => false,
        };
        if !allowed {
            return invalid(format!(
                "Attribute type `{kind}` is not allowed in category `{category}`"
            ));
        }
        if self.people.has_attribute(name) {
            return refusal(400, "duplicate_parameter", "Attribute name must be unique");
        }
        let items = |field: &str| given.get(field).and_then(Value::as_array).cloned();
        let enumeration: Vec<EnumValue> = items("enumeration")
            .unwrap_or_default()
            .into_iter()
            .filter_map(|value| serde_json::from_value(value).ok())
            .collect();
        let options: Vec<String> = items("multiCategoryOptions")
            .unwrap_or_default()
            .iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect();
        let labels = enumeration.iter().map(|value| &value.label);
        if labels
            .chain(&options)
            .any(|label| label.chars().count() > OPTION_MAX)
        {
            return invalid("An option exceeds 200 characters");
        }
        self.people.define(Attribute {
            name: name.to_uppercase(),
            category: category.to_owned(),
            kind: kind.to_owned(),
            enumeration,
            options,
        });
        Reply::json(201, &json!({}))
    }

    fn get_lists(&self) -> Reply {
        let lists: Vec<Value> = self
            .lists
            .iter()
            .map(|(id, name)| {
                let on_it = |contact: &&Contact| contact.lists.contains(id);
                let count = self.people.contacts().filter(on_it).count();
                json!({"id": id, "name": name, "folderId": 1, "uniqueSubscribers": count})
            })
            .collect();
        Reply::json(200, &json!({"count": lists.len(), "lists": lists}))
    }

    fn new_list(&mut self, name: &str) -> i64 {
        let id = self.lists.keys().next_back().copied().unwrap_or(0) + 1;
        self.lists.insert(id, name.to_owned());
        id
    }

    fn post_list(&mut self, call: &Call<'_>, marks: &mut Marks) -> Reply {
        let given = match body(call, marks) {
            Ok(given) => given,
            Err(refused) => return refused,
        };
        let folder = given.get("folderId").and_then(Value::as_i64);
        match (text(given, "name"), folder) {
            (Some(name), Some(_)) => {
                let name = name.to_owned();
                Reply::json(201, &json!({"id": self.new_list(&name)}))
            }
            (None, _) => missing("name is required"),
            (_, None) => missing("folderId is required"),
        }
    }

    fn change_list(&mut self, list: &str, adds: bool, call: &Call<'_>, marks: &mut Marks) -> Reply {
        let list = list
            .parse()
            .ok()
            .filter(|list| self.lists.contains_key(list));
        let Some(list) = list else {
            marks.refused("BR11", "unknown list");
            return refusal(404, "document_not_found", "List ID does not exist");
        };
        let given = match body(call, marks) {
            Ok(given) => given,
            Err(refused) => return refused,
        };
        let kinds: Vec<&str> = ["emails", "ids", "extIds"]
            .into_iter()
            .filter(|name| given.contains_key(*name))
            .collect();
        let (&[kind], Some(entries)) = (
            kinds.as_slice(),
            kinds.first().and_then(|kind| given.get(*kind)?.as_array()),
        ) else {
            marks.refused("BR11", "not exactly one of emails, ids, extIds");
            return invalid("Exactly one of emails, ids or extIds is required");
        };
        if entries.len() > LIST_ADD_MAX {
            marks.limit("BR11", format!("{} entries at once", entries.len()));
            return invalid("At most 150 entries are allowed");
        }
        let (mut success, mut failure) = (Vec::new(), Vec::new());
        for entry in entries {
            let id = match kind {
                "ids" => entry.as_i64(),
                "emails" => entry
                    .as_str()
                    .and_then(|email| self.people.find(Key::Email, email)),
                _ => entry
                    .as_str()
                    .and_then(|id| self.people.find(Key::ExtId, id)),
            };
            match id.and_then(|id| self.people.get_mut(id)) {
                Some(contact) if contact.lists.contains(&list) != adds => {
                    if adds {
                        contact.lists.push(list);
                    } else {
                        contact.lists.retain(|on| *on != list);
                    }
                    success.push(entry);
                }
                _ => failure.push(entry),
            }
        }
        Reply::json(
            201,
            &json!({"contacts": {"success": success, "failure": failure}}),
        )
    }
}

fn ids(body: &Map<String, Value>, field: &str) -> Vec<i64> {
    body.get(field)
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_i64).collect())
        .unwrap_or_default()
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| {
        !name.is_empty() && host.contains('.') && !text.contains(char::is_whitespace)
    })
}
