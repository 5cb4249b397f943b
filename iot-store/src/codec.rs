//! The blobs that all backends hold: a version byte, then one CBOR item (RFC 8949), in which every `f64` survives.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use iot_core::{
    event::{Report, Value},
    id::{DeviceId, Metric, OwnershipEpoch, TenantId},
    message::{Message, Properties, QoS},
    time::Timestamp,
};
use minicbor::{
    Decoder, Encoder,
    data::{Tag, Type},
    decode, encode,
};

#[cfg(feature = "chunks")]
use crate::chunk::{MetricStats, Point, Summary};

const FORMAT: u8 = 1;
/// Marks a JSON scalar, so that it is told from the other kinds of value.
const JSON_SCALAR: Tag = Tag::new(262);

type Written = Result<(), encode::Error<Infallible>>;
type Out = Encoder<Vec<u8>>;

/// What was read is not what was written.
#[derive(Debug)]
pub(crate) struct Damage(pub(crate) String);

/// Writes a report.
pub(crate) fn report(report: &Report) -> Vec<u8> {
    blob(|out| write_report(out, report))
}

/// The metrics of [`report`], which is not read further.
#[cfg(feature = "sqlite")]
pub(crate) fn read_metrics(body: &[u8]) -> Result<Vec<Metric>, Damage> {
    read(body, |input| match input.datatype()? {
        Type::Map => (0..length(input.map()?)?)
            .map(|_| {
                let metric = read_metric(input)?;
                input.skip()?;
                Ok(metric)
            })
            .collect(),
        _ => Ok(Vec::new()),
    })
}

/// Writes one value, as it is within a report.
pub(crate) fn value(value: &Value) -> Vec<u8> {
    let mut out = Encoder::new(Vec::new());
    write_value(&mut out, value).expect("writing to memory does not fail");
    out.into_writer()
}

/// Writes what a chunk holds of each metric.
#[cfg(feature = "chunks")]
pub(crate) fn metric_stats(stats: &[MetricStats]) -> Vec<u8> {
    blob(|out| {
        out.array(stats.len() as u64)?;
        stats.iter().try_for_each(|stats| {
            out.array(3)?.str(stats.metric.as_str())?.u64(stats.values)?;
            match &stats.numbers {
                Some(numbers) => write_summary(out, numbers),
                None => out.null().map(drop),
            }
        })
    })
}

/// Reads [`metric_stats`].
#[cfg(feature = "chunks")]
pub(crate) fn read_metric_stats(blob: &[u8]) -> Result<Vec<MetricStats>, Damage> {
    read(blob, |input| {
        (0..length(input.array()?)?)
            .map(|_| {
                input.array()?;
                let (metric, values) = (read_metric(input)?, input.u64()?);
                Ok(MetricStats { metric, values, numbers: optional(input, read_summary)? })
            })
            .collect()
    })
}

#[cfg(feature = "chunks")]
fn write_summary(out: &mut Out, summary: &Summary) -> Written {
    out.array(10)?.u64(summary.count)?.f64(summary.min)?.f64(summary.max)?.f64(summary.sum)?;
    for point in [&summary.first, &summary.last] {
        out.i64(point.at.as_micros())?.u64(point.sequence.0)?.f64(point.value)?;
    }
    Ok(())
}

#[cfg(feature = "chunks")]
fn read_summary(input: &mut Decoder<'_>) -> Result<Summary, decode::Error> {
    input.array()?;
    let (count, min, max, sum) = (input.u64()?, input.f64()?, input.f64()?, input.f64()?);
    let point = |input: &mut Decoder<'_>| {
        let at = Timestamp::from_micros(input.i64()?);
        Ok::<_, decode::Error>(Point { at, sequence: iot_core::event::Sequence(input.u64()?), value: input.f64()? })
    };
    Ok(Summary { count, min, max, sum, first: point(input)?, last: point(input)? })
}

/// Reads [`report`].
pub(crate) fn read_report(body: &[u8]) -> Result<Report, Damage> {
    read(body, |input| match input.datatype()? {
        Type::Map => Ok(Report::Telemetry(read_values(input)?)),
        _ => {
            input.array()?;
            Ok(Report::Event { name: read_metric(input)?, data: read_json(input)? })
        }
    })
}

/// Reads one value, as it is within a report.
pub(crate) fn read_value_at(item: &[u8]) -> Result<Value, Damage> {
    read_value(&mut Decoder::new(item)).map_err(|error| damaged(&error))
}

