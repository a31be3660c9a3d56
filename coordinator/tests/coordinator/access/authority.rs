//! An authority of a test's own, and who trusts it.

use std::path::{Path, PathBuf};

use gavel_client::{ConnectOptions, Connection, Credentials};
use gavel_coordinator::{CoordinatorOptions, ServerTls};
use gavel_core::hint::Hint;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::options;

/// An authority with the certificates of a server and of a client, in files.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        write("ca.pem", params.self_signed(&key).expect("an authority").pem());
        let issuer = Issuer::new(params, key);
        for (name, hosts) in [
            ("server", vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
            ("client", vec![]),
        ] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(hosts).expect("names");
            write(
                &format!("{name}.pem"),
                params.signed_by(&key, &issuer).expect("a certificate").pem(),
            );
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self { folder }
    }

    /// Puts another authority's server in the place of this one's.
    pub(crate) fn take_server_of(&self, other: &Self) {
        for name in ["server.pem", "server.key"] {
            std::fs::copy(other.file(name), self.file(name)).expect("copied");
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn server(&self) -> ServerTls {
        ServerTls::read(&self.file("server.pem"), &self.file("server.key"), None).expect("the files")
    }

    /// A server that asks for certificates of the other authority.
    pub(crate) fn server_for_clients_of(&self, clients: &Self) -> ServerTls {
        let authority = clients.file("ca.pem");
        ServerTls::read(&self.file("server.pem"), &self.file("server.key"), Some(&authority)).expect("the files")
    }

    pub(crate) fn trusted(&self) -> Credentials {
        Credentials::default().trusting(&self.file("ca.pem")).expect("the file")
    }

    /// What is trusted by this authority, with a certificate of the other one.
    pub(crate) fn trusted_with_certificate_of(&self, clients: &Self) -> Credentials {
        let credentials = self
            .trusted()
            .certified(&clients.file("client.pem"), &clients.file("client.key"));
        credentials.expect("the files")
    }
}

pub(crate) fn encrypted(folder: &Path, tls: ServerTls) -> CoordinatorOptions {
    CoordinatorOptions {
        tls: Some(tls),
        ..options(folder)
    }
}

pub(crate) async fn ask(address: &str, credentials: Credentials) -> Result<(), String> {
    let options = ConnectOptions::with(address, credentials).expect("an address");
    let told = |error: &dyn std::fmt::Display, hint: Option<String>| format!("{error} | {}", hint.unwrap_or_default());
    let connection = Connection::open(&options)
        .await
        .map_err(|error| told(&error, error.hint()))?;
    let listed = connection.runs().list().await;
    listed.map(drop).map_err(|error| {
        assert!(!error.passes(), "a worker would try this for ever: {error}");
        told(&error, error.hint())
    })
}
