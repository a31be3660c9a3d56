//! What protects a coordinator's ports, as a whole.

use std::fmt;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Access, Refusals, Sessions};
use crate::error::Error;
use crate::options::CoordinatorOptions;
use crate::transport::ServerTls;

/// What protects the ports. Clones share sessions and counts.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    pub(crate) access: Access,
    pub(crate) sessions: Sessions,
    pub(crate) refusals: Refusals,
    pub(crate) tls: Option<ServerTls>,
    /// Whether the metrics are shown to everybody.
    pub(crate) open_metrics: bool,
    /// Whether everybody who reaches the HTTP port may look.
    pub(crate) open_dashboard: bool,
    is_insecure: bool,
}

/// What a port lacks that others reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// Whoever reaches it may do all.
    Authentication,
    /// Whoever reads the network reads secrets.
    Encryption,
    /// Both.
    Both,
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authentication => "without asking who calls: whoever reaches the port could do all",
            Self::Encryption => "without encryption: whoever reads the network could read tokens, prompts and pictures",
            Self::Both => "without encryption and without asking who calls: whoever reaches the port could do all",
        })
    }
}

/// As `/api/v1/security` shows it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Security")]
pub(crate) struct Shown {
    /// Whether both ports are encrypted.
    encrypted: bool,
    /// Whether clients have to show a certificate.
    client_certificates: bool,
    /// Whether clients have to show a token.
    tokens: bool,
    /// Whether the ports were opened to others although something of this is missing.
    insecure: bool,
}

impl Security {
    pub(crate) fn new(options: &CoordinatorOptions) -> Self {
        let access = Access::new(options.tokens.clone());
        Self {
            sessions: Sessions::new(access.clone(), options.tls.is_some()),
            access,
            refusals: Refusals::default(),
            tls: options.tls.clone(),
            open_metrics: options.open_metrics,
            open_dashboard: options.open_dashboard,
            is_insecure: options.insecure,
        }
    }

    /// Whether clients have to show a certificate.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(ServerTls::asks_for_certificates)
    }

    fn lacks(&self) -> Option<Lacks> {
        let authenticates = self.access.asks() || self.asks_for_certificates();
        match (self.tls.is_some(), authenticates) {
            (true, true) => None,
            (true, false) => Some(Lacks::Authentication),
            (false, true) => Some(Lacks::Encryption),
            (false, false) => Some(Lacks::Both),
        }
    }

    /// Whether a server may listen there: beyond this machine only with encryption and with tokens or certificates, unless
    /// whoever started it has said that it is to be open.
    pub(crate) fn check_exposure(&self, part: &'static str, address: SocketAddr) -> Result<(), Error> {
        match self.lacks() {
            Some(lacks) if !address.ip().to_canonical().is_loopback() => {
                if !self.is_insecure {
                    return Err(Error::Exposed { part, address, lacks });
                }
                tracing::warn!("INSECURE: {part} listens on {address} {lacks}");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn shown(&self) -> Shown {
        Shown {
            encrypted: self.tls.is_some(),
            client_certificates: self.asks_for_certificates(),
            tokens: self.access.asks(),
            insecure: self.is_insecure && self.lacks().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::token::Token;

    use super::*;
    use crate::access::{KnownToken, TokenRole, Tokens};

    #[test]
    fn others_reach_a_port_only_where_it_is_protected_or_said_to_be_open() {
        let mut options = CoordinatorOptions::new("nowhere");
        let check = |options: &CoordinatorOptions, address: &str| {
            let checked = Security::new(options).check_exposure("gRPC", address.parse().unwrap());
            checked.map_err(|error| match error {
                Error::Exposed { lacks, .. } => lacks,
                other => panic!("{other}"),
            })
        };
        for here in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check(&options, here), Ok(()), "{here}");
        }
        let beyond = ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "[::ffff:10.0.0.7]:1"];
        for address in beyond {
            assert_eq!(check(&options, address), Err(Lacks::Both), "{address}");
        }
        options.tokens = Some(Tokens::new([KnownToken {
            name: "root".to_owned(),
            role: TokenRole::Admin,
            sha256: Token::new([1; 32]).digest(),
        }]));
        for address in beyond {
            assert_eq!(check(&options, address), Err(Lacks::Encryption), "{address}");
        }
        options.insecure = true;
        assert!(beyond.iter().all(|address| check(&options, address).is_ok()));
    }
}
