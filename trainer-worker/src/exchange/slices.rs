//! Who adds up which parameters, and in which rounds: a function of the number of parameters, of members and of each member's
//! shards alone, so that all members make the same calls.

use std::ops::Range;

/// Size of the largest buffer of a round, in values: 32 MiB of float32. A round is as narrow as that asks for, whatever the size of
/// the adapter and the number of shards.
const ROUND_VALUES: usize = 8 << 20;

/// The parameters that a member adds up: the vector in as many runs as there are members, as even as can be, the longer ones
/// first. Empty for the last members where there are fewer parameters than members.
pub(super) fn slice(parameters: usize, members: usize, rank: usize) -> Range<usize> {
    let (length, longer) = (parameters / members, parameters % members);
    let start = rank * length + rank.min(longer);
    start..start + length + usize::from(rank < longer)
}

/// The slices, cut into pieces that are exchanged one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds {
    parameters: usize,
    members: usize,
    /// Values of a piece; the last one of a slice may have fewer.
    pub(super) width: usize,
}

impl Rounds {
    /// `shards` has the number of shards of each member.
    pub(super) fn new(parameters: usize, shards: &[usize]) -> Self {
        Self::of_size(parameters, shards, ROUND_VALUES)
    }

    fn of_size(parameters: usize, shards: &[usize], round_values: usize) -> Self {
        let members = shards.len();
        let most = shards.iter().copied().max().unwrap_or(0);
        // What is sent has a piece for each member and each shard here, what comes one for each shard elsewhere, means one for each
        // member.
        let pieces = (most * members).max(members).max(1);
        let width = (round_values / pieces).clamp(1, parameters.div_ceil(members).max(1));
        Self {
            parameters,
            members,
            width,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.parameters.div_ceil(self.members).div_ceil(self.width)
    }

    /// The parameters that a member adds up in a round.
    pub(super) fn piece(&self, round: usize, rank: usize) -> Range<usize> {
        let slice = slice(self.parameters, self.members, rank);
        let start = (slice.start + round * self.width).min(slice.end);
        start..(start + self.width).min(slice.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_odd_number_of_parameters_is_cut_as_evenly_as_can_be() {
        let cut = |parameters, members| -> Vec<Range<usize>> {
            (0..members).map(|rank| slice(parameters, members, rank)).collect()
        };
        assert_eq!(cut(7, 3), [0..3, 3..5, 5..7]);
        assert_eq!(cut(2, 3), [0..1, 1..2, 2..2]);
        assert_eq!(slice(5, 1, 0), 0..5);
        assert_eq!(cut(0, 2), [0..0, 0..0]);
    }

    /// An adapter of FLUX.1-dev with rank 16, two trainers of three shards each.
    #[test]
    fn buffers_of_a_round_do_not_grow_with_adapter_and_shards() {
        let rounds = Rounds::new(45_000_000, &[3, 3]);
        assert_eq!((rounds.width, rounds.count()), (ROUND_VALUES / 6, 17));
        assert_eq!(Rounds::new(10, &[ROUND_VALUES, 0]).width, 1);
        assert_eq!(Rounds::new(10, &[1, 1]).count(), 1);
        assert_eq!(Rounds::new(0, &[1, 1]).count(), 0);
    }

    proptest! {
        /// Every parameter has one owner and comes in one round.
        #[test]
        fn pieces_cover_the_vector_once(
            parameters in 0_usize..200,
            shards in prop::collection::vec(0_usize..4, 1..9),
            round_values in 1_usize..100,
        ) {
            let rounds = Rounds::of_size(parameters, &shards, round_values);
            let mut covered = vec![0; parameters];
            for round in 0..rounds.count() {
                for rank in 0..shards.len() {
                    let piece = rounds.piece(round, rank);
                    prop_assert!(piece.len() <= rounds.width);
                    piece.for_each(|index| covered[index] += 1);
                }
            }
            prop_assert!(covered.iter().all(|count| *count == 1), "{covered:?}");
            let most = shards.iter().max().copied().unwrap_or(0) * shards.len();
            prop_assert!(rounds.width == 1 || rounds.width * most.max(shards.len()) <= round_values);
        }
    }
}
