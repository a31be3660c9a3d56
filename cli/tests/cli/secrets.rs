//! Certificates and tokens as people use them, by the real binary: what is made works, and no secret is told to anybody else.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The program, in a folder of its own, without credentials from outside.
fn gavel(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.current_dir(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GAVEL_") {
            command.env_remove(name);
        }
    }
    command
}

fn told(output: &Output) -> String {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

/// A coordinator with certificates and tokens, which ends with this.
struct Coordinator {
    process: Child,
    grpc: String,
    log: PathBuf,
}

impl Coordinator {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let log = folder.join("coordinator.log");
        let mut process = gavel(folder)
            .args(["coordinator", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(arguments)
            .env("RUST_LOG", "trace")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let grpc = addresses["grpc"].as_str().unwrap().to_owned();
        Self { process, grpc, log }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_is_made_is_what_both_sides_use_and_a_token_is_told_to_its_owner_alone() {
    let folder = TempDir::new().unwrap();
    let run = |arguments: &[&str]| gavel(folder.path()).args(arguments).output().unwrap();
    let made = run(&["certificates", "new", "--out", "keys", "--name", "gavel.example.org"]);
    assert!(made.status.success(), "{}", told(&made));
    assert!(told(&made).contains("--tls-key keys/server.key"), "{}", told(&made));
    let again = run(&["certificates", "new", "--out", "keys", "--name", "gavel.example.org"]);
    assert!(
        !again.status.success() && told(&again).contains("is there already"),
        "{}",
        told(&again)
    );

    let token = |role: &str| {
        let made = run(&[
            "token",
            "new",
            "--role",
            role,
            "--name",
            role,
            "--tokens",
            "tokens.toml",
        ]);
        assert!(made.status.success(), "{}", told(&made));
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        assert!(
            !String::from_utf8_lossy(&made.stderr).contains(&token),
            "it is printed once"
        );
        token
    };
    let (viewer, submitter) = (token("viewer"), token("submitter"));
    let coordinator = Coordinator::start(
        folder.path(),
        &[
            "--tls-cert",
            "keys/server.pem",
            "--tls-key",
            "keys/server.key",
            "--tls-client-ca",
            "keys/ca.pem",
            "--tokens",
            "tokens.toml",
        ],
    );
    assert!(coordinator.grpc.starts_with("https://"), "{}", coordinator.grpc);
    let ask = |arguments: &[&str], token: &str| {
        let mut command = gavel(folder.path());
        command.args(arguments).args(["--connect", &coordinator.grpc]);
        for (name, file) in [("CA", "ca.pem"), ("CERT", "client.pem"), ("KEY", "client.key")] {
            command.env(format!("GAVEL_TLS_{name}"), format!("keys/{file}"));
        }
        command
            .env("GAVEL_TOKEN", token)
            .env("RUST_LOG", "trace")
            .output()
            .unwrap()
    };
    let listed = ask(&["status"], &viewer);
    assert!(
        listed.status.success() && told(&listed).contains("no runs"),
        "{}",
        told(&listed)
    );
    let refused = ask(&["drain"], &viewer);
    assert!(
        told(&refused).contains("`viewer` is the token of a viewer"),
        "{}",
        told(&refused)
    );
    assert!(
        told(&refused).contains("needs a submitter or an admin"),
        "{}",
        told(&refused)
    );
    let drained = ask(&["drain"], &submitter);
    assert!(drained.status.success(), "{}", told(&drained));
    let stranger = format!("gavel_{}", "0f".repeat(32));
    let unknown = ask(&["status"], &stranger);
    assert!(
        told(&unknown).contains("does not know this token"),
        "{}",
        told(&unknown)
    );
    let broken = ask(&["status"], &viewer[..20]);
    assert!(told(&broken).contains("GAVEL_TOKEN: not a token"), "{}", told(&broken));
    let judge = ask(&["judge"], &viewer);
    assert!(
        !judge.status.success() && told(&judge).contains("needs a worker or an admin"),
        "{}",
        told(&judge)
    );
    std::fs::write(folder.path().join("token"), format!("{submitter}\n")).unwrap();
    let by_file = ask(&["drain", "--token-file", "token"], "");
    assert!(by_file.status.success(), "{}", told(&by_file));

    let mut log = String::new();
    std::fs::File::open(&coordinator.log)
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(log.contains("a call is refused"), "{log}");
    let tokens = std::fs::read_to_string(folder.path().join("tokens.toml")).unwrap();
    for secret in [&viewer, &submitter, &stranger] {
        let digits = &secret["gavel_".len()..][..16];
        let all = [&listed, &refused, &drained, &unknown, &broken, &judge, &by_file]
            .map(told)
            .concat();
        assert!(
            ![&log, &tokens, &all].iter().any(|text| text.contains(digits)),
            "a secret is told"
        );
    }
}

#[test]
fn a_coordinator_that_others_would_reach_unprotected_does_not_start() {
    let folder = TempDir::new().unwrap();
    let open = ["coordinator", "--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0"];
    let refused = gavel(folder.path()).args(open).output().unwrap();
    assert!(!refused.status.success());
    for part in [
        "gRPC: refuses to listen on 0.0.0.0:",
        "--tls-cert",
        "--tokens",
        "--insecure",
    ] {
        assert!(told(&refused).contains(part), "{part}: {}", told(&refused));
    }
}
