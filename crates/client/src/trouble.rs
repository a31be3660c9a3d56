//! What keeps two sides apart that reach each other: one encrypts and the other does not, or one does not trust the other.

use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// Why two sides do not come together, however often they try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The coordinator's certificate is of an authority that this machine does not trust.
    UnknownAuthority,
    /// The certificate is for other names than the address has.
    OtherName,
    /// The certificate has run out or is not valid yet.
    Expired,
    /// The certificate is wrong in another way.
    BadCertificate,
    /// The coordinator asks for a client certificate.
    CertificateWanted,
    /// The coordinator does not trust the client's certificate.
    CertificateRefused,
    /// The client encrypts, the coordinator does not.
    ServerIsPlain,
    /// The coordinator encrypts, the client does not; or what is there is no gRPC.
    ServerEncrypts,
    /// What is there does not speak gRPC.
    ServerIsNoGrpc,
}

impl Trouble {
    /// What an error of a connection tells of it.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        Self::of_tls(error.get_ref()?.downcast_ref()?)
    }

    /// What the first byte tells that a server answers.
    pub(crate) fn of_first_byte(byte: u8) -> Option<Self> {
        // HTTP/2 begins with the length of a frame that is small; TLS with the kind of an alert; HTTP/1 with its name.
        const ALERT: u8 = 21;
        matches!(byte, ALERT | b'H').then_some(Self::ServerEncrypts)
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(problem) => Some(match problem {
                // An authority that was made anew under the same name signs otherwise.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired,
                _ => Self::BadCertificate,
            }),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(Self::ServerIsPlain),
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            _ => None,
        }
    }

    fn of_alert(alert: AlertDescription) -> Option<Self> {
        match alert {
            AlertDescription::CertificateRequired => Some(Self::CertificateWanted),
            AlertDescription::NoApplicationProtocol => Some(Self::ServerIsNoGrpc),
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError => Some(Self::CertificateRefused),
            _ => None,
        }
    }

    /// What keeps them apart.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::UnknownAuthority => "its certificate is of an authority that this machine does not trust",
            Self::OtherName => "its certificate is not for the name or address by which it was asked for",
            Self::Expired => "its certificate has run out or is not valid yet",
            Self::BadCertificate => "its certificate is not valid",
            Self::CertificateWanted => "it asks for a client certificate",
            Self::CertificateRefused => "it does not trust this client's certificate",
            Self::ServerIsPlain => "it does not encrypt its connections",
            Self::ServerEncrypts => "it does not speak gRPC in the clear",
            Self::ServerIsNoGrpc => "it does not speak gRPC",
        }
    }

    /// What to do about it.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::UnknownAuthority => "name the authority's certificate with --tls-ca or in GAVEL_TLS_CA",
            Self::OtherName => {
                "ask by a name that the certificate has, or make one for this name: gavel certificates new --name NAME"
            }
            Self::Expired => "look at the clocks of both machines, and make a new certificate: gavel certificates new",
            Self::BadCertificate => "make a new certificate: gavel certificates new",
            Self::CertificateWanted => {
                "show one of the coordinator's authority with --tls-cert and --tls-key, or in GAVEL_TLS_CERT and GAVEL_TLS_KEY"
            }
            Self::CertificateRefused => {
                "show one of the authority that the coordinator was started with (--tls-client-ca), and that has not run out"
            }
            Self::ServerIsPlain => {
                "write the address as http://HOST:PORT, or start the coordinator with --tls-cert and --tls-key"
            }
            Self::ServerEncrypts => {
                "write the address as https://HOST:PORT where the coordinator was started with --tls-cert, and take its gRPC port"
            }
            Self::ServerIsNoGrpc => "take the coordinator's gRPC port, 7440 unless another was chosen",
        }
    }
}
