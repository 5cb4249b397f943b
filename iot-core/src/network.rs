//! Networks: what shares a limit, and what is trusted.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// The addresses that begin with the same bits. An IPv4 address that is mapped into IPv6 is the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// With zeros after `bits`.
    address: IpAddr,
    bits: u8,
}

/// A text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a network is an address, or an address and how many of its bits count, such as 10.0.0.0/8, with zeros after them"
)]
pub struct InvalidNetwork;

/// How much of an IPv6 address one customer has: RFC 6177 has providers give out between /48 and /64.
const CUSTOMER_BITS: u8 = 56;

impl Network {
    /// The first `bits` of an address; all, if it has fewer.
    pub fn new(address: IpAddr, bits: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let bits = bits.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                Self { address: IpAddr::V4((address.to_bits() & mask).into()), bits }
            }
            IpAddr::V6(address) => {
                let bits = bits.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                Self { address: IpAddr::V6((address.to_bits() & mask).into()), bits }
            }
        }
    }

    /// The network of one customer of a provider: an IPv4 address, which a household shares, or 56 bits of IPv6. Limits on
    /// strangers are counted by it: whoever has more than one of them pays for it.
    pub fn of_customer(address: IpAddr) -> Self {
        match address.to_canonical() {
            address @ IpAddr::V4(_) => Self::new(address, 32),
            address @ IpAddr::V6(_) => Self::new(address, CUSTOMER_BITS),
        }
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.bits) == *self
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or(InvalidNetwork)?,
        };
        let network = Self::new(address, bits);
        // What is written as more than it is was meant as something else; so are bits of a mapped address.
        if network.address == address && network.bits == bits { Ok(network) } else { Err(InvalidNetwork) }
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn a_network_is_written_as_it_is_read() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "2001:db8::/32", "::/0", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7".parse(), Ok(Network::new(at("192.0.2.7"), 32)));
        for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "a/8", "::ffff:10.0.0.0/104"]
        {
            assert_eq!(bad.parse::<Network>(), Err(InvalidNetwork), "{bad}");
        }
    }

    #[test]
    fn it_contains_what_begins_with_it() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains(at("10.1.255.255")) && network.contains(at("::ffff:10.1.2.3")));
        assert!(!network.contains(at("10.2.0.0")) && !network.contains(at("::")));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(at("203.0.113.1")));
        assert!(!"::/0".parse::<Network>().unwrap().contains(at("203.0.113.1")));
    }

    #[test]
    fn customers_are_told_apart() {
        let of = |address| Network::of_customer(at(address));
        assert_eq!(of("2001:db8:1:1200::1"), of("2001:db8:1:12ff::2"));
        assert_ne!(of("2001:db8:1:1200::1"), of("2001:db8:1:1300::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
