//! PROXY protocol, version 2: where a connection really comes from, told by the load balancer that passes it on
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const HEADER_BYTES: usize = 16;
/// The most that may follow the header: addresses, and what the balancer tells beyond them, which is not looked at.
const REST_BYTES_MAX: usize = 2_048;

/// Why a connection from a balancer is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the balancer said nothing in time")]
    Silent,
    #[error("no header of the PROXY protocol, version 2")]
    Header,
    #[error("{0} bytes follow the header, which is too long")]
    TooLong(usize),
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// Reads the header and not a byte more. `None`: the balancer itself, which looks whether the server is there, or a client without
/// an address; the connection's own is theirs.
pub(super) async fn client_address(
    io: &mut (impl AsyncRead + Unpin),
    within: Duration,
) -> Result<Option<SocketAddr>, ProxyError> {
    timeout(within, read(io)).await.map_err(|_| ProxyError::Silent)?
}

async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = [0; HEADER_BYTES];
    io.read_exact(&mut header).await?;
    let (signature, [command, family, length @ ..]) = header.split_at(SIGNATURE.len()) else {
        return Err(ProxyError::Header);
    };
    let length = length.try_into().map(u16::from_be_bytes).map_err(|_| ProxyError::Header)?;
    let (version, command) = (command >> 4, command & 0x0f);
    if signature != SIGNATURE || version != 2 || command > 1 {
        return Err(ProxyError::Header);
    }
    let length = usize::from(length);
    if length > REST_BYTES_MAX {
        return Err(ProxyError::TooLong(length));
    }
    let mut rest = vec![0; length];
    io.read_exact(&mut rest).await?;
    if command == 0 {
        return Ok(None);
    }
    match family {
        // TCP over IPv4 and IPv6: source, destination, source port, destination port.
        0x11 => address::<4, Ipv4Addr>(&rest).map(Some),
        0x21 => address::<16, Ipv6Addr>(&rest).map(Some),
        // Unspecified, or a socket of the balancer's machine: it has to be taken, and has no address.
        0x00 | 0x31 => Ok(None),
        _ => Err(ProxyError::Header),
    }
}

fn address<const N: usize, A>(rest: &[u8]) -> Result<SocketAddr, ProxyError>
where
    A: From<[u8; N]>,
    IpAddr: From<A>,
{
    let (source, rest) = rest.split_first_chunk::<N>().ok_or(ProxyError::Header)?;
    let (_destination, rest) = rest.split_first_chunk::<N>().ok_or(ProxyError::Header)?;
    let ([high, low, _, _], _told_beyond) = rest.split_first_chunk::<4>().ok_or(ProxyError::Header)?;
    Ok(SocketAddr::new(A::from(*source).into(), u16::from_be_bytes([*high, *low])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    async fn heard(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
        let mut input = bytes;
        let answer = client_address(&mut input, Duration::from_secs(1)).await;
        (answer, input.len())
    }

    #[tokio::test]
    async fn the_client_is_who_the_balancer_says() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xd4, 0x31, 0x22, 0xb3];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[15] = 9;
        v6[32..34].copy_from_slice(&1_000_u16.to_be_bytes());
        let with_more = [&v4[..], &[4, 0, 1, 0]].concat();
        for (rest, family, address) in [
            (&v4[..], 0x11, "203.0.113.7:54321"),
            (&with_more, 0x11, "203.0.113.7:54321"),
            (&v6, 0x21, "[2001:db8::9]:1000"),
        ] {
            let bytes = [header(0x21, family, rest), b"CONNECT".to_vec()].concat();
            let (heard, left) = heard(&bytes).await;
            assert_eq!((heard.unwrap(), left), (Some(address.parse().unwrap()), 7), "not a byte more is read");
        }
        for (command, family) in [(0x20, 0x00), (0x20, 0x11), (0x21, 0x00), (0x21, 0x31)] {
            assert_eq!(heard(&header(command, family, &v4)).await.0.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let whole = header(0x21, 0x11, &[1; 12]);
        for end in 0..whole.len() {
            assert!(matches!(heard(&whole[..end]).await.0, Err(ProxyError::Broken(_))), "{end}");
        }
        for (command, family, rest) in [
            (0x11, 0x11, &[1; 12][..]),
            (0x22, 0x11, &[1; 12]),
            (0x21, 0x12, &[1; 12]),
            (0x21, 0x11, &[1; 11]),
            (0x21, 0x21, &[1; 35]),
        ] {
            assert!(matches!(heard(&header(command, family, rest)).await.0, Err(ProxyError::Header)), "{command:x}");
        }
        assert!(matches!(heard(&header(0x21, 0x11, &[1; 2_049])).await.0, Err(ProxyError::TooLong(2_049))));
        assert!(matches!(heard(b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n").await.0, Err(ProxyError::Header)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_balancer_is_not_waited_for() {
        let (mut near, _far) = tokio::io::duplex(64);
        let heard = client_address(&mut near, Duration::from_secs(2)).await;
        assert!(matches!(heard, Err(ProxyError::Silent)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(rest in proptest::collection::vec(any::<u8>(), 0..100), command: u8, family: u8) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _any = runtime.block_on(heard(&header(command, family, &rest)));
        }
    }
}
