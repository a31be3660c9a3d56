//! What a client trusts, and what it shows of itself.

use std::path::{Path, PathBuf};

use gavel_core::hint::Hint;
use gavel_core::token::{InvalidToken, Token};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// What a client trusts, and what it shows of itself. Nothing of it shows in `Debug`.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    authority: Option<Certificate>,
    certificate: Option<Identity>,
    token: Option<Token>,
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
        let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let unreadable = unreadable("the certificate of an authority", file);
        if certificates.map_err(&unreadable)?.is_empty() {
            return Err(unreadable(pem::Error::NoItemsFound));
        }
        self.authority = Some(Certificate::from_pem(read(file).map_err(unreadable)?));
        Ok(self)
    }

    /// Shows a certificate, with its key, to coordinators that ask for one (PEM).
    ///
    /// # Errors
    /// [`CredentialsError::Unreadable`].
    pub fn certified(mut self, certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        let of_certificate = unreadable("a certificate", certificate);
        let of_key = unreadable("a private key", key);
        CertificateDer::from_pem_file(certificate).map_err(&of_certificate)?;
        PrivateKeyDer::from_pem_file(key).map_err(&of_key)?;
        let identity = Identity::from_pem(
            read(certificate).map_err(of_certificate)?,
            read(key).map_err(of_key)?,
        );
        self.certificate = Some(identity);
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
        let text = std::fs::read_to_string(file).map_err(|source| CredentialsError::UnreadableToken {
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

    pub(crate) fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.authority {
            Some(authority) => ClientTlsConfig::new().ca_certificate(authority.clone()),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.certificate {
            Some(certificate) => tls.identity(certificate.clone()),
            None => tls,
        }
    }
}

fn unreadable(what: &'static str, file: &Path) -> impl Fn(pem::Error) -> CredentialsError {
    move |source| CredentialsError::Unreadable {
        what,
        file: file.to_owned(),
        source,
    }
}

fn read(file: &Path) -> Result<Vec<u8>, pem::Error> {
    std::fs::read(file).map_err(pem::Error::Io)
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
            Credentials::default().with_token_of(&folder.path().join("none")).unwrap_err(),
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
