//! Reason codes (MQTT 5 §2.4) and the return codes of 3.1.1.

use super::packet::PacketKind::{self, *};

macro_rules! reason_codes {
    ($($(#[$doc:meta])+ $name:ident = $value:literal in [$($kind:ident),*];)+) => {
        /// A reason code (MQTT 5 §2.4). Values below 0x80 report success.
        ///
        /// The standard gives 0x00 three names, by packet: *Success*, *Normal disconnection* and
        /// *Granted QoS 0*. Here it is [`ReasonCode::Success`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(clippy::exhaustive_enums, reason = "MQTT 5 §2.4 is a closed list")]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[$doc])+ $name = $value,)+
        }

        impl ReasonCode {
            /// Every code, in the order of their values.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The code with this value, `None` if the standard defines none.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)+
                    _ => None,
                }
            }

            const fn kinds(self) -> u16 {
                match self {
                    $(Self::$name => 0 $(| $kind.bit())*,)+
                }
            }
        }
    };
}

reason_codes! {
    /// Success, Normal disconnection, or Granted QoS 0.
    Success = 0x00 in [ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth];
    /// The subscription was granted with at most QoS 1.
    GrantedQoS1 = 0x01 in [SubAck];
    /// The subscription was granted with at most QoS 2.
    GrantedQoS2 = 0x02 in [SubAck];
    /// The client leaves and wants its will published.
    DisconnectWithWill = 0x04 in [Disconnect];
    /// The message was accepted, nobody is subscribed.
    NoMatchingSubscribers = 0x10 in [PubAck, PubRec];
    /// There was no such subscription to remove.
    NoSubscriptionExisted = 0x11 in [UnsubAck];
    /// The authentication goes on with another step.
    ContinueAuthentication = 0x18 in [Auth];
    /// The client starts to authenticate anew.
    ReAuthenticate = 0x19 in [Auth];
    /// An error the sender does not name.
    UnspecifiedError = 0x80 in [ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect];
    /// The packet does not follow the standard's format.
    MalformedPacket = 0x81 in [ConnAck, Disconnect];
    /// The packet is well formed, the standard forbids it here.
    ProtocolError = 0x82 in [ConnAck, Disconnect];
    /// The packet is allowed; this receiver does not accept it.
    ImplementationSpecificError = 0x83 in [ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect];
    /// The server does not speak the client's protocol version.
    UnsupportedProtocolVersion = 0x84 in [ConnAck];
    /// The client identifier is not allowed.
    ClientIdentifierNotValid = 0x85 in [ConnAck];
    /// User name or password were not accepted.
    BadUserNameOrPassword = 0x86 in [ConnAck];
    /// The client may not do this.
    NotAuthorized = 0x87 in [ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect];
    /// The server is not available.
    ServerUnavailable = 0x88 in [ConnAck];
    /// The server is busy, later may be better.
    ServerBusy = 0x89 in [ConnAck, Disconnect];
    /// The client was banned by an administrator.
    Banned = 0x8a in [ConnAck];
    /// The server is going down.
    ServerShuttingDown = 0x8b in [Disconnect];
    /// The authentication method is not supported or not the one in use.
    BadAuthenticationMethod = 0x8c in [ConnAck, Disconnect];
    /// Nothing arrived for one and a half keep-alive intervals.
    KeepAliveTimeout = 0x8d in [Disconnect];
    /// Another connection uses this client identifier now.
    SessionTakenOver = 0x8e in [Disconnect];
    /// The topic filter is well formed and not accepted.
    TopicFilterInvalid = 0x8f in [SubAck, UnsubAck, Disconnect];
    /// The topic name is well formed and not accepted.
    TopicNameInvalid = 0x90 in [ConnAck, PubAck, PubRec, Disconnect];
    /// The packet identifier is in use already.
    PacketIdentifierInUse = 0x91 in [PubAck, PubRec, SubAck, UnsubAck];
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92 in [PubRel, PubComp];
    /// More unacknowledged messages arrived than Receive Maximum allows.
    ReceiveMaximumExceeded = 0x93 in [Disconnect];
    /// The topic alias is 0, too large, or was never set.
    TopicAliasInvalid = 0x94 in [Disconnect];
    /// The packet is larger than Maximum Packet Size.
    PacketTooLarge = 0x95 in [ConnAck, Disconnect];
    /// Messages arrive too fast.
    MessageRateTooHigh = 0x96 in [Disconnect];
    /// A limit of the implementation or the administrator was exceeded.
    QuotaExceeded = 0x97 in [ConnAck, PubAck, PubRec, SubAck, Disconnect];
    /// The connection is closed by an administrator.
    AdministrativeAction = 0x98 in [Disconnect];
    /// The payload is not what its format indicator says.
    PayloadFormatInvalid = 0x99 in [ConnAck, PubAck, PubRec, Disconnect];
    /// The server keeps no retained messages.
    RetainNotSupported = 0x9a in [ConnAck, Disconnect];
    /// The quality of service is above the server's maximum.
    QoSNotSupported = 0x9b in [ConnAck, Disconnect];
    /// The client should use another server for now.
    UseAnotherServer = 0x9c in [ConnAck, Disconnect];
    /// The client should use another server from now on.
    ServerMoved = 0x9d in [ConnAck, Disconnect];
    /// Shared subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9e in [SubAck, Disconnect];
    /// Connections arrive too fast.
    ConnectionRateExceeded = 0x9f in [ConnAck, Disconnect];
    /// The connection has lasted as long as it may.
    MaximumConnectTime = 0xa0 in [Disconnect];
    /// Subscription identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xa1 in [SubAck, Disconnect];
    /// Subscriptions with wildcards are not supported.
    WildcardSubscriptionsNotSupported = 0xa2 in [SubAck, Disconnect];
}

impl ReasonCode {
    /// The code's value on the wire of MQTT 5.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// Whether the code reports a failure (0x80 and above).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.value() >= 0x80
    }

    /// Whether MQTT 5 §2.4 lists this code for packets of this kind.
    #[must_use]
    pub const fn is_valid_in(self, kind: PacketKind) -> bool {
        self.kinds() & kind.bit() != 0
    }

    /// The return code of a 3.1.1 CONNACK (3.1.1 §3.2.2.3) that says this.
    ///
    /// `None` if none applies: then the server closes the connection without a CONNACK.
    #[must_use]
    pub const fn to_connack_v311(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => Some(5),
            _ => None,
        }
    }

    /// What a return code of a 3.1.1 CONNACK means; `None` for the reserved values 6 to 255.
    #[must_use]
    pub const fn from_connack_v311(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }
}
