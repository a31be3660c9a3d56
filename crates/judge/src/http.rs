//! The HTTP client of everything that calls a server of somebody else's.

use std::sync::{Arc, LazyLock};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

/// Read once: the machine's certificates are a few hundred files.
static TLS: LazyLock<ClientConfig> = LazyLock::new(|| tls(rustls_native_certs::load_native_certs().certs));

/// Begins an HTTP client that speaks TLS by ring and trusts the machine's certificates; where it has none, as in a small
/// container, those that Mozilla trusted when this program was built.
pub fn http_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_backend_preconfigured(TLS.clone())
}

#[expect(clippy::expect_used, reason = "ring speaks every version that rustls takes for safe")]
fn tls(certificates: Vec<CertificateDer<'static>>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(trusted(certificates))
        .with_no_client_auth()
}

fn trusted(certificates: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_certificates_still_has_a_client_that_trusts_somebody() {
        assert_eq!(trusted(Vec::new()).len(), webpki_roots::TLS_SERVER_ROOTS.len());
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls(Vec::new()));
        client.build().unwrap();
        http_client().build().unwrap();
    }
}
