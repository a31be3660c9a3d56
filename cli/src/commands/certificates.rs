//! `gavel certificates`: a small authority of one's own, for a fleet that has no other.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
use crate::{output, shell};

#[derive(Debug, Subcommand)]
pub(crate) enum CertificatesCommand {
    /// Make an authority, a certificate of it for the coordinator, and one for clients, in a folder.
    New(NewArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    /// Folder of the files, which is made where there is none; no file is overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name or address by which clients reach the coordinator; again for several. localhost and its addresses are always there.
    #[arg(long = "name", value_name = "HOST", required = true)]
    names: Vec<String>,
    /// How long the certificates are valid. The authority is valid for ten times as long.
    #[arg(long, value_name = "DURATION", default_value = "1year")]
    valid_for: humantime::Duration,
}

/// Names that every coordinator has on its own machine.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Clocks of other machines may be behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

pub(super) fn certificates(command: CertificatesCommand) -> Result<()> {
    match command {
        CertificatesCommand::New(arguments) => new(&arguments),
    }
}

fn new(arguments: &NewArguments) -> Result<()> {
    let NewArguments { out, names, valid_for } = arguments;
    let files = make(names, (*valid_for).into())?;
    write(out, &files)?;
    output::print_line(usage(out, &names[0]))
}

/// A file's name and its text.
type File = (&'static str, String);

/// The files of a new authority and of its certificates.
fn make(names: &[String], valid_for: Duration) -> Result<[File; 6]> {
    let unmade = || Diagnostic::new("the certificates cannot be made");
    let mut authority = params("Gavel authority", valid_for.saturating_mul(10))?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().foreign().with_context(unmade)?;
    let certificate = authority.self_signed(&key).foreign().with_context(unmade)?.pem();
    let authority_key = key.serialize_pem();
    let issuer = Issuer::new(authority, key);

    let signed = |mut params: CertificateParams, usage| -> Result<(String, String)> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().foreign().with_context(unmade)?;
        let certificate = params.signed_by(&key, &issuer).foreign().with_context(unmade)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let mut server = params("Gavel coordinator", valid_for)?;
    server.subject_alt_names = alternative_names(names)?;
    let (server, server_key) = signed(server, ExtendedKeyUsagePurpose::ServerAuth)?;
    let client = params("Gavel client", valid_for)?;
    let (client, client_key) = signed(client, ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok([
        ("ca.pem", certificate),
        ("ca.key", authority_key),
        ("server.pem", server),
        ("server.key", server_key),
        ("client.pem", client),
        ("client.key", client_key),
    ])
}

/// A certificate of this name that is valid from now on.
fn params(name: &str, valid_for: Duration) -> Result<CertificateParams> {
    let now = SystemTime::now();
    let end = now
        .checked_add(valid_for)
        .filter(|_| valid_for < Duration::from_secs(1 << 38));
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = end
        .context("--valid-for: so long that no certificate can say it")?
        .into();
    Ok(params)
}

/// The names that a certificate is for, each once.
fn alternative_names(names: &[String]) -> Result<Vec<rcgen::SanType>> {
    let mut all: Vec<String> = names
        .iter()
        .map(|name| name.trim_matches(['[', ']']).to_owned())
        .collect();
    all.extend(OWN_NAMES.map(str::to_owned));
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|name| seen.insert(name.clone()));
    for name in &all {
        let is_host = |part: &str| {
            let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-' || letter == b'_';
            !part.is_empty() && part.bytes().all(is_letter)
        };
        let labels = name.strip_prefix("*.").unwrap_or(name);
        if name.parse::<IpAddr>().is_err() && !labels.split('.').all(is_host) {
            return Err(
                Diagnostic::new(format!("--name: `{name}` is neither a host's name nor an address"))
                    .with_hint("give it without scheme and port, such as gavel.example.org or 10.0.0.7"),
            );
        }
    }
    let params = CertificateParams::new(all).foreign();
    Ok(params.context("--name: not the name of a host")?.subject_alt_names)
}

/// Writes the files for this user alone, or none of them.
fn write(folder: &Path, files: &[File]) -> Result<()> {
    let unwritable = |path: &Path| format!("{}: cannot write", path.display());
    if let Some((name, _)) = files
        .iter()
        .find(|(name, _)| folder.join(name).symlink_metadata().is_ok())
    {
        return Err(
            Diagnostic::new(format!("{} is there already", folder.join(name).display()))
                .with_hint("choose another folder with --out: files that a fleet may use are not overwritten"),
        );
    }
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.with_context(|| unwritable(folder))?;
    for (name, text) in files {
        let path = folder.join(name);
        let mut open = OpenOptions::new();
        let written = open.write(true).create_new(true).mode(0o600).open(&path);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| unwritable(&path))?;
    }
    Ok(())
}

/// The commands that use the files.
fn usage(folder: &Path, name: &str) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    let address = match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("https://[{address}]:7440"),
        _ => format!("https://{name}:7440"),
    };
    let (ca, server, server_key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let (client, client_key) = (file("client.pem"), file("client.key"));
    let coordinator = [
        "gavel",
        "coordinator",
        "--grpc",
        "0.0.0.0:7440",
        "--http",
        "0.0.0.0:7441",
    ];
    let tls = ["--tls-cert", &server, "--tls-key", &server_key, "--tls-client-ca", &ca];
    let coordinator = shell::command(coordinator.into_iter().chain(tls).chain(["--tokens", "tokens.toml"]));
    let status = ["gavel", "status", "--connect", &address, "--tls-ca", &ca];
    let status = shell::command(
        status
            .into_iter()
            .chain(["--tls-cert", &client, "--tls-key", &client_key]),
    );
    let token = shell::command(["gavel", "token", "new", "--role", "admin", "--tokens", "tokens.toml"]);
    format!(
        "{token}\n{coordinator}\nGAVEL_TOKEN=... {status}\n\n\
         Clients need ca.pem, and client.pem and client.key where the coordinator has --tls-client-ca. Keep {} where nobody\n\
         reads it: whoever has it makes certificates that the fleet trusts.",
        shell::word(&file("ca.key"))
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use gavel_client::Credentials;
    use gavel_coordinator::ServerTls;

    use super::*;

    #[test]
    fn the_files_are_for_their_user_alone_are_read_by_both_sides_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("it's here");
        let make = || {
            make(
                &["gavel.example.org".to_owned(), "[::1]".to_owned()],
                Duration::from_secs(3600),
            )
            .unwrap()
        };
        write(&out, &make()).unwrap();
        let file = |name: &str| out.join(name);
        for (name, _) in make() {
            let mode = file(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        ServerTls::read(&file("server.pem"), &file("server.key"), Some(&file("ca.pem"))).unwrap();
        let credentials = Credentials::default().trusting(&file("ca.pem")).unwrap();
        credentials.certified(&file("client.pem"), &file("client.key")).unwrap();

        let before = std::fs::read(file("ca.key")).unwrap();
        std::fs::remove_file(file("client.key")).unwrap();
        let refused = write(&out, &make()).unwrap_err().to_string();
        assert!(refused.contains("is there already"), "{refused}");
        assert_eq!(std::fs::read(file("ca.key")).unwrap(), before);
        assert!(!file("client.key").exists(), "all of them or none");
    }

    #[test]
    fn the_commands_are_what_a_shell_reads() {
        let told = usage(Path::new("it's here"), "10.0.0.7");
        let words = shlex::split(told.lines().nth(1).unwrap()).unwrap();
        assert!(words.contains(&"it's here/server.key".to_owned()), "{words:?}");
        assert!(told.contains("https://10.0.0.7:7440"), "{told}");
        assert!(usage(Path::new("x"), "::1").contains("'https://[::1]:7440'"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for name in ["https://gavel", "gavel:7440", "", "a b", "a..b"] {
            let refused = alternative_names(&[name.to_owned()]).unwrap_err().to_string();
            assert!(refused.starts_with("--name:"), "{name}: {refused}");
        }
        assert_eq!(
            alternative_names(&["localhost".to_owned(), "*.example.org".to_owned()])
                .unwrap()
                .len(),
            4
        );
    }
}
