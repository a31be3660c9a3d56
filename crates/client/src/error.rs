//! Why a coordinator was not reached, or did not do what it was asked.

use std::sync::Arc;

use gavel_core::hint::Hint;
use tonic::Code;

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
    /// It asks for encryption.
    #[error("`{address}` asks for an encrypted connection, which this version does not speak")]
    Encrypted {
        /// What was given.
        address: String,
    },
}

impl Hint for AddressError {
    fn hint(&self) -> Option<String> {
        Some("write it as http://HOST:PORT".to_owned())
    }
}

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("no coordinator answers at {address}")]
pub struct ConnectError {
    /// Where a coordinator was looked for.
    pub address: String,
    /// What the transport said.
    #[source]
    pub source: tonic::transport::Error,
}

impl Hint for ConnectError {
    fn hint(&self) -> Option<String> {
        Some("start `gavel coordinator`, or name its address with --connect".to_owned())
    }
}

/// A call that was refused, or not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator at {addresses}: {message}")]
pub struct CallError {
    addresses: Arc<str>,
    code: Code,
    message: String,
}

impl CallError {
    pub(crate) fn new(addresses: &Arc<str>, code: Code, message: &str) -> Self {
        Self {
            addresses: Arc::clone(addresses),
            code,
            message: message.to_owned(),
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
        let text = match self.code {
            Code::AlreadyExists => "choose another `run.name`, or submit the same configuration",
            Code::NotFound => "`gavel status` lists the runs",
            Code::Unavailable => "start `gavel coordinator`, or name its address with --connect",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
