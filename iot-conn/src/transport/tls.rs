//! TLS over a stream, without a buffer at rest.
//!
//! rustls keeps the protocol's state and nothing else ([`rustls::unbuffered`]); bytes pass through space that the connections of a
//! thread share. What one connection holds beside its keys is half a record that has come, plaintext that its reader had no
//! room for, and ciphertext that its socket did not take; a connection of which nothing is heard has none of these.

use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ServerConfig,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is encrypted at once: the most that a record holds (RFC 8446, section 5.1).
const PLAIN_BYTES: usize = 16 * 1024;
/// A record with its header, authentication tag and type, in either version.
const RECORD_BYTES: usize = PLAIN_BYTES + 256;
/// More than any record that may come: so much that is not a whole record cannot be.
const INCOMING_BYTES_MAX: usize = 128 * 1024;

thread_local! {
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECORD_BYTES].into());
}

/// The server's end of a TLS connection.
pub struct TlsStream<S> {
    io: S,
    tls: Box<UnbufferedServerConnection>,
    held: Option<Box<Held>>,
    /// The client has said that nothing more comes, or has gone.
    ended: bool,
    /// The client was told that nothing more comes.
    closed: bool,
}

#[derive(Default)]
struct Held {
    /// Ciphertext, not whole.
    incoming: Vec<u8>,
    /// Plaintext that nobody has read.
    plain: Vec<u8>,
    /// Ciphertext that is to be written.
    outgoing: Vec<u8>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.incoming.is_empty() && self.plain.is_empty() && self.outgoing.is_empty()
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("io", &self.io).finish_non_exhaustive()
    }
}

/// What the records that have come gave.
struct Processed {
    /// So many bytes of the input are done with.
    consumed: usize,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands. `read` is what was read already, from the first byte on.
    pub(super) async fn accept(io: S, config: Arc<ServerConfig>, read: Vec<u8>) -> io::Result<Self> {
        let tls = Box::new(UnbufferedServerConnection::new(config).map_err(io::Error::other)?);
        let held = Box::new(Held { incoming: read, ..Held::default() });
        let mut stream = Self { io, tls, held: Some(held), ended: false, closed: false };
        if let Err(error) = stream.process_held() {
            // It has to be told why.
            std::future::poll_fn(|cx| stream.poll_write_out(cx)).await?;
            return Err(error);
        }
        while stream.tls.is_handshaking() {
            std::future::poll_fn(|cx| stream.poll_handshake(cx)).await?;
        }
        stream.tidy();
        Ok(stream)
    }

    /// What the handshake agreed on.
    pub(super) fn tls(&self) -> &UnbufferedServerConnection {
        &self.tls
    }

    fn tidy(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
    }

