//! An S3 server of the test's own: moto's, from PyPI, on a free port of this machine, ended with the value.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::absent;

pub(crate) const BUCKET: &str = "gavel";

pub(crate) struct S3 {
    server: Child,
    address: String,
}

impl S3 {
    /// Starts a server with an empty bucket; `None` when there is none on this machine, which has been said then.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = program() else {
            absent::skip(
                "moto's S3 server",
                "python3 -m venv target/s3-server && target/s3-server/bin/pip install -r coordinator/tests/coordinator/servers/requirements.txt",
            );
            return None;
        };
        let mut server = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(server.stderr.take().expect("piped")).lines();
        let address = lines
            .find_map(|line| Some(line.ok()?.split_once("Running on http://")?.1.trim().to_owned()))
            .expect("the server says where it listens");
        // It writes a line for each request, and would wait if nobody read them.
        std::thread::spawn(move || lines.for_each(drop));
        let started = Self { server, address };
        let answer = started.request("PUT", &format!("/{BUCKET}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(started)
    }

    /// What a program needs in its environment to find this server.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    }

    /// A request without a body; the whole answer as text.
    pub(crate) fn request(&self, method: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Beside the build, where CI installs it, or in PATH.
fn program() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(target.join("s3-server/bin")).chain(std::env::split_paths(&in_path));
    folders
        .map(|folder| folder.join("moto_server"))
        .find(|program| program.exists())
}
