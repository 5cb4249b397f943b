//! Bytes between a stream and the MQTT engine.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use iot_core::time::Monotonic;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{mqtt::server::Connection, transport::Stream};

/// What one read may bring.
const READ_BYTES: usize = 16 * 1024;
/// How long the last bytes of a closing connection may take.
const LAST_WRITE: Duration = Duration::from_secs(2);

thread_local! {
    // One for all connections of a thread: at rest, none needs a buffer.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// A stream and the engine that speaks on it.
pub(crate) struct Wire {
    pub(crate) engine: Connection,
    stream: Stream,
    /// What the engine has not taken yet, if there is any.
    input: Option<Box<BytesMut>>,
    /// Eof or a broken stream: nothing more comes.
    ended: bool,
    /// Bytes may wait inside the stream.
    unflushed: bool,
}

impl Wire {
    pub(crate) fn new(stream: Stream, engine: Connection) -> Self {
        Self { engine, stream, input: None, ended: false, unflushed: false }
    }

    /// Whether the stream has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Writes what is to be written. Ready when the client has taken something, and pending when there is nothing to write or
    /// when it takes nothing.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut taken = false;
        while self.engine.has_output() && !self.ended {
            match Pin::new(&mut self.stream).poll_write(cx, self.engine.output()) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.engine.output().advance(count);
                    (taken, self.unflushed) = (true, true);
                }
                Poll::Ready(Ok(_)) => self.end(&io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => self.end(&error),
            }
        }
        // TLS and WebSocket take bytes before the socket does, and send them only when they are asked to.
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.unflushed = false;
            if let Err(error) = flushed {
                self.end(&error);
            }
        }
        if taken || self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads once and gives it to the engine. Ready when that took something, or at the end of the stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, now: Monotonic) -> Poll<()> {
        let (stream, input) = (Pin::new(&mut self.stream), &mut self.input);
        let read = SPACE.with_borrow_mut(|space| {
            let mut buffer = ReadBuf::new(space);
            ready!(stream.poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut all = input.take().map(|left| *left).unwrap_or_default();
            all.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(all))
        });
        match ready!(read) {
            Ok(input) => self.give(now, input),
            Err(error) => self.end(&error),
        }
        Poll::Ready(())
    }

    /// Ready when the stream has ended. What comes meanwhile is kept for the engine, up to what it takes of one packet; then
    /// nothing more is read, and the end goes unnoticed.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended {
            let input = self.input.get_or_insert_default();
            if input.len() >= READ_BYTES {
                return Poll::Pending;
            }
            let read = SPACE.with_borrow_mut(|space| {
                let mut buffer = ReadBuf::new(space);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
                input.extend_from_slice(buffer.filled());
                let is_end = buffer.filled().is_empty();
                Poll::Ready(if is_end { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
            });
            if let Err(error) = ready!(read) {
                self.end(&error);
            }
        }
        Poll::Ready(())
    }

    /// Lets the engine take what it left in the input while it waited for answers: nothing new may come to wake it.
    pub(crate) fn read_on(&mut self, now: Monotonic) {
        if !self.engine.is_saturated()
            && let Some(input) = self.input.take()
        {
            self.give(now, *input);
        }
    }

    fn give(&mut self, now: Monotonic, mut input: BytesMut) {
        self.engine.handle_input(now, &mut input);
        self.input = (!input.is_empty()).then(|| Box::new(input));
    }

    /// Writes what is left, for a short while, and closes.
    pub(crate) async fn finish(&mut self) {
        let write = async {
            while self.engine.has_output() {
                let written =
                    std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_write(cx, self.engine.output()));
                match written.await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    count => self.engine.output().advance(count),
                }
            }
            std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await
        };
        if !self.ended {
            // A client that does not take its last bytes loses them.
            let _: Result<io::Result<()>, _> = tokio::time::timeout(LAST_WRITE, write).await;
        }
    }

    fn end(&mut self, error: &io::Error) {
        tracing::debug!(%error, "the stream ended");
        self.ended = true;
    }
}
