//! The server's end of one connection, as a state machine without I/O.
//!
//! Bytes go in through [`Connection::handle_input`], [`Event`]s come out of [`Connection::poll_event`], the node answers
//! them, and bytes to write collect in [`Connection::output`]. Time is passed in. Sessions, subscriptions and routing are
//! the node's; the engine knows packet identifiers, acknowledgements, aliases and the keep alive.

mod connection;
mod event;
mod inbound;
mod limits;
mod outbound;
#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use event::{
    Accepted, Cause, ConnectRequest, Delivered, Delivery, Event, PacketId, PublishRequest, SubscribeOptions, Ticket,
    WillRequest,
};
pub use limits::ConnectionLimits;
