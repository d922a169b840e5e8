//! Exact amounts of money: decimal in, whole hundredths or minor units out. Never a float.
//!
//! An amount is the text of a JSON number, or a text that reads as one, just as the app posted it.
//! Sixteen written digits and more are refused: such a number has been through a binary float, and what
//! the app meant can only be guessed. Knows nothing of vendors or blueprints.

use std::cmp::Ordering;

/// Most digits an amount may be written with (leading zeros do not count).
pub const MAX_DIGITS: usize = 15;

/// Why an amount has no exact whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It does not read as a number.
    #[error("is not a number")]
    NotANumber,
    /// It is written with sixteen digits or more.
    #[error("has {0} digits; an amount of money may have {MAX_DIGITS}")]
    TooPrecise(usize),
    /// The whole number does not fit 64 bits.
    #[error("is out of range")]
    OutOfRange,
}

/// A decimal number taken apart, borrowed from its text.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Parts<'a> {
    /// Reads `-12.50e3`, `.5`, `+7`. White space around it is allowed.
    fn read(text: &'a str) -> Option<Self> {
        let mut rest = text.trim().as_bytes();
        let negative = match rest.first()? {
            b'-' => {
                rest = &rest[1..];
                true
            }
            b'+' => {
                rest = &rest[1..];
                false
            }
            _ => false,
        };
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.first() {
            Some(b'.') => split_digits(&after[1..]),
            _ => (&after[..0], after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match after.first() {
            None => 0,
            Some(b'e' | b'E') => read_exponent(&after[1..])?,
            Some(_) => return None,
        };
        Some(Self {
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// Its digits from the first that is not zero.
    fn digits(self) -> impl Iterator<Item = u8> + Clone {
        self.whole
            .iter()
            .chain(self.fraction)
            .map(|digit| digit - b'0')
            .skip_while(|digit| *digit == 0)
    }

    /// The power of ten of the first digit that is not zero, plus one.
    fn magnitude(self) -> i64 {
        let leading = self
            .whole
            .iter()
            .chain(self.fraction)
            .take_while(|digit| **digit == b'0')
            .count();
        as_i64(self.whole.len())
            .saturating_sub(as_i64(leading))
            .saturating_add(self.exponent)
    }
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Exponents beyond any sense are clamped: such numbers are zero or out of range either way.
fn read_exponent(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text.first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0_i64, |size, digit| {
        (size * 10 + i64::from(digit - b'0')).min(1_000_000_000)
    });
    Some(sign * size)
}

/// `amount × 10^places`, half away from zero.
///
/// # Errors
/// When it is no number, has sixteen digits or more, or does not fit 64 bits.
pub fn scaled(amount: &str, places: u32) -> Result<i64, AmountError> {
    let parts = Parts::read(amount).ok_or(AmountError::NotANumber)?;
    let count = parts.digits().count();
    if count > MAX_DIGITS {
        return Err(AmountError::TooPrecise(count));
    }
    let digits = parts
        .digits()
        .fold(0_u64, |value, digit| value * 10 + u64::from(digit));
    if digits == 0 {
        return Ok(0);
    }
    let shift = parts
        .exponent
        .saturating_sub(as_i64(parts.fraction.len()))
        .saturating_add(i64::from(places));
    let size = if shift >= 0 {
        u32::try_from(shift)
            .ok()
            .and_then(|shift| 10_u64.checked_pow(shift))
            .and_then(|power| digits.checked_mul(power))
            .ok_or(AmountError::OutOfRange)?
    } else {
        round_down_by(digits, shift.unsigned_abs())
    };
    let size = i64::try_from(size).map_err(|_| AmountError::OutOfRange)?;
    Ok(if parts.negative { -size } else { size })
}

/// `digits / 10^places`, half up. `digits` has at most fifteen digits.
fn round_down_by(digits: u64, places: u64) -> u64 {
    let Some(power) = u32::try_from(places)
        .ok()
        .and_then(|places| 10_u64.checked_pow(places))
    else {
        return 0;
    };
    digits / power + u64::from(digits % power >= power.div_ceil(2))
}

/// Whether a double can hold the number: it is neither too large nor, unless it is zero, too small. What a vendor reads
/// a larger one as is anybody's guess.
#[must_use]
pub fn is_in_range(number: &str) -> bool {
    const CERTAIN: usize = 300;
    let has_exponent = || number.bytes().any(|byte| matches!(byte, b'e' | b'E'));
    if number.len() < CERTAIN && !has_exponent() {
        return true;
    }
    let digits = || {
        number
            .bytes()
            .take_while(|byte| !matches!(byte, b'e' | b'E'))
    };
    let is_zero = || digits().all(|digit| !matches!(digit, b'1'..=b'9'));
    match number.parse::<f64>() {
        Ok(double) => double.is_finite() && (double != 0.0 || is_zero()),
        Err(_) => false,
    }
}

/// Whether the text reads as a decimal number.
#[must_use]
pub fn is_number(text: &str) -> bool {
    Parts::read(text).is_some()
}

/// The text as a JSON number: itself where it is one already, else with the missing zeros written and
/// a leading plus or superfluous zeros taken away.
#[must_use]
pub fn json_number(text: &str) -> Option<String> {
    let parts = Parts::read(text)?;
    let mut out = String::with_capacity(text.len() + 2);
    if parts.negative {
        out.push('-');
    }
    let zeros = parts
        .whole
        .iter()
        .take_while(|digit| **digit == b'0')
        .count();
    let whole = &parts.whole[zeros..];
    if whole.is_empty() {
        out.push('0');
    }
    out.extend(whole.iter().map(|digit| char::from(*digit)));
    if !parts.fraction.is_empty() {
        out.push('.');
        out.extend(parts.fraction.iter().map(|digit| char::from(*digit)));
    }
    if parts.exponent != 0 {
        out.push('e');
        out.push_str(&parts.exponent.to_string());
    }
    Some(out)
}

/// Compares two numbers exactly, whatever their length. None when one of them is no number.
#[must_use]
pub fn compare(left: &str, right: &str) -> Option<Ordering> {
    let (left, right) = (Parts::read(left)?, Parts::read(right)?);
    let (left_zero, right_zero) = (
        left.digits().next().is_none(),
        right.digits().next().is_none(),
    );
    Some(match (left_zero, right_zero) {
        (true, true) => Ordering::Equal,
        (true, false) => sign(right.negative).reverse(),
        (false, true) => sign(left.negative),
        (false, false) if left.negative != right.negative => sign(left.negative),
        (false, false) => {
            let sizes = compare_sizes(left, right);
            if left.negative {
                sizes.reverse()
            } else {
                sizes
            }
        }
    })
}

/// Compares how far two numbers are from zero.
#[must_use]
pub fn compare_size(left: &str, right: &str) -> Option<Ordering> {
    let (mut left, mut right) = (Parts::read(left)?, Parts::read(right)?);
    left.negative = false;
    right.negative = false;
    Some(match (left.digits().next(), right.digits().next()) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(_), Some(_)) => compare_sizes(left, right),
    })
}

fn sign(negative: bool) -> Ordering {
    if negative {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

fn compare_sizes(left: Parts<'_>, right: Parts<'_>) -> Ordering {
    left.magnitude().cmp(&right.magnitude()).then_with(|| {
        let (mut left, mut right) = (left.digits(), right.digits());
        loop {
            match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                (a, b) => {
                    let order = a.unwrap_or(0).cmp(&b.unwrap_or(0));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
            }
        }
    })
}

/// A sum of products under way. Exact; gives up rather than round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    mantissa: i128,
    exponent: i32,
}

impl Exact {
    /// Nothing.
    pub const ZERO: Self = Self {
        mantissa: 0,
        exponent: 0,
    };
    /// One.
    pub const ONE: Self = Self {
        mantissa: 1,
        exponent: 0,
    };

    /// Reads a number. None when it is no number or too long to reckon with.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let parts = Parts::read(text)?;
        let mut mantissa = 0_i128;
        for digit in parts.digits() {
            mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit))?;
        }
        let exponent = parts.exponent.checked_sub(as_i64(parts.fraction.len()))?;
        let exponent = i32::try_from(exponent).ok().filter(|e| e.abs() <= 400)?;
        if parts.negative {
            mantissa = -mantissa;
        }
        Some(Self { mantissa, exponent })
    }

    /// The sum; None when it is too long.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        Some(Self {
            mantissa: self.at(exponent)?.checked_add(other.at(exponent)?)?,
            exponent,
        })
    }

    /// The product; None when it is too long.
    #[must_use]
    pub fn times(self, other: Self) -> Option<Self> {
        Some(Self {
            mantissa: self.mantissa.checked_mul(other.mantissa)?,
            exponent: self.exponent.checked_add(other.exponent)?,
        })
    }

    fn at(self, exponent: i32) -> Option<i128> {
        if self.mantissa == 0 {
            return Some(0);
        }
        let power = u32::try_from(self.exponent - exponent).ok()?;
        self.mantissa.checked_mul(10_i128.checked_pow(power)?)
    }

    /// As a JSON number: `59.97`, `3`, never with an exponent unless it is very large or small.
    #[must_use]
    pub fn to_json_number(self) -> String {
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while exponent < 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        if mantissa == 0 {
            return "0".to_owned();
        }
        if (0..=20).contains(&exponent) {
            return format!("{mantissa}{}", "0".repeat(exponent.unsigned_abs() as usize));
        }
        if !(-30..0).contains(&exponent) {
            return format!("{mantissa}e{exponent}");
        }
        let places = exponent.unsigned_abs() as usize;
        let digits = format!("{:0>width$}", mantissa.unsigned_abs(), width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        format!("{}{whole}.{fraction}", if mantissa < 0 { "-" } else { "" })
    }
}

