//! Pictures from the web.

use std::error::Error;
use std::time::Duration;

use crate::diagnostic::{Diagnostic, Foreign as _, Result};
use crate::runtime::block_on;

/// How long one picture may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Gets the bytes behind an address; no more than `bytes_max` are held. May be called from async code too.
pub(crate) fn fetch(url: &str, bytes_max: u64) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    // A thread that runs a future already cannot block on another.
    let got = std::thread::scope(|scope| scope.spawn(|| block_on(get(url, bytes_max))).join());
    match got {
        Ok(got) => got.map_err(|error| error.to_string().into()),
        Err(_) => Err("the thread that fetched it panicked".into()),
    }
}

async fn get(url: &str, bytes_max: u64) -> Result<Vec<u8>> {
    let client = gavel_judge::http_client().timeout(TIMEOUT).build().foreign()?;
    let mut response = client.get(url).send().await.foreign()?.error_for_status().foreign()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.foreign()? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > bytes_max {
            return Err(Diagnostic::new(format!("the answer has more than {bytes_max} bytes")));
        }
    }
    Ok(bytes)
}
