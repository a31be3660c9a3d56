//! What keeps two sides apart that reach each other: one encrypts and the other does not, or one does not trust the other.
//!
//! Transports tell it somewhere below "transport error"; here it becomes words and a remedy.

use std::error::Error;
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
    /// The coordinator encrypts, the client does not.
    ServerEncrypts,
}

impl Trouble {
    /// Looks for it in an error and its causes.
    pub(crate) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        Self::of(error).or_else(|| Self::find(error.source()?))
    }

    fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Self::of_tls(error);
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            // What TLS or HTTP/1 says in place of a frame has no length that a frame has.
            let is_no_frame = error.reason() == Some(h2::Reason::FRAME_SIZE_ERROR) && !error.is_remote();
            return is_no_frame.then_some(Self::ServerEncrypts).or_else(|| Self::of_io(error.get_io()?));
        }
        Self::of_io(error.downcast_ref::<io::Error>()?)
    }

    fn of_io(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        if let Some(error) = inner.downcast_ref::<rustls::Error>() {
            return Self::of_tls(error);
        }
        // HTTP/2 keeps only the words of what happened below it.
        let words = inner.to_string();
        let alerts = [
            AlertDescription::CertificateRequired,
            AlertDescription::UnknownCA,
            AlertDescription::BadCertificate,
            AlertDescription::CertificateExpired,
            AlertDescription::CertificateUnknown,
            AlertDescription::DecryptError,
        ];
        let told = alerts
            .into_iter()
            .find(|alert| words == rustls::Error::AlertReceived(*alert).to_string());
        Self::of_alert(told?)
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(problem) => Some(match problem {
                CertificateError::UnknownIssuer => Self::UnknownAuthority,
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
            Self::ServerIsPlain => "write the address as http://HOST:PORT, or start the coordinator with --tls-cert and --tls-key",
            Self::ServerEncrypts => {
                "write the address as https://HOST:PORT if the coordinator was started with --tls-cert; this is its gRPC port, not the dashboard's?"
            }
        }
    }
}