/// Writes a message.
pub(crate) fn message(message: &Message) -> Vec<u8> {
    blob(|out| write_message(out, message))
}

/// Reads [`message`].
pub(crate) fn read_message(body: &[u8]) -> Result<Message, Damage> {
    read(body, |input| {
        input.array()?;
        Ok(Message {
            tenant: TenantId::parse(input.str()?).map_err(decode::Error::custom)?,
            topic: input.str()?.into(),
            payload: Bytes::copy_from_slice(input.bytes()?),
            qos: QoS::from_bits(input.u8()?).ok_or_else(|| decode::Error::message("no quality of service"))?,
            retain: input.bool()?,
            published: Timestamp::from_micros(input.i64()?),
            expires: optional(input, Decoder::i64)?.map(Timestamp::from_micros),
            device: optional(input, read_device)?,
            properties: optional(input, read_properties)?.map(Arc::new),
        })
    })
}

/// Writes a list of subscription identifiers; nothing for an empty one.
pub(crate) fn identifiers(identifiers: &[u32]) -> Option<Vec<u8>> {
    (!identifiers.is_empty()).then(|| identifiers.iter().flat_map(|identifier| identifier.to_be_bytes()).collect())
}

/// Reads [`identifiers`].
pub(crate) fn read_identifiers(blob: Option<&[u8]>) -> Vec<u32> {
    blob.unwrap_or_default().as_chunks::<4>().0.iter().map(|chunk| u32::from_be_bytes(*chunk)).collect()
}

fn blob(write: impl FnOnce(&mut Out) -> Written) -> Vec<u8> {
    let mut out = Encoder::new(vec![FORMAT]);
    write(&mut out).expect("writing to memory does not fail");
    out.into_writer()
}

