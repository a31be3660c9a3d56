//! The rubrics that the verdicts of an answer name, as people read them.

use std::collections::{BTreeMap, BTreeSet};

use gavel_core::bounds;
use gavel_core::ids::{Digest, RunId};

use super::{Parts, Problem};
use crate::blobs::BlobError;
use crate::gallery::RubricShown;

/// The rubrics of these fingerprints, as far as they are kept.
///
/// # Errors
/// There is no such run, or the blobs do not answer.
pub(super) async fn rubrics(
    parts: &Parts,
    run: &RunId,
    named: impl Iterator<Item = Digest>,
) -> Result<BTreeMap<Digest, RubricShown>, Problem> {
    let named: BTreeSet<Digest> = named.collect();
    let mut rubrics = parts.driver.inspect(run, RubricShown::carried).await?;
    rubrics.retain(|digest, _| named.contains(digest));
    for digest in named {
        if rubrics.contains_key(&digest) || !is_short(parts, &digest).await? {
            continue;
        }
        match parts.blobs.peek(&digest).await {
            Ok(text) => drop(rubrics.insert(digest, RubricShown::of_blob(&text))),
            Err(BlobError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rubrics)
}

/// Whether a blob is there and no longer than a rubric may be: whoever submitted the run says which blob it is.
async fn is_short(parts: &Parts, digest: &Digest) -> Result<bool, Problem> {
    let size = parts.blobs.size(digest).await?;
    Ok(size.is_some_and(|size| bounds::DOCUMENT.admits(size)))
}
