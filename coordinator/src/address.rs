//! Where ledger and blobs are, as people write it.
//!
//! A scheme with `//`, or a path. Whatever is nearly the one must not be taken for the other: a connection string of libpq would
//! become the name of a SQLite file, password included, and `s3:bucket` a folder.

use std::fmt;
use std::path::Path;

/// The address of a ledger or of a blob store. It may hold a password, and shows itself without.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

/// Where a ledger is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LedgerPlace<'a> {
    Sqlite(&'a Path),
    /// The whole address, whose parts can be told apart.
    Postgres(&'a str),
}

/// Where blobs are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BlobPlace<'a> {
    Folder(&'a Path),
    /// `url` is the whole address.
    Cloud {
        url: &'a str,
        scheme: &'a str,
        prefix: &'a str,
    },
}

/// Why a text is no address, or why the environment says nothing that the address could be reached with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// `user=gavel password=...`.
    #[error("this is a connection string of libpq, which is not read here")]
    ConnectionString,
    /// `s3:bucket`.
    #[error(
        "`{scheme}:` is followed by `//` in an address; a file or folder of such a name is written as ./{scheme}:..."
    )]
    NoSlashes {
        /// What stands before the colon.
        scheme: String,
    },
    /// A scheme that means nothing here.
    #[error("`{scheme}://` is no place that is known")]
    UnknownScheme {
        /// The scheme.
        scheme: String,
    },
    /// `file://` with a relative path.
    #[error("the path must be absolute: file:///PATH")]
    Relative,
    /// `s3://`.
    #[error("it names no bucket")]
    NoBucket,
    /// `s3://KEY:SECRET@BUCKET`.
    #[error("user and password do not belong into the address of a cloud store: they come from the environment")]
    Credentials,
    /// A user's name or a password in which a character ends it.
    #[error(
        "user and password cannot be told from the rest: in them write `/` as %2F, `?` as %3F, `#` as %23, `:` as %3A, `@` as %40 and `%` as %25"
    )]
    NotEncoded,
    /// A parameter that the client of the database does not know.
    #[error("`{name}` is no parameter of this address")]
    UnknownParameter {
        /// Its name, or what stands in its place.
        name: String,
    },
    /// A server's address without its scheme.
    #[error("{variable} must begin with http:// or https://")]
    EndpointWithoutScheme {
        /// The variable of the environment.
        variable: &'static str,
    },
    /// A server's address without TLS, which has to be allowed.
    #[error("{variable} is an http:// address, without TLS: set {allowed_by}=true if that is meant")]
    EndpointWithoutTls {
        /// The variable of the environment.
        variable: &'static str,
        /// The variable that allows it.
        allowed_by: &'static str,
    },
}

/// What a connection string of libpq may begin with.
const LIBPQ_KEYS: &[&str] = &[
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "sslmode",
];
/// The parameters of a PostgreSQL address. The client would write any other into the log, with its value.
const POSTGRES_PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

