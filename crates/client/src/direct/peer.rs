//! A blob from a worker that shares it.

use std::time::Duration;

use gavel_core::bounds;
use gavel_core::ids::Digest;
use gavel_core::work::Pass;
use gavel_proto::v1;
use http::header::AUTHORIZATION;
use reqwest::{Client, Url, redirect};

use super::address::{taken, unreached};
use super::{Arrived, Arriving, Keep, Problem, pinned};
use crate::sharing::PATH;

/// How long a connection to a worker may take to come about: it is near, or of no use.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Fetches from other workers.
#[derive(Debug)]
pub(super) struct Peers {
    /// The certificate under which this worker shares blobs itself.
    own: Option<Digest>,
}

/// A worker that shares a blob, as the coordinator names it.
pub(super) struct PeerPlace {
    address: Url,
    certificate: Digest,
    pass: Pass,
}

impl Peers {
    pub(super) fn new(own: Option<Digest>) -> Self {
        Self { own }
    }

    /// What the coordinator is told of this way.
    pub(super) fn reach(&self) -> v1::Peers {
        v1::Peers {
            certificate: self.own.map(|own| own.0.into()).unwrap_or_default(),
        }
    }

    pub(super) async fn read(
        &self,
        place: &PeerPlace,
        size: u64,
        digest: Digest,
        keep: Keep,
    ) -> Result<Arrived, Problem> {
        let client = client(place.certificate)?;
        let mut url = place.address.clone();
        url.set_path(&format!("{PATH}{digest}"));
        let bearer = format!("Bearer {}", hex::encode(place.pass.to_bytes()));
        let answer = client.get(url).header(AUTHORIZATION, bearer).send().await;
        let mut answer = taken(answer)?;
        let mut arriving = Arriving::new(keep, size);
        while let Some(piece) = answer.chunk().await.map_err(unreached)? {
            arriving.add_within(&piece, size)?;
        }
        arriving.finish_as(digest, size)
    }
}

impl PeerPlace {
    /// What the coordinator said; `None` where it cannot be followed.
    pub(super) fn told(peer: &v1::Peer) -> Option<Self> {
        let v1::Peer {
            address,
            certificate,
            pass,
        } = peer;
        if !bounds::NAME.admits(address.len() as u64) {
            return None;
        }
        let url: Url = format!("https://{address}").parse().ok()?;
        // A host and a port, and nothing else in them.
        let is_plain =
            url.username().is_empty() && url.password().is_none() && url.path() == "/" && url.query().is_none();
        (is_plain && url.has_host() && url.fragment().is_none()).then_some(())?;
        Some(Self {
            address: url,
            certificate: Digest(certificate.as_slice().try_into().ok()?),
            pass: Pass::read(pass)?,
        })
    }
}

