//! Why a coordinator was not reached, or did not do what it was asked.

use std::sync::Arc;

use gavel_core::hint::Hint;
use tonic::Code;

use crate::trouble::Trouble;

/// An address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is no address.
    #[error("`{address}` is not the address of a coordinator")]
    Malformed {
        /// What was given.
        address: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
    /// It begins with something else than http:// or https://.
    #[error("`{address}` begins with `{scheme}://`, which no coordinator speaks")]
    UnknownScheme {
        /// What was given.
        address: String,
        /// What it begins with.
        scheme: String,
    },
    /// Certificate and key cannot be used, or the host is none that a certificate could name.
    #[error("`{address}` cannot be asked over an encrypted connection")]
    Unencryptable {
        /// What was given.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Hint for AddressError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Malformed { .. } | Self::UnknownScheme { .. } => {
                "write it as http://HOST:PORT, or https://HOST:PORT where the coordinator encrypts"
            }
            Self::Unencryptable { .. } => {
                "name the authority's certificate with --tls-ca, and give --tls-cert with the --tls-key that it was made for"
            }
        };
        Some(text.to_owned())
    }
}

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("no coordinator answers at {address}{}", after_colon(*trouble))]
pub struct ConnectError {
    address: String,
    trouble: Option<Trouble>,
    #[source]
    source: tonic::transport::Error,
}

fn after_colon(trouble: Option<Trouble>) -> String {
    trouble.map_or_else(String::new, |trouble| format!(": {}", trouble.words()))
}

impl ConnectError {
    pub(crate) fn new(address: &str, trouble: Option<Trouble>, source: tonic::transport::Error) -> Self {
        Self {
            address: address.to_owned(),
            trouble,
            source,
        }
    }
}

impl Hint for ConnectError {
    fn hint(&self) -> Option<String> {
        let text = match self.trouble {
            Some(trouble) => trouble.hint(),
            None => "start `gavel coordinator`, or name its address with --connect",
        };
        Some(text.to_owned())
    }
}

/// A call that was refused, or not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator at {addresses}: {message}")]
pub struct CallError {
    addresses: Arc<str>,
    code: Code,
    message: String,
    trouble: Option<Trouble>,
}

impl CallError {
    pub(crate) fn new(addresses: &Arc<str>, code: Code, message: &str) -> Self {
        Self {
            addresses: Arc::clone(addresses),
            code,
            message: message.to_owned(),
            trouble: None,
        }
    }

    /// Two sides that do not trust each other will not by trying again.
    pub(crate) fn of_trouble(addresses: &Arc<str>, trouble: Trouble) -> Self {
        Self {
            trouble: Some(trouble),
            ..Self::new(addresses, Code::Unauthenticated, trouble.words())
        }
    }

    /// What kind of refusal it is.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The coordinator's words, or the transport's where no coordinator answered.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same call may succeed later. What the coordinator decided stays decided; everything else (no connection, a
    /// stream that broke, a full disk) passes.
    pub fn passes(&self) -> bool {
        !matches!(
            self.code,
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::DataLoss
                | Code::Unauthenticated
        )
    }
}

impl Hint for CallError {
    fn hint(&self) -> Option<String> {
        if let Some(trouble) = self.trouble {
            return Some(trouble.hint().to_owned());
        }
        let text = match self.code {
            Code::Unauthenticated => {
                "show a token that the coordinator knows, with --token-file or in GAVEL_TOKEN; `gavel token new` makes one"
            }
            Code::PermissionDenied => "show a token whose role allows it; `gavel token new --role ROLE` makes one",
            Code::AlreadyExists => "choose another `run.name`, or submit the same configuration",
            Code::NotFound => "`gavel status` lists the runs",
            Code::Unavailable => "start `gavel coordinator`, or name its address with --connect",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
