//! Pictures from the web.

use std::error::Error;
use std::time::Duration;

use crate::commands::block_on;

/// How long one picture may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Gets the bytes behind an address; no more than `bytes_max` are held.
pub(super) fn fetch(url: &str, bytes_max: u64) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let got = block_on(async {
        let client = gavel_judge::http_client().timeout(TIMEOUT).build()?;
        let mut response = client.get(url).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > bytes_max {
                anyhow::bail!("the answer has more than {bytes_max} bytes");
            }
        }
        Ok(bytes)
    });
    got.map_err(Into::into)
}
