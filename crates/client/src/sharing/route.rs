//! By which of its addresses others of the fleet reach this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;
use tokio::net::{UdpSocket, lookup_host};

/// The address from which this machine reaches the first of these coordinators that it can reach: other workers, which reach that one too, will
/// reach it there. An IPv4 address where it listens at one, `bound`.
///
/// # Errors
/// No name is found, or there is no way there.
pub(super) async fn own_address(coordinators: &str, bound: IpAddr) -> io::Result<IpAddr> {
    let mut latest = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for coordinator in coordinators.split(',') {
        match towards_one(coordinator, bound).await {
            Ok(own) => return Ok(own),
            Err(error) => latest = error,
        }
    }
    Err(latest)
}

async fn towards_one(coordinator: &str, bound: IpAddr) -> io::Result<IpAddr> {
    let uri: Uri = coordinator.parse().map_err(io::Error::other)?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let mut latest = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let found = lookup_host((host, uri.port_u16().unwrap_or(443))).await?;
    for coordinator in found.filter(|one| one.is_ipv4() || bound.is_ipv6()) {
        match towards(coordinator).await {
            Ok(own) => return Ok(own),
            Err(error) => latest = error,
        }
    }
    Err(latest)
}

/// What the system would send from. A connected UDP socket sends nothing by itself.
async fn towards(coordinator: SocketAddr) -> io::Result<IpAddr> {
    let any = match coordinator {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(coordinator).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    #[tokio::test]
    async fn a_coordinator_of_this_machine_is_reached_from_its_own_address() {
        for coordinators in [
            "http://127.0.0.1:7440",
            "http://127.0.0.1:7440,http://elsewhere.invalid:1",
            "http://elsewhere.invalid:1,http://127.0.0.1:7440",
            "http://[::1]:1,http://127.0.0.1:7440",
        ] {
            assert_eq!(
                own_address(coordinators, ANY).await.unwrap(),
                IpAddr::from(Ipv4Addr::LOCALHOST),
                "{coordinators}"
            );
        }
        assert!(own_address("http://nowhere.invalid:7440", ANY).await.is_err());
    }
}
