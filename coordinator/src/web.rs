//! The pages that people look at: their scripts and styles, for the coordinator, which serves them as files, and for `report.html`, which
//! carries them.
//!
//! The files lie in `coordinator/web`. Scripts are plain modules that import each other by `./name.js`; the charts are drawn by uPlot, whose
//! licence lies beside it.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

/// A file that pages are made of.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Its path below `coordinator/web`.
    pub name: &'static str,
    /// What it is, as HTTP says it.
    pub content_type: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// Lists files with what they are.
macro_rules! assets {
    ($($name:literal is $content_type:expr),+ $(,)?) => {
        &[$(Asset { name: $name, content_type: $content_type, text: include_str!(concat!("../web/", $name)) }),+]
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Every file.
pub const ASSETS: &[Asset] = assets! {
    "api.js" is SCRIPT,
    "banner.js" is SCRIPT,
    "chart.js" is SCRIPT,
    "compare_page.js" is SCRIPT,
    "controls.js" is SCRIPT,
    "dom.js" is SCRIPT,
    "evaluation.js" is SCRIPT,
    "event_list.js" is SCRIPT,
    "figures.js" is SCRIPT,
    "frame.js" is SCRIPT,
    "gallery.js" is SCRIPT,
    "live.js" is SCRIPT,
    "merge_patch.js" is SCRIPT,
    "pace.js" is SCRIPT,
    "pairs_of_file.js" is SCRIPT,
    "report_page.js" is SCRIPT,
    "run_page.js" is SCRIPT,
    "runs_page.js" is SCRIPT,
    "verdict.js" is SCRIPT,
    "vendor/uplot/uPlot.iife.min.js" is SCRIPT,
    "style.css" is STYLE,
    "vendor/uplot/uPlot.min.css" is STYLE,
    "vendor/uplot/LICENSE" is "text/plain; charset=utf-8",
    "favicon.svg" is "image/svg+xml",
};

/// Draws the charts.
pub const CHARTS: &str = include_str!("../web/vendor/uplot/uPlot.iife.min.js");
/// The charts' own style.
pub const CHARTS_STYLE: &str = include_str!("../web/vendor/uplot/uPlot.min.css");
/// The pages' style.
pub const PAGE_STYLE: &str = include_str!("../web/style.css");
/// The picture of the browser's tab.
pub const FAVICON: &str = include_str!("../web/favicon.svg");

/// The file with this path.
pub fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// A fingerprint of all files together: under it they never change.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.name);
        hash.update([0]);
        hash.update(asset.text);
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
});

/// A module with all that it imports as one script, for a page that is a single file. The names that the modules declare at their top
/// become names of one script, so that no two modules may declare the same one.
pub fn bundle(entry: &str) -> String {
    let mut seen = Vec::new();
    let mut script = String::new();
    add(entry, &mut seen, &mut script);
    script
}

fn add(name: &str, seen: &mut Vec<String>, script: &mut String) {
    let Some(module) = asset(name).filter(|_| !seen.iter().any(|known| known == name)) else {
        return;
    };
    seen.push(name.to_owned());
    for line in module.text.lines() {
        if let Some(imported) = imported(line) {
            add(imported, seen, script);
        }
    }
    for line in module.text.lines().filter(|line| imported(line).is_none()) {
        script.push_str(line.strip_prefix("export ").unwrap_or(line));
        script.push('\n');
    }
}

/// The module that a line imports, each of which is a line of its own.
fn imported(line: &str) -> Option<&str> {
    let (_, from) = line.strip_prefix("import ")?.split_once(" from \"./")?;
    from.strip_suffix("\";")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let files = |folder: &Path| -> Vec<String> {
            let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let files = files.filter(|path| path.is_file() && path.extension().is_none_or(|ending| ending != "html"));
            files
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect()
        };
        let mut found: BTreeSet<String> = files(&folder).into_iter().collect();
        found.extend(
            files(&folder.join("vendor/uplot"))
                .into_iter()
                .map(|name| format!("vendor/uplot/{name}")),
        );
        let listed: BTreeSet<String> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(listed, found);
    }

    #[test]
    fn a_bundle_holds_every_module_once_and_imports_nothing() {
        let script = bundle("report_page.js");
        assert!(
            !script.contains("\nimport ") && !script.contains("\nexport "),
            "{script}"
        );
        assert!(!script.contains("</script"), "it would end the script of a page");
        for declared in [
            "function el(",
            "function createCharts(",
            "function createGallery(",
            "function figuresOfSteps(",
        ] {
            assert_eq!(script.matches(declared).count(), 1, "{declared}");
        }
    }

    #[test]
    fn no_two_modules_of_a_bundle_declare_the_same_name() {
        let script = bundle("report_page.js");
        let mut names = BTreeSet::new();
        for line in script.lines() {
            let words: Vec<&str> = line.trim_start_matches("async ").split([' ', '(', ';']).collect();
            let ["function" | "class" | "const" | "let", name, ..] = words[..] else {
                continue;
            };
            assert!(
                !name.starts_with(['{', '[']),
                "several names at once are not looked through: {line}"
            );
            assert!(names.insert(name), "{name} is declared twice");
        }
        assert!(names.len() > 40, "{names:?}");
    }
}
