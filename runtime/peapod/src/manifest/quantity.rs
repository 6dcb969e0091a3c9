//! Kubernetes' quantities: `500m`, `1.5Gi`, `2e3`.
//!
//! Exact, in integers: a quantity is never a binary fraction. The grammar is that of
//! `k8s.io/apimachinery/pkg/api/resource`.

/// A number as it was written: `digits × 10^ten × 2^two`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    digits: u128,
    ten: i32,
    two: u32,
}

/// Suffix, power of ten, power of two.
const SUFFIXES: &[(&str, i32, u32)] = &[
    ("", 0, 0),
    ("n", -9, 0),
    ("u", -6, 0),
    ("m", -3, 0),
    ("k", 3, 0),
    ("M", 6, 0),
    ("G", 9, 0),
    ("T", 12, 0),
    ("P", 15, 0),
    ("E", 18, 0),
    ("Ki", 0, 10),
    ("Mi", 0, 20),
    ("Gi", 0, 30),
    ("Ti", 0, 40),
    ("Pi", 0, 50),
    ("Ei", 0, 60),
];

/// A number of processors, in thousandths, rounded up.
pub(super) fn millis(text: &str) -> Result<u64, String> {
    let number = parse(text)?;
    value(Number { ten: number.ten.saturating_add(3), ..number }).map(|(whole, _)| whole).ok_or_else(|| too_large(text))
}

/// A number of bytes. Refuses a fraction of one: `128m` is 0.128 bytes, and never what was meant.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (whole, exact) = value(parse(text)?).ok_or_else(|| too_large(text))?;
    if exact {
        return Ok(whole);
    }
    let hint = match text.strip_suffix('m') {
        Some(number) => format!("; m means thousandths, did you mean {number}Mi?"),
        None => String::new(),
    };
    Err(format!("{text:?} is not a whole number of bytes{hint}"))
}

fn too_large(text: &str) -> String {
    format!("{text:?} is too large: the most is 2^63-1")
}

/// Reads the sign, the digits and the suffix.
fn parse(text: &str) -> Result<Number, String> {
    let wrong = || format!("{text:?} is not a quantity; write a number with one of the suffixes m k M G T Ki Mi Gi Ti");
    if let Some(rest) = text.strip_prefix('-') {
        parse(rest)?;
        return Err(format!("{text:?} is negative"));
    }
    let text_ = text.strip_prefix('+').unwrap_or(text);
    let end = text_.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text_.len());
    let (number, suffix) = text_.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(wrong());
    }
    let (ten, two) = scale(suffix).ok_or_else(wrong)?;
    // Zeros at the end of the fraction say nothing; without them 38 digits are plenty.
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("0{whole}{fraction}").parse().map_err(|_| too_large(text))?;
    let places = i32::try_from(fraction.len()).map_err(|_| wrong())?;
    Ok(Number { digits, ten: ten.saturating_sub(places), two })
}

/// The powers a suffix stands for: one of the table, or an exponent (`e3`, `E-2`).
fn scale(suffix: &str) -> Option<(i32, u32)> {
    if let Some((_, ten, two)) = SUFFIXES.iter().find(|(name, _, _)| *name == suffix) {
        return Some((*ten, *two));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    if !exponent.trim_start_matches(['+', '-']).bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    exponent.parse().ok().map(|ten| (ten, 0))
}

/// The value rounded up to a whole number, and whether it was one; `None` beyond 2^63-1.
fn value(number: Number) -> Option<(u64, bool)> {
    if number.digits == 0 {
        return Some((0, true));
    }
    let scaled = number.digits.checked_mul(1 << number.two)?;
    let power = 10_u128.checked_pow(number.ten.unsigned_abs());
    let (whole, exact) = match (number.ten >= 0, power) {
        (true, power) => (scaled.checked_mul(power?)?, true),
        // Smaller than anything: rounds up to one.
        (false, None) => (1, false),
        (false, Some(power)) => (scaled.div_ceil(power), scaled % power == 0),
    };
    i64::try_from(whole).ok().map(|whole| (whole.unsigned_abs(), exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_thousandths() {
        for (text, expected) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("2.", 2000),
            ("+1", 1000),
            ("0", 0),
            ("1e1", 10_000),
            ("1e-1", 100),
            ("0.0001", 1),
            ("100u", 1),
            ("1n", 1),
            ("1k", 1_000_000),
            ("1.10000000000000000000000000000000000000000000000", 1100),
        ] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn memory_is_counted_in_bytes() {
        for (text, expected) in [
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("123Mi", 123 << 20),
            ("1.5Gi", 1536 << 20),
            ("1Ki", 1024),
            ("1k", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("1E3", 1000),
            ("1e3", 1000),
            ("1E+3", 1000),
            ("7Ei", 7 << 60),
            ("128000m", 128),
            ("0.5Ki", 512),
            ("9223372036854775807", i64::MAX.unsigned_abs()),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        let bad =
            ["", "12Mx", "Mi", ".", "1.2.3", "1 Gi", "1gi", "1KB", "0x10", "1e", "1e+-3", "1e1.5", "e3", "++1", "∞"];
        for text in bad {
            assert!(bytes(text).unwrap_err().contains("is not a quantity"), "{text}");
            assert!(millis(text).is_err(), "{text}");
        }
        assert!(bytes("-1").unwrap_err().contains("negative"));
        assert!(millis("-500m").unwrap_err().contains("negative"));
        assert!(bytes("8Ei").unwrap_err().contains("too large"));
        assert!(bytes("1e99999999999").is_err());
        assert!(bytes("1e400").unwrap_err().contains("too large"));
        assert!(bytes("99999999999999999999999999999999999999999").unwrap_err().contains("too large"));
        assert!(bytes("128m").unwrap_err().contains("128Mi"));
        assert!(bytes("1e-400").unwrap_err().contains("whole number"));
    }
}