/// For one worker: no proxy lies between, and it sends nobody elsewhere.
fn client(certificate: Digest) -> Result<Client, Problem> {
    let tls = pinned::only(certificate).map_err(|_| Problem::Location("TLS 1.3, which this machine does not speak"))?;
    Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .build()
        .map_err(unreached)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use gavel_core::work::SharingKey;
    use reqwest::{Method, StatusCode};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpStream;

    use super::*;
    use crate::direct::{At, Location, Place};
    use crate::fleet::SharingTerms;
    use crate::sharing::{Sharer, Shares, Sharing};

    #[test]
    fn a_worker_whose_address_cannot_be_followed_is_told_of_too() {
        for (address, followed) in [
            ("10.0.0.30:7450", true),
            ("10.0.0.300:7450", false),
            ("worker.2:7450", false),
        ] {
            let key = SharingKey::new([1; 32]);
            let pass = key.pass(&Digest::of(b"blob"), u64::MAX).to_bytes();
            let peer = v1::Peer {
                address: address.to_owned(),
                certificate: vec![7; 32],
                pass: pass.into(),
            };
            let at = Some(At::Peer(peer.clone()));
            let location = Location { size: 1, at };
            let failed = Place::failed(&location).unwrap();
            assert_eq!((failed.certificate, failed.pass), (peer.certificate, peer.pass));
            assert_eq!(Place::told(location).is_some(), followed, "{address}");
        }
    }

    #[tokio::test]
    async fn a_worker_gives_what_it_has_to_whoever_shows_the_coordinators_pass_for_it_and_nothing_else() {
        let bytes: Bytes = (0..3_000_000_u32).map(|index| (index >> 7) as u8).collect();
        let (blob, absent, size) = (Digest::of(&bytes), Digest::of(b"absent"), bytes.len() as u64);
        let sharing = Sharing {
            listen: ([127, 0, 0, 1], 0).into(),
            advertised: None,
        };
        let source = bytes.clone();
        let source = move |asked: &Digest| (*asked == blob).then(|| source.clone());
        let sharer = Sharer::open(&sharing, "http://127.0.0.1:1", source).await.unwrap();
        let shares = sharer.shares().clone();
        let peers = Peers::new(None);
        let read = async |blob, pass: Pass| {
            let peer = v1::Peer {
                address: shares.address.clone(),
                certificate: shares.certificate.0.into(),
                pass: pass.to_bytes().into(),
            };
            let place = PeerPlace::told(&peer).unwrap();
            peers.read(&place, size, blob, Keep::All).await
        };
        let refused = async |blob, pass| match read(blob, pass).await {
            Err(Problem::Answered(status)) => status.as_u16(),
            other => panic!("{other:?}"),
        };
        let key = SharingKey::new([1; 32]);
        assert_eq!(
            refused(blob, key.pass(&blob, u64::MAX)).await,
            403,
            "before the coordinator has said anything"
        );
        let terms = |key: &SharingKey| {
            Some(SharingTerms {
                key: key.clone(),
                now_ms: 3_600_000,
            })
        };
        sharer.admit(terms(&key));
        assert_eq!(read(blob, key.pass(&blob, u64::MAX)).await.unwrap().bytes, bytes);
        for pass in [
            SharingKey::new([2; 32]).pass(&blob, u64::MAX),
            key.pass(&absent, u64::MAX),
            key.pass(&blob, 3_599_999),
        ] {
            assert_eq!(refused(blob, pass).await, 403);
        }
        assert_eq!(refused(absent, key.pass(&absent, u64::MAX)).await, 404);

        let http = client(shares.certificate).unwrap();
        let asked = async |method: Method, path: &str, authorization: &str| {
            let url = format!("https://{}{path}", shares.address);
            let request = http.request(method, url).header(AUTHORIZATION, authorization);
            request.send().await.unwrap().status()
        };
        let bearer = format!("Bearer {}", hex::encode(key.pass(&blob, u64::MAX).to_bytes()));
        let path = format!("/blobs/{blob}");
        assert_eq!(asked(Method::GET, &path, &bearer).await, StatusCode::OK);
        for wrong in [
            "",
            "Bearer",
            "Bearer x",
            &bearer[7..],
            &bearer[..20],
            &format!("{bearer}00"),
        ] {
            assert_eq!(asked(Method::GET, &path, wrong).await, StatusCode::FORBIDDEN, "{wrong}");
        }
        for path in [
            "/",
            "/blobs",
            "/blobs/",
            "/blobs/x",
            "/blobs/../../etc/passwd",
            &format!("{path}/x"),
        ] {
            assert_eq!(asked(Method::GET, path, &bearer).await, StatusCode::NOT_FOUND, "{path}");
        }
        for method in [Method::PUT, Method::DELETE, Method::HEAD] {
            assert_eq!(asked(method, &path, &bearer).await, StatusCode::NOT_FOUND);
        }
        sharer.admit(terms(&SharingKey::new([3; 32])));
        assert_eq!(
            refused(blob, key.pass(&blob, u64::MAX)).await,
            403,
            "of a registration before"
        );
    }

    #[tokio::test]
    async fn a_head_without_end_is_cut_off() {
        let sharing = Sharing {
            listen: ([127, 0, 0, 1], 0).into(),
            advertised: None,
        };
        let sharer = Sharer::open(&sharing, "http://127.0.0.1:1", |_| None).await.unwrap();
        let http = client(sharer.shares().certificate).unwrap();
        let url = format!("https://{}/", sharer.shares().address);
        let long = http.get(url).header("x", "x".repeat(64 << 10)).send().await;
        let taken = long.is_ok_and(|answer| answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND);
        assert!(!taken, "it was read");
    }

    #[tokio::test]
    async fn who_shows_no_pass_keeps_nobody_out_and_whoever_is_served_is_served_to_the_end() {
        // More than the system takes for somebody who does not read.
        let bytes: Bytes = vec![7; 32 << 20].into();
        let blob = Digest::of(&bytes);
        let sharing = Sharing {
            listen: ([127, 0, 0, 1], 0).into(),
            advertised: None,
        };
        let source = bytes.clone();
        let source = move |_: &Digest| Some(source.clone());
        let sharer = Sharer::open(&sharing, "http://127.0.0.1:1", source).await.unwrap();
        let key = SharingKey::new([1; 32]);
        let bearer = format!("Bearer {}", hex::encode(key.pass(&blob, u64::MAX).to_bytes()));
        sharer.admit(Some(SharingTerms { key, now_ms: 1 }));
        let Shares { address, certificate } = sharer.shares();
        let http = client(*certificate).unwrap();
        let url = format!("https://{address}{PATH}{blob}");
        let ask = || http.get(&url).header(AUTHORIZATION, &bearer).send();

        let served = ask().await.unwrap();
        let mut silent = Vec::new();
        for _ in 0..16 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        tokio::select! {
            biased;
            another = ask() => assert_eq!(another.unwrap().status(), StatusCode::OK),
            _ = silent[2].read_u8() => panic!("only the two oldest had to go"),
        }
        assert_eq!(served.bytes().await.unwrap().len(), bytes.len());
    }

    #[test]
    fn an_address_is_a_host_and_a_port_and_nothing_else() {
        let told = |address: &str| {
            let peer = v1::Peer {
                address: address.into(),
                certificate: vec![1; 32],
                pass: SharingKey::new([1; 32]).pass(&Digest([2; 32]), 3).to_bytes().into(),
            };
            PeerPlace::told(&peer).is_some()
        };
        for address in ["10.0.0.7:7450", "worker.example:1", "[::1]:7450"] {
            assert!(told(address), "{address}");
        }
        let long = format!("{}:1", "x".repeat(bounds::NAME.most as usize));
        for address in ["", "a:b@worker:1", "worker:1/x", "worker:1?x", "worker:1#x", &long] {
            assert!(!told(address), "{address}");
        }
    }
}