fn read<T>(blob: &[u8], item: impl FnOnce(&mut Decoder<'_>) -> Result<T, decode::Error>) -> Result<T, Damage> {
    let Some((&FORMAT, body)) = blob.split_first() else {
        return Err(Damage(format!("a blob of format {:?}", blob.first())));
    };
    item(&mut Decoder::new(body)).map_err(|error| damaged(&error))
}

fn damaged(error: &decode::Error) -> Damage {
    Damage(format!("a blob: {error}"))
}

fn write_report(out: &mut Out, report: &Report) -> Written {
    match report {
        Report::Telemetry(values) => {
            out.map(values.len() as u64)?;
            for (metric, value) in values {
                out.str(metric.as_str())?;
                write_value(out, value)?;
            }
            Ok(())
        }
        Report::Event { name, data } => {
            out.array(2)?.str(name.as_str())?;
            write_json(out, data)
        }
    }
}

fn read_values(input: &mut Decoder<'_>) -> Result<Vec<(Metric, Value)>, decode::Error> {
    (0..length(input.map()?)?).map(|_| Ok((read_metric(input)?, read_value(input)?))).collect()
}

fn read_metric(input: &mut Decoder<'_>) -> Result<Metric, decode::Error> {
    Metric::parse(input.str()?).map_err(decode::Error::custom)
}

fn write_value(out: &mut Out, value: &Value) -> Written {
    match value {
        Value::Bool(value) => out.bool(*value).map(drop),
        Value::Int(value) => out.i64(*value).map(drop),
        Value::Float(value) => out.f64(*value).map(drop),
        Value::Text(value) => out.str(value).map(drop),
        Value::Json(json @ (serde_json::Value::Array(_) | serde_json::Value::Object(_))) => write_json(out, json),
        Value::Json(scalar) => {
            out.tag(JSON_SCALAR)?;
            write_json(out, scalar)
        }
    }
}

fn read_value(input: &mut Decoder<'_>) -> Result<Value, decode::Error> {
    Ok(match input.datatype()? {
        Type::Bool => Value::Bool(input.bool()?),
        Type::F64 => Value::Float(input.f64()?),
        Type::String => Value::Text(input.str()?.to_owned()),
        Type::Array | Type::Map => Value::Json(read_json(input)?),
        Type::Tag => {
            input.tag()?;
            Value::Json(read_json(input)?)
        }
        _ => Value::Int(input.i64()?),
    })
}

fn write_json(out: &mut Out, json: &serde_json::Value) -> Written {
    match json {
        serde_json::Value::Null => out.null().map(drop),
        serde_json::Value::Bool(value) => out.bool(*value).map(drop),
        serde_json::Value::Number(number) => write_number(out, number),
        serde_json::Value::String(text) => out.str(text).map(drop),
        serde_json::Value::Array(items) => {
            out.array(items.len() as u64)?;
            items.iter().try_for_each(|item| write_json(out, item))
        }
        serde_json::Value::Object(members) => {
            out.map(members.len() as u64)?;
            members.iter().try_for_each(|(name, member)| {
                out.str(name)?;
                write_json(out, member)
            })
        }
    }
}

fn write_number(out: &mut Out, number: &serde_json::Number) -> Written {
    match (number.as_i64(), number.as_u64()) {
        (Some(value), _) => out.i64(value).map(drop),
        (None, Some(value)) => out.u64(value).map(drop),
        (None, None) => out.f64(number.as_f64().unwrap_or(f64::NAN)).map(drop),
    }
}

fn read_json(input: &mut Decoder<'_>) -> Result<serde_json::Value, decode::Error> {
    Ok(match input.datatype()? {
        Type::Null => {
            input.null()?;
            serde_json::Value::Null
        }
        Type::Bool => input.bool()?.into(),
        Type::F64 => input.f64()?.into(),
        Type::String => input.str()?.into(),
        Type::Array => {
            let items = length(input.array()?)?;
            serde_json::Value::Array((0..items).map(|_| read_json(input)).collect::<Result<_, _>>()?)
        }
        Type::Map => {
            let members = length(input.map()?)?;
            let members = (0..members).map(|_| Ok((input.str()?.to_owned(), read_json(input)?)));
            serde_json::Value::Object(members.collect::<Result<_, decode::Error>>()?)
        }
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => input.i64()?.into(),
        _ => input.u64()?.into(),
    })
}

fn write_message(out: &mut Out, message: &Message) -> Written {
    out.array(9)?.str(message.tenant.as_str())?.str(&message.topic)?.bytes(&message.payload)?;
    out.u8(message.qos as u8)?.bool(message.retain)?.i64(message.published.as_micros())?;
    match message.expires {
        Some(at) => out.i64(at.as_micros())?,
        None => out.null()?,
    };
    match &message.device {
        Some((device, epoch)) => out.array(2)?.str(device.as_str())?.u64(epoch.0)?,
        None => out.null()?,
    };
    match &message.properties {
        Some(properties) => write_properties(out, properties),
        None => out.null().map(drop),
    }
}

fn read_device(input: &mut Decoder<'_>) -> Result<(DeviceId, OwnershipEpoch), decode::Error> {
    input.array()?;
    let device = DeviceId::parse(input.str()?).map_err(decode::Error::custom)?;
    Ok((device, OwnershipEpoch(input.u64()?)))
}

fn write_properties(out: &mut Out, properties: &Properties) -> Written {
    out.array(5)?.bool(properties.utf8_payload)?;
    for text in [&properties.content_type, &properties.response_topic] {
        match text {
            Some(text) => out.str(text)?,
            None => out.null()?,
        };
    }
    match &properties.correlation_data {
        Some(data) => out.bytes(data)?,
        None => out.null()?,
    };
    out.array(properties.user.len() as u64)?;
    properties.user.iter().try_for_each(|(name, value)| out.array(2)?.str(name)?.str(value).map(drop))
}

fn read_properties(input: &mut Decoder<'_>) -> Result<Properties, decode::Error> {
    input.array()?;
    let text = |input: &mut Decoder<'_>| input.str().map(str::to_owned);
    Ok(Properties {
        utf8_payload: input.bool()?,
        content_type: optional(input, text)?,
        response_topic: optional(input, text)?,
        correlation_data: optional(input, |input| input.bytes().map(Bytes::copy_from_slice))?,
        user: (0..length(input.array()?)?)
            .map(|_| {
                input.array()?;
                Ok((text(input)?, text(input)?))
            })
            .collect::<Result<_, decode::Error>>()?,
    })
}

fn optional<'b, T>(
    input: &mut Decoder<'b>,
    item: impl FnOnce(&mut Decoder<'b>) -> Result<T, decode::Error>,
) -> Result<Option<T>, decode::Error> {
    if input.datatype()? == Type::Null {
        input.null()?;
        return Ok(None);
    }
    item(input).map(Some)
}

fn length(items: Option<u64>) -> Result<u64, decode::Error> {
    items.ok_or_else(|| decode::Error::message("no length"))
}
