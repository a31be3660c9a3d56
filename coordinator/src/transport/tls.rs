//! What the servers show of themselves, and what they ask of whoever connects.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gavel_core::hint::Hint;
use gavel_core::ids::Digest;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::access::Renewed;

/// The encryption of both ports: certificate and key, and the authority of the clients where they have to show a certificate
/// too. Clones share it, and what the files say later.
#[derive(Debug, Clone)]
pub struct ServerTls {
    files: Arc<Files>,
    configs: Renewed<Configs>,
}

/// Where all of it is read.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_authority: Option<PathBuf>,
}

/// What the servers are given.
#[derive(Debug)]
struct Configs {
    /// Of what the files held.
    sha256: Digest,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

/// Why the ports cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate or key in a file.
    #[error("{}: {what} cannot be read", file.display())]
    Unreadable {
        /// What was looked for.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// Why it is not there.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key cannot be used.
    #[error("{} and {} cannot be used together", certificate.display(), key.display())]
    Unusable {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The clients' authority cannot be used.
    #[error("{}: no authority for clients' certificates", file.display())]
    NoAuthority {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Hint for TlsError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unreadable { .. } | Self::NoAuthority { .. } => {
                "the files hold PEM, which `gavel certificates new` writes; check that this user may read them"
            }
            Self::Unusable { .. } => "give the certificate with the key that it was made for",
        };
        Some(text.to_owned())
    }
}

impl ServerTls {
    /// Reads files in PEM: a certificate with those between it and its authority, its key, and, for clients that have to show a
    /// certificate, their authority.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn read(certificate: &Path, key: &Path, client_authority: Option<&Path>) -> Result<Self, TlsError> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_authority: client_authority.map(Path::to_owned),
        };
        Ok(Self {
            configs: Renewed::new(files.read()?),
            files: Arc::new(files),
        })
    }

    /// Reads the files again; whether they hold something else, which is then used for new connections.
    ///
    /// # Errors
    /// As [`ServerTls::read`]; what was read before stays in use.
    pub(crate) fn renew(&self) -> Result<bool, TlsError> {
        let changed = self.files.digest() != self.configs.present().sha256;
        if changed {
            self.configs.replace(self.files.read()?);
        }
        Ok(changed)
    }

    /// Whether clients have to show a certificate.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.files.client_authority.is_some()
    }

    pub(super) fn grpc(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.configs.present().grpc))
    }

    pub(super) fn http(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.configs.present().http))
    }
}

impl Files {
    /// Of what they hold. One that cannot be read counts as empty: reading it says what is wrong.
    fn digest(&self) -> Digest {
        let files = [&self.certificate, &self.key].into_iter().chain(&self.client_authority);
        let digests = files.map(|file| Digest::of(&std::fs::read(file).unwrap_or_default()).0);
        Digest::of(digests.collect::<Vec<_>>().as_flattened())
    }

    fn read(&self) -> Result<Configs, TlsError> {
        let Self {
            certificate,
            key,
            client_authority,
        } = self;
        // Before they are read: files that change meanwhile are read again.
        let sha256 = self.digest();
        let chain = certificates(certificate)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Unreadable {
            what: "a private key",
            file: key.to_owned(),
            source,
        })?;
        let verifier = |without_certificate| {
            let verifier = |file: &PathBuf| client_verifier(file, without_certificate);
            client_authority.as_ref().map(verifier).transpose()
        };
        let config = |protocol: &[u8], verifier| {
            let config = server_config(&chain, &secret, protocol, verifier);
            config.map_err(|source| TlsError::Unusable {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                source,
            })
        };
        Ok(Configs {
            sha256,
            grpc: config(b"h2", verifier(WithoutCertificate::Refused)?)?,
            // Probes have no certificate; what else may be asked without one is `http/guard.rs`'s matter.
            http: config(b"http/1.1", verifier(WithoutCertificate::Heard)?)?,
        })
    }
}

/// What becomes of a client that shows no certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WithoutCertificate {
    Refused,
    Heard,
}

fn server_config(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    protocol: &[u8],
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain.to_vec(), key.clone_key())?;
    config.alpn_protocols.push(protocol.to_owned());
    Ok(Arc::new(config))
}

fn client_verifier(file: &Path, without: WithoutCertificate) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |source| TlsError::NoAuthority {
        file: file.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unusable(error.into()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match without {
        WithoutCertificate::Refused => builder,
        WithoutCertificate::Heard => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| unusable(error.into()))
}

/// All certificates of a file, of which there is at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        what: "a certificate",
        file: file.to_owned(),
        source,
    };
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(unreadable)? {
        none if none.is_empty() => Err(unreadable(pem::Error::NoItemsFound)),
        certificates => Ok(certificates),
    }
}
