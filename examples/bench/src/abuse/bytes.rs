//! Packets and frames by hand: what is sent here must be allowed to be wrong.

/// MQTT 3.1.1, as the protocol level says it.
pub(super) const V311: u8 = 4;
/// MQTT 5.
pub(super) const V5: u8 = 5;

/// A packet with the remaining length that it has.
pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(length(body.len()));
    bytes.extend_from_slice(body);
    bytes
}

/// A variable byte integer.
pub(super) fn length(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value % 128).unwrap_or_default();
        value /= 128;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Bytes with their length in front; longer ones are cut.
pub(super) fn field(bytes: &[u8]) -> Vec<u8> {
    let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&count.to_be_bytes()[..], &bytes[..usize::from(count)]].concat()
}

pub(super) fn text(text: &str) -> Vec<u8> {
    field(text.as_bytes())
}

/// Properties with their length in front.
pub(super) fn properties(bytes: &[u8]) -> Vec<u8> {
    [&length(bytes.len())[..], bytes].concat()
}

/// What a CONNECT says.
pub(super) struct Hello<'a> {
    pub(super) version: u8,
    pub(super) id: &'a str,
    pub(super) flags: u8,
    pub(super) keep_alive_s: u16,
    /// MQTT 5 only.
    pub(super) properties: &'a [u8],
    /// What follows the client identifier.
    pub(super) rest: &'a [u8],
}

/// Nothing is kept of an earlier session.
pub(super) const CLEAN: u8 = 0x02;

impl<'a> Hello<'a> {
    pub(super) fn new(version: u8, id: &'a str) -> Self {
        Self { version, id, flags: CLEAN, keep_alive_s: 0, properties: &[], rest: &[] }
    }

    pub(super) fn packet(&self) -> Vec<u8> {
        let mut body = text("MQTT");
        body.extend([self.version, self.flags]);
        body.extend(self.keep_alive_s.to_be_bytes());
        if self.version == V5 {
            body.extend(properties(self.properties));
        }
        body.extend(text(self.id));
        body.extend_from_slice(self.rest);
        packet(0x10, &body)
    }
}

/// A session that outlives its connection by so many seconds.
pub(super) fn expiry(seconds: u32) -> Vec<u8> {
    [&[0x11][..], &seconds.to_be_bytes()].concat()
}

/// MQTT 5, with whatever properties; the packet id is there with QoS 1 and 2.
pub(super) fn publish(topic: &str, qos_and_flags: u8, id: u16, props: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if qos_and_flags & 0x06 != 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(properties(props));
    body.extend_from_slice(payload);
    packet(0x30 | qos_and_flags, &body)
}

/// MQTT 3.1.1.
pub(super) fn publish_v311(topic: &str, qos_and_flags: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if qos_and_flags & 0x06 != 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend_from_slice(payload);
    packet(0x30 | qos_and_flags, &body)
}

/// MQTT 5.
pub(super) fn subscribe<'a>(id: u16, props: &[u8], filters: impl IntoIterator<Item = (&'a str, u8)>) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(props));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(options);
    }
    packet(0x82, &body)
}

/// MQTT 5.
pub(super) fn unsubscribe<'a>(id: u16, filters: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    filters.into_iter().for_each(|filter| body.extend(text(filter)));
    packet(0xA2, &body)
}

/// A user property with this name and value.
pub(super) fn user_property(name: &str, value: &str) -> Vec<u8> {
    [vec![0x26], text(name), text(value)].concat()
}

/// A WebSocket frame (RFC 6455 section 5.2); `first` is FIN, the reserved bits and the opcode.
pub(super) fn frame(first: u8, is_masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_head(first, is_masked, payload.len() as u64);
    // A mask of zeros changes nothing.
    bytes.extend_from_slice(payload);
    bytes
}

/// The beginning of a frame, with whatever length.
pub(super) fn frame_head(first: u8, is_masked: bool, count: u64) -> Vec<u8> {
    let mask = if is_masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match u16::try_from(count) {
        Ok(short) if short < 126 => bytes.push(mask | u8::try_from(short).unwrap_or_default()),
        Ok(count) => {
            bytes.push(mask | 126);
            bytes.extend(count.to_be_bytes());
        }
        Err(_) => {
            bytes.push(mask | 127);
            bytes.extend(count.to_be_bytes());
        }
    }
    if is_masked {
        bytes.extend([0; 4]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use iot_conn::mqtt::{Packet, Sender, Version, codec::decode};

    use super::*;

    #[test]
    fn what_is_meant_to_be_right_is_right() {
        let connect = Hello { properties: &expiry(7), ..Hello::new(V5, "x") }.packet();
        let publication = publish("a/b", 2, 9, &user_property("n", "v"), b"p");
        let good = [connect, publication, subscribe(1, &[], [("a", 1), ("b/#", 2)]), unsubscribe(2, ["a"])];
        for bytes in good {
            let bytes = bytes::Bytes::from(bytes);
            assert!(decode(&bytes, Version::V5, Sender::Client).is_ok(), "{bytes:?}");
        }
        let bytes = bytes::Bytes::from(publish_v311("a", 2, 1, &[0; 300]));
        assert!(matches!(decode(&bytes, Version::V311, Sender::Client), Ok(Packet::Publish(_))));
        assert_eq!(frame(0x82, true, b"ab"), [0x82, 0x82, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(frame_head(0x82, false, 1 << 40)[..2], [0x82, 127]);
    }
}
