//! Bytes between a client and the node, moved by the simulation: in any parts, late, or not at all.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::rng::Rng;

/// What a direction holds before its writer waits: as small as socket buffers may be.
const WINDOW_BYTES: usize = 8 * 1024;

/// One direction of a connection.
#[derive(Debug, Default)]
struct Way {
    travelling: BytesMut,
    arrived: BytesMut,
    /// The writer has ended: after the last byte comes the end.
    ended: bool,
    /// What travels does not arrive any more; the reader gets what has arrived, and the end.
    cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn room(&self) -> usize {
        WINDOW_BYTES.saturating_sub(self.travelling.len() + self.arrived.len())
    }

    fn is_over(&self) -> bool {
        self.arrived.is_empty() && (self.cut || self.ended && self.travelling.is_empty())
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    fn advance(&mut self, bytes: usize) {
        if self.cut {
            return;
        }
        let moved = self.travelling.split_to(bytes.min(self.travelling.len()));
        self.arrived.extend_from_slice(&moved);
        if !moved.is_empty() || self.ended {
            self.wake();
        }
    }
}

#[derive(Debug, Default)]
struct Ways {
    up: Way,
    down: Way,
    /// Nothing moves any more, and nobody is told.
    dead: bool,
    /// The node has closed in order, not by its own end.
    closed_by_node: bool,
}

/// The client's end, and the network's hand on both.
#[derive(Debug, Clone)]
pub(super) struct Link(Arc<Mutex<Ways>>);

/// The node's end.
#[derive(Debug)]
pub(super) struct NodeEnd(Arc<Mutex<Ways>>);

fn lock(ways: &Mutex<Ways>) -> MutexGuard<'_, Ways> {
    ways.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new() -> (Self, NodeEnd) {
        let ways = Arc::new(Mutex::new(Ways::default()));
        (Self(ways.clone()), NodeEnd(ways))
    }

    /// The network does something, or not.
    pub(super) fn travel(&self, rng: &mut Rng) {
        let mut ways = lock(&self.0);
        let ways = &mut *ways;
        if ways.dead {
            return;
        }
        for way in [&mut ways.up, &mut ways.down] {
            if way.travelling.is_empty() && !way.ended {
                continue;
            }
            match rng.below(8) {
                0 => {}
                1 => way.advance(1 + rng.below(12)),
                _ => way.advance(usize::MAX),
            }
        }
    }

    /// Writes what there is room for.
    pub(super) fn send(&self, bytes: &mut BytesMut) {
        let mut ways = lock(&self.0);
        let count = ways.up.room().min(bytes.len());
        if !ways.up.cut {
            ways.up.travelling.extend_from_slice(&bytes[..count]);
        }
        bytes.advance(count);
    }

    pub(super) fn receive(&self, input: &mut BytesMut) {
        let mut ways = lock(&self.0);
        let arrived = ways.down.arrived.split();
        input.extend_from_slice(&arrived);
        ways.down.wake();
    }

    /// Whether nothing more comes from the node.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.0).down.is_over()
    }

    /// Whether the node has closed the connection in order, so that it is done with it.
    pub(super) fn was_closed_by_node(&self) -> bool {
        lock(&self.0).closed_by_node
    }

    /// The client closes its end.
    pub(super) fn close(&self) {
        lock(&self.0).up.ended = true;
    }

    /// The connection breaks, for both ends: of what travels, some arrives.
    pub(super) fn cut(&self, rng: &mut Rng) {
        let mut ways = lock(&self.0);
        let ways = &mut *ways;
        for way in [&mut ways.up, &mut ways.down] {
            let arrives = rng.below(way.travelling.len() + 1);
            way.advance(arrives);
            way.cut = true;
            way.wake();
        }
    }

    /// From now on nothing moves, and nobody is told.
    pub(super) fn die(&self) {
        lock(&self.0).dead = true;
    }

    /// Whether anything can still happen here.
    pub(super) fn is_alive(&self) -> bool {
        let ways = lock(&self.0);
        !(ways.dead || ways.up.is_over() || ways.up.cut)
    }
}

impl AsyncRead for NodeEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ways = lock(&self.0);
        let way = &mut ways.up;
        if way.arrived.is_empty() && !way.is_over() {
            way.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = way.arrived.len().min(buffer.remaining());
        buffer.put_slice(&way.arrived.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for NodeEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut ways = lock(&self.0);
        let way = &mut ways.down;
        if way.cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = way.room().min(bytes.len());
        if count == 0 {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        way.travelling.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ways = lock(&self.0);
        ways.down.ended = true;
        ways.closed_by_node = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for NodeEnd {
    fn drop(&mut self) {
        lock(&self.0).down.ended = true;
    }
}
