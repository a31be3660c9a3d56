//! Who may use the coordinator of `gavel run`: its own processes, and the commands of the user who started it. Others of the machine
//! lack the token, which is made anew at each start and lies in files of this user alone.

use std::path::{Path, PathBuf};

use clap::Args;
use gavel_client::Credentials;
use gavel_coordinator::{KnownToken, TokenRole};
use gavel_core::token::Token;
use gavel_review::RunFolder;

use crate::commands::SECURITY;
use crate::diagnostic::Result;
use crate::files::read_text;
use crate::own::{self, PrivateFile};

/// What a run needs whose coordinator others are to reach.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExposureArguments {
    /// Certificate of the coordinator's ports, with those between it and its authority, PEM.
    #[arg(long, help_heading = SECURITY, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of --tls-cert, PEM.
    #[arg(long, help_heading = SECURITY, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Authority of --tls-cert, PEM, for the run's own workers [default: those that the system trusts].
    #[arg(long, help_heading = SECURITY, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// File of tokens of others, as `gavel token new` writes it: of workers elsewhere, of people.
    #[arg(long, help_heading = SECURITY, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
    /// Let the coordinator listen beyond this machine, where the configuration says so, without encryption; without --tokens whoever
    /// reaches a port may do all.
    #[arg(long, help_heading = SECURITY)]
    pub(crate) insecure: bool,
}

/// What the processes of a run show each other.
#[derive(Debug)]
pub(super) struct RunAccess {
    pub(super) exposure: ExposureArguments,
    /// Of the token and of what the coordinator knows; `None` where whoever reaches a port may do all.
    token: Option<OwnToken>,
}

#[derive(Debug)]
struct OwnToken {
    token: Token,
    /// Where the run's processes read it.
    file: PrivateFile,
    /// Where this user's commands find it, once it is known where the coordinator listens.
    found_by_address: Option<PrivateFile>,
    /// What the coordinator knows.
    known: PrivateFile,
}

/// The token's name in the coordinator's log.
const NAME: &str = "gavel-run";

impl RunAccess {
    /// Makes a token for this start of the run.
    ///
    /// # Errors
    /// A file cannot be written, or that of --tokens not be read.
    pub(super) fn make(folder: &RunFolder, exposure: &ExposureArguments) -> Result<Self> {
        let exposure = exposure.clone();
        if exposure.insecure && exposure.tokens.is_none() {
            return Ok(Self { exposure, token: None });
        }
        let (token, line) = KnownToken::new(TokenRole::Admin, Some(NAME.to_owned()));
        let others = exposure
            .tokens
            .as_deref()
            .map(read_text)
            .transpose()?
            .unwrap_or_default();
        let known = place(folder).join("tokens.toml");
        let known = PrivateFile::write(known, &format!("{others}\n{}", line.line()))?;
        let file = PrivateFile::write(token_file(folder), token.reveal())?;
        let token = OwnToken {
            token,
            file,
            found_by_address: None,
            known,
        };
        Ok(Self {
            exposure,
            token: Some(token),
        })
    }

    /// Has commands of this user find the token by the coordinator's address.
    pub(super) fn announce(&mut self, address: &str) {
        let Some(own) = &mut self.token else { return };
        // A user without such a folder names the token's file.
        own.found_by_address = own::file_of(address).and_then(|file| PrivateFile::write(file, own.token.reveal()).ok());
    }

    /// The coordinator's arguments. Whoever is on this machine may look at the dashboard, as long as it listens there alone.
    pub(super) fn of_the_coordinator(&self, http: std::net::IpAddr) -> Vec<String> {
        let ExposureArguments {
            tls_cert,
            tls_key,
            insecure,
            ..
        } = &self.exposure;
        let files = [
            ("--tls-cert", tls_cert.as_deref()),
            ("--tls-key", tls_key.as_deref()),
            ("--tokens", self.token.as_ref().map(|own| own.known.path())),
        ];
        let mut arguments = with_files(files);
        arguments.extend(insecure.then(|| "--insecure".to_owned()));
        arguments.extend(http.is_loopback().then(|| "--open-dashboard".to_owned()));
        arguments
    }

    /// The arguments of the run's workers.
    pub(super) fn of_a_worker(&self) -> Vec<String> {
        with_files([
            ("--tls-ca", self.exposure.tls_ca.as_deref()),
            ("--token-file", self.token.as_ref().map(|own| own.file.path())),
        ])
    }

    /// What this process shows its own coordinator.
    ///
    /// # Errors
    /// The file of --tls-ca cannot be read.
    pub(super) fn credentials(&self) -> Result<Credentials> {
        let mut credentials = Credentials::default();
        if let Some(file) = &self.exposure.tls_ca {
            credentials = credentials.trusting(file)?;
        }
        Ok(match &self.token {
            Some(own) => credentials.with_token(own.token.clone()),
            None => credentials,
        })
    }
}

/// What a command shows the coordinator of a run in this folder, if it goes on.
///
/// # Errors
/// There is a token that this user may not read.
pub(crate) fn credentials_of(folder: &RunFolder) -> Result<Credentials> {
    let file = token_file(folder);
    match file.exists() {
        true => Ok(Credentials::default().with_token_of(&file)?),
        false => Ok(Credentials::default()),
    }
}

fn place(folder: &RunFolder) -> PathBuf {
    folder.path().join("access")
}

fn token_file(folder: &RunFolder) -> PathBuf {
    place(folder).join("token")
}

fn with_files<const N: usize>(files: [(&str, Option<&Path>); N]) -> Vec<String> {
    let named = files.into_iter().filter_map(|(option, file)| Some((option, file?)));
    named
        .flat_map(|(option, file)| [option.to_owned(), file.display().to_string()])
        .collect()
}