/// How many decimals a currency's smallest unit is: 2 for GBP, 0 for JPY, 3 for KWD (ISO 4217). None for
/// an unknown code and for codes without a smaller unit (gold, test codes). Capitals do not count.
#[must_use]
pub fn currency_decimals(code: &str) -> Option<u32> {
    const NONE: &str = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF";
    const THREE: &str = "BHD IQD JOD KWD LYD OMR TND";
    const FOUR: &str = "CLF UYW";
    const TWO: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP \
        BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP \
        GEL GHS GIP GMD GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR \
        LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN \
        PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB \
        TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG ZWL";
    if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let code = code.to_ascii_uppercase();
    [(TWO, 2), (NONE, 0), (THREE, 3), (FOUR, 4)]
        .into_iter()
        .find(|(codes, _)| codes.split_ascii_whitespace().any(|known| known == code))
        .map(|(_, places)| places)
}

#[cfg(test)]
mod tests {
    use super::{AmountError, Exact, compare, currency_decimals, json_number, scaled};
    use std::cmp::Ordering;

    #[test]
    fn odd_amounts_are_exact_or_refused() {
        for (text, want) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("-2.50", Ok(-250)),
            ("1.005", Ok(101)),
            ("-1.005", Ok(-101)),
            ("1.0049", Ok(100)),
            ("0.005", Ok(1)),
            ("1e-7", Ok(0)),
            ("1E+3", Ok(100_000)),
            ("1e-999999999999", Ok(0)),
            ("0e999999999999", Ok(0)),
            (" 19.99 ", Ok(1999)),
            ("+.5", Ok(50)),
            ("5.", Ok(500)),
            ("123456789012345", Ok(12_345_678_901_234_500)),
            ("1234567890123.45", Ok(123_456_789_012_345)),
            ("0.0000123456789012345", Ok(0)),
            ("1234567890123456", Err(AmountError::TooPrecise(16))),
            ("89.990000000000009", Err(AmountError::TooPrecise(17))),
            ("1e17", Err(AmountError::OutOfRange)),
            ("-1e300", Err(AmountError::OutOfRange)),
            ("92233720368547758.07", Err(AmountError::TooPrecise(19))),
            ("abc", Err(AmountError::NotANumber)),
            ("1,234.50", Err(AmountError::NotANumber)),
            ("", Err(AmountError::NotANumber)),
            ("-", Err(AmountError::NotANumber)),
            (".", Err(AmountError::NotANumber)),
            ("1e", Err(AmountError::NotANumber)),
            ("0x10", Err(AmountError::NotANumber)),
            ("Infinity", Err(AmountError::NotANumber)),
        ] {
            assert_eq!(scaled(text, 2), want, "{text}");
        }
        assert_eq!(scaled("1.5", 3), Ok(1500));
        assert_eq!(scaled("499.5", 0), Ok(500));
    }

    #[test]
    fn currencies_agree_with_the_standard() {
        use std::str::FromStr as _;
        let letters = || b'A'..=b'Z';
        let mut known = 0;
        for (a, b, c) in
            letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| (a, b, c))))
        {
            let code: String = [a, b, c].iter().map(|byte| char::from(*byte)).collect();
            let theirs = iso_currency::Currency::from_str(&code)
                .ok()
                .and_then(|currency| currency.exponent())
                .map(u32::from);
            known += u32::from(theirs.is_some());
            assert_eq!(currency_decimals(&code), theirs, "{code}");
        }
        assert!(known > 150, "{known}");
        assert_eq!(currency_decimals("jpy"), Some(0));
    }

    #[test]
    fn numbers_compare_and_add_exactly() {
        for (left, right, want) in [
            ("1", "1.0", Ordering::Equal),
            ("1e2", "100.00", Ordering::Equal),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("-1", "0", Ordering::Less),
            ("0", "-0.0", Ordering::Equal),
            ("-2", "-10", Ordering::Greater),
            ("0.1", "0.09999999999999999999999999", Ordering::Greater),
        ] {
            assert_eq!(compare(left, right), Some(want), "{left} {right}");
        }
        assert_eq!(compare("x", "1"), None);
        let sum = [("19.99", "3"), ("0.01", "1"), ("-10", "0.5")]
            .iter()
            .try_fold(Exact::ZERO, |sum, (price, count)| {
                sum.plus(Exact::read(price)?.times(Exact::read(count)?)?)
            });
        assert_eq!(sum.map(Exact::to_json_number).as_deref(), Some("54.98"));
        assert_eq!(json_number("+007.50").as_deref(), Some("7.50"));
        assert_eq!(json_number(".5").as_deref(), Some("0.5"));
    }
}
