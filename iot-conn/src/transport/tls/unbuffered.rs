//! rustls without buffers ([`rustls::unbuffered`]): the handshake in either version, and all of TLS 1.2.

use std::io;

use rustls::{
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus, WriteTraffic},
};

use super::{Processed, broken};

/// Lets rustls take whole records from the front of `incoming`. After an error, what it tells the client is in `outgoing`.
pub(super) fn process(
    tls: &mut UnbufferedServerConnection,
    incoming: &mut [u8],
    plain: &mut dyn FnMut(&[u8]),
    outgoing: &mut Vec<u8>,
) -> io::Result<Processed> {
    let (mut consumed, mut ended) = (0, false);
    loop {
        // Always all that is left: rustls remembers where in it the parts of a message are.
        let UnbufferedStatus { mut discard, state } = tls.process_tls_records(&mut incoming[consumed..]);
        let goes_on = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(broken)?;
                    discard += record.discard;
                    plain(record.payload);
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(outgoing, |space| data.encode(space)).map_err(broken)?;
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                true
            }
            Ok(ConnectionState::PeerClosed) => {
                ended = true;
                true
            }
            Ok(ConnectionState::Closed) => {
                ended = true;
                false
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => false,
            // Early data is not accepted, and there is no other state.
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) => {
                consumed += discard;
                // What it has to say of it comes with the next call, and only that is wanted of it.
                let UnbufferedStatus { state, .. } = tls.process_tls_records(&mut incoming[consumed..]);
                if let Ok(ConnectionState::EncodeTlsData(mut alert)) = state {
                    encode(outgoing, |space| alert.encode(space)).map_err(broken)?;
                }
                return Err(broken(error));
            }
        };
        consumed += discard;
        if !goes_on {
            return Ok(Processed { consumed, ended });
        }
    }
}

/// Calls `write` when application data may be written; what has to be written before is in `before`. `incoming` was processed and
/// is not whole, or empty.
pub(super) fn with_traffic<T>(
    tls: &mut UnbufferedServerConnection,
    incoming: &mut Vec<u8>,
    before: &mut Vec<u8>,
    write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> T,
) -> io::Result<T> {
    loop {
        let UnbufferedStatus { discard, state } = tls.process_tls_records(incoming);
        match state.map_err(broken)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let written = write(&mut traffic);
                incoming.drain(..discard);
                return Ok(written);
            }
            ConnectionState::EncodeTlsData(mut data) => encode(before, |space| data.encode(space)).map_err(broken)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(io::ErrorKind::NotConnected.into()),
        }
        incoming.drain(..discard);
    }
}

/// Appends what `encode` writes.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), EncodeError> {
    let start = outgoing.len();
    let mut room = 0;
    loop {
        outgoing.resize(start + room, 0);
        match encode(&mut outgoing[start..]) {
            Ok(count) => {
                outgoing.truncate(start + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needs)) if needs.required_size > room => room = needs.required_size,
            Err(error) => return Err(error),
        }
    }
}