impl Address {
    /// The ledger that this names.
    ///
    /// # Errors
    /// It is no address of a ledger.
    pub(crate) fn ledger(&self) -> Result<LedgerPlace<'_>, InvalidAddress> {
        if let Some(file) = self.0.strip_prefix("sqlite:") {
            return Ok(LedgerPlace::Sqlite(Path::new(file.strip_prefix("//").unwrap_or(file))));
        }
        let Some((scheme, rest)) = self.split()? else {
            return Ok(LedgerPlace::Sqlite(Path::new(&self.0)));
        };
        match scheme {
            "postgres" | "postgresql" => {
                check_postgres(rest)?;
                Ok(LedgerPlace::Postgres(&self.0))
            }
            _ => Err(InvalidAddress::UnknownScheme {
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// Whether a ledger may be here: a SQLite file is there; a database says so when it is asked.
    pub fn has_ledger(&self) -> bool {
        match self.ledger() {
            Ok(LedgerPlace::Sqlite(file)) => file.is_file(),
            _ => true,
        }
    }

    /// Whether blobs may be here: a folder is there; a cloud store says so when it is asked.
    pub fn has_blobs(&self) -> bool {
        match self.blobs() {
            Ok(BlobPlace::Folder(folder)) => folder.is_dir(),
            _ => true,
        }
    }

    /// The blob store that this names.
    ///
    /// # Errors
    /// It is no address of a blob store.
    pub(crate) fn blobs(&self) -> Result<BlobPlace<'_>, InvalidAddress> {
        let Some((scheme, rest)) = self.split()? else {
            return Ok(BlobPlace::Folder(Path::new(&self.0)));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        match scheme {
            "file" if rest.starts_with('/') => Ok(BlobPlace::Folder(Path::new(rest))),
            "file" => Err(InvalidAddress::Relative),
            "s3" | "gs" | "az" if bucket.is_empty() => Err(InvalidAddress::NoBucket),
            "s3" | "gs" | "az" if bucket.contains('@') => Err(InvalidAddress::Credentials),
            "s3" | "gs" | "az" => Ok(BlobPlace::Cloud {
                url: &self.0,
                scheme,
                prefix,
            }),
            _ => Err(InvalidAddress::UnknownScheme {
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// Scheme and what follows its `//`; `None` for a path.
    fn split(&self) -> Result<Option<(&str, &str)>, InvalidAddress> {
        let text = self.0.as_str();
        if let Some((key, _)) = text.split_once('=')
            && LIBPQ_KEYS.contains(&key.trim())
        {
            return Err(InvalidAddress::ConnectionString);
        }
        match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => match rest.strip_prefix("//") {
                Some(rest) => Ok(Some((scheme, rest))),
                None => Err(InvalidAddress::NoSlashes {
                    scheme: scheme.to_owned(),
                }),
            },
            _ => Ok(None),
        }
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        Self(text.clone())
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

/// Shows nothing of an address in which a password could be, even one that is written wrongly, but its scheme.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) && rest.contains(['@', '?', ':', '=']) => {
                write!(f, "{scheme}://...")
            }
            None if self.0.contains('=') => f.write_str("..."),
            _ => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

fn is_scheme(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic();
    text.starts_with(is_first) && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Says whether the parts of a PostgreSQL address can be told apart as they were meant: what follows the user ends where it
/// seems to, and each parameter is one.
fn check_postgres(rest: &str) -> Result<(), InvalidAddress> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let is_encoded = |text: &str| {
        let mut escapes = text.split('%').skip(1);
        escapes.all(|escape| escape.len() >= 2 && escape.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
    };
    if after.contains('@') || user.contains('@') || user.matches(':').count() > 1 || !is_encoded(user) {
        return Err(InvalidAddress::NotEncoded);
    }
    let query = after.split_once('?').map_or("", |(_, query)| query);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        if !POSTGRES_PARAMETERS.contains(&name) && !name.starts_with("options[") {
            return Err(InvalidAddress::UnknownParameter { name: name.to_owned() });
        }
    }
    Ok(())
}

/// Says whether the environment names the server of a cloud store in a way that the store's client can use.
///
/// # Errors
/// A server without a scheme, or one without TLS that is not allowed.
#[cfg(any(feature = "cloud", test))]
pub(crate) fn check_endpoints(scheme: &str, variable: impl Fn(&str) -> Option<String>) -> Result<(), InvalidAddress> {
    let (endpoints, allowed_by): (&[&'static str], _) = match scheme {
        "s3" => (
            &["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"],
            "AWS_ALLOW_HTTP",
        ),
        "az" => (&["AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"], "AZURE_ALLOW_HTTP"),
        _ => (&["GOOGLE_BASE_URL"], "GOOGLE_ALLOW_HTTP"),
    };
    let is_allowed = variable(allowed_by)
        .is_some_and(|value| ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str()));
    for name in endpoints.iter().copied() {
        match variable(name).as_deref().and_then(|value| value.split_once("://")) {
            Some(("https", _)) => {}
            Some(("http", _)) if is_allowed => {}
            Some(("http", _)) => {
                return Err(InvalidAddress::EndpointWithoutTls {
                    variable: name,
                    allowed_by,
                });
            }
            _ if variable(name).is_none() => {}
            _ => return Err(InvalidAddress::EndpointWithoutScheme { variable: name }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(text: &str) -> Result<String, InvalidAddress> {
        Address::from(text).ledger().map(|place| format!("{place:?}"))
    }

    fn blobs(text: &str) -> Result<String, InvalidAddress> {
        Address::from(text).blobs().map(|place| format!("{place:?}"))
    }

    #[test]
    fn what_is_no_address_is_not_taken_for_a_path() {
        let connection_string = "host=127.0.0.1 user=gavel password=SECRET dbname=db";
        assert_eq!(ledger(connection_string), Err(InvalidAddress::ConnectionString));
        assert_eq!(ledger("password = SECRET"), Err(InvalidAddress::ConnectionString));
        for text in [
            "s3:bucket/prefix",
            "gs:bucket",
            "postgres:gavel@db/gavel",
            "file:data",
            "C:data",
        ] {
            let expected = InvalidAddress::NoSlashes {
                scheme: text.split(':').next().unwrap().to_owned(),
            };
            assert_eq!(ledger(text), Err(expected.clone()), "{text}");
            assert_eq!(blobs(text), Err(expected), "{text}");
        }
        assert_eq!(blobs("s3://"), Err(InvalidAddress::NoBucket));
        assert_eq!(blobs("s3://key:SECRET@bucket"), Err(InvalidAddress::Credentials));
        assert_eq!(blobs("file://data"), Err(InvalidAddress::Relative));
        for text in ["http://host/x", "ftp://host/x"] {
            assert!(
                matches!(blobs(text), Err(InvalidAddress::UnknownScheme { .. })),
                "{text}"
            );
            assert!(
                matches!(ledger(text), Err(InvalidAddress::UnknownScheme { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn paths_and_addresses_are_told_apart() {
        for text in ["data/ledger.sqlite", "./s3:bucket", "runs/12:30/x", "/data/a=b", "a=b"] {
            assert_eq!(ledger(text), Ok(format!("Sqlite({text:?})")));
            assert_eq!(blobs(text), Ok(format!("Folder({text:?})")));
        }
        assert_eq!(ledger("sqlite:a.db").as_deref(), Ok("Sqlite(\"a.db\")"));
        assert_eq!(ledger("sqlite:///a.db").as_deref(), Ok("Sqlite(\"/a.db\")"));
        assert!(
            blobs("s3://bucket/a/b")
                .unwrap()
                .ends_with("scheme: \"s3\", prefix: \"a/b\" }")
        );
    }

    #[test]
    fn a_password_that_ends_early_is_refused_before_a_part_of_it_is_told() {
        for text in [
            "postgres://gavel:/pw1+x?y':zSECRETz@127.0.0.1:1/db",
            "postgres://gavel:12/34SECRET@127.0.0.1:1/db",
            "postgres://gavel:SE#CRET@db/db",
            "postgres://gavel:SEC@RET@db/db",
            "postgres://gavel:SEC:RET@db/db",
            "postgres://gavel:100%SECRET@db/db",
        ] {
            assert_eq!(ledger(text), Err(InvalidAddress::NotEncoded), "{text}");
        }
        let misspelt = ledger("postgres://db/db?pasword=SECRET").unwrap_err();
        assert_eq!(misspelt.to_string(), "`pasword` is no parameter of this address");
        for text in [
            "postgres://gavel:p%2Fw%25@db:5432/gavel?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgresql://gavel@db/gavel?options[search_path]=a",
            "postgres://%2Frun%2Fpostgresql/gavel?user=gavel&password=x",
        ] {
            assert!(ledger(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn an_address_shows_nothing_in_which_a_password_could_be() {
        for text in [
            "postgres://gavel:SECRET@db/gavel",
            "postgres://gavel:SECRET",
            "postgres://db/gavel?password=SECRET",
            "s3://key:SECRET@bucket",
            "host=db password=SECRET",
        ] {
            let address = Address::from(text);
            assert!(!format!("{address} {address:?}").contains("SECRET"), "{address}");
        }
        assert_eq!(Address::from("s3://bucket/prefix").to_string(), "s3://bucket/prefix");
        assert_eq!(Address::from("data").to_string(), "data");
    }

    #[test]
    fn a_server_without_scheme_or_without_leave_to_go_without_tls_is_named() {
        let check = |set: &[(&str, &str)]| {
            check_endpoints("s3", |name| {
                let found = set.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let bare = check(&[("AWS_ENDPOINT", "127.0.0.1:9000"), ("AWS_ALLOW_HTTP", "true")]);
        assert_eq!(
            bare.unwrap_err().to_string(),
            "AWS_ENDPOINT must begin with http:// or https://"
        );
        let plain = check(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"), ("AWS_ALLOW_HTTP", "no")]);
        assert!(plain.unwrap_err().to_string().contains("AWS_ALLOW_HTTP=true"));
        for set in [
            &[][..],
            &[("AWS_ENDPOINT", "https://store")],
            &[("AWS_ENDPOINT", "http://store"), ("AWS_ALLOW_HTTP", "TRUE")],
        ] {
            assert_eq!(check(set), Ok(()));
        }
    }
}
