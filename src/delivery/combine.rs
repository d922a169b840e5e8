//! Makes one object of several of the same lane: objects are merged deep, the later one wins. Pure.

use hashbrown::{HashMap, HashSet};
use serde_json::Value;

use super::batch::Item;

/// What is sent for some items: the objects, and for each which items it stands for, in order.
#[derive(Debug, Default)]
pub(super) struct Combined {
    pub objects: Vec<Vec<u8>>,
    pub of: Vec<Vec<usize>>,
}

/// Combines the items of each lane; an item without a lane, or that is no object, stays alone. None when no two items
/// have the same lane: then they are sent as they are.
pub(super) fn combine(items: &[Item]) -> Option<Combined> {
    let mut met = HashSet::with_capacity(items.len());
    if items
        .iter()
        .filter_map(|item| item.lane)
        .all(|lane| met.insert(lane))
    {
        return None;
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<u64, usize> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let place = item
            .lane
            .map(|lane| *known.entry(lane).or_insert(groups.len()));
        match place.and_then(|place| groups.get_mut(place)) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    let mut combined = Combined::default();
    for group in groups {
        let of: Vec<&Item> = group.iter().filter_map(|index| items.get(*index)).collect();
        match merged(&of) {
            Some(object) => {
                combined.objects.push(object);
                combined.of.push(group);
            }
            None => {
                for (index, item) in group.into_iter().zip(of) {
                    combined.objects.push(item.json.to_vec());
                    combined.of.push(vec![index]);
                }
            }
        }
    }
    Some(combined)
}

fn merged(items: &[&Item]) -> Option<Vec<u8>> {
    let (first, rest) = items.split_first()?;
    if rest.is_empty() {
        return Some(first.json.to_vec());
    }
    let mut whole: Value = serde_json::from_slice(&first.json).ok()?;
    for item in rest {
        let later: Value = serde_json::from_slice(&item.json).ok()?;
        if !(whole.is_object() && later.is_object()) {
            return None;
        }
        merge(&mut whole, later);
    }
    serde_json::to_vec(&whole).ok()
}

fn merge(whole: &mut Value, later: Value) {
    match (whole, later) {
        (Value::Object(whole), Value::Object(later)) => {
            for (key, value) in later {
                match whole.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => {
                        whole.insert(key, value);
                    }
                }
            }
        }
        (whole, later) => *whole = later,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn item(lane: Option<u64>, json: &str) -> Item {
        Item {
            slot: 0,
            part: 0,
            json: Bytes::copy_from_slice(json.as_bytes()),
            lane,
            held: None,
        }
    }

    #[test]
    fn one_object_per_lane_and_every_digit_kept() {
        let items = [
            item(Some(1), r#"{"id":"u1","p":{"a":1.10,"b":{"x":1}}}"#),
            item(Some(2), r#"{"id":"u2","p":{"a":12345678901234567890.5}}"#),
            item(Some(1), r#"{"id":"u1","p":{"b":{"y":[2]},"a":2.50}}"#),
            item(None, r#"{"id":"u1"}"#),
            item(Some(3), "[1]"),
            item(Some(3), "[2]"),
        ];
        let combined = combine(&items).unwrap();
        let texts: Vec<&str> = combined
            .objects
            .iter()
            .map(|object| std::str::from_utf8(object).unwrap())
            .collect();
        assert_eq!(
            texts,
            [
                r#"{"id":"u1","p":{"a":2.50,"b":{"x":1,"y":[2]}}}"#,
                r#"{"id":"u2","p":{"a":12345678901234567890.5}}"#,
                r#"{"id":"u1"}"#,
                "[1]",
                "[2]"
            ]
        );
        assert_eq!(
            combined.of,
            [vec![0, 2], vec![1], vec![3], vec![4], vec![5]]
        );
        assert!(combine(&items[..2]).is_none(), "each is of another lane");
    }
}