    /// One read, and what it brings about. It does not wait until all is written: the client may be writing as well.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_write_out(cx) {
            return Poll::Ready(Err(error));
        }
        if !self.tls.is_handshaking() {
            return Poll::Ready(Ok(()));
        }
        let count = ready!(self.poll_fill(cx, RECORD_BYTES))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let processed = self.process_held();
        match self.poll_write_out(cx) {
            Poll::Ready(written) => Poll::Ready(processed.and(written)),
            Poll::Pending => Poll::Ready(processed),
        }
    }

    /// Reads ciphertext to what is held; 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<usize>> {
        let Self { io, held, .. } = self;
        SPACE.with_borrow_mut(|space| {
            let max = max.min(space.len());
            let mut buffer = ReadBuf::new(&mut space[..max]);
            ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
            if !buffer.filled().is_empty() {
                held.get_or_insert_default().incoming.extend_from_slice(buffer.filled());
            }
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Lets rustls take what is held.
    fn process_held(&mut self) -> io::Result<()> {
        let Self { tls, held, ended, .. } = self;
        let Held { incoming, plain, outgoing } = &mut **held.get_or_insert_default();
        let processed = process(tls, incoming, &mut |bytes| plain.extend_from_slice(bytes), outgoing)?;
        incoming.drain(..processed.consumed);
        *ended |= processed.ended;
        if incoming.is_empty() {
            *incoming = Vec::new();
        }
        if incoming.len() > INCOMING_BYTES_MAX { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    /// Reads once and decrypts in the thread's space. Ready with whether something was read.
    fn poll_decrypt(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if self.held.as_ref().is_some_and(|held| !held.incoming.is_empty()) {
            let count = ready!(self.poll_fill(cx, RECORD_BYTES))?;
            return Poll::Ready(if count == 0 { Ok(false) } else { self.process_held().map(|()| true) });
        }
        let Self { io, tls, held, ended, .. } = self;
        SPACE.with_borrow_mut(|space| {
            // No more plaintext than there is room for.
            let max = buffer.remaining().min(space.len());
            let mut read = ReadBuf::new(&mut space[..max]);
            ready!(Pin::new(io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(false));
            }
            let mut outgoing = Vec::new();
            let incoming = read.filled_mut();
            let processed = process(tls, incoming, &mut |bytes| buffer.put_slice(bytes), &mut outgoing);
            if !outgoing.is_empty() {
                held.get_or_insert_default().outgoing.append(&mut outgoing);
            }
            let processed = processed?;
            *ended |= processed.ended;
            if processed.consumed < incoming.len() {
                held.get_or_insert_default().incoming.extend_from_slice(&incoming[processed.consumed..]);
            }
            Poll::Ready(Ok(true))
        })
    }

    /// Writes the ciphertext that is held.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, held, .. } = self;
        let Some(held) = held else { return Poll::Ready(Ok(())) };
        while !held.outgoing.is_empty() {
            let count = ready!(Pin::new(&mut *io).poll_write(cx, &held.outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            held.outgoing.drain(..count);
        }
        held.outgoing = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Encrypts with `encrypt` and writes; what the socket does not take is held.
    fn poll_encrypt(
        &mut self,
        cx: &mut Context<'_>,
        encrypt: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        let Self { io, tls, held, .. } = self;
        SPACE.with_borrow_mut(|space| {
            let (mut before, mut nothing) = (Vec::new(), Vec::new());
            let incoming = held.as_mut().map_or(&mut nothing, |held| &mut held.incoming);
            let count = with_traffic(tls, incoming, &mut before, |traffic| encrypt(traffic, space))?.map_err(broken)?;
            let mut rest = if before.is_empty() { &space[..count] } else { &[][..] };
            if !before.is_empty() {
                before.extend_from_slice(&space[..count]);
                held.get_or_insert_default().outgoing.append(&mut before);
            }
            while !rest.is_empty() {
                match Pin::new(&mut *io).poll_write(cx, rest)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(count) => rest = &rest[count..],
                    Poll::Pending => {
                        held.get_or_insert_default().outgoing.extend_from_slice(rest);
                        break;
                    }
                }
            }
            Ok(())
        })
    }
}

/// Lets rustls take whole records from the front of `incoming`. After an error, what it tells the client is in `outgoing`.
fn process(
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
fn with_traffic<T>(
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

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buffer.remaining();
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            // What the records asked for is answered as well as can be: the reader is told what ends the connection.
            let _answered = this.poll_write_out(cx);
            if let Some(held) = this.held.as_mut().filter(|held| !held.plain.is_empty()) {
                let count = held.plain.len().min(buffer.remaining());
                buffer.put_slice(&held.plain[..count]);
                held.plain.drain(..count);
                if held.plain.is_empty() {
                    held.plain = Vec::new();
                }
            }
            if buffer.remaining() < room || this.ended {
                this.tidy();
                return Poll::Ready(Ok(()));
            }
            match ready!(this.poll_decrypt(cx, buffer)) {
                Ok(is_more) => this.ended |= !is_more,
                Err(error) => {
                    let _told = this.poll_write_out(cx);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        let bytes = &bytes[..bytes.len().min(PLAIN_BYTES)];
        this.poll_encrypt(cx, |traffic, space| traffic.encrypt(bytes, space))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        this.tidy();
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        if !std::mem::replace(&mut this.closed, true) {
            this.poll_encrypt(cx, |traffic, space| traffic.queue_close_notify(space))?;
        }
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
