//! An evaluation as a table on a terminal.

use gavel_review::evaluate::{EvaluationReport, Figures, PairFigures};

/// The figures as a table, over all prompts and by each value of the field.
pub(super) fn describe(report: &EvaluationReport) -> String {
    let mut text = table(&report.figures.title(), &report.figures);
    for group in &report.groups {
        let value = group.value.as_deref().unwrap_or("without a value");
        text += "\n";
        text += &table(&format!("{value}: {}", group.figures.title()), &group.figures);
    }
    text
}

fn table(title: &str, figures: &Figures) -> String {
    const OTHERS: usize = 22;
    let first = (title.chars().count() + 1).max(26);
    let line = |name: &str, values: &[String]| {
        let values: String = values.iter().map(|value| format!(" {value:<OTHERS$}")).collect();
        format!("{name:<first$}{values}").trim_end().to_owned() + "\n"
    };
    let names: Vec<String> = figures.subjects.iter().map(|subject| subject.subject.clone()).collect();
    let mut text = line(title, &names);
    for (name, values) in figures.rows() {
        text += &line(&name, &values);
    }
    for [two, name, found] in figures.difference_lines() {
        text += &format!("{two}: {name} {found}\n");
    }
    for pair in &figures.pairs {
        text += &of_pair(pair);
    }
    text
}

fn of_pair(pair: &PairFigures) -> String {
    let [first, second] = &pair.subjects;
    let Some(rate) = &pair.win_rate else {
        return format!("{second} over {first}: nothing could be judged\n");
    };
    let mut text = format!(
        "{second} over {first}: win rate {:.2} [{:.2}, {:.2}]; {} won, {} lost, {} without preference",
        rate.value, rate.low, rate.high, rate.wins, rate.losses, rate.abstained
    );
    if rate.failed > 0 {
        text += &format!(", {} not judged", rate.failed);
    }
    if let (Some(shown), Some(agree)) = (pair.first_shown_chosen, pair.order_consistency) {
        text += &format!(
            "; first shown is chosen {:.2} [{:.2}, {:.2}], both orders agree {:.2}",
            shown.value, shown.low, shown.high, agree.value
        );
    }
    text + "\n"
}
