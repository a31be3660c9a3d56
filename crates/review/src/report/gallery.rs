//! The judged pairs that the page carries with it, with as many of their pictures as a file should hold.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_coordinator::blobs::BlobError;
use gavel_coordinator::gallery::{Filling, Filter, JudgedPair, RubricShown, steps};
use gavel_core::ids::Digest;
use gavel_core::run::Run;
use serde::Serialize;

use crate::{Error, RunSource};

/// Pairs in the file, the newest: their pictures are read one after another, perhaps from afar. The dashboard shows all.
const PAIRS: usize = 500;
/// Bytes of pictures in the file. Beyond, pairs are shown without.
const PICTURE_BYTES: usize = 24 << 20;

/// Pairs and pictures.
#[derive(Default, Serialize)]
pub(super) struct Gallery {
    /// The newest step first.
    pub(super) pairs: Vec<JudgedPair>,
    /// Whether the run has more than these.
    #[serde(skip)]
    pub(super) has_more: bool,
    /// PNG in base64.
    pub(super) pictures: BTreeMap<Digest, String>,
    /// What the judges read about these pairs and the held-out ones, as far as it is kept.
    pub(super) rubrics: BTreeMap<Digest, RubricShown>,
}

impl Gallery {
    /// Takes the pairs from the run and their pictures from the blobs. Pictures of steps that are long past are not kept, and are left out.
    ///
    /// # Errors
    /// The blobs do not answer.
    pub(super) async fn read(run: &Run, source: &dyn RunSource) -> Result<Self, Error> {
        let mut filling = Filling::new(Filter::default(), None, PAIRS);
        filling.add(run, steps(run));
        let page = filling.end();
        let mut gallery = Self {
            pairs: page.pairs,
            has_more: page.next.is_some(),
            pictures: BTreeMap::new(),
            rubrics: RubricShown::carried(run),
        };
        let held_out = run.results().comparisons.iter().flatten();
        let held_out = held_out.map(|record| record.rubric);
        let named = gallery.pairs.iter().flat_map(JudgedPair::rubrics);
        let named = named.chain(held_out).collect();
        gallery.read_rubrics(named, source).await?;
        let mut bytes = 0;
        for digest in gallery.pairs.iter().flat_map(JudgedPair::pictures) {
            if gallery.pictures.contains_key(&digest) {
                continue;
            }
            let png = match source.blob(&digest).await {
                Ok(png) => png,
                Err(BlobError::Missing { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            bytes += png.len();
            if bytes > PICTURE_BYTES {
                break;
            }
            gallery.pictures.insert(digest, STANDARD.encode(&png));
        }
        Ok(gallery)
    }

    /// Reads those of these rubrics that the run does not carry with it: the ones of single prompts.
    async fn read_rubrics(&mut self, named: BTreeSet<Digest>, source: &dyn RunSource) -> Result<(), Error> {
        for digest in named {
            if self.rubrics.contains_key(&digest) {
                continue;
            }
            match source.blob(&digest).await {
                Ok(text) => drop(self.rubrics.insert(digest, RubricShown::of_blob(&text))),
                Err(BlobError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
