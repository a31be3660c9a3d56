//! The linear layers of a network, as an adapter sees them.

use std::collections::BTreeMap;
use std::ops::Range;

/// A linear layer that can take an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdaptableLayer {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Index of the fused layer that computes it.
    pub(crate) fused: usize,
    /// Its output columns in the fused layer.
    pub(crate) columns: Range<usize>,
}

/// The linear layers of a network by path: which take an adapter, and which do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdaptableLayers {
    pub(crate) layers: BTreeMap<String, AdaptableLayer>,
    /// Linear layers that cannot take an adapter.
    pub(crate) fixed: Vec<String>,
    /// The layers of the code that the family was published with, where they have other names: each with the layers here that its rows
    /// are, in their order. Empty for a family that was published with diffusers' names.
    pub(crate) published: BTreeMap<String, Vec<String>>,
    /// Fused layers so far.
    pub(crate) fused: usize,
}

impl AdaptableLayers {
    /// Adds linear layers, (path, outputs), that read the same input and are computed as one. Returns the index of the fused
    /// layer.
    pub(crate) fn add(&mut self, inputs: usize, parts: impl IntoIterator<Item = (String, usize)>) -> usize {
        let fused = self.fused;
        self.fused += 1;
        let mut column = 0;
        for (path, outputs) in parts {
            let columns = column..column + outputs;
            column = columns.end;
            self.layers.insert(
                path,
                AdaptableLayer {
                    inputs,
                    outputs,
                    fused,
                    columns,
                },
            );
        }
        fused
    }

    /// Adds a linear layer that cannot take an adapter.
    pub(crate) fn add_fixed(&mut self, path: String) {
        self.fixed.push(path);
    }

    /// The paths of all layers that take an adapter, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }
}
