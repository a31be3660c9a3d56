//! Questions that are asked of every picture: how well it is made, and whether it does what its task asks for.

use gavel_rubric::data::questions::PictureQuestion;

/// Of each picture: a kind, and a question that a well-made picture answers by yes.
const QUALITY: &[(&str, &str)] = &[
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
const QUALITY_OF_EDITS: &[(&str, &str)] = &[
    (
        "artifacts",
        "Does the edited part join the rest without a seam, a patch or a border around it?",
    ),
    (
        "coherence",
        "Does the edited part fit the rest of the picture in light, sharpness and style?",
    ),
];

/// Whether a picture is what its prompt asks for.
const FULFILMENT: &[&str] = &[
    "Is everything in the picture that this text asks for: {words}",
    "Does the picture look as this text says, with nothing that speaks against it: {words}",
];

/// The same of an edit: a kind, and a question. All but the first need its yes, or leaving the picture alone would be worth something.
const FULFILMENT_OF_EDITS: &[(&str, &str)] = &[
    (
        "fulfilment",
        "Is there the change that this instruction asks for: {words}",
    ),
    (
        "fulfilment",
        "Is the whole of this instruction done, with no part of it left out: {words}",
    ),
    (
        "preservation",
        "Is everything as it was that this instruction does not speak of: {words}",
    ),
    (
        "preservation",
        "Are all persons and things still recognised as those before the edit, but for what this instruction changes: {words}",
    ),
];

/// The questions about how well a picture is made, which is an edit or not.
pub(super) fn quality(is_edit: bool) -> Vec<PictureQuestion> {
    let of_edits = if is_edit { QUALITY_OF_EDITS } else { &[] };
    let questions = QUALITY.iter().chain(of_edits);
    questions.map(|(kind, question)| of_kind(kind, question)).collect()
}

/// The questions about whether a picture does what these words ask for.
pub(super) fn fulfilment(words: &str, is_edit: bool) -> Vec<PictureQuestion> {
    let with_words = |question: &str| question.replace("{words}", words);
    if !is_edit {
        let questions = FULFILMENT.iter().map(|question| with_words(question));
        return questions.map(PictureQuestion::new).collect();
    }
    let questions = FULFILMENT_OF_EDITS.iter().enumerate();
    let question = |(index, (kind, question)): (usize, &(&str, &str))| PictureQuestion {
        needs: (index > 0).then_some(0).into_iter().collect(),
        ..of_kind(kind, &with_words(question))
    };
    questions.map(question).collect()
}

fn of_kind(kind: &str, question: &str) -> PictureQuestion {
    PictureQuestion {
        kind: Some(kind.to_owned()),
        ..PictureQuestion::new(question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_that_changes_nothing_is_worth_nothing() {
        let of_edit = fulfilment("make the {words} red", true);
        assert!(of_edit[0].needs.is_empty() && of_edit[1..].iter().all(|question| question.needs == [0]));
        assert!(
            of_edit
                .iter()
                .all(|one| one.question.ends_with(": make the {words} red"))
        );
        let of_picture = fulfilment("a cat", false);
        assert!(
            of_picture
                .iter()
                .all(|one| one.question.ends_with(": a cat") && one.needs.is_empty())
        );
    }

    #[test]
    fn edits_are_asked_about_their_seams_too() {
        assert!(quality(true).starts_with(&quality(false)) && quality(true).len() > quality(false).len());
    }
}
