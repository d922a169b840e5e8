//! Items to a request: address, headers and body around them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;
use serde_json::value::RawValue;

use super::eval::{Scene, eval};
use super::limit::Limits;
use super::plan::Plan;
use super::responses;
use super::wire::{RequestDef, header_text};
use super::writer::{Path, Writer};
use super::{Reply, Request, Tables, Verdict};
use crate::secret::Secret;

impl Plan {
    /// Items may share a request only while this stays the same (envelope values such as the datafile's revision).
    #[must_use]
    pub fn envelope_key(&self, request: usize, tables: &Tables) -> u64 {
        let Some(wire) = self.wires.get(request) else {
            return 0;
        };
        if wire.lookups.is_empty() {
            return 0;
        }
        let scene = Scene::of_request(&[], tables);
        let mut hasher = DefaultHasher::new();
        for lookup in &wire.lookups {
            eval(lookup, scene.cx()).text().hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Bytes of the body around the items.
    #[must_use]
    pub fn envelope_bytes(&self, request: usize, tables: &Tables) -> usize {
        self.wires
            .get(request)
            .and_then(|wire| body(&wire.def, &[], &[], tables).ok())
            .map_or(0, |body| body.len())
    }

    /// `items` are JSON bytes made by `map`. Not batched: exactly one item.
    ///
    /// # Errors
    /// When the address has no value, or a header cannot be sent.
    pub fn assemble(
        &self,
        request: usize,
        items: &[&[u8]],
        tables: &Tables,
    ) -> Result<Request, String> {
        let wire = self
            .wires
            .get(request)
            .ok_or_else(|| format!("the blueprint has no request {request}"))?;
        let def = &wire.def;
        if !def.batched && items.len() != 1 {
            return Err(format!(
                "`{}` carries one item, not {}",
                def.name,
                items.len()
            ));
        }
        let (item, holes) = match (def.holes.is_empty(), items) {
            (false, [wrapped]) => unwrap(wrapped)
                .ok_or_else(|| format!("the item of `{}` is not as it was made", def.name))?,
            _ => (None, Vec::new()),
        };
        let unwrapped = item.as_deref().map(|item| [item.get().as_bytes()]);
        let items: &[&[u8]] = unwrapped.as_ref().map_or(items, |item| item);
        let scene = Scene::of_request(&holes, tables);
        let url = eval(&def.url, scene.cx())
            .text()
            .ok_or_else(|| format!("the address of `{}` has no value yet", def.name))?;
        let mut headers = Vec::with_capacity(def.headers.len() + 1);
        for (name, header) in &def.headers {
            let Some(text) = eval(header, scene.cx()).text() else {
                continue;
            };
            if !header_text(&text) {
                return Err(format!(
                    "the header `{name}` of `{}` has characters that cannot be sent",
                    def.name
                ));
            }
            headers.push((name.clone(), Secret::new(text.into_owned())));
        }
        let body = body(def, items, &holes, tables)?;
        let typed = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !body.is_empty() && !typed {
            headers.push(("content-type".to_owned(), Secret::new("application/json")));
        }
        Ok(Request {
            name: def.name.clone(),
            method: def.method.to_owned(),
            url: Secret::new(url.into_owned()),
            headers,
            body: body.into(),
        })
    }

    /// Reads a reply by the blueprint's `responses`, else by the common rules: 2xx delivered; 400, 422 bisect and 413
    /// splits (reject, when the request is not batched); 408, 425, 429, 5xx retry; everything else pauses.
    #[must_use]
    pub fn verdict(&self, request: usize, reply: &Reply<'_>) -> Verdict {
        match self.wires.get(request) {
            Some(wire) => responses::verdict(&wire.def.rules, wire.def.batched, reply),
            None => Verdict::Pause {
                reason: "unexpected_status",
            },
        }
    }
}

fn body(
    def: &RequestDef,
    items: &[&[u8]],
    holes: &[Value],
    tables: &Tables,
) -> Result<Vec<u8>, String> {
    let Some(body) = &def.body else {
        return Ok(Vec::new());
    };
    let scene = Scene::of_request(holes, tables);
    let bytes: usize = items.iter().map(|item| item.len() + 1).sum();
    // … and what stands around the items.
    let mut writer = Writer::on(Vec::with_capacity(bytes + 512));
    writer.items = items;
    writer.strip = def.strip.as_deref();
    writer
        .write(body, scene.cx(), &Path::TOP, 0, Limits::NONE)
        .map_err(|_| format!("the body of `{}` lacks something it requires", def.name))?;
    Ok(writer.out)
}

/// The item and the event values beside it.
fn unwrap(wrapped: &[u8]) -> Option<(Option<Box<RawValue>>, Vec<Value>)> {
    let mut parts: Vec<Box<RawValue>> = serde_json::from_slice(wrapped).ok()?;
    if parts.is_empty() {
        return None;
    }
    let item = parts.remove(0);
    let holes = parts
        .iter()
        .map(|part| serde_json::from_str(part.get()))
        .collect::<Result<_, _>>()
        .ok()?;
    Some((Some(item), holes))
}

/// The item alone, without the event values that travel beside it.
pub(super) fn bare_item(def: &RequestDef, json: &[u8]) -> Vec<u8> {
    if def.holes.is_empty() {
        return json.to_vec();
    }
    match unwrap(json) {
        Some((Some(item), _)) => item.get().as_bytes().to_vec(),
        _ => json.to_vec(),
    }
}

/// Whether the address of an unbatched request has a value with what was put beside the item. What tables
/// say of it is looked at only when the request is made.
pub(super) fn has_address(def: &RequestDef, wrapped: &[u8]) -> bool {
    let uses_hole = def
        .url
        .any(&mut |part| matches!(part, super::expr::Expr::Hole(_)));
    let uses_table = def
        .url
        .any(&mut |part| matches!(part, super::expr::Expr::Table(_)));
    if !uses_hole || uses_table {
        return true;
    }
    let Some((_, holes)) = unwrap(wrapped) else {
        return false;
    };
    let tables = Tables::default();
    !eval(&def.url, Scene::of_request(&holes, &tables).cx()).is_missing()
}

/// Everything but letters, digits and `-._~` as %XX.
pub(super) fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut out, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
            out
        })
}
