//! The device's end of MQTT: an engine without sockets, clocks or threads.
//!
//! The caller owns the transport. It tells the engine what happens and does what the engine says:
//!
//! | when | call |
//! |---|---|
//! | the transport is open | [`Client::handle_connected`] |
//! | bytes arrived | [`Client::handle_input`], then every [`Client::poll_event`] |
//! | [`Client::poll_timeout`] is reached | [`Client::handle_timeout`] |
//! | after any of these, and after sending | write [`Client::output`] |
//! | the transport is closed | [`Client::handle_disconnected`] |
//! | [`Event::Refused`] or [`Event::Disconnected`] | write [`Client::output`], close the transport |
//!
//! Messages of QoS 1 and 2 are kept until they are acknowledged and survive reconnecting, in memory: a client that
//! wants them to survive its process keeps them itself until [`Event::Published`].
//!
//! ```
//! use bytes::BytesMut;
//! use iot_conn::mqtt::QoS;
//! use iot_conn::mqtt::client::{Client, ClientOptions, Event, Publication};
//! use iot_core::time::Monotonic;
//!
//! let mut client = Client::new(ClientOptions::new("lamp"))?;
//! client.publish(Publication::new("up/telemetry", "{}", QoS::AtLeastOnce))?;
//!
//! client.handle_connected(Monotonic::ZERO);
//! assert_eq!(client.output()[0], 0x10); // CONNECT
//! client.output().clear(); // written to the socket
//!
//! let mut input = BytesMut::from(&b"\x20\x03\0\0\0"[..]); // CONNACK, read from the socket
//! client.handle_input(Monotonic::ZERO, &mut input);
//! assert!(matches!(client.poll_event(), Some(Event::Connected(_))));
//! assert_eq!(client.output()[0], 0x32); // PUBLISH
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod engine;
mod event;
mod lease;
mod link;
mod options;
mod outbound;

#[cfg(test)]
mod tests;

pub use engine::Client;
pub use event::{Cause, Connected, Event, NotPublished, Received, Refused, Token};
pub use options::{ClientOptions, InvalidOptions, LastWill, Publication, PublishError, RequestError};
