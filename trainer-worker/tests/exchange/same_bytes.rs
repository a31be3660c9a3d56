//! The mean by slices is the mean of all sums, bit by bit, and moves as much as is said of it.

use std::time::Duration;

use gavel_core::spec::Device;
use gavel_policy::train::reduce;
use gavel_trainer_worker::exchange::{Exchange as _, ExchangeError, Seat, Shard, Watch, mean};
use proptest::prelude::*;

use crate::loopback::Loopback;

const MINUTE: Duration = Duration::from_secs(60);

/// Sums whose order of addition shows: large ones beside small ones, of both signs.
pub(crate) fn sums(shards: usize, parameters: usize, seed: u32) -> Vec<Vec<f32>> {
    let number = |shard: usize, index: usize| {
        let hash = (seed ^ (shard as u32).wrapping_mul(0x9e37_79b9) ^ (index as u32).wrapping_mul(0x85eb_ca6b))
            .wrapping_mul(0xc2b2_ae35)
            .rotate_left(13);
        let exponent = i32::from((hash % 61) as u8) - 30;
        let fraction = (hash >> 8) as f32 / (1_u32 << 24) as f32 - 0.5;
        fraction * 2.0_f32.powi(exponent)
    };
    let of_shard = |shard| (0..parameters).map(|index| number(shard, index)).collect();
    (0..shards).map(of_shard).collect()
}

/// What every member has in the end.
fn exchanged(members: usize, owners: &[usize], sums: &[Vec<f32>], terms: u64) -> (Vec<Vec<f32>>, Loopback) {
    let loopback = Loopback::default();
    let rendezvous = loopback.rendezvous().unwrap();
    let parameters = sums.first().map_or(0, Vec::len);
    let member = |rank: usize| {
        let seat = Seat {
            rendezvous: &rendezvous,
            rank,
            size: members,
            device: Device::Cpu,
        };
        let shards: Vec<Shard<'_>> = owners
            .iter()
            .zip(sums)
            .map(|(owner, sum)| Shard {
                owner: *owner,
                sum: (*owner == rank).then_some(sum.as_slice()),
            })
            .collect();
        let never = || false;
        let watch = Watch::new(MINUTE, &never);
        let mut communicator = loopback.meet(&seat, &watch).unwrap();
        mean(communicator.as_mut(), &seat, &shards, parameters, terms, &watch).unwrap()
    };
    let means = std::thread::scope(|scope| {
        let member = &member;
        let threads: Vec<_> = (0..members).map(|rank| scope.spawn(move || member(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (means, loopback)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// More parameters than members and fewer, more shards and fewer; a member may own many shards, or none.
    #[test]
    fn every_member_has_the_bits_of_the_whole_reduction(
        members in 1_usize..9,
        owners in prop::collection::vec(0_usize..8, 1..20),
        parameters in 1_usize..40,
        terms in 1_u64..30,
        seed: u32,
    ) {
        let owners: Vec<usize> = owners.into_iter().map(|owner| owner % members).collect();
        let sums = sums(owners.len(), parameters, seed);
        let expected = bits(&reduce(parameters, &sums, terms));
        let (means, _) = exchanged(members, &owners, &sums, terms);
        for mean in means {
            prop_assert_eq!(bits(&mean), expected.clone());
        }
    }
}

/// The formula of docs/gpu.md: (S / N + 1) (N - 1) / N times the parameters, where all have as many shards.
#[test]
fn a_member_receives_what_the_formula_says() {
    for (members, shards) in [(2, 2), (3, 3), (4, 8), (8, 8)] {
        let parameters = 840;
        let owners: Vec<usize> = (0..shards).map(|shard| shard % members).collect();
        let (_, loopback) = exchanged(members, &owners, &sums(shards, parameters, 1), 3);
        let expected = (shards + members) * parameters * (members - 1) / (members * members);
        assert_eq!(
            loopback.received(),
            vec![expected; members],
            "{members} members, {shards} shards"
        );
    }
}

#[test]
fn sums_that_are_not_where_they_should_be_are_refused() {
    let loopback = Loopback::default();
    let rendezvous = loopback.rendezvous().unwrap();
    let seat = Seat {
        rendezvous: &rendezvous,
        rank: 0,
        size: 1,
        device: Device::Cpu,
    };
    let never = || false;
    let watch = Watch::new(MINUTE, &never);
    let mut communicator = loopback.meet(&seat, &watch).unwrap();
    let sum = [1.0, 2.0];
    for (shard, problem) in [
        (Shard { owner: 1, sum: None }, "shard 0 belongs to nobody of the group"),
        (
            Shard { owner: 0, sum: None },
            "the sum of shard 0 is not with its owner",
        ),
        (
            Shard {
                owner: 0,
                sum: Some(&sum),
            },
            "the sum of shard 0 has 2 values, expected 3",
        ),
    ] {
        let error = mean(communicator.as_mut(), &seat, &[shard], 3, 1, &watch).unwrap_err();
        assert!(matches!(error, ExchangeError::Mismatch { .. }));
        assert!(error.to_string().ends_with(problem), "{error}");
    }
}
