//! Who may use the coordinator of `gavel run`: the user who started it, by its commands, and nobody else of the machine.
//!
//! The run starts no sampler, so that it waits for as long as a test looks at it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A `gavel run` that ends with the test.
struct Run {
    process: Child,
    folder: TempDir,
    grpc: String,
    http: String,
}

impl Run {
    fn start(more: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        for user in ["ann", "eve"] {
            std::fs::create_dir(folder.path().join(user)).unwrap();
        }
        let mut process = gavel(folder.path(), "ann")
            .args(["run", "tests/compatibility/small.toml", "--samplers", "0", "--out"])
            .arg(folder.path().join("run"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let of = |line: &str, word: &str| line.strip_prefix(word).map(|rest| rest.trim().to_owned());
        let http = said.find_map(|line| of(&line, "dashboard")).unwrap();
        // What is said of the samplers names the port for workers; all files are there by then.
        said.find(|line| line.contains("gavel sampler")).unwrap();
        std::thread::spawn(move || said.for_each(drop));
        let addresses = std::fs::read_to_string(folder.path().join("run/state/coordinator.json")).unwrap();
        let addresses: serde_json::Value = serde_json::from_str(&addresses).unwrap();
        Self {
            process,
            grpc: addresses["grpc"].as_str().unwrap().to_owned(),
            http,
            folder,
        }
    }

    /// What a command of one of the machine's users comes to.
    fn command(&self, user: &str, arguments: &[&str]) -> Output {
        let mut command = gavel(self.folder.path(), user);
        command
            .args(arguments)
            .args(["--connect", &self.grpc])
            .output()
            .unwrap()
    }

    fn token(&self) -> PathBuf {
        self.folder.path().join("run/access/token")
    }

    /// The run's judge and its trainer, which start when the coordinator serves.
    fn until_its_workers_are_there(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.answer("GET /api/v1/workers").matches("\"role\"").count() < 2 {
            assert!(Instant::now() < end, "{}", self.answer("GET /api/v1/workers"));
        }
    }

    /// The status of an answer over HTTP.
    fn http(&self, request: &str) -> String {
        self.answer(request).split(' ').nth(1).unwrap().to_owned()
    }

    fn answer(&self, request: &str) -> String {
        let host = self.http.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Ends it as Ctrl-C in another terminal would.
    fn end(mut self) -> TempDir {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert_eq!(self.process.wait().unwrap().code(), Some(143));
        std::mem::replace(&mut self.folder, TempDir::new().unwrap())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program as one of two users has it, whose own folders are elsewhere.
fn gavel(folder: &Path, user: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("XDG_RUNTIME_DIR", folder.join(user))
        .env_remove("GAVEL_TOKEN")
        .env_remove("GAVEL_TOKEN_FILE");
    command
}

#[test]
fn another_user_of_the_machine_cannot_join_a_run_submit_to_it_or_stop_it() {
    let run = Run::start(&[]);
    let by_file = |user, arguments: &[&str]| {
        let token = run.token().display().to_string();
        run.command(user, &[arguments, &["--token-file", &token]].concat())
    };
    for arguments in [
        ["status"].as_slice(),
        &["submit", "tests/compatibility/small.toml"],
        &["cancel", "compatibility"],
        &["sampler"],
    ] {
        let refused = run.command("eve", arguments);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("asks for a token"), "{arguments:?}: {told}");
    }
    // The one who started it says nothing more than before; who is given the file names it.
    assert!(run.command("ann", &["status"]).status.success());
    assert!(by_file("eve", &["status"]).status.success());
    // Looking takes no token, so that the dashboard opens by a click; changing does.
    assert_eq!(run.http("GET /api/v1/runs"), "200");
    assert_eq!(run.http("POST /api/v1/runs/compatibility/resume"), "401");
}

#[test]
fn the_token_of_a_run_is_in_files_of_its_user_alone_and_ends_with_the_run() {
    let run = Run::start(&[]);
    let token = std::fs::read_to_string(run.token()).unwrap();
    let token = token.trim();
    assert!(token.starts_with("gavel_"), "no token");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let access = run.token().parent().unwrap().to_owned();
    assert_eq!(mode(&access), 0o700);
    for file in ["token", "tokens.toml"] {
        assert_eq!(mode(&access.join(file)), 0o600, "{file}");
    }
    run.until_its_workers_are_there();
    // What others of the machine see of its processes.
    let mut seen = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| std::fs::read(process.path().join(file)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&read("cmdline")).into_owned();
        if arguments.contains(&run.folder.path().display().to_string()) {
            seen += 1;
            let environment = String::from_utf8_lossy(&read("environ")).into_owned();
            assert!(
                !arguments.contains(token) && !environment.contains(token),
                "{arguments}"
            );
        }
    }
    assert!(seen >= 4, "only {seen} processes of the run were seen");
    let folder = run.end();
    for file in ["run/access", "ann/gavel"] {
        assert!(!folder.path().join(file).exists(), "{file} is still there");
    }
}

#[test]
fn a_run_that_is_encrypted_serves_those_whose_tokens_it_is_given() {
    let keys = TempDir::new().unwrap();
    let file = |name: &str| keys.path().join(name).display().to_string();
    let made = |arguments: &[&str]| {
        let output = gavel(keys.path(), "nobody").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    made(&["certificates", "new", "--name", "localhost", "--out", &file("keys")]);
    let token = made(&[
        "token",
        "new",
        "--role",
        "viewer",
        "--name",
        "eve",
        "--tokens",
        &file("tokens.toml"),
    ]);
    std::fs::write(file("token"), token).unwrap();
    let run = Run::start(&[
        "--tls-cert",
        &file("keys/server.pem"),
        "--tls-key",
        &file("keys/server.key"),
        "--tls-ca",
        &file("keys/ca.pem"),
        "--tokens",
        &file("tokens.toml"),
    ]);
    assert!(run.grpc.starts_with("https://"), "{}", run.grpc);
    let authority = file("keys/ca.pem");
    let shown = run.command(
        "eve",
        &["status", "--tls-ca", &authority, "--token-file", &file("token")],
    );
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let refused = run.command(
        "eve",
        &[
            "cancel",
            "compatibility",
            "--tls-ca",
            &authority,
            "--token-file",
            &file("token"),
        ],
    );
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs a submitter"));
    assert!(
        run.command("ann", &["cancel", "compatibility", "--tls-ca", &authority])
            .status
            .success()
    );
}
