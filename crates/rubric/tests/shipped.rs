//! The files in configs/ that a judge reads.

use std::path::{Path, PathBuf};

use gavel_core::work::Side;
use gavel_rubric::{JudgeTemplate, Part, Pictures, ReasonTemplate, RubricSet, Rubrics, TemplateError, Theme};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn template(text: &str) -> Result<JudgeTemplate, TemplateError> {
    JudgeTemplate::parse(text, Path::new("judge.toml"))
}

fn flat(parts: &[Part]) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(index) => format!("<{index}>"),
    };
    parts.iter().map(text).collect()
}

// The text of models/train/judge/judge_prompt.py; the small judge knows no other.
#[test]
fn the_small_template_says_exactly_what_the_small_judge_was_trained_on() {
    let template = JudgeTemplate::load(&configs().join("judge/small.toml")).unwrap();
    let rubric = Rubrics::load(&configs().join("quickstart/rubric.toml")).unwrap();
    let messages = template
        .render(
            "a red circle on a white background",
            rubric.general(),
            Pictures::InOrder,
            1,
        )
        .unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].role, "user");
    assert_eq!(
        flat(&messages[0].content),
        "Image 1: <0> Caption: a red circle on a white background\n\
         Image 2: <1> Caption: a red circle on a white background\n\
         Rubric:\n\
         - The background has the stated colour.\n\
         - Each object has its stated colour and shape.\n\
         - The objects are placed as stated.\n\
         - The shapes are clean, with nothing extra.\n\
         Which image is better, 1 or 2?"
    );
}

// The text of models/train/judge/edit_prompt.py; the small judge of edits knows no other.
#[test]
fn the_small_template_for_edits_says_exactly_what_the_small_judge_of_edits_was_trained_on() {
    let template = JudgeTemplate::load(&configs().join("judge/small-edit.toml")).unwrap();
    let rubric = Rubrics::load(&configs().join("quickstart-edit/rubric.toml")).unwrap();
    let messages = template
        .render("make the red circle blue", rubric.general(), Pictures::InOrder, 1)
        .unwrap();
    assert!(template.shows_base());
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].role, "user");
    assert_eq!(
        flat(&messages[0].content),
        "Instruction: make the red circle blue\n\
         Source: <2>\n\
         Image 1: <0>\n\
         Image 2: <1>\n\
         Image 1: make the red circle blue\n\
         Image 2: make the red circle blue\n\
         Rubric:\n\
         - The instruction is carried out.\n\
         - The rest is as in the source.\n\
         Which image is better, 1 or 2?"
    );
}

#[test]
fn swapped_pictures_change_places_and_nothing_else() {
    let rubric = RubricSet::from_text("Sharp.").unwrap();
    for name in ["small", "instruct"] {
        let template = JudgeTemplate::load(&configs().join(format!("judge/{name}.toml"))).unwrap();
        let [straight, swapped] =
            [Pictures::InOrder, Pictures::Swapped].map(|order| template.render("x", &rubric, order, 1).unwrap());
        let turned = |text: String| text.replace("<0>", "<?>").replace("<1>", "<0>").replace("<?>", "<1>");
        for (straight, swapped) in straight.iter().zip(&swapped) {
            assert_eq!(turned(flat(&straight.content)), flat(&swapped.content));
        }
    }
}

#[test]
fn captions_are_inserted_as_they_are() {
    let template = JudgeTemplate::load(&configs().join("judge/small.toml")).unwrap();
    let rubric = RubricSet::from_text("Sharp.").unwrap();
    let caption = "<b> & {{ rubric }} \"quoted\"";
    let messages = template.render(caption, &rubric, Pictures::InOrder, 1).unwrap();
    assert!(flat(&messages[0].content).contains(caption));
}

