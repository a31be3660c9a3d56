//! A PostgreSQL server of the test's own: in a temporary folder, on a Unix socket there, ended with the value.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::absent;

const USER: &str = "gavel";
const PASSWORD: &str = "a password with / and @";
/// The password in an address.
const PASSWORD_IN_URL: &str = "a%20password%20with%20%2F%20and%20%40";

pub(crate) struct Postgres {
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl Postgres {
    /// Starts a server; `None` when there is none on this machine, which has been said then.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            absent::skip("PostgreSQL", "apt-get install postgresql");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        if is_root() {
            // The server refuses to run as root.
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        let server = Self { programs, folder };
        let password = server.path("password");
        std::fs::write(&password, PASSWORD).expect("written");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&password));
        }
        let mut create = server.program("initdb");
        create.arg("--pgdata").arg(server.path("data"));
        create.arg("--pwfile").arg(&password);
        create.args([
            "--username",
            USER,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--no-sync",
        ]);
        // Another collation than SQLite's, as a server set up by hand may have.
        run(create.args(["--locale", "C.UTF-8"]));
        server.again();
        Some(server)
    }

    /// Starts the server after [`Postgres::kill`].
    pub(crate) fn again(&self) {
        let folder = self.folder.path().display();
        // fsync: nobody cuts the power in a test.
        let options = format!("-k {folder} -c listen_addresses='' -c fsync=off");
        let mut start = self.pg_ctl();
        start.arg("--log").arg(self.path("log")).args(["-w", "-o", &options]);
        run(start.arg("start"));
    }

    /// Ends the server without a goodbye to anybody.
    pub(crate) fn kill(&self) {
        run(self.pg_ctl().args(["-m", "immediate", "stop"]));
    }

    /// The address of a database, as the server's owner.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_as(USER, PASSWORD_IN_URL, database)
    }

    pub(crate) fn url_as(&self, user: &str, password_in_url: &str, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres://{user}:{password_in_url}@localhost/{database}?host={folder}")
    }

    /// Runs SQL and returns what it printed: a line for each row, columns separated by `|`.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.program("psql");
        // What a test forbids the coordinator is not forbidden here.
        let options = "-c default_transaction_read_only=off";
        psql.env("PGPASSWORD", PASSWORD).env("PGOPTIONS", options);
        psql.arg("--host").arg(self.folder.path());
        psql.args([
            "--username",
            USER,
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
        ]);
        psql.args(["--set", "ON_ERROR_STOP=1", "--dbname", database, "--command", sql]);
        run(&mut psql)
    }

    fn pg_ctl(&self) -> Command {
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl.arg("--pgdata").arg(self.path("data")).arg("--silent");
        pg_ctl
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        // The test's own folder may be closed to the server's user.
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.pg_ctl().args(["-m", "immediate", "stop"]).output();
    }
}

/// The folder of the server's programs: from PATH, or where Debian puts them, the latest version first.
fn programs() -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    folders.sort_by_key(|folder| std::cmp::Reverse(version(folder)));
    folders.extend(std::env::split_paths(&in_path));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}

fn version(folder: &Path) -> Option<u32> {
    folder.parent()?.file_name()?.to_str()?.parse().ok()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
