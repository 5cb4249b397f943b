//! How times, numbers and values are shown.

use std::{fmt::Write as _, time::Duration};

use iot_core::{event::Value, time::Timestamp};

/// A time as people read it, with the exact one beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// RFC 3339.
    pub(super) exact: String,
    /// "12 s ago".
    pub(super) words: String,
}

impl Moment {
    pub(super) fn of(at: Timestamp, now: Timestamp) -> Self {
        let words = match (at > now, at.since(now), now.since(at)) {
            (true, ahead, _) => format!("in {}", span(ahead)),
            (false, _, past) if past < Duration::from_secs(2) => "just now".to_owned(),
            (false, _, past) => format!("{} ago", span(past)),
        };
        Self { exact: at.to_string(), words }
    }

    /// "04:45:12", in UTC.
    pub(super) fn clock(at: Timestamp) -> String {
        at.to_string().get(11..19).unwrap_or_default().to_owned()
    }
}

/// A length of time in its largest unit.
pub(super) fn span(length: Duration) -> String {
    match length.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s @ 7_200..=172_799 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// A number with as many digits as are worth reading.
pub(super) fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    match text.split_once('.') {
        Some((whole, digits)) if digits.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => text,
    }
}

/// A length of time in milliseconds, or in seconds when it is long.
pub(super) fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{} ms", number(value * 1_000.0)) } else { format!("{} s", number(value)) }
}

/// A reported value.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => number(*value),
        Value::Text(text) => text.clone(),
        Value::Json(json) => json.to_string(),
    }
}

/// The corners of a line through `values` for an SVG polyline, in a box of 300 by 60 with room for `places` of them; fewer
/// stand at its right end.
pub(super) fn points(values: &[f64], places: usize) -> String {
    const WIDTH: f64 = 300.0;
    const HEIGHT: f64 = 60.0;
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (least, most) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let (base, height) = (least.min(0.0), (most - least.min(0.0)).max(f64::MIN_POSITIVE));
    let places = places.max(values.len()).max(2);
    let first = places - values.len();
    let mut text = String::new();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred places")]
    for (place, value) in (first..).zip(values).filter(|(_, value)| value.is_finite()) {
        let x = WIDTH * place as f64 / (places - 1) as f64;
        let y = HEIGHT - 2.0 - (HEIGHT - 4.0) * (value - base) / height;
        let _infallible = write!(text, "{x:.1},{y:.1} ");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_their_largest_unit() {
        let now = Timestamp::from_millis(10_000_000_000);
        let ago = |seconds| Moment::of(now.minus(Duration::from_secs(seconds)), now).words;
        assert_eq!([ago(1), ago(59), ago(600), ago(7_200)], ["just now", "59 s ago", "10 min ago", "2 h ago"]);
        assert_eq!(ago(200_000), "2 days ago");
        assert_eq!(Moment::of(now.plus(Duration::from_secs(90)), now).words, "in 90 s");
    }

    #[test]
    fn numbers_lose_digits_that_say_nothing() {
        assert_eq!([number(21.456), number(0.5), number(3.0), number(1234.5)], ["21.5", "0.50", "3", "1234"]);
        assert_eq!([seconds(0.0021), seconds(1.5)], ["2.10 ms", "1.50 s"]);
    }

    #[test]
    fn a_line_stays_in_its_box() {
        let corners = points(&[0.0, 10.0, f64::NAN, 5.0], 4);
        assert_eq!(corners.trim(), "0.0,58.0 100.0,2.0 300.0,30.0");
        assert_eq!(points(&[5.0, 10.0], 3).trim(), "150.0,30.0 300.0,2.0");
        assert_eq!(points(&[], 3), "");
    }
}
