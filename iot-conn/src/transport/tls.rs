//! TLS over a stream, without a buffer at rest.
//!
//! rustls shakes hands; then its keys are what is left of it, with TLS 1.3 ([`records`]). Bytes pass through space that the
//! connections of a thread share. What one connection holds beside its keys is half a record that has come, plaintext that its
//! reader had no room for, and ciphertext that its socket did not take; a connection of which nothing is heard has none of
//! these.

mod records;
mod unbuffered;

use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use records::Records;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, server::UnbufferedServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is encrypted at once: the most that a record holds (RFC 8446, section 5.1).
const PLAIN_BYTES: usize = 16 * 1024;
/// A record with its header, authentication tag and type, in either version.
const RECORD_BYTES: usize = PLAIN_BYTES + 256;
/// More than any record that may come: so much that is not a whole record cannot be.
const INCOMING_BYTES_MAX: usize = 128 * 1024;

/// Whoever does not read so much of what is answered to its records is not read from.
const OUTGOING_BYTES_MAX: usize = 2 * RECORD_BYTES;

/// As ALPN names it.
pub(super) const HTTP: &[u8] = b"http/1.1";

thread_local! {
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECORD_BYTES].into());
}

/// The server's end of a TLS connection.
pub struct TlsStream<S> {
    io: S,
    tls: Tls,
    held: Option<Box<Held>>,
    /// The client has said that nothing more comes, or has gone.
    ended: bool,
    /// The client was told that nothing more comes.
    closed: bool,
}

enum Tls {
    Rustls(Box<UnbufferedServerConnection>),
    Records(Box<Records>),
}

/// What a handshake agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) is_resumed: bool,
    /// The client's, in DER.
    pub(super) certificate: Option<Vec<u8>>,
    /// The protocol (ALPN, RFC 7301), if the client has offered any.
    pub(super) protocol: Option<Vec<u8>>,
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

/// What is to be encrypted.
#[derive(Clone, Copy)]
enum Write<'a> {
    Data(&'a [u8]),
    /// That nothing more comes.
    Close,
}

/// What the records that have come gave.
struct Processed {
    /// So many bytes of the input are done with.
    consumed: usize,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands. `read` is what was read already, from the first byte on. With a configuration that lets its secrets out
    /// ([`ServerConfig::enable_secret_extraction`]) the connection costs less from then on.
    pub(super) async fn accept(io: S, config: Arc<ServerConfig>, read: Vec<u8>) -> io::Result<(Self, Agreed)> {
        let are_secrets_let_out = config.enable_secret_extraction;
        let tls = Tls::Rustls(Box::new(UnbufferedServerConnection::new(config).map_err(io::Error::other)?));
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
        let Self { io, tls, held, ended, closed } = stream;
        let Tls::Rustls(tls) = tls else { return Err(io::ErrorKind::InvalidData.into()) };
        let certificate = tls.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let agreed = Agreed { is_resumed, certificate, protocol: tls.alpn_protocol().map(<[u8]>::to_vec) };
        let tls = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) if are_secrets_let_out => Tls::Records(Box::new(Records::new(*tls)?)),
            _ => Tls::Rustls(tls),
        };
        Ok((Self { io, tls, held, ended, closed }, agreed))
    }

    /// Puts back what was read: it is read again, before all else.
    pub(super) fn unread(&mut self, bytes: Vec<u8>) {
        let plain = &mut self.held.get_or_insert_default().plain;
        let rest = std::mem::replace(plain, bytes);
        plain.extend_from_slice(&rest);
    }

    fn tidy(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
    }

    /// Nothing is to be read or written.
    fn rest(&mut self) {
        self.tidy();
        if let Tls::Records(records) = &mut self.tls {
            records.rest();
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
        let processed = tls.process(incoming, &mut |bytes| plain.extend_from_slice(bytes), outgoing)?;
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
            let processed = tls.process(incoming, &mut |bytes| buffer.put_slice(bytes), &mut outgoing);
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

    /// Encrypts what `write` says and writes it; what the socket does not take is held.
    fn write_records(&mut self, cx: &mut Context<'_>, write: Write<'_>) -> io::Result<()> {
        let Self { io, tls, held, .. } = self;
        SPACE.with_borrow_mut(|space| {
            let (mut before, mut nothing) = (Vec::new(), Vec::new());
            let incoming = held.as_mut().map_or(&mut nothing, |held| &mut held.incoming);
            let count = tls.write(write, incoming, &mut before, space)?;
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

impl Tls {
    fn is_handshaking(&self) -> bool {
        matches!(self, Self::Rustls(tls) if tls.is_handshaking())
    }

    fn process(
        &mut self,
        incoming: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        outgoing: &mut Vec<u8>,
    ) -> io::Result<Processed> {
        match self {
            Self::Rustls(tls) => unbuffered::process(tls, incoming, plain, outgoing),
            Self::Records(records) => records.process(incoming, plain, outgoing),
        }
    }

    /// Answers how much of `space` is to be written, after `before`. `incoming` was processed and is not whole, or empty.
    fn write(
        &mut self,
        write: Write<'_>,
        incoming: &mut Vec<u8>,
        before: &mut Vec<u8>,
        space: &mut [u8],
    ) -> io::Result<usize> {
        match (self, write) {
            (Self::Records(records), Write::Data(bytes)) => records.encrypt(bytes, space),
            (Self::Records(records), Write::Close) => records.close(space),
            (Self::Rustls(tls), write) => unbuffered::with_traffic(tls, incoming, before, |traffic| match write {
                Write::Data(bytes) => traffic.encrypt(bytes, space),
                Write::Close => traffic.queue_close_notify(space),
            })?
            .map_err(broken),
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
            let answered = this.poll_write_out(cx);
            if answered.is_pending() && this.held.as_ref().is_some_and(|held| held.outgoing.len() > OUTGOING_BYTES_MAX)
            {
                return Poll::Pending;
            }
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
            match this.poll_decrypt(cx, buffer) {
                Poll::Pending => {
                    this.rest();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(is_more)) => this.ended |= !is_more,
                Poll::Ready(Err(error)) => {
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
        this.write_records(cx, Write::Data(bytes))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        this.rest();
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        if !std::mem::replace(&mut this.closed, true) {
            this.write_records(cx, Write::Close)?;
        }
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
