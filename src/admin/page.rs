//! Lists: `{"data":[…],"next_cursor":…,"has_more":…}`, at most 100 rows at a time; times as RFC 3339 texts.

use serde::Deserialize;

use super::problem::Problem;
use crate::clock::Millis;

/// Most rows in one answer.
pub(super) const LIMIT_MAX: usize = 100;

/// Rows when nothing is said.
const LIMIT_DEFAULT: usize = 50;

/// One page of a list.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Page<T> {
    /// The rows.
    data: Vec<T>,
    /// Give it as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
    /// There is a next page.
    has_more: bool,
}

/// Which page is wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// Rows in one answer, 1 to 100.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of rows that were asked for with one more than `limit`; `cursor` names the last one kept.
    pub(super) fn of(mut rows: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| has_more).map(cursor);
        Self {
            data: rows,
            next_cursor,
            has_more,
        }
    }

    /// The rows, to be completed.
    pub(super) fn rows_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// The rows.
    pub(super) fn rows(&self) -> &[T] {
        &self.data
    }

    /// The same page with these rows.
    pub(super) fn with_rows<U>(self, data: Vec<U>) -> Page<U> {
        Page {
            data,
            next_cursor: self.next_cursor,
            has_more: self.has_more,
        }
    }

    /// The same page of other rows.
    pub(super) fn map<U>(self, of: impl Fn(T) -> U) -> Page<U> {
        Page {
            data: self.data.into_iter().map(of).collect(),
            next_cursor: self.next_cursor,
            has_more: self.has_more,
        }
    }

    /// Rows, next cursor, whether there is more.
    pub(super) fn into_parts(self) -> (Vec<T>, Option<String>, bool) {
        (self.data, self.next_cursor, self.has_more)
    }

    /// A page out of a whole list in memory; the cursor is the id of the last row of the page before.
    pub(super) fn within(
        rows: Vec<T>,
        limit: Option<usize>,
        cursor: Option<&str>,
        id: impl Fn(&T) -> &str,
    ) -> Result<Self, Problem> {
        let limit = limit_of(limit)?;
        let skip = match cursor {
            None => 0,
            Some(cursor) => rows
                .iter()
                .position(|row| id(row) == cursor)
                .map(|place| place + 1)
                .ok_or_else(bad_cursor)?,
        };
        let rows: Vec<T> = rows.into_iter().skip(skip).take(limit + 1).collect();
        Ok(Self::of(rows, limit, |row| id(row).to_owned()))
    }
}

/// The number of rows asked for.
pub(super) fn limit_of(limit: Option<usize>) -> Result<usize, Problem> {
    match limit {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(Problem::field(
            "limit",
            "out_of_range",
            format!("is {limit}; it must be from 1 to {LIMIT_MAX}"),
        )),
    }
}

/// A cursor that is a number.
pub(super) fn number_of<T: std::str::FromStr>(cursor: Option<&str>) -> Result<Option<T>, Problem> {
    cursor
        .map(|cursor| cursor.parse().map_err(|_| bad_cursor()))
        .transpose()
}

fn bad_cursor() -> Problem {
    Problem::field(
        "cursor",
        "unknown_cursor",
        "is not a cursor of this list; begin again without one",
    )
}

/// A time as RFC 3339 in UTC with milliseconds.
pub(super) fn rfc3339(at_ms: Millis) -> String {
    jiff::Timestamp::from_millisecond(at_ms)
        .map_or_else(|_| at_ms.to_string(), |at| format!("{at:.3}"))
}

/// Reads a time: RFC 3339, or Unix milliseconds.
pub(super) fn time_of(field: &str, text: Option<&str>) -> Result<Option<Millis>, Problem> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(ms) = text.parse::<Millis>() {
        return Ok(Some(ms));
    }
    text.parse::<jiff::Timestamp>()
        .map(|at| Some(at.as_millisecond()))
        .map_err(|_| {
            Problem::field(
                field,
                "wrong_format",
                "must be a time such as 2026-11-20T14:03:27Z, or Unix milliseconds",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::{Page, rfc3339, time_of};

    #[test]
    fn pages_cover_a_list_exactly_once() {
        let all: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = Page::within(all.clone(), Some(3), cursor.as_deref(), String::as_str)
                .ok()
                .unwrap();
            seen.extend(page.data);
            assert_eq!(page.has_more, page.next_cursor.is_some());
            if !page.has_more {
                break;
            }
            cursor = page.next_cursor;
        }
        assert_eq!(seen, all);
        assert!(Page::within(all.clone(), Some(0), None, String::as_str).is_err());
        assert!(Page::within(all.clone(), Some(101), None, String::as_str).is_err());
        assert!(Page::within(all, None, Some("x"), String::as_str).is_err());
    }

    #[test]
    fn times_are_rfc3339_with_milliseconds() {
        assert_eq!(rfc3339(1_795_183_407_412), "2026-11-20T14:03:27.412Z");
        assert_eq!(
            time_of("since", Some("2026-11-20T14:03:27.412Z")).ok(),
            Some(Some(1_795_183_407_412))
        );
        assert!(time_of("since", Some("yesterday")).is_err());
    }
}
