//! The small judges' folders say which words the judges know.

use std::path::Path;

#[test]
fn the_small_judges_folders_hold_the_small_templates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    for (folder, template) in [("tiny-judge", "small"), ("tiny-edit-judge", "small-edit")] {
        assert_eq!(
            read(&format!("models/{folder}/judge_template.toml")),
            read(&format!("configs/judge/{template}.toml")),
            "{folder}"
        );
    }
}
