//! Which prompt is painted where, and how a step's work is cut into units.
//!
//! All of it follows from the spec alone, never from the fleet.

use std::ops::Range;

use crate::ids::{Candidate, PromptIndex, Step};
use crate::noise::{NoiseKey, Use};

/// Lines of the prompt file that `step` paints, by the prompt's index in the step.
///
/// Steps walk through the file in seeded order: each epoch visits every line once, in an order of its own, and a step may
/// straddle two epochs.
///
/// # Panics
/// When `lines` is 0.
pub fn prompt_lines(seed: u64, lines: u32, step: Step, per_step: u32) -> Vec<u32> {
    assert!(lines > 0, "a run needs at least one prompt");
    let first = u64::from(step.0.saturating_sub(1)) * u64::from(per_step);
    let mut order: Option<(u64, Vec<u32>)> = None;
    (first..first + u64::from(per_step))
        .map(|visit| {
            let epoch = visit / u64::from(lines);
            if order.as_ref().is_none_or(|(known, _)| *known != epoch) {
                order = Some((epoch, epoch_order(seed, lines, epoch)));
            }
            let line = (visit % u64::from(lines)) as usize;
            order.as_ref().map_or(0, |(_, lines)| lines[line])
        })
        .collect()
}

/// The lines in the order in which an epoch visits them.
fn epoch_order(seed: u64, lines: u32, epoch: u64) -> Vec<u32> {
    // An epoch that does not fit the key's 32 bits is some 4 billion epochs away; wrapping repeats an order.
    let key = NoiseKey {
        step: epoch as u32,
        ..NoiseKey::new(seed, Use::PromptDraw)
    };
    key.permutation(lines)
}

/// Whether a step after `step`, up to `last`, paints a line of the prompt file; by the line.
pub fn painted_later(seed: u64, lines: u32, step: Step, last: Step, per_step: u32) -> Vec<bool> {
    let visits = |step: Step| u64::from(step.0) * u64::from(per_step);
    let (first, end, epoch_len) = (visits(step), visits(last), u64::from(lines));
    let mut painted = vec![false; lines as usize];
    if first >= end || lines == 0 {
        return painted;
    }
    if first.next_multiple_of(epoch_len) + epoch_len <= end {
        // A whole epoch lies ahead.
        painted.fill(true);
        return painted;
    }
    for epoch in first / epoch_len..=(end - 1) / epoch_len {
        let begin = epoch * epoch_len;
        let visited = first.max(begin) - begin..end.min(begin + epoch_len) - begin;
        for line in &epoch_order(seed, lines, epoch)[visited.start as usize..visited.end as usize] {
            painted[*line as usize] = true;
        }
    }
    painted
}

/// The order in which a trainer visits a candidate's trained timesteps.
pub fn timestep_order(
    seed: u64,
    step: Step,
    prompt: PromptIndex,
    candidate: Candidate,
    trained: &[usize],
) -> Vec<usize> {
    let key = NoiseKey {
        step: step.0,
        prompt: prompt.0,
        candidate: candidate.0,
        ..NoiseKey::new(seed, Use::TimestepOrder)
    };
    key.permutation(trained.len() as u32)
        .into_iter()
        .map(|index| trained[index as usize])
        .collect()
}

/// How many units of `size` cover `count` things.
pub fn chunks(count: u32, size: u32) -> u32 {
    count.div_ceil(size.max(1))
}

/// The things that unit `chunk` covers; the last may be shorter, and one beyond the last is empty.
pub fn extent(chunk: u32, size: u32, count: u32) -> Range<u32> {
    let size = size.max(1);
    let first = chunk.saturating_mul(size).min(count);
    first..first.saturating_add(size).min(count)
}

/// The unit of `size` that covers the thing of this index.
pub fn chunk_of(index: u32, size: u32) -> u32 {
    index / size.max(1)
}

/// The units of `size` that have a part in `things`.
pub fn overlapping(things: &Range<u32>, size: u32) -> Range<u32> {
    let size = size.max(1);
    if things.is_empty() {
        0..0
    } else {
        things.start / size..(things.end - 1) / size + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_line_once_across_steps() {
        let per_step = 7;
        let all: Vec<u32> = (1..=10)
            .flat_map(|step| prompt_lines(3, 10, Step(step), per_step))
            .collect();
        for epoch in all.chunks(10) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(all[..10], all[10..20], "epochs have orders of their own");
        assert_ne!(prompt_lines(3, 10, Step(1), 7), prompt_lines(4, 10, Step(1), 7));
    }

    #[test]
    fn a_line_is_painted_later_if_a_later_step_has_it() {
        for (lines, per_step, last) in [(10, 7, 6), (10, 3, 9), (5, 7, 4), (1, 3, 2), (9, 9, 3), (100, 8, 5)] {
            for step in 0..=last + 1 {
                let later: Vec<u32> = (step + 1..=last)
                    .flat_map(|step| prompt_lines(3, lines, Step(step), per_step))
                    .collect();
                let expected: Vec<bool> = (0..lines).map(|line| later.contains(&line)).collect();
                let found = painted_later(3, lines, Step(step), Step(last), per_step);
                assert_eq!(
                    found, expected,
                    "{lines} lines, {per_step} a step, after {step} of {last}"
                );
            }
        }
    }

    #[test]
    fn fewer_lines_than_prompts_repeat() {
        assert_eq!(prompt_lines(0, 1, Step(5), 3), [0, 0, 0]);
    }

    #[test]
    fn chunks_cover_everything_once() {
        for count in 0..20 {
            for size in 1..8 {
                let covered: Vec<u32> = (0..chunks(count, size))
                    .flat_map(|chunk| extent(chunk, size, count))
                    .collect();
                assert_eq!(covered, (0..count).collect::<Vec<_>>());
            }
        }
        assert!(extent(9, 4, 20).is_empty());
    }

    #[test]
    fn overlapping_units_are_those_that_share_a_thing() {
        for (things, size, expected) in [(0..4, 4, 0..1), (3..5, 4, 0..2), (8..9, 4, 2..3), (2..2, 4, 0..0)] {
            assert_eq!(overlapping(&things, size), expected, "{things:?} by {size}");
        }
    }

    #[test]
    fn timesteps_are_visited_once_in_an_order_of_the_candidate_s_own() {
        let trained = [0, 1, 2, 3, 4, 5, 6];
        let order = |candidate| timestep_order(1, Step(1), PromptIndex(0), Candidate(candidate), &trained);
        let mut sorted = order(0);
        sorted.sort_unstable();
        assert_eq!(sorted, trained);
        assert_ne!(order(0), order(1));
    }
}
