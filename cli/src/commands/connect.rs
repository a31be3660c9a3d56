//! How a command is told where the coordinator is, what to trust and what to show: spelled once for all of them.

use std::path::PathBuf;

use clap::{Arg, Args};
use gavel_client::{ConnectOptions, Connection, Credentials};

use crate::diagnostic::{Diagnostic, Result};
use crate::own;

/// The variable that may say it for a whole machine.
pub(super) const COORDINATOR: &str = "GAVEL_COORDINATOR";
/// The variable that may hold a token. No argument does: others of the machine see arguments.
pub(super) const TOKEN: &str = "GAVEL_TOKEN";
/// Where the help lists what is for these.
pub(crate) const SECURITY: &str = "Encryption and tokens";

/// Where the coordinator is. A command that means something else by leaving it out says so with `mut_arg`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connect {
    /// The coordinator's address, http://HOST:PORT, or https://HOST:PORT where it encrypts; several, separated by commas, where
    /// others stand by.
    #[arg(
        long = "connect",
        value_name = "ADDRESS",
        env = COORDINATOR,
        default_value = "http://127.0.0.1:7440"
    )]
    pub(crate) addresses: String,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
}

/// What a command trusts, and what it shows of itself. A token may also stand in `GAVEL_TOKEN`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CredentialArguments {
    /// Authorities of coordinators that are trusted, PEM [default: those that the system trusts].
    #[arg(long, help_heading = SECURITY, value_name = "FILE", env = "GAVEL_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Certificate to show to a coordinator that asks for one, PEM.
    #[arg(long, help_heading = SECURITY, value_name = "FILE", env = "GAVEL_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert, PEM.
    #[arg(long, help_heading = SECURITY, value_name = "FILE", env = "GAVEL_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File that holds the token to show [default: the token in GAVEL_TOKEN, or that of this user's own `gavel run`].
    #[arg(long, help_heading = SECURITY, value_name = "FILE", env = "GAVEL_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// `--connect` of a worker, which waits for its coordinator for ever: it does not guess where that would be.
pub(super) fn without_default(connect: Arg) -> Arg {
    connect.default_value(None).required(true)
}

impl Connect {
    /// Connects to the first of the addresses whose coordinator does not stand by.
    ///
    /// # Errors
    /// Not an address, no credentials in a file, nobody who leads answers there, or the two do not trust each other.
    pub(super) async fn open(&self) -> Result<Connection> {
        self.open_at(&self.addresses).await
    }

    /// As [`Connect::open`], at other addresses.
    ///
    /// # Errors
    /// As [`Connect::open`].
    pub(super) async fn open_at(&self, addresses: &str) -> Result<Connection> {
        let options = ConnectOptions::with(addresses, self.credentials.read(addresses)?)?;
        Ok(Connection::open(&options).await?)
    }
}

impl CredentialArguments {
    /// Reads the files. Where none says otherwise, the coordinator of this user's own `gavel run` is shown the token of that run.
    ///
    /// # Errors
    /// One cannot be read, or does not hold what it should.
    pub(super) fn read(&self, addresses: &str) -> Result<Credentials> {
        let mut credentials = Credentials::default();
        if let Some(file) = &self.tls_ca {
            credentials = credentials.trusting(file)?;
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            credentials = credentials.certified(certificate, key)?;
        }
        if let Some(file) = &self.token_file {
            return Ok(credentials.with_token_of(file)?);
        }
        match std::env::var(TOKEN) {
            Ok(token) if !token.is_empty() => Ok(credentials.read_token(TOKEN.to_owned(), &token)?),
            Err(std::env::VarError::NotUnicode(_)) => Err(Diagnostic::new(format!("{TOKEN}: not a token"))
                .with_hint("`gavel token new` makes one; check that it was copied as a whole")),
            _ => match own::file_of(addresses).filter(|file| file.exists()) {
                Some(file) => Ok(credentials.with_token_of(&file)?),
                None => Ok(credentials),
            },
        }
    }
}
