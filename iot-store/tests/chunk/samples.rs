//! Reports that favour the edges of what may be reported.

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{DeviceId, HomeId, Metric, OwnershipEpoch, ProductId, TenantId},
    store::Series,
    time::Timestamp,
};
use iot_store::chunk::{self, Reader};
use proptest::prelude::*;
use serde_json::json;

pub(crate) fn series() -> Series {
    Series {
        tenant: TenantId::parse("t").unwrap(),
        device: DeviceId::parse("d").unwrap(),
        epoch: OwnershipEpoch(u64::MAX),
    }
}

pub(crate) fn metric(name: &str) -> Metric {
    Metric::parse(name).unwrap()
}

pub(crate) fn stored(at: i64, sequence: u64, report: Report) -> StoredEvent {
    let Series { tenant, device, epoch } = series();
    let event = Event {
        tenant,
        product: ProductId::parse("p").unwrap(),
        device,
        epoch,
        home: None,
        at: Timestamp::from_micros(at),
        received: Timestamp::from_micros(at),
        device_sequence: None,
        report,
    };
    StoredEvent { sequence: Sequence(sequence), event }
}

pub(crate) fn sample(at: i64, sequence: u64, values: &[(&str, Value)]) -> StoredEvent {
    let values = values.iter().map(|(name, value)| (metric(name), value.clone())).collect();
    stored(at, sequence, Report::Telemetry(values))
}

/// One a second, with a value of `m` each.
pub(crate) fn column(values: impl IntoIterator<Item = Value>) -> Vec<StoredEvent> {
    (0..).zip(values).map(|(n, value)| sample(n * 1_000_000, n.unsigned_abs(), &[("m", value)])).collect()
}

/// Bit for bit, also of floats.
pub(crate) fn is_same(one: &[StoredEvent], other: &[StoredEvent]) -> bool {
    let bits = |value: &Value| if let Value::Float(float) = value { Some(float.to_bits()) } else { None };
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| match (&one.event.report, &other.event.report) {
            (Report::Telemetry(these), Report::Telemetry(those)) => {
                let without_values = |stored: &StoredEvent| {
                    let report = Report::Telemetry(Vec::new());
                    StoredEvent { event: Event { report, ..stored.event.clone() }, ..stored.clone() }
                };
                without_values(one) == without_values(other)
                    && these.len() == those.len()
                    && these.iter().zip(those).all(|(this, that)| {
                        this.0 == that.0
                            && bits(&this.1) == bits(&that.1)
                            && (bits(&this.1).is_some() || this.1 == that.1)
                    })
            }
            _ => one == other,
        })
}

#[track_caller]
pub(crate) fn assert_survives(events: &[StoredEvent]) -> Vec<u8> {
    let encoded = chunk::encode(events).unwrap();
    let found = Reader::open(&encoded.bytes).unwrap().events(&series()).unwrap();
    assert!(is_same(&found, events), "{found:?}\n is not {events:?}");
    encoded.bytes
}

pub(crate) fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-5_000..5_000_i32, 0..4_u8).prop_map(|(digits, exponent)| f64::from(digits) / 10_f64.powi(exponent.into())),
        2 => prop::sample::select(vec![
            0.0, -0.0, 1.5, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.1,
            0.1 + 0.2, 1e15, 1e16, 9_007_199_254_740_993.0, -9_007_199_254_740_992.0, 2_251_799_813_685_248.5, 1e-14, 1e300,
        ]),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => any::<f32>().prop_map(f64::from),
    ]
}

pub(crate) fn int() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => -300..300_i64,
        2 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, i64::MAX, 1 << 53, (1 << 53) + 1, -(1 << 53), -1, 0]),
        1 => any::<i64>(),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![prop::sample::select(vec!["", "on", "off", "ä \u{0} \u{10ffff}"]).prop_map(str::to_owned), "\\PC{0,20}",]
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<u64>().prop_map(|value| json!(value)),
        float().prop_map(|value| json!(value)),
        text().prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        int().prop_map(Value::Int),
        float().prop_map(Value::Float),
        float().prop_map(Value::Float),
        text().prop_map(Value::Text),
        json().prop_map(Value::Json),
    ]
}

fn name() -> impl Strategy<Value = Metric> {
    prop::sample::select(vec!["a", "b", "m", "m.n", "x"]).prop_map(metric)
}

fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        6 => prop::collection::vec((name(), value()), 0..5).prop_map(Report::Telemetry),
        1 => (name(), json()).prop_map(|(name, data)| Report::Event { name, data }),
    ]
}

/// In order, each place once.
pub(crate) fn run(mut events: Vec<StoredEvent>) -> Vec<StoredEvent> {
    events.sort_by_key(|stored| (stored.event.at, stored.sequence));
    events.dedup_by_key(|stored| (stored.event.at, stored.sequence));
    events
}

fn unsigned() -> impl Strategy<Value = u64> {
    prop_oneof![0..40_u64, any::<u64>(), Just(u64::MAX), Just(0)]
}

/// Of any kind, in any mixture.
pub(crate) fn mixed() -> impl Strategy<Value = Vec<StoredEvent>> {
    let home = prop::option::of(prop::sample::select(vec!["h", "i"]));
    let one = (int(), int(), unsigned(), prop::option::of(unsigned()), home, any::<bool>(), report());
    prop::collection::vec(one, 1..40).prop_map(|all| {
        let all = all.into_iter().map(|(at, received, sequence, count, home, is_other, report)| {
            let mut stored = stored(at, sequence, report);
            stored.event.received = Timestamp::from_micros(received);
            stored.event.device_sequence = count;
            stored.event.home = home.map(|home| HomeId::parse(home).unwrap());
            if is_other {
                stored.event.product = ProductId::parse("q").unwrap();
            }
            stored
        });
        run(all.collect())
    })
}

/// Evenly in time, each with the same metrics in the same order, as devices do.
pub(crate) fn steady() -> impl Strategy<Value = Vec<StoredEvent>> {
    let one = |kind: BoxedStrategy<Value>| prop::collection::vec(kind, 1..700);
    let columns = prop_oneof![
        one(float().prop_map(Value::Float).boxed()),
        one((-5_000..5_000_i32).prop_map(|digits| Value::Float(f64::from(digits) / 10.0)).boxed()),
        one(any::<f64>().prop_map(Value::Float).boxed()),
        one(int().prop_map(Value::Int).boxed()),
        one((0..9_i64).prop_map(Value::Int).boxed()),
        one(any::<bool>().prop_map(Value::Bool).boxed()),
        one(prop::bool::weighted(0.01).prop_map(Value::Bool).boxed()),
        one(text().prop_map(Value::Text).boxed()),
        one((-50..50_i32).prop_map(|n| number(f64::from(n) / 2.0)).boxed()),
    ];
    (columns, -20_000_000..20_000_000_i64, 0..3_i64).prop_map(|(values, step, jitter)| {
        let events = (0..).zip(values).map(|(n, value)| {
            let at = n * step + n * n * 7_919 % 100_000 * jitter;
            sample(at, n.unsigned_abs() * 17, &[("a", Value::Int(n)), ("m", value)])
        });
        run(events.collect())
    })
}

/// As a device that writes JSON sends it.
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
pub(crate) fn number(float: f64) -> Value {
    if float.fract() == 0.0 { Value::Int(float as i64) } else { Value::Float(float) }
}

pub(crate) fn any_run() -> impl Strategy<Value = Vec<StoredEvent>> {
    prop_oneof![mixed(), steady()]
}
