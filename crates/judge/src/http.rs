//! The HTTP client of everything that calls a server of somebody else's.

/// Begins an HTTP client that speaks TLS by ring and trusts the machine's certificates.
///
/// reqwest leaves the choice of a cryptography library to the program; ring builds in a fraction of the time of reqwest's own default.
pub fn http_client() -> reqwest::ClientBuilder {
    // An error only says that somebody was first; whoever it was has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}
