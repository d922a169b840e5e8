//! Functions on numbers, money and time: exact, on the digits as they were posted.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::eval::{Cx, Problem, Val, eval, known};
use super::expr::{Expr, Root};
use crate::clock::Millis;
use crate::event::money::{self, AmountError, Exact};

pub(super) fn compare(left: Val<'_>, right: Val<'_>) -> Option<Ordering> {
    money::compare(&left.numeric()?, &right.numeric()?)
}

pub(super) fn within<'a>(val: Val<'a>, most: Val<'a>) -> Val<'a> {
    if !val.is_number() {
        return val;
    }
    match (val.clone().text(), most.numeric()) {
        (Some(number), Some(most))
            if money::compare_size(&number, &most) != Some(Ordering::Greater) =>
        {
            val
        }
        _ => Val::Missing,
    }
}

pub(super) fn not_a_number<'a>(val: &Val<'a>, cx: Cx<'_>) -> Val<'a> {
    cx.scene
        .problem(Problem::Note(format!("{} is not a number", val.shown())));
    Val::Missing
}

pub(super) fn number<'a>(val: Val<'a>, cx: Cx<'a>) -> Val<'a> {
    let made = match &val {
        Val::Missing => return Val::Missing,
        Val::Number(_) | Val::Json(Value::Number(_)) => val,
        _ => match val
            .clone()
            .numeric()
            .and_then(|text| money::json_number(&text))
        {
            Some(number) => Val::Number(Cow::Owned(number)),
            None => return not_a_number(&val, cx),
        },
    };
    in_range(made, cx)
}

/// The value, unless it is a number that no vendor can read.
pub(super) fn in_range<'a>(val: Val<'a>, cx: Cx<'_>) -> Val<'a> {
    let number = match &val {
        Val::Number(number) => number.as_ref(),
        Val::Json(Value::Number(number)) => number.as_str(),
        _ => return val,
    };
    if money::is_in_range(number) {
        return val;
    }
    cx.scene.problem(Problem::Note(out_of_range(number)));
    Val::Missing
}

/// Why a number is left out.
pub(super) fn out_of_range(number: &str) -> String {
    const SHOWN: usize = 40;
    let shown: String = number.chars().take(SHOWN).collect();
    let rest = if shown.len() < number.len() {
        "…"
    } else {
        ""
    };
    format!("`{shown}{rest}` is too large or too small a number for any vendor to read")
}

pub(super) fn amount<'a>(val: Val<'a>, places: u32, cx: Cx<'a>) -> Val<'a> {
    if val.is_missing() {
        return Val::Missing;
    }
    if matches!(val, Val::YesNo(_) | Val::Json(Value::Bool(_))) {
        return not_a_number(&val, cx);
    }
    let Some(text) = val.clone().text() else {
        return not_a_number(&val, cx);
    };
    match money::scaled(&text, places) {
        Ok(units) => Val::Number(Cow::Owned(units.to_string())),
        Err(AmountError::NotANumber) => not_a_number(&val, cx),
        Err(error) => {
            cx.scene.problem(Problem::Refuse {
                reason: match error {
                    AmountError::OutOfRange => "revenue_out_of_range",
                    _ => "amount_too_precise",
                },
                detail: format!("{} {error}", val.shown()),
            });
            Val::Missing
        }
    }
}

pub(super) fn minor_units<'a>(val: Val<'a>, currency: &Val<'a>, cx: Cx<'a>) -> Val<'a> {
    if val.is_missing() || currency.is_missing() {
        return Val::Missing;
    }
    let places = currency
        .clone()
        .text()
        .and_then(|code| money::currency_decimals(&code));
    match places {
        Some(places) => amount(val, places, cx),
        None => {
            cx.scene.problem(Problem::Note(format!(
                "{} is not a currency with a smallest unit",
                currency.shown()
            )));
            Val::Missing
        }
    }
}

pub(super) fn sum<'a>(list: &Val<'a>, names: &'a [Expr], cx: Cx<'a>) -> Val<'a> {
    let Val::Json(Value::Array(rows)) = list else {
        return Val::Missing;
    };
    let mut total = Exact::ZERO;
    let mut any = false;
    'rows: for row in rows {
        let mut product = Exact::ONE;
        for name in names {
            let Expr::Text(name) = name else { continue };
            let field = row.get(name.as_ref()).map_or(Val::Missing, known);
            if field.is_missing() {
                continue 'rows;
            }
            let Some(number) = field.clone().numeric().and_then(|text| Exact::read(&text)) else {
                not_a_number(&field, cx);
                continue 'rows;
            };
            match product.times(number) {
                Some(next) => product = next,
                None => return too_long(cx),
            }
        }
        match total.plus(product) {
            Some(next) => total = next,
            None => return too_long(cx),
        }
        any = true;
    }
    if any {
        Val::Number(Cow::Owned(total.to_json_number()))
    } else {
        Val::Missing
    }
}

pub(super) fn too_long<'a>(cx: Cx<'_>) -> Val<'a> {
    cx.scene.problem(Problem::Note(
        "the sum has too many digits to be exact".to_owned(),
    ));
    Val::Missing
}

/// Calls `give` with a point in time.
pub(super) fn time<'a>(args: &'a [Expr], cx: Cx<'a>, give: impl Fn(Millis) -> Val<'a>) -> Val<'a> {
    let Some(arg) = args.first() else {
        return Val::Missing;
    };
    // The event's own times are known already.
    match (arg, cx.scene.seen) {
        (Expr::Event(Root::Timestamp, steps), Some(seen)) if steps.is_empty() => {
            return give(seen.timestamp_ms);
        }
        (Expr::Event(Root::ReceivedAt, steps), Some(seen)) if steps.is_empty() => {
            return give(seen.received_at_ms);
        }
        _ => {}
    }
    let val = eval(arg, cx);
    if val.is_missing() {
        return Val::Missing;
    }
    match read_time(&val) {
        Some(ms) => give(ms),
        None => {
            cx.scene
                .problem(Problem::Note(format!("{} is not a time", val.shown())));
            Val::Missing
        }
    }
}

/// A text as RFC 3339 writes it (without a zone: UTC), or a number of milliseconds or, when small, seconds.
pub(crate) fn read_time(val: &Val<'_>) -> Option<Millis> {
    /// In milliseconds this is March 1973; in seconds, the year 5138.
    const SMALLEST_MS: i64 = 100_000_000_000;
    let text = val.clone().text()?;
    if val.is_number() {
        let number: i64 = text.parse().ok()?;
        return if number.abs() >= SMALLEST_MS {
            Some(number)
        } else {
            number.checked_mul(1000)
        };
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let at = jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()?;
    Some(at.as_millisecond())
}

/// `2026-11-20T14:03:27.412Z`.
pub(crate) fn iso8601(ms: Millis) -> Option<String> {
    // Hand-written and quick, but for the years 1 to 9999 only.
    if (-62_135_596_800_000..=253_402_300_799_999).contains(&ms) {
        return String::from_utf8(crate::event::time::write(ms).to_vec()).ok();
    }
    let at = jiff::Timestamp::from_millisecond(ms).ok()?;
    Some(format!("{at:.3}"))
}
