//! Which prompt is painted where, and how a step's work is cut into units.
//!
//! All of it follows from the spec alone, never from the fleet.

use std::ops::Range;

use crate::ids::{Candidate, PromptIndex, Step};
use crate::noise::{NoiseKey, Use};

/// Lines of the prompt file that `step` paints, by place in the step.
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
        .map(|place| {
            let epoch = place / u64::from(lines);
            if order.as_ref().is_none_or(|(known, _)| *known != epoch) {
                // An epoch that does not fit the key's 32 bits is some 4 billion epochs away; wrapping repeats an order.
                let key = NoiseKey {
                    step: epoch as u32,
                    ..NoiseKey::new(seed, Use::PromptDraw)
                };
                order = Some((epoch, key.permutation(lines)));
            }
            let line = (place % u64::from(lines)) as usize;
            order.as_ref().map_or(0, |(_, lines)| lines[line])
        })
        .collect()
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
        .map(|place| trained[place as usize])
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

/// The units of `size` that have a part in `things`.
pub fn overlapping(things: &Range<u32>, size: u32) -> Range<u32> {
    let size = size.max(1);
    if things.is_empty() {
        0..0
    } else {
        things.start / size..(things.end - 1) / size + 1
    }
}
