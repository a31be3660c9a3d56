//! Questions about how well a picture is made, whatever its prompt asks for.

use gavel_rubric::data::questions::PictureQuestion;

/// Of each picture: a kind, and a question that a well-made picture answers by yes.
const QUESTIONS: &[(&str, &str)] = &[
    (
        "artifacts",
        "Is the picture free of noise, stripes, blocks and smears that nothing in the scene explains?",
    ),
    (
        "artifacts",
        "Are the outlines of things clean, without halos, double edges or parts that melt into each other?",
    ),
    (
        "artifacts",
        "Is all lettering in the picture made of real, readable letters? If there is no lettering, answer yes.",
    ),
    (
        "coherence",
        "Does every person, animal and object have the parts that it should have, as many as it should have, in places where they can be?",
    ),
    (
        "coherence",
        "Do light, shadows, sizes and perspective fit together over the whole picture?",
    ),
    (
        "coherence",
        "Is every thing in the picture whole and by itself, not cut in two, doubled, or grown into another?",
    ),
];

/// Of each edit as well.
const OF_EDITS: &[(&str, &str)] = &[
    (
        "artifacts",
        "Does the edited part join the rest without a seam, a patch or a border around it?",
    ),
    (
        "coherence",
        "Does the edited part fit the rest of the picture in light, sharpness and style?",
    ),
];

/// The questions about a picture, which is an edit or not.
pub(super) fn questions(is_edit: bool) -> Vec<PictureQuestion> {
    let of_edits = if is_edit { OF_EDITS } else { &[] };
    let question = |(kind, question): &(&str, &str)| PictureQuestion {
        kind: Some((*kind).to_owned()),
        ..PictureQuestion::new(*question)
    };
    QUESTIONS.iter().chain(of_edits).map(question).collect()
}
