//! What becomes of a program whose output nobody takes: a command ends, quietly or in words; what works on regardless works on.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn gavel(arguments: &[&str]) -> Command {
    with(Command::new(env!("CARGO_BIN_EXE_gavel")), arguments)
}

/// The program as a terminal starts it. Under `nohup`, which these tests may run under, it would rightly heed no hang-up.
fn gavel_in_a_terminal(arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_gavel")]);
    with(command, arguments)
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command
        .current_dir(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// An end of a pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A place that is always full.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn told(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

const COMMANDS: &[&[&str]] = &[
    &["config", "check", "configs/quickstart.toml"],
    &["doctor", "configs/quickstart.toml", "--out", "target/never"],
    &[
        "plan",
        "configs/quickstart.toml",
        "--sample",
        "1s",
        "--judge",
        "1s",
        "--gradient",
        "1s",
    ],
    &["rubric", "show", "configs/quickstart/rubric.toml"],
    &["rubric", "show", "configs/quickstart/rubric.toml", "--json"],
    &[
        "rubric",
        "diff",
        "configs/quickstart/rubric.toml",
        "configs/quickstart-edit/rubric.toml",
    ],
];

#[test]
fn a_command_whose_reader_has_gone_ends_as_sigpipe_would_have_ended_it() {
    for arguments in COMMANDS {
        let output = gavel(arguments).stdout(closed()).output().unwrap();
        assert_eq!(told(&output), (Some(141), String::new()), "{arguments:?}");
    }
}

#[test]
fn a_command_whose_output_finds_no_room_fails_in_words() {
    for arguments in COMMANDS {
        let output = gavel(arguments).stdout(full()).output().unwrap();
        let expected = "error: cannot write to standard output\n\
                        caused by: No space left on device (os error 28)\n\
                        hint: free some space where the output goes, or send it elsewhere\n";
        assert_eq!(told(&output), (Some(1), expected.to_owned()), "{arguments:?}");
    }
}

#[test]
fn an_error_keeps_its_exit_status_where_nobody_hears_it() {
    let mut command = gavel(&["config", "check", "configs/nowhere.toml"]);
    let status = command.stdout(closed()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_coordinator_that_nobody_reads_serves_until_its_terminal_is_closed() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().display().to_string();
    let ports = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let mut command = gavel_in_a_terminal(&["coordinator", "--data", &data]);
    let mut coordinator = command.args(ports).stdout(closed()).spawn().unwrap();
    let mut log = BufReader::new(coordinator.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let serves = log.find(|line| line.contains("coordinator serves")).unwrap();
    log.find(|line| line.contains("standard output takes nothing any more"))
        .unwrap();

    let refused = gavel(&["coordinator", "--data", &data]).args(ports).output().unwrap();
    let (code, text) = told(&refused);
    assert_eq!(code, Some(1), "{text}");
    let holder = format!("coordinator.lock is held by process {}", coordinator.id());
    assert!(text.contains(&holder), "{text}");

    let address = serves.split("http=").nth(1).unwrap().split_whitespace().next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let hangup = Command::new("kill")
        .args(["-HUP", &coordinator.id().to_string()])
        .status();
    assert!(hangup.unwrap().success());
    log.find(|line| line.contains("the terminal was closed (SIGHUP)"))
        .unwrap();
    assert!(coordinator.wait().unwrap().success());
}

#[test]
fn a_log_that_finds_no_room_ends_nothing() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().display().to_string();
    let mut coordinator = gavel(&["coordinator", "--until-stdin-closes", "--data", &data])
        .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .stdin(Stdio::piped())
        .stdout(full())
        .stderr(full())
        .spawn()
        .unwrap();
    drop(coordinator.stdin.take());
    assert!(coordinator.wait().unwrap().success());
}

#[test]
fn what_is_no_address_is_refused_and_nothing_of_a_password_is_told() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().display().to_string();
    for (option, address, remedy) in [
        (
            "--ledger",
            "host=127.0.0.1 user=gavel password=SECRET dbname=db",
            "postgres://USER@HOST/DATABASE",
        ),
        ("--ledger", "postgres://gavel:/pw1+x?y':zSECRETz@127.0.0.1:1/db", "%2F"),
        ("--ledger", "postgres://gavel:12/34SECRET@127.0.0.1:1/db", "%2F"),
        ("--blobs", "s3:bucket/prefix", "./s3:"),
        ("--blobs", "s3://key:SECRET@bucket/prefix", "user and password"),
    ] {
        let output = gavel(&["coordinator", "--data", &data, option, address])
            .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .output()
            .unwrap();
        let (code, text) = told(&output);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(remedy), "{text}");
        assert!(
            !text.contains("SECRET") && !text.contains("pw1") && !text.contains("gavel:12"),
            "{text}"
        );
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing is made of it");
}

#[test]
fn a_store_whose_server_is_named_without_scheme_is_refused_by_the_variable() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().display().to_string();
    let refused = |endpoint: &str, allowed: &str| {
        let mut command = gavel(&["coordinator", "--data", &data, "--blobs", "s3://bucket/prefix"]);
        let keys = [
            ("AWS_ACCESS_KEY_ID", "k"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_REGION", "us-east-1"),
        ];
        let output = command
            .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .envs(keys)
            .env("AWS_ENDPOINT", endpoint)
            .env("AWS_ALLOW_HTTP", allowed)
            .output()
            .unwrap();
        let (code, text) = told(&output);
        assert_eq!(code, Some(1), "{text}");
        text
    };
    let text = refused("127.0.0.1:9000", "true");
    assert!(
        text.contains("AWS_ENDPOINT must begin with http:// or https://"),
        "{text}"
    );
    let text = refused("http://127.0.0.1:9000", "false");
    assert!(text.contains("set AWS_ALLOW_HTTP=true"), "{text}");
}
