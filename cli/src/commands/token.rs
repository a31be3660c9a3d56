//! `gavel token`.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use gavel_coordinator::{KnownToken, TokenRole, Tokens};

use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token: it is printed once, on standard output; the coordinator's file gets a line with its SHA-256.
    New(NewArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    /// What its holder may do: admin, submitter, viewer, worker, or sampler, judge or trainer for a worker of that role alone.
    #[arg(long, value_name = "ROLE")]
    role: TokenRole,
    /// Whose it is, as the coordinator's log says: letters, digits, - and _ [default: the role and some digits].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// File of tokens to add its line to, which is made where there is none [default: the line is shown on standard error].
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

pub(super) fn token(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::New(arguments) => new(arguments),
    }
}

fn new(arguments: NewArguments) -> Result<()> {
    let NewArguments { role, name, tokens } = arguments;
    if let Some(name) = name.as_deref().filter(|name| !KnownToken::is_name(name)) {
        return Err(
            Diagnostic::new(format!("--name: `{name}` cannot be the name of a token"))
                .with_hint("use letters, digits, - and _, at most 64"),
        );
    }
    let (token, known) = KnownToken::new(role, name);
    match &tokens {
        Some(file) => add(file, &known)?,
        None => output::note(format_args!(
            "the line for the coordinator's file (gavel coordinator --tokens FILE):\n{}\nthe token, which is shown only now:",
            known.line()
        )),
    }
    output::print_line(token.reveal())
}

/// Adds a token's line to a file.
fn add(file: &Path, known: &KnownToken) -> Result<()> {
    let is_there = file.metadata().is_ok_and(|file| file.len() > 0);
    if is_there && Tokens::read(file)?.has(&known.name) {
        return Err(
            Diagnostic::new(format!("{}: there is a token `{}` already", file.display(), known.name))
                .with_hint("choose another --name, or take its line out first"),
        );
    }
    let mut open = std::fs::OpenOptions::new();
    open.append(true).create(true).mode(0o600);
    let written = open.open(file).and_then(|mut file| writeln!(file, "{}", known.line()));
    written.with_context(|| format!("{}: cannot write", file.display()))?;
    output::note(format_args!(
        "{}: `{}` is added; a coordinator that reads it takes it up within a minute",
        file.display(),
        known.name
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_each_name_once_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let known = |name: &str| KnownToken::new(TokenRole::Viewer, Some(name.to_owned())).1;
        add(&file, &known("ann")).unwrap();
        add(&file, &known("bob")).unwrap();
        assert!(add(&file, &known("ann")).unwrap_err().to_string().contains("`ann`"));
        let tokens = Tokens::read(&file).unwrap();
        assert!(tokens.has("ann") && tokens.has("bob") && !tokens.has("eve"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
