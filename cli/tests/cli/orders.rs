//! What people tell a coordinator to do with its runs, by the real binary.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn gavel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command
        .current_dir(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")))
        .env_remove("GAVEL_COORDINATOR");
    command
}

/// A coordinator in a process of its own, which ends with this.
struct Coordinator {
    process: Child,
    grpc: String,
    http: String,
    _data: TempDir,
}

impl Coordinator {
    fn start() -> Self {
        let data = TempDir::new().unwrap();
        let mut process = gavel()
            .args([
                "coordinator",
                "--grpc",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let address = |of: &str| addresses[of].as_str().unwrap().to_owned();
        Self {
            process,
            grpc: address("grpc"),
            http: address("http"),
            _data: data,
        }
    }

    fn order(&self, arguments: &[&str]) -> String {
        let output = gavel()
            .args(arguments)
            .args(["--connect", &self.grpc])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What an order that is refused says.
    fn refuses(&self, arguments: &[&str]) -> String {
        let output = gavel()
            .args(arguments)
            .args(["--connect", &self.grpc])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn metrics(&self) -> String {
        let address = self.http.strip_prefix("http://").unwrap();
        let mut connection = TcpStream::connect(address).unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_run_is_submitted_cancelled_and_resumed_and_nothing_counts_as_a_refusal() {
    let coordinator = Coordinator::start();
    let submit = ["submit", "configs/quickstart.toml", "--resume"];
    assert!(coordinator.order(&submit).contains("is submitted"));
    assert!(
        coordinator
            .order(&["cancel", "quickstart", "--reason", "lunch"])
            .contains("gavel resume quickstart")
    );
    assert!(coordinator.order(&["status"]).contains("stopped (lunch)"));
    coordinator.order(&submit);
    assert!(coordinator.order(&["status"]).contains("preparing"));
    assert!(coordinator.order(&["workers"]).contains("no workers"));
    assert_eq!(coordinator.order(&["workers", "--json"]).trim(), "[]");
    assert!(coordinator.order(&["drain"]).contains("0 workers"));
    assert!(
        coordinator
            .refuses(&["drain", "--host", "node-7", "--role", "judge"])
            .contains("no registered worker fits")
    );
    let metrics = coordinator.metrics();
    assert!(
        metrics.contains("gavel_coordinator") && !metrics.contains("refusals_total"),
        "{metrics}"
    );
}
