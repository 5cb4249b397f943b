//! What cannot be encoded is refused, and up to the bound it can.

use iot_core::{
    event::{Report, Value},
    id::{DeviceId, OwnershipEpoch, TenantId},
};
use iot_store::chunk::{
    CHUNK_ROWS_MAX, CHUNK_TEXT_BYTES_MAX, CHUNK_VALUES_MAX, ChunkError, FORMAT, JSON_DEPTH_MAX, Reader, encode, merge,
};
use serde_json::json;

use super::samples::{assert_survives, column, metric, sample, series, stored};

#[test]
fn nothing() {
    assert_eq!(encode(&[]), Err(ChunkError::Empty));
    assert_eq!(merge(&series(), &[]), Err(ChunkError::Empty));
}

#[test]
fn reports_out_of_order_or_twice() {
    for (second, third) in [((1, 2), (0, 3)), ((1, 2), (1, 2)), ((1, 2), (1, 1))] {
        let events = [(0, 0), second, third].map(|(at, sequence)| sample(at, sequence, &[]));
        assert_eq!(encode(&events), Err(ChunkError::OutOfOrder { row: 2 }));
    }
}

#[test]
fn reports_of_several_series() {
    let events = column([1, 2, 3].map(Value::Int));
    let mut others = [events.clone(), events.clone(), events];
    others[0][1].event.epoch = OwnershipEpoch(1);
    others[1][1].event.device = DeviceId::parse("e").unwrap();
    others[2][1].event.tenant = TenantId::parse("u").unwrap();
    for other in others {
        assert_eq!(encode(&other), Err(ChunkError::MixedSeries { row: 1 }));
    }
}

#[test]
fn too_many_reports() {
    let events = column((0..=CHUNK_ROWS_MAX).map(|_| Value::Bool(true)));
    let too_large = ChunkError::TooLarge { what: "reports", max: CHUNK_ROWS_MAX };
    assert_eq!(encode(&events), Err(too_large.clone()));
    let (one, two) = events.split_at(9);
    let (one, two) = (encode(one).unwrap().bytes, encode(two).unwrap().bytes);
    assert_eq!(merge(&series(), &[&one, &two]), Err(too_large));
}

#[test]
fn too_many_values() {
    let of = |count: usize| sample(0, count as u64, &vec![("m", Value::Bool(true)); count]);
    assert_survives(&[of(CHUNK_VALUES_MAX)]);
    let too_large = ChunkError::TooLarge { what: "values", max: CHUNK_VALUES_MAX };
    assert_eq!(encode(&[of(1), of(CHUNK_VALUES_MAX)]), Err(too_large));
}

#[test]
fn too_much_text() {
    let of = |length: usize, sequence| sample(0, sequence, &[("m", Value::Text("x".repeat(length)))]);
    assert_survives(&[of(CHUNK_TEXT_BYTES_MAX / 2, 1), of(CHUNK_TEXT_BYTES_MAX / 2, 2)]);
    let too_large = ChunkError::TooLarge { what: "bytes of text", max: CHUNK_TEXT_BYTES_MAX };
    assert_eq!(encode(&[of(CHUNK_TEXT_BYTES_MAX / 2, 1), of(CHUNK_TEXT_BYTES_MAX / 2 + 1, 2)]), Err(too_large));
}

#[test]
fn json_that_is_too_deep() {
    let deep = |depth: usize| (1..depth).fold(json!([]), |inner, _| json!([inner]));
    assert_survives(&column([Value::Json(deep(JSON_DEPTH_MAX))]));
    assert_eq!(encode(&column([Value::Json(deep(JSON_DEPTH_MAX + 1))])), Err(ChunkError::TooDeep));
    let named = stored(0, 0, Report::Event { name: metric("e"), data: deep(JSON_DEPTH_MAX + 1) });
    assert_eq!(encode(&[named]), Err(ChunkError::TooDeep));
}

#[test]
fn another_format() {
    let mut bytes = encode(&column([Value::Int(1)])).unwrap().bytes;
    bytes[1] = FORMAT + 1;
    assert_eq!(Reader::open(&bytes).unwrap_err(), ChunkError::UnknownFormat { kind: bytes[0], version: FORMAT + 1 });
    bytes[0] = b'x';
    assert_eq!(Reader::open(&bytes).unwrap_err(), ChunkError::UnknownFormat { kind: b'x', version: FORMAT + 1 });
}
