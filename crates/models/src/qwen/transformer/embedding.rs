//! Where the tokens of text and pictures stand.

use crate::denoiser::Grid;
use crate::denoiser::embedding::Position;

/// Positions of all tokens of a sample: text, target, sources.
///
/// Picture `i` (the target is 0) stands on plane `i`, and each picture's rows and columns are counted from its own centre, so
/// that pictures of different sizes lie on one another in the middle. Text goes on along the diagonal from where the largest picture ends.
///
/// # Source
/// diffusers 0.42, `QwenEmbedRope` with `scale_rope`.
pub(super) fn positions(text: usize, target: Grid, sources: &[Grid]) -> Vec<Position> {
    let pictures: Vec<Grid> = std::iter::once(target).chain(sources.iter().copied()).collect();
    let first = pictures
        .iter()
        .map(|grid| (grid.height / 2).max(grid.width / 2))
        .max()
        .unwrap_or(0);
    let mut positions: Vec<Position> = (first..first + text).map(|place| [place as i64; 3]).collect();
    for (plane, grid) in pictures.into_iter().enumerate() {
        for row in centred(grid.height) {
            positions.extend(centred(grid.width).map(|column| [plane as i64, row, column]));
        }
    }
    positions
}

/// `count` consecutive numbers around 0; of an even count as many are negative as are not.
fn centred(count: usize) -> std::ops::Range<i64> {
    let half = (count / 2) as i64;
    half - count as i64..half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_counted_from_the_centre() {
        assert_eq!(centred(64), -32..32);
        assert_eq!(centred(7), -4..3);
        assert_eq!(centred(1), -1..0);
    }

    #[test]
    fn each_picture_has_its_plane_and_text_begins_after_the_largest() {
        let (target, source) = (Grid { height: 1, width: 2 }, Grid { height: 6, width: 1 });
        let found = positions(2, target, &[source]);
        assert_eq!(found[..2], [[3, 3, 3], [4, 4, 4]]);
        assert_eq!(found[2..4], [[0, -1, -1], [0, -1, 0]]);
        assert_eq!(found[4..], [-3, -2, -1, 0, 1, 2].map(|row| [1, row, -1]));
    }
}
