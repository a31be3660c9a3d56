//! Lists whose early entries a lean run leaves to its ledger.

use std::collections::BTreeMap;
use std::ops::Index;

use serde::{Deserialize, Serialize};

/// A list that may have let entries go: it still counts them, and every other entry keeps its index. That of a run with its whole
/// history has all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series<T> {
    /// The entries, with those that were let go.
    len: usize,
    present: BTreeMap<usize, T>,
}

impl<T> Series<T> {
    /// A list of `len` entries, of which some are present: each with its index, which is less than `len`.
    pub(super) fn new(len: usize, present: impl IntoIterator<Item = (usize, T)>) -> Self {
        let present = present.into_iter().collect();
        Self { len, present }
    }

    /// How many entries there are, with those that were let go.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there never was an entry, or all were taken back.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry at an index; `None` where there is none, or it was let go.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.present.get(&index)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.present.get_mut(&index)
    }

    /// The last entry.
    pub fn last(&self) -> Option<&T> {
        self.get(self.len.checked_sub(1)?)
    }

    /// The entries that are present, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.present.values()
    }

    /// The same with their indices.
    pub fn numbered(&self) -> impl DoubleEndedIterator<Item = (usize, &T)> {
        self.present.iter().map(|(index, entry)| (*index, entry))
    }

    /// Those of them at this index and later ones.
    pub fn from_index(&self, index: usize) -> impl DoubleEndedIterator<Item = &T> {
        self.present.range(index..).map(|(_, entry)| entry)
    }

    /// The index of the first entry that is present; the list's length where none is.
    pub(super) fn first_present(&self) -> usize {
        self.present.keys().next().copied().unwrap_or(self.len)
    }

    pub(super) fn push(&mut self, entry: T) {
        self.present.insert(self.len, entry);
        self.len += 1;
    }

    /// Takes the entries back from this index on.
    pub(super) fn truncate(&mut self, len: usize) {
        self.present.split_off(&len);
        self.len = self.len.min(len);
    }

    /// Lets the entries go that are not to be kept.
    pub(super) fn keep(&mut self, is_kept: impl Fn(usize) -> bool) {
        self.present.retain(|index, _| is_kept(*index));
    }

    /// Has an entry present again that was let go.
    pub(super) fn recall(&mut self, index: usize, entry: T) {
        if index < self.len {
            self.present.entry(index).or_insert(entry);
        }
    }
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self::new(0, [])
    }
}

impl<T> From<Vec<T>> for Series<T> {
    fn from(entries: Vec<T>) -> Self {
        Self::new(entries.len(), entries.into_iter().enumerate())
    }
}

/// Panics where [`Series::get`] has nothing.
impl<T> Index<usize> for Series<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.present[&index]
    }
}

impl<'a, T> IntoIterator for &'a Series<T> {
    type Item = &'a T;
    type IntoIter = std::collections::btree_map::Values<'a, usize, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.present.values()
    }
}

impl<'a, T> IntoIterator for &'a mut Series<T> {
    type Item = &'a mut T;
    type IntoIter = std::collections::btree_map::ValuesMut<'a, usize, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.present.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_indices_when_others_go() {
        let mut series: Series<char> = vec!['a', 'b', 'c', 'd'].into();
        series.keep(|index| index == 0 || index > 1);
        assert_eq!(series.numbered().collect::<Vec<_>>(), [(0, &'a'), (2, &'c'), (3, &'d')]);
        assert_eq!((series.len(), series.get(1), series.last()), (4, None, Some(&'d')));
        assert_eq!(series.from_index(1).collect::<String>(), "cd");

        series.recall(1, 'B');
        series.recall(2, 'C');
        series.recall(4, 'E');
        assert_eq!(series, vec!['a', 'B', 'c', 'd'].into());
    }

    #[test]
    fn what_is_taken_back_is_gone_and_counted_no_more() {
        let mut series: Series<char> = vec!['a', 'b', 'c'].into();
        series.keep(|index| index > 0);
        series.truncate(1);
        assert_eq!((series.len(), series.last(), series.first_present()), (1, None, 1));
        series.push('B');
        assert_eq!((series.len(), series.last(), series[1]), (2, Some(&'B'), 'B'));
        series.truncate(7);
        assert_eq!(series.len(), 2);
        series.truncate(0);
        assert!(series.is_empty() && series == Series::default());
    }
}
