use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Error, Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

/// The path that a client asks for.
pub(crate) const PATH: &str = "/mqtt";
/// The subprotocol that a client must offer (MQTT 5 §6.0.0-3).
const SUBPROTOCOL: &str = "mqtt";
/// The most bytes that wait to be written before the writer is made to wait.
const WRITE_BYTES_MAX: usize = 512 * 1024;

/// A WebSocket as a stream of the bytes in its binary messages. A text message ends it (MQTT 5 §6.0.0-1).
#[derive(Debug)]
pub struct WebSocket<S> {
    inner: WebSocketStream<S>,
    rest: Bytes,
}

/// Whether what a client of HTTP has sent so far is a request for our WebSocket; `None` if it is too little to tell.
pub(super) fn is_request(head: &[u8]) -> Option<bool> {
    const ASKED: &[u8] = b"GET /mqtt";
    let common = head.len().min(ASKED.len());
    if head[..common] != ASKED[..common] {
        return Some(false);
    }
    // Another path may begin in the same way.
    head.get(ASKED.len()).map(|next| matches!(next, b' ' | b'?'))
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Answers the client's upgrade request; frames may be as large as an MQTT packet.
    // The error type of the callback is tungstenite's.
    #[expect(clippy::result_large_err, reason = "the callback's signature is given")]
    pub(crate) async fn accept(stream: S, frame_bytes_max: usize) -> io::Result<Self> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(frame_bytes_max))
            .max_frame_size(Some(frame_bytes_max))
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BYTES_MAX);
        let check = |request: &Request, response: Response| check(request, response);
        let inner = accept_hdr_async_with_config(stream, check, Some(config)).await.map_err(into_io)?;
        Ok(Self { inner, rest: Bytes::new() })
    }
}

#[expect(clippy::result_large_err, reason = "the callback's signature is given")]
fn check(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status: StatusCode, text: &str| {
        let mut response = ErrorResponse::new(Some(text.to_owned()));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != PATH {
        return Err(refuse(StatusCode::NOT_FOUND, "the path is /mqtt"));
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut names = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim);
    if !names.any(|name| name == SUBPROTOCOL) {
        return Err(refuse(StatusCode::BAD_REQUEST, "the subprotocol is mqtt"));
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.rest = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::Error::other("a text message"))),
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let count = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest[..count]);
        this.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_ready(cx)).map_err(into_io)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut this.inner).start_send(message).map_err(into_io)?;
        // Written if the socket takes it; what is left goes out with the next ready or flush.
        if let Poll::Ready(Err(error)) = Pin::new(&mut this.inner).poll_flush(cx) {
            return Poll::Ready(Err(into_io(error)));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx).map_err(into_io)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
