//! What an engine has written, judged as its peer would.

use bytes::BytesMut;
use iot_conn::mqtt::codec::{decode, frame_length};
use iot_conn::mqtt::{Sender, Version};

/// The bytes of one connection that came from one end.
pub(super) struct Wire {
    bytes: BytesMut,
    sender: Sender,
}

impl Wire {
    pub(super) fn new(sender: Sender) -> Self {
        Self { bytes: BytesMut::new(), sender }
    }

    /// Takes at most `count` bytes; every packet that is complete is one this end may send.
    pub(super) fn carry(&mut self, output: &mut BytesMut, count: usize, version: Version) {
        let count = count.min(output.len());
        self.bytes.extend_from_slice(&output.split_to(count));
        while let Some(length) = frame_length(&self.bytes, usize::MAX).expect("an engine writes packets") {
            if length > self.bytes.len() {
                return;
            }
            let frame = self.bytes.split_to(length);
            if let Err(error) = decode(&frame, version, self.sender) {
                panic!("an engine wrote {frame:02x?}, but {error}");
            }
        }
    }

    /// The connection has ended: what was written was whole.
    pub(super) fn assert_complete(&self) {
        assert!(self.bytes.is_empty(), "half a packet was written: {:02x?}", self.bytes);
    }

    /// A new connection.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}
