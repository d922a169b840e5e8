//! Numbers as JavaScript reads them: for apps that were written for a JavaScript SDK and whose reports
//! expect what it made of odd values. Digits are kept; nothing goes through a float.

use std::borrow::Cow;

use serde_json::Value;

use super::eval::Val;
use crate::event::money;

/// `js_integer(x)`: a number without its fraction (`Math.trunc`), a text as `parseInt` reads it, true as 1 and
/// false as 0. None when that is no number, or none of 64 bits.
pub(super) fn integer(val: Val<'_>) -> Option<Val<'_>> {
    let whole = match &val {
        Val::Missing => return Some(Val::Missing),
        Val::YesNo(yes) | Val::Json(Value::Bool(yes)) => i64::from(*yes),
        Val::Number(number) => truncated(number)?,
        Val::Json(Value::Number(number)) => truncated(number.as_str())?,
        Val::Text(text) => parsed(text)?,
        Val::Json(Value::String(text)) => parsed(text)?,
        Val::Json(_) | Val::Group(_) => return None,
    };
    Some(Val::Number(Cow::Owned(whole.to_string())))
}

/// `js_number(x)`: a text as `parseFloat` reads it; numbers, true and false as they are. None when that is no
/// number a double could hold.
pub(super) fn number(val: Val<'_>) -> Option<Val<'_>> {
    let read = match &val {
        Val::Missing | Val::YesNo(_) | Val::Json(Value::Bool(_)) => return Some(val),
        Val::Number(number) => return is_finite(number).then_some(val),
        Val::Json(Value::Number(number)) => return is_finite(number.as_str()).then_some(val),
        Val::Text(text) => leading_number(text)?,
        Val::Json(Value::String(text)) => leading_number(text)?,
        Val::Json(_) | Val::Group(_) => return None,
    };
    Some(Val::Number(Cow::Owned(read)))
}

fn is_finite(number: &str) -> bool {
    number.parse::<f64>().is_ok_and(f64::is_finite)
}

/// The whole part of a JSON number.
fn truncated(number: &str) -> Option<i64> {
    let (digits, exponent) = match number.split_once(['e', 'E']) {
        // Too long to read is zero or out of range, either way no exponent of ours.
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    let mut kept = String::from(sign);
    let mut all = whole.bytes().chain(fraction.bytes()).peekable();
    for _ in 0..point {
        match all.next() {
            Some(digit) => kept.push(char::from(digit)),
            // Zeros that only make it longer than 64 bits hold.
            None if kept.trim_start_matches(['-', '0']).is_empty() => break,
            None if kept.len() > 40 => return None,
            None => kept.push('0'),
        }
    }
    if kept.len() == sign.len() {
        return Some(0);
    }
    kept.parse().ok()
}

/// `parseInt(text)`: white space, a sign, `0x` or decimal digits, and whatever follows is ignored.
fn parsed(text: &str) -> Option<i64> {
    let text = text.trim_start_matches(is_space);
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, rest) = match rest.strip_prefix("0x").or(rest.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None => (10, rest),
    };
    let end = rest
        .find(|digit: char| !digit.is_digit(radix))
        .unwrap_or(rest.len());
    let digits = rest.get(..end).filter(|digits| !digits.is_empty())?;
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// `parseFloat(text)`: white space, then the longest beginning that is a decimal number.
fn leading_number(text: &str) -> Option<String> {
    let text = text.trim_start_matches(is_space);
    let mut end = 0;
    let mut digits = 0;
    let mut pointed = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'+' | b'-' if at == 0 => continue,
            b'0'..=b'9' => digits += 1,
            b'.' if !pointed => pointed = true,
            _ => break,
        }
        end = at + 1;
    }
    if digits == 0 {
        return None;
    }
    if let Some(rest) = text
        .get(end..)
        .and_then(|rest| rest.strip_prefix(['e', 'E']))
    {
        let signed = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let digits = signed.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            end += 1 + (rest.len() - signed.len()) + digits;
        }
    }
    money::json_number(text.get(..end)?).filter(|number| is_finite(number))
}

/// What JavaScript trims: Unicode's white space, and the byte order mark.
fn is_space(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As Node 22 says: `typeof x === "string" ? parseInt(x) : Math.trunc(x)`, and null for what is not finite.
    #[test]
    fn integers_are_those_of_javascript() {
        for (given, expected) in [
            (json!(8999), Some("8999")),
            (json!(89.99), Some("89")),
            (json!(-89.99), Some("-89")),
            (json!(-0.5), Some("0")),
            (json!(true), Some("1")),
            (json!(false), Some("0")),
            (json!("8999"), Some("8999")),
            (json!(" \u{feff}+42 items"), Some("42")),
            (json!("89.99"), Some("89")),
            (json!("-7e3"), Some("-7")),
            (json!("0x1F"), Some("31")),
            (json!("-0x10z"), Some("-16")),
            (json!("abc"), None),
            (json!(".5"), None),
            (json!("0x"), None),
            (json!("-"), None),
            (json!([5, 6]), None),
            (json!({"a": 1}), None),
        ] {
            let made = integer(Val::Json(&given)).and_then(Val::text);
            assert_eq!(made.as_deref(), expected, "{given}");
        }
        for (given, expected) in [
            ("1e3", Some(1_000)),
            ("12.345E+2", Some(1_234)),
            ("12345e-2", Some(123)),
            ("1e-7", Some(0)),
            ("0e999999999", Some(0)),
            ("0.0001e3", Some(0)),
            ("-0.0001e5", Some(-10)),
            ("1e-999999999", Some(0)),
            ("9223372036854775807.9", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1e999999999", None),
            ("1e99999999999999999999", None),
        ] {
            assert_eq!(truncated(given), expected, "{given}");
        }
    }

    /// As Node 22 says: `typeof x === "string" ? parseFloat(x) : x`, and null for what is not finite.
    #[test]
    fn numbers_are_those_of_javascript() {
        for (given, expected) in [
            (json!(1.5), Some("1.5")),
            (json!(true), Some("true")),
            (json!("1.5"), Some("1.5")),
            (json!(" -1.5kg"), Some("-1.5")),
            (json!("1.5.6"), Some("1.5")),
            (json!(".5"), Some("0.5")),
            (json!("5."), Some("5")),
            (json!("1e3"), Some("1e3")),
            (json!("1e"), Some("1")),
            (json!("2e+x"), Some("2")),
            (json!("0x10"), Some("0")),
            (json!("x1"), None),
            (json!("-"), None),
            (json!("."), None),
            (json!("Infinity"), None),
            (json!("1e400"), None),
            (json!([1]), None),
        ] {
            let made = number(Val::Json(&given)).and_then(Val::text);
            assert_eq!(made.as_deref(), expected, "{given}");
        }
        let huge: Value = serde_json::from_str("1e400").unwrap();
        assert!(number(Val::Json(&huge)).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9.eExX a\u{feff}]{0,12}|\\PC{0,8}") {
            let json = Value::from(text);
            let _ = (integer(Val::Json(&json)), number(Val::Json(&json)));
        }
    }
}
