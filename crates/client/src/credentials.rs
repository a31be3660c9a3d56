//! What a client trusts, and what it shows of itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gavel_core::hint::Hint;
use gavel_core::text;
use gavel_core::token::{InvalidToken, Token};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// What a client trusts, and what it shows of itself. Nothing of it shows in `Debug`.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Where there is none, those that the system trusts.
    authorities: Option<Arc<RootCertStore>>,
    certificate: Option<Arc<Certificate>>,
    token: Option<Token>,
}

/// A certificate with those between it and its authority, and its key.
#[derive(Debug)]
struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why there are no credentials. No contents of a file are repeated.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{}: cannot read {what}", file.display())]
    Unreadable {
        /// What was looked for.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The file of the token cannot be read.
    #[error("{}: cannot read the token", file.display())]
    UnreadableToken {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What should be a token is none.
    #[error("{place}: not a token")]
    NoToken {
        /// The file or the variable.
        place: String,
        /// Why.
        #[source]
        source: InvalidToken,
    },
}

impl Hint for CredentialsError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unreadable { .. } => {
                "the file holds PEM, which `gavel certificates new` writes; check that this user may read it"
            }
            Self::UnreadableToken { .. } => "check that the file is there, and that this user may read it",
            Self::NoToken { source, .. } => return source.hint(),
        };
        Some(text.to_owned())
    }
}

impl Credentials {
    /// Trusts coordinators whose certificate is of an authority in this file (PEM), instead of those that the system trusts.
    ///
    /// # Errors
    /// [`CredentialsError::Unreadable`].
    pub fn trusting(mut self, file: &Path) -> Result<Self, CredentialsError> {
        let mut authorities = RootCertStore::empty();
        authorities.add_parsable_certificates(certificates("the certificate of an authority", file)?);
        self.authorities = Some(Arc::new(authorities));
        Ok(self)
    }

    /// Shows a certificate, with its key, to coordinators that ask for one (PEM).
    ///
    /// # Errors
    /// [`CredentialsError::Unreadable`].
    pub fn certified(mut self, certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        let chain = certificates("a certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable("a private key", key))?;
        self.certificate = Some(Arc::new(Certificate { chain, key }));
        Ok(self)
    }

    /// Shows this token with every call.
    #[must_use]
    pub fn with_token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Shows the token that stands in this file.
    ///
    /// # Errors
    /// [`CredentialsError::UnreadableToken`], [`CredentialsError::NoToken`].
    pub fn with_token_of(self, file: &Path) -> Result<Self, CredentialsError> {
        let text = text::of(std::fs::read(file)).map_err(|source| CredentialsError::UnreadableToken {
            file: file.to_owned(),
            source,
        })?;
        self.read_token(file.display().to_string(), &text)
    }

    /// Shows the token that this text is; `place` says where it stands.
    ///
    /// # Errors
    /// [`CredentialsError::NoToken`].
    pub fn read_token(self, place: String, text: &str) -> Result<Self, CredentialsError> {
        let token = text
            .parse()
            .map_err(|source| CredentialsError::NoToken { place, source })?;
        Ok(self.with_token(token))
    }

    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// How connections are encrypted: HTTP/2 over TLS, by ring.
    pub(crate) fn tls(&self) -> Result<ClientConfig, rustls::Error> {
        let authorities = match &self.authorities {
            Some(authorities) => Arc::clone(authorities),
            None => {
                let mut system = RootCertStore::empty();
                system.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Arc::new(system)
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(authorities);
        let mut config = match &self.certificate {
            Some(certificate) => {
                builder.with_client_auth_cert(certificate.chain.clone(), certificate.key.clone_key())?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(config)
    }
}

/// All certificates of a file, of which there is at least one.
fn certificates(what: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let unreadable = unreadable(what, file);
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(&unreadable)? {
        none if none.is_empty() => Err(unreadable(pem::Error::NoItemsFound)),
        certificates => Ok(certificates),
    }
}

fn unreadable(what: &'static str, file: &Path) -> impl Fn(pem::Error) -> CredentialsError {
    move |source| CredentialsError::Unreadable {
        what,
        file: file.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_refused_by_file_without_their_contents_and_show_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "hunter2").unwrap();
        let refused = [
            Credentials::default().trusting(&file).unwrap_err(),
            Credentials::default().certified(&file, &file).unwrap_err(),
            Credentials::default().with_token_of(&file).unwrap_err(),
            Credentials::default()
                .with_token_of(&folder.path().join("none"))
                .unwrap_err(),
        ];
        for error in refused {
            let told = format!("{error} {error:?} {:?}", error.hint());
            assert!(told.contains(&folder.path().display().to_string()), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        let token = Token::new([0xab; 32]);
        std::fs::write(&file, format!("{}\n", token.reveal())).unwrap();
        let credentials = Credentials::default().with_token_of(&file).unwrap();
        assert_eq!(credentials.token(), Some(&token));
        assert!(!format!("{credentials:?}").contains("abab"));
    }
}
