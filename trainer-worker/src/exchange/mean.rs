//! The mean of a step's sums, added up by slices.

use std::ops::Range;

use gavel_policy::train::Reduction;

use super::slices::Rounds;
use super::{Communicator, ExchangeError, Parts, Seat, Watch};

/// One shard's sum.
#[derive(Debug, Clone, Copy)]
pub struct Shard<'a> {
    /// Rank of the member that has it.
    pub owner: usize,
    /// The sum, with its owner.
    pub sum: Option<&'a [f32]>,
}

/// The mean over `terms` terms of the shards' sums, each of `parameters` values, the same on every member: bit by bit what
/// [`Reduction`] makes of the sums in their order. All members name the same owners in the same order.
///
/// # Errors
/// [`ExchangeError::Mismatch`] when a sum is not where it should be or has another size; those of the transport. The communicator
/// is then of no more use.
pub fn mean(
    communicator: &mut dyn Communicator,
    seat: &Seat<'_>,
    shards: &[Shard<'_>],
    parameters: usize,
    terms: u64,
    watch: &Watch<'_>,
) -> Result<Vec<f32>, ExchangeError> {
    let layout = Layout::new(seat, shards, parameters)?;
    let mut mean = vec![0.0; parameters];
    let mut arrived = Arrived::default();
    let mut outgoing = Vec::new();
    for round in 0..layout.rounds.count() {
        let to = layout.pack(round, &mut outgoing);
        let from = layout.incoming(round);
        let mut received = std::mem::take(&mut arrived.spare);
        received.resize(from.iter().sum(), 0.0);
        let parts = Parts {
            values: &outgoing,
            to: &to,
            from: &from,
        };
        // The round before is added up while this one is on its way.
        let mut meanwhile = || arrived.add_up(&layout, terms, &mut mean);
        communicator.scatter(&parts, &mut received, &mut meanwhile, watch)?;
        arrived.latest = Some((round, received));
    }
    arrived.add_up(&layout, terms, &mut mean);

    let width = layout.rounds.width;
    let (mut own, mut all) = (vec![0.0; width], vec![0.0; width * seat.size]);
    for round in 0..layout.rounds.count() {
        let piece = layout.rounds.piece(round, seat.rank);
        own[..piece.len()].copy_from_slice(&mean[piece]);
        communicator.gather(&own, &mut all, watch)?;
        for (rank, values) in all.chunks_exact(width).enumerate() {
            let piece = layout.rounds.piece(round, rank);
            let length = piece.len();
            mean[piece].copy_from_slice(&values[..length]);
        }
    }
    Ok(mean)
}

/// What came in the latest round, until it is added up.
#[derive(Default)]
struct Arrived {
    latest: Option<(usize, Vec<f32>)>,
    /// A buffer for the next round.
    spare: Vec<f32>,
}

impl Arrived {
    fn add_up(&mut self, layout: &Layout<'_>, terms: u64, mean: &mut [f32]) {
        if let Some((round, received)) = self.latest.take() {
            let piece = layout.rounds.piece(round, layout.rank);
            let values = layout.add_up(piece.clone(), &received).mean(terms);
            mean[piece].copy_from_slice(&values);
            self.spare = received;
        }
    }
}

/// Where every shard's numbers come from and go to.
struct Layout<'a> {
    rank: usize,
    shards: &'a [Shard<'a>],
    /// Number of shards of each member.
    shards_of: Vec<usize>,
    rounds: Rounds,
}

impl<'a> Layout<'a> {
    fn new(seat: &Seat<'_>, shards: &'a [Shard<'a>], parameters: usize) -> Result<Self, ExchangeError> {
        let mut shards_of = vec![0; seat.size];
        for (number, shard) in shards.iter().enumerate() {
            let mismatch = |problem| Err(ExchangeError::Mismatch { problem });
            let Some(count) = shards_of.get_mut(shard.owner) else {
                return mismatch(format!("shard {number} belongs to nobody of the group"));
            };
            *count += 1;
            if shard.sum.is_some() != (shard.owner == seat.rank) {
                return mismatch(format!("the sum of shard {number} is not with its owner"));
            }
            if let Some(sum) = shard.sum.filter(|sum| sum.len() != parameters) {
                let found = sum.len();
                return mismatch(format!(
                    "the sum of shard {number} has {found} values, expected {parameters}"
                ));
            }
        }
        Ok(Self {
            rank: seat.rank,
            shards,
            rounds: Rounds::new(parameters, &shards_of),
            shards_of,
        })
    }

    /// Lays out what goes to the others in a round: for each member, its piece of every sum here. Returns how many values go to each.
    fn pack(&self, round: usize, outgoing: &mut Vec<f32>) -> Vec<usize> {
        outgoing.clear();
        let members = 0..self.shards_of.len();
        members
            .map(|member| {
                let before = outgoing.len();
                if member != self.rank {
                    let piece = self.rounds.piece(round, member);
                    for sum in self.shards.iter().filter_map(|shard| shard.sum) {
                        outgoing.extend_from_slice(&sum[piece.clone()]);
                    }
                }
                outgoing.len() - before
            })
            .collect()
    }

    /// How many values come from each member in a round.
    fn incoming(&self, round: usize) -> Vec<usize> {
        let length = self.rounds.piece(round, self.rank).len();
        let shards_of = self.shards_of.iter().enumerate();
        shards_of
            .map(|(member, count)| if member == self.rank { 0 } else { count * length })
            .collect()
    }

    /// Adds this member's piece of every sum, in shard order.
    fn add_up(&self, piece: Range<usize>, received: &[f32]) -> Reduction {
        let length = piece.len();
        let mut first = 0;
        let mut next: Vec<usize> = Vec::with_capacity(self.shards_of.len());
        for (member, count) in self.shards_of.iter().enumerate() {
            next.push(first);
            first += if member == self.rank { 0 } else { count * length };
        }
        let mut reduction = Reduction::new(length);
        for shard in self.shards {
            match shard.sum {
                Some(sum) => reduction.add(&sum[piece.clone()]),
                None => {
                    let start = next[shard.owner];
                    reduction.add(&received[start..start + length]);
                    next[shard.owner] += length;
                }
            }
        }
        reduction
    }
}
