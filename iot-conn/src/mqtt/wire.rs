//! Reading and writing the data types of MQTT 5 §1.5, and the error of reading them.

use bytes::{BufMut, BytesMut};

use super::packet::QoS;
use super::reason::ReasonCode;

/// The largest value of a variable byte integer (MQTT 5 §1.5.5).
pub(super) const VARIABLE_INTEGER_MAX: u32 = 268_435_455;

/// A packet that the standard forbids: what to answer, and which statement it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{statement}")]
#[non_exhaustive]
pub struct DecodeError {
    /// The code for the CONNACK or DISCONNECT that answers, before the connection is closed.
    pub reason: ReasonCode,
    /// The statement of the standard that the packet breaks.
    pub statement: &'static str,
}

impl DecodeError {
    pub(super) const fn new(reason: ReasonCode, statement: &'static str) -> Self {
        Self { reason, statement }
    }

    pub(super) const fn malformed(statement: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, statement)
    }

    pub(super) const fn protocol(statement: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, statement)
    }
}

/// A cursor over a packet's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(DecodeError::malformed("a field ends within the packet (MQTT 5 §1.5)"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::malformed("a field ends within the packet (MQTT 5 §1.5)"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = str::from_utf8(bytes)
            .map_err(|_| DecodeError::malformed("a string is well-formed UTF-8 [MQTT-1.5.4-1]"))?;
        if bytes.contains(&0) {
            return Err(DecodeError::malformed("a string holds no U+0000 [MQTT-1.5.4-2]"));
        }
        Ok(text)
    }

    pub(super) fn variable_integer(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err(DecodeError::malformed("a variable byte integer uses the fewest bytes [MQTT-1.5.5-1]"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(DecodeError::malformed("a variable byte integer has at most four bytes (MQTT 5 §1.5.5)"))
    }
}

/// A packet that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field is longer than 65,535 bytes.
    #[error("a field is longer than 65,535 bytes")]
    FieldTooLong,
    /// The packet is longer than 268,435,455 bytes after its fixed header.
    #[error("the packet is longer than 268,435,455 bytes")]
    PacketTooLarge,
    /// The version has no such packet, or its quality of service and its packet identifier
    /// contradict each other.
    #[error("the version of the protocol has no such packet")]
    NoSuchPacket,
}

/// What can be written to the wire.
pub(super) trait Put {
    fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError>;
}

impl Put for bool {
    fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u8(u8::from(*self));
        Ok(())
    }
}

impl Put for QoS {
    fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u8(*self as u8);
        Ok(())
    }
}

impl Put for u16 {
    fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u16(*self);
        Ok(())
    }
}

impl Put for u32 {
    fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u32(*self);
        Ok(())
    }
}

impl Put for &[u8] {
    fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let length = u16::try_from(self.len()).map_err(|_| EncodeError::FieldTooLong)?;
        out.put_u16(length);
        out.extend_from_slice(self);
        Ok(())
    }
}

impl Put for &str {
    fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.as_bytes().put(out)
    }
}

/// The bytes a variable byte integer takes; `value` is at most [`VARIABLE_INTEGER_MAX`].
pub(super) const fn variable_integer_length(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

pub(super) fn put_variable_integer(out: &mut impl BufMut, value: u32) {
    let mut rest = value;
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}
