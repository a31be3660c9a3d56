//! The small judge's folder says which words the judge knows.

use std::path::Path;

#[test]
fn the_small_judges_folder_holds_the_small_template() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    assert_eq!(
        read("models/tiny-judge/judge_template.toml"),
        read("configs/judge/small.toml")
    );
}
