//! The codec on any bytes.

use bytes::BytesMut;
use iot_conn::mqtt::codec::{self, EncodedPublish, connect_version, encode, frame_length};
use iot_conn::mqtt::{Packet, Sender, Version};

/// Decodes `data` as everything it could be. What is taken is written and read again as the same, and in one way only.
pub(crate) fn decode(data: &[u8]) {
    let length = frame_length(data, 1 << 20);
    let version = connect_version(data);
    for version in [Version::V311, Version::V5] {
        for sender in [Sender::Client, Sender::Server] {
            if let Ok(packet) = codec::decode(data, version, sender) {
                assert_eq!(length, Ok(Some(data.len())), "a packet is framed as what it is");
                check(data, &packet, version, sender);
            }
        }
    }
    // Whatever was first there, what follows has no part in it.
    let longer = [data, b"\0"].concat();
    assert!(length == Ok(None) || frame_length(&longer, 1 << 20) == length);
    assert!(version.is_none() || connect_version(&longer) == version);
}

fn check(frame: &[u8], packet: &Packet<'_>, version: Version, sender: Sender) {
    // A CONNECT brings its own version.
    let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
    let again = written(packet, version);
    assert!(again.len() <= frame.len(), "we write no more than we read");
    assert_eq!(codec::decode(&again, version, sender).as_ref(), Ok(packet));
    assert_eq!(frame_length(&again, again.len()), Ok(Some(again.len())));
    for end in (0..again.len()).take(40) {
        assert!(codec::decode(&again[..end], version, sender).is_err(), "a part is no packet");
    }
    if let Packet::Publish(publish) = packet {
        let mut shared = BytesMut::new();
        let encoded = EncodedPublish::new(publish, version).expect("it was encoded");
        encoded.write(publish.packet_id, publish.dup, publish.retain, &mut shared).expect("it was decoded");
        assert_eq!(shared, again, "a shared message is written as any other");
    }
}

fn written(packet: &Packet<'_>, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).expect("what was decoded can be encoded");
    out
}