#[test]
fn faults_are_found_at_load_and_named_by_key() {
    let images = "{ image = 1 }, { image = 2 }";
    let with = |labels: &str, content: &str| {
        format!("name = \"x\"\nlabels = {labels}\n[[messages]]\nrole = \"user\"\ncontent = [{content}]\n")
    };
    for (text, message) in [
        (
            with("[\"1\"]", images),
            "judge.toml: `labels` has 1 entries, a pair needs 2",
        ),
        (
            with("[\"1\", \"1\"]", images),
            "judge.toml: `labels` must be different texts, and none of them empty",
        ),
        (
            with("[\"1\", \"2\"]", "{ image = 1 }"),
            "judge.toml: `messages` must show image 2 exactly once",
        ),
        (
            with("[\"1\", \"2\"]", "{ image = 0 }"),
            "judge.toml: `messages[0].content[0].image` must be 1 or 2",
        ),
        (
            with("[\"1\", \"2\"]", &format!("{images}, {{ text = \"{{% if %}}\" }}")),
            "judge.toml: `messages[0].content[2].text` cannot be rendered",
        ),
        (
            with(
                "[\"1\", \"2\"]",
                &format!("{images}, {{ text = \"{{{{ captoin }}}}\" }}"),
            ),
            "judge.toml: `messages[0].content[2].text` cannot be rendered",
        ),
        (
            with("[\"1\", \"2\"]", &format!("{images}, {{ picture = 1 }}")),
            "judge.toml: not a judge template",
        ),
        (
            with("[\"1\"]", "{ each = \"x\" }"),
            "judge.toml: `labels` has 1 entries, a list needs one for each picture, 2 to 16",
        ),
        (
            with("[\"1\", \"2\"]", &format!("{images}, {{ each = \"x\" }}")),
            "judge.toml: `messages` must show either images 1 and 2 or, with `each`, a list",
        ),
        (
            with("[\"1\", \"2\"]", "{ each = \"x\" }, { each = \"y\" }"),
            "judge.toml: `messages` must show the list once",
        ),
        (
            with("[\"1\", \"2\"]", "{ each = \"{{ labels }}\" }"),
            "judge.toml: `messages[0].content[0].each` cannot be rendered",
        ),
    ] {
        assert_eq!(template(&text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn lists_show_each_picture_behind_its_label_and_the_picture_before_the_edit_first() {
    let rubric = RubricSet::from_text("Sharp.").unwrap();
    for (file, sources) in [("instruct-list", 0), ("instruct-list-edit", 1)] {
        let template = JudgeTemplate::load(&configs().join(format!("judge/{file}.toml"))).unwrap();
        assert!(
            template.shows_list() && template.shows_base() == (sources > 0),
            "{file}"
        );
        let messages = template.render_list("a cup", &rubric, 3, sources).unwrap();
        let shown: Vec<usize> = messages
            .iter()
            .flat_map(|message| &message.content)
            .filter_map(|part| match part {
                Part::Image(place) => Some(*place),
                Part::Text(_) => None,
            })
            .collect();
        let expected: Vec<usize> = (3..3 + sources).chain(0..3).collect();
        assert_eq!(shown, expected, "{file}");
        let words = flat(&messages[1].content);
        assert!(words.contains("3:") && !words.contains("4:"), "{file}: {words}");
        assert!(flat(&messages[0].content).contains("Sharp."), "{file}");
    }
}

#[test]
fn every_shipped_reason_template_asks_about_text_to_image_and_edits() {
    let theme = Theme {
        name: Some("Light".into()),
        tips: vec!["Shadows agree.".into()],
        ..Theme::default()
    };
    for (language, edits) in [("en", true), ("zh", true), ("small", false)] {
        let file = configs().join("rubric").join(language).join("reason.toml");
        let template = ReasonTemplate::load(&file).unwrap();
        for base in [false, true] {
            let messages = template
                .render("a cat", &theme, Side::Second, usize::from(base))
                .unwrap();
            let parts: Vec<&Part> = messages.iter().flat_map(|message| &message.content).collect();
            let images: Vec<usize> = parts
                .iter()
                .filter_map(|part| match part {
                    Part::Image(place) => Some(*place),
                    Part::Text(_) => None,
                })
                .collect();
            let expected: &[usize] = if base && edits { &[2, 0, 1] } else { &[0, 1] };
            assert_eq!(images, expected, "{language}");
            let says = |words: &str| {
                parts
                    .iter()
                    .any(|part| matches!(part, Part::Text(text) if text.contains(words)))
            };
            assert!(says("a cat") && says("Shadows agree."), "{language}");
        }
    }
}
