//! Times as apps write them, and as the canonical record does: RFC 3339, milliseconds, `Z`.
//!
//! Hand-written because it runs four times for every event; the rest of the house uses `jiff`.

use crate::clock::Millis;

const DAY_MS: i64 = 86_400_000;

/// Reads an ISO 8601 / RFC 3339 time: `2026-01-02T03:04:05.678Z`, any number of fraction digits (cut at
/// milliseconds), `±hh:mm` or `±hhmm`, a space for the `T`, seconds or the whole time of day left out.
/// No offset means UTC. Anything else is none.
#[must_use]
pub fn read(text: &str) -> Option<Millis> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    let month = after(&mut rest, b'-').and_then(|()| digits(&mut rest, 2))?;
    let day = after(&mut rest, b'-').and_then(|()| digits(&mut rest, 2))?;
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * DAY_MS;
    if rest.is_empty() {
        return Some(midnight);
    }
    after(&mut rest, b'T')
        .or_else(|| after(&mut rest, b't'))
        .or_else(|| after(&mut rest, b' '))?;
    let hour = digits(&mut rest, 2)?;
    let minute = after(&mut rest, b':').and_then(|()| digits(&mut rest, 2))?;
    let second = match after(&mut rest, b':') {
        Some(()) => digits(&mut rest, 2)?,
        None => 0,
    };
    // 60 is a leap second; it is read as the last moment of its minute.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let fraction_ms = match after(&mut rest, b'.').or_else(|| after(&mut rest, b',')) {
        Some(()) => fraction(&mut rest)?,
        None => 0,
    };
    let of_minute = (second * 1_000 + fraction_ms).min(59_999);
    let of_day = hour * 3_600_000 + minute * 60_000 + of_minute;
    Some(midnight + of_day - offset(rest)? * 60_000)
}

/// Writes a time as `2026-01-02T03:04:05.678Z`; years outside 0 to 9999 are held at that range's ends.
#[must_use]
pub fn write(ms: Millis) -> [u8; 24] {
    const FIRST: i64 = -62_167_219_200_000;
    const LAST: i64 = 253_402_300_799_999;
    let ms = ms.clamp(FIRST, LAST);
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    let of_day = ms.rem_euclid(DAY_MS);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    put(&mut out, 0, 4, year);
    put(&mut out, 5, 2, month);
    put(&mut out, 8, 2, day);
    put(&mut out, 11, 2, of_day / 3_600_000);
    put(&mut out, 14, 2, of_day / 60_000 % 60);
    put(&mut out, 17, 2, of_day / 1_000 % 60);
    put(&mut out, 20, 3, of_day % 1_000);
    out
}

fn put(out: &mut [u8; 24], at: usize, width: usize, mut number: i64) {
    for slot in out.iter_mut().skip(at).take(width).rev() {
        *slot = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

fn after(rest: &mut &[u8], byte: u8) -> Option<()> {
    *rest = rest.strip_prefix(&[byte])?;
    Some(())
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    let mut number = 0;
    for byte in head {
        number = number * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    *rest = tail;
    Some(number)
}

fn fraction(rest: &mut &[u8]) -> Option<i64> {
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, tail) = rest.split_at_checked(count)?;
    if count == 0 {
        return None;
    }
    *rest = tail;
    Some((0..3).fold(0, |ms, place| {
        ms * 10 + head.get(place).map_or(0, |byte| i64::from(byte - b'0'))
    }))
}

/// Minutes east of UTC.
fn offset(mut rest: &[u8]) -> Option<i64> {
    let sign = match rest {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    rest = rest.get(1..)?;
    let hours = digits(&mut rest, 2)?;
    let minutes = if rest.is_empty() {
        0
    } else {
        let _colon = after(&mut rest, b':');
        digits(&mut rest, 2)?
    };
    (rest.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. The year is taken to begin in March, so that the leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_forms_sdks_send() {
        let wanted = 1_767_323_045_678;
        for text in [
            "2026-01-02T03:04:05.678Z",
            "2026-01-02t03:04:05.678z",
            "2026-01-02 03:04:05.678",
            "2026-01-02T03:04:05.678901+00:00",
            "2026-01-02T04:34:05.678999999+0130",
            "2026-01-01T22:04:05.678-05",
        ] {
            assert_eq!(read(text), Some(wanted), "{text}");
        }
        assert_eq!(read("2026-01-02"), Some(1_767_312_000_000));
        assert_eq!(read("2026-01-02T00:00Z"), Some(1_767_312_000_000));
        assert_eq!(read("2016-12-31T23:59:60Z"), Some(1_483_228_799_999));
        for text in [
            "",
            "now",
            "1767323045678",
            "2026-13-01",
            "2026-02-29",
            "2026-01-02T",
            "2026-01-02T25:00:00Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05Zulu",
            "2026-01-02T03:04:05+99:00",
            "２０２６-01-02",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn writes_what_jiff_writes_and_reads_it_back(ms in -62_135_596_800_000_i64..=253_402_200_000_000) {
            let text = String::from_utf8(write(ms).to_vec()).unwrap();
            let jiff = jiff::Timestamp::from_millisecond(ms).unwrap();
            prop_assert_eq!(&text, &format!("{jiff:.3}"));
            prop_assert_eq!(read(&text), Some(ms));
        }

        #[test]
        fn no_text_panics(text in any::<String>(), near in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]?[0-9:.,+Z-]{0,20}") {
            read(&text);
            read(&near);
        }
    }
}
