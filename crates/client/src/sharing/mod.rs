//! A worker that gives the large blobs that it has to other workers.
//!
//! Always over TLS 1.3, with a certificate that the worker makes for itself when it starts. Nobody signs it: the coordinator, which is told its
//! SHA-256 by the worker, tells it to whoever is sent there. So a link needs no authority, and is as trustworthy as the way to the coordinator.
//! What is asked for is one blob, with the coordinator's pass for it; there is nothing else to ask for. `direct/peer.rs` is the other end.

mod route;
mod serve;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use gavel_core::hint::Hint;
use gavel_core::ids::Digest;
use gavel_core::work::{Pass, SharingKey};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, crypto, version};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::fleet::SharingTerms;

/// Where a blob is below a worker's address, before its name.
pub(crate) const PATH: &str = "/blobs/";

/// Where a worker serves the large blobs that it has, as the coordinator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// HOST:PORT, as other workers dial it.
    pub address: String,
    /// The SHA-256 of its certificate.
    pub certificate: Digest,
}

/// Where a worker shares its large blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// Where it listens; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// HOST or HOST:PORT at which others reach it. `None` for where it listens or, where that is every address of the machine, for the one from which
    /// it reaches its coordinator.
    pub advertised: Option<String>,
}

/// Why a worker cannot share its blobs.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// It cannot listen there.
    #[error("cannot listen at {listen} to share blobs")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It does not know how others reach it.
    #[error("cannot tell by which address other workers reach this one: the way to {coordinators} is not found")]
    NoAddress {
        /// The coordinators' addresses.
        coordinators: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate to share blobs with")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Hint for SharingError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Listen { .. } => {
                "give --share-blobs an address of this machine and a port that nobody has; port 0 takes any that is free"
            }
            Self::NoAddress { .. } => "say with --share-blobs-as HOST by which name or address other workers reach it",
            Self::Certificate(_) => "this is a defect in Gavel; without --share-blobs the worker works as ever",
        };
        Some(text.to_owned())
    }
}

/// What has a blob of this name, if somebody has it.
type Source = dyn Fn(&Digest) -> Option<Bytes> + Send + Sync;

/// A worker that shares blobs: it serves as long as this lives.
#[derive(Debug)]
pub struct Sharer {
    shares: Shares,
    admission: Admission,
    #[expect(dead_code, reason = "held for its drop")]
    serving: AbortOnDropHandle<()>,
}

/// By what passes are read; nothing before the coordinator has said. Clones share it.
#[derive(Clone, Default)]
struct Admission(Arc<Mutex<Option<(SharingKey, u64, Instant)>>>);

impl Sharer {
    /// Listens, and serves what `source` has to those whom the coordinator sends once it has [said](Sharer::admit) by what they are known.
    /// `coordinators` are the addresses of these, as they are dialled.
    ///
    /// # Errors
    /// [`SharingError`].
    pub async fn open(
        sharing: &Sharing,
        coordinators: &str,
        source: impl Fn(&Digest) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Result<Self, SharingError> {
        let listen = sharing.listen;
        let unheard = |source| SharingError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(unheard)?;
        let bound = listener.local_addr().map_err(unheard)?;
        let address = address(sharing.advertised.as_deref(), bound, coordinators).await?;
        let (acceptor, certificate) = certified()?;
        let admission = Admission::default();
        let serving = tokio::spawn(serve::accept(listener, acceptor, admission.clone(), Arc::new(source)));
        Ok(Self {
            shares: Shares { address, certificate },
            admission,
            serving: AbortOnDropHandle::new(serving),
        })
    }

    /// What the coordinator is told.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Takes the coordinator's word for how its passes are known; `None` from one that sends nobody. Whether it is another key than before.
    pub fn admit(&self, terms: Option<SharingTerms>) -> bool {
        let new = terms.map(|terms| (terms.key, terms.now_ms, Instant::now()));
        let mut known = self.admission.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |of: &Option<(SharingKey, u64, Instant)>| of.as_ref().map(|(key, ..)| *key.bytes());
        let is_another = key(&known) != key(&new);
        *known = new;
        is_another
    }
}

impl Admission {
    fn opens(&self, pass: &Pass, blob: &Digest) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|(key, then_ms, since)| {
            let elapsed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            key.admits(pass, blob, then_ms.saturating_add(elapsed))
        })
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission(..)")
    }
}

/// HOST:PORT, as others dial it.
async fn address(advertised: Option<&str>, bound: SocketAddr, coordinators: &str) -> Result<String, SharingError> {
    let port = bound.port();
    match advertised {
        Some(own) if has_port(own) => Ok(own.to_owned()),
        Some(host) => Ok(format!("{host}:{port}")),
        None if bound.ip().is_unspecified() => match route::own_address(coordinators, bound.ip()).await {
            Ok(own) => Ok(SocketAddr::new(own, port).to_string()),
            Err(source) => Err(SharingError::NoAddress {
                coordinators: coordinators.to_owned(),
                source,
            }),
        },
        None => Ok(bound.to_string()),
    }
}

/// Whether a port stands behind a host, which may be an IPv6 address in brackets.
fn has_port(text: &str) -> bool {
    let after = text.rsplit_once(']').map_or(text, |(_, after)| after);
    after.contains(':')
}

/// A certificate of this process alone, which nobody signs, and its SHA-256.
fn certified() -> Result<(TlsAcceptor, Digest), SharingError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| SharingError::Certificate(error);
    let key = KeyPair::generate().map_err(|error| failed(error.into()))?;
    let params = CertificateParams::new(vec!["gavel-worker".to_owned()]).map_err(|error| failed(error.into()))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(error.into()))?;
    let certificate = certificate.der().clone();
    let digest = Digest::of(&certificate);
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key));
    let config = config.map_err(|error| failed(error.into()))?;
    Ok((TlsAcceptor::from(Arc::new(config)), digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_are_told_where_it_listens_or_what_its_owner_says() {
        let bound = |text: &str| text.parse::<SocketAddr>().unwrap();
        let coordinators = "http://127.0.0.1:7440";
        for (advertised, listens, told) in [
            (None, "10.0.0.7:7450", "10.0.0.7:7450"),
            (None, "0.0.0.0:7450", "127.0.0.1:7450"),
            (Some("worker"), "0.0.0.0:7450", "worker:7450"),
            (Some("worker:80"), "0.0.0.0:7450", "worker:80"),
            (Some("[::1]"), "[::]:7450", "[::1]:7450"),
            (Some("[::1]:80"), "[::]:7450", "[::1]:80"),
        ] {
            let address = address(advertised, bound(listens), coordinators).await.unwrap();
            assert_eq!(address, told);
        }
        let nowhere = address(None, bound("0.0.0.0:7450"), "http://nowhere.invalid:1")
            .await
            .unwrap_err();
        assert!(
            nowhere.hint().is_some_and(|hint| hint.contains("--share-blobs-as")),
            "{nowhere}"
        );
    }
}
