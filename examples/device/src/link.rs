//! Bytes between a client engine and its transport.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use iot_conn::mqtt::client::Client;
use iot_core::time::Monotonic;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

/// The most bytes that are read at once. They lie on the thread's stack, so an idle connection has no buffer.
const READ_BYTES: usize = 16 * 1024;

/// The engine's clock: time since the process took it.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn now(&self) -> Monotonic {
        Monotonic::from_duration(self.0.elapsed())
    }

    /// The instant of a time.
    pub fn instant(&self, at: Monotonic) -> Instant {
        self.0 + at.as_duration()
    }
}

/// One open transport of a client.
#[derive(Debug)]
pub struct Link<S> {
    stream: S,
    input: BytesMut,
    is_flushed: bool,
    clock: Clock,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Tells the engine that `stream` is open.
    pub fn open(stream: S, client: &mut Client, clock: Clock) -> Self {
        client.handle_connected(clock.now());
        Self { stream, input: BytesMut::new(), is_flushed: true, clock }
    }

    /// Writes what the engine has to say, waits until bytes arrive or the engine's time has come, and tells the engine.
    /// May be dropped at any point and called again. Returns with an error when the transport is gone; the engine has
    /// been told.
    pub async fn step(&mut self, client: &mut Client) -> io::Result<()> {
        let result = self.progress(client).await;
        if result.is_err() {
            client.handle_disconnected(self.clock.now());
        }
        result
    }

    async fn progress(&mut self, client: &mut Client) -> io::Result<()> {
        if !self.input.is_empty() {
            let before = self.input.len();
            client.handle_input(self.clock.now(), &mut self.input);
            if self.input.len() < before {
                return Ok(());
            }
        }
        let due = client.poll_timeout().map(|at| self.clock.instant(at));
        let timer = sleep_until(due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600)));
        tokio::select! {
            biased;
            read = poll_fn(|cx| self.poll(client, cx)) => {
                read?;
                client.handle_input(self.clock.now(), &mut self.input);
            }
            () = timer => client.handle_timeout(self.clock.now()),
        }
        Ok(())
    }

    /// Waits until the transport has taken what the engine has to say. May be dropped at any point.
    pub async fn flush(&mut self, client: &mut Client) -> io::Result<()> {
        poll_fn(|cx| self.poll_write(client, cx)).await
    }

    /// Writes the rest and closes the transport; the engine has ended the connection.
    pub async fn close(mut self, client: &mut Client) -> io::Result<()> {
        poll_fn(|cx| self.poll_write(client, cx)).await?;
        poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await
    }

    fn poll(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_write(client, cx) {
            return Poll::Ready(Err(error));
        }
        let mut chunk = [MaybeUninit::uninit(); READ_BYTES];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
        if chunk.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.input.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(()))
    }

    /// Ready when everything is written and flushed.
    fn poll_write(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let output = client.output();
            if output.is_empty() {
                break;
            }
            self.is_flushed = false;
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            output.advance(written);
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use iot_conn::mqtt::{
        QoS,
        client::{ClientOptions, Event, Publication},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const CONNACK: &[u8] = b"\x20\x03\0\0\0";

    #[tokio::test]
    async fn bytes_go_both_ways_in_any_pieces() {
        let (near, mut far) = duplex(7);
        let mut client = Client::new(ClientOptions::new("lamp")).unwrap();
        let token = client.publish(Publication::new("up/telemetry", "{}", QoS::AtLeastOnce)).unwrap();
        let mut link = Link::open(near, &mut client, Clock::start());
        let server = async move {
            let packets = [read_packet(&mut far).await[0]];
            for byte in CONNACK {
                far.write_all(&[*byte]).await.unwrap();
            }
            let publish = read_packet(&mut far).await;
            far.write_all(b"\x40\x02\0\x01").await.unwrap();
            (packets, publish, far)
        };
        let device = async {
            loop {
                link.step(&mut client).await.unwrap();
                while let Some(event) = client.poll_event() {
                    if let Event::Published { token, .. } = event {
                        return token;
                    }
                }
            }
        };
        let ((packets, publish, _far), published) = tokio::join!(server, device);
        assert_eq!((packets, publish[0], published), ([0x10], 0x32, token));
    }

    #[tokio::test]
    async fn the_end_of_the_transport_is_told_to_the_engine() {
        let (near, far) = duplex(64);
        let mut client = Client::new(ClientOptions::new("lamp")).unwrap();
        let mut link = Link::open(near, &mut client, Clock::start());
        drop(far);
        assert!(link.step(&mut client).await.is_err());
        assert!(matches!(client.poll_event(), Some(Event::Disconnected(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up_at_the_engines_time() {
        let (near, _far) = duplex(64);
        let mut client = Client::new(ClientOptions::new("lamp")).unwrap();
        let mut link = Link::open(near, &mut client, Clock::start());
        link.step(&mut client).await.unwrap();
        assert!(matches!(client.poll_event(), Some(Event::Disconnected(_))));
    }

    async fn read_packet(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut packet = vec![0; 2];
        from.read_exact(&mut packet).await.unwrap();
        let length = usize::from(packet[1]);
        packet.resize(2 + length, 0);
        from.read_exact(&mut packet[2..]).await.unwrap();
        packet
    }
}
