//! Pictures from the web.

use std::error::Error;
use std::time::Duration;

use crate::diagnostic::{Foreign as _, Result};
use crate::runtime::block_on;

/// How long one picture may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Gets the bytes behind an address; no more than `bytes_max` are held.
pub(super) fn fetch(url: &str, bytes_max: u64) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let got = block_on(async {
        let client = gavel_judge::http_client().timeout(TIMEOUT).build().foreign()?;
        let mut response = client.get(url).send().await.foreign()?.error_for_status().foreign()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.foreign()? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > bytes_max {
                return Err(format!("the answer has more than {bytes_max} bytes").into());
            }
        }
        Ok(bytes)
    });
    got.map_err(|error| error.to_string().into())
}
