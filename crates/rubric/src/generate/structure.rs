//! Criteria into themes.

use super::answer::{self, WrittenTheme};
use super::embed::{Embed, cosine};
use super::prompts::{Template, Values};
use super::{GenerateError, Settings};
use crate::recorded::{Question, Recorded};
use crate::{Chat, Structuring, Theme};

/// Least cosine at which a criterion that was left out counts as belonging to a theme.
const NEAREST_MIN: f64 = 0.2;

/// The name of a theme for criteria that belong to no other.
const OTHER: &str = "Other";

/// Has `criteria` grouped into at most `settings.themes` themes. An answer that loses, invents or doubles criteria is asked for
/// again with what was wrong; of the answers the one with the fewest faults is repaired and taken.
pub(super) fn structure(
    recorded: &Recorded<'_>,
    chat: &dyn Chat,
    embed: &dyn Embed,
    template: &Template,
    editing: bool,
    criteria: &[String],
    settings: &Settings,
) -> Result<(Vec<Theme>, Structuring), GenerateError> {
    let schema = answer::themes_schema(settings.themes);
    let mut best = Draft::of(Vec::new(), criteria, settings.themes);
    let mut asked = 0;
    for attempt in 0..settings.attempts.max(1) {
        let problem = if attempt == 0 { String::new() } else { best.problem() };
        let values = Values {
            criteria,
            editing,
            themes: settings.themes,
            problem: &problem,
            ..Values::default()
        };
        let messages = template.render(&values, 0, false)?;
        let reply = recorded.reply(
            chat,
            &Question {
                messages: &messages,
                pictures: &[],
                max_tokens: settings.max_tokens,
                temperature: settings.temperature_of(attempt),
                seed: u64::from(settings.seed) << 32 | attempt as u64,
                schema: &schema,
            },
        )?;
        asked += 1;
        let written = answer::themes(&reply.text).unwrap_or_default();
        let draft = Draft::of(written, criteria, settings.themes);
        if draft.faults() < best.faults() || best.themes.is_empty() {
            best = draft;
        }
        if best.faults() == 0 {
            break;
        }
    }
    let record = Structuring {
        asked,
        ..best.record.clone()
    };
    Ok((best.repaired(criteria, embed)?, record))
}

/// An answer compared with the criteria that it was to group.
struct Draft {
    /// Names, and places in the list of criteria.
    themes: Vec<(String, Vec<usize>)>,
    record: Structuring,
}

impl Draft {
    fn of(written: Vec<WrittenTheme>, criteria: &[String], themes_max: usize) -> Self {
        let keys: Vec<String> = criteria.iter().map(|criterion| key(criterion)).collect();
        let mut seen = vec![false; criteria.len()];
        let mut record = Structuring {
            surplus: written.len().saturating_sub(themes_max),
            ..Structuring::default()
        };
        let mut themes = Vec::new();
        for theme in written.into_iter().take(themes_max) {
            let mut places = Vec::new();
            for tip in &theme.tips {
                match keys.iter().position(|known| *known == key(tip)) {
                    Some(place) if seen[place] => record.doubled += 1,
                    Some(place) => {
                        seen[place] = true;
                        places.push(place);
                    }
                    None => record.invented += 1,
                }
            }
            if !places.is_empty() {
                themes.push((theme.theme, places));
            }
        }
        record.lost = seen.iter().filter(|seen| !**seen).count();
        Self { themes, record }
    }

    fn faults(&self) -> usize {
        self.record.lost + self.record.invented + self.record.doubled + self.record.surplus
    }

    fn problem(&self) -> String {
        let Structuring {
            lost,
            invented,
            doubled,
            surplus,
            ..
        } = self.record;
        let counts = [
            (lost, "left out"),
            (invented, "not in the list"),
            (doubled, "named twice"),
            (surplus, "themes too many"),
        ];
        let told: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        told.join(", ")
    }

    /// Puts what was left out beside the nearest theme, or into one of its own.
    fn repaired(self, criteria: &[String], embed: &dyn Embed) -> Result<Vec<Theme>, GenerateError> {
        let mut themes = self.themes;
        let kept = themes.len();
        let placed = |place: usize| themes.iter().any(|(_, places)| places.contains(&place));
        let lost: Vec<usize> = (0..criteria.len()).filter(|place| !placed(*place)).collect();
        if !lost.is_empty() {
            let names: Vec<&str> = themes.iter().map(|(name, _)| name.as_str()).collect();
            let texts: Vec<&str> = criteria.iter().map(String::as_str).chain(names).collect();
            let vectors = embed.embed(&texts)?;
            let (vectors, names) = vectors.split_at(criteria.len().min(vectors.len()));
            let near = |place: usize, theme: &(String, Vec<usize>), name: Option<&Vec<f64>>| {
                let members = theme.1.iter().filter_map(|member| vectors.get(*member)).chain(name);
                let vector = vectors.get(place);
                members
                    .filter_map(|member| vector.map(|vector| cosine(vector, member)))
                    .fold(0.0, f64::max)
            };
            // Compared with the themes as they were answered: the order of the lost ones does not matter.
            let mut homes = Vec::with_capacity(lost.len());
            for place in &lost {
                let mut home = None;
                let mut nearest = NEAREST_MIN;
                for (index, theme) in themes.iter().enumerate() {
                    let close = near(*place, theme, names.get(index));
                    if close > nearest {
                        (home, nearest) = (Some(index), close);
                    }
                }
                homes.push((*place, home));
            }
            for (place, home) in homes {
                match home {
                    Some(home) => themes[home].1.push(place),
                    None if themes.len() > kept => themes[kept].1.push(place),
                    None => themes.push((OTHER.to_owned(), vec![place])),
                }
            }
        }
        let theme = |(name, places): (String, Vec<usize>)| Theme {
            name: Some(name),
            tips: places.into_iter().map(|place| criteria[place].clone()).collect(),
            weights: Vec::new(),
        };
        Ok(themes.into_iter().map(theme).collect())
    }
}

/// A criterion without what models change when they copy: case, spaces, the full stop.
pub(super) fn key(criterion: &str) -> String {
    let words: Vec<&str> = criterion.split_whitespace().collect();
    words.join(" ").trim_end_matches(['.', '。']).to_lowercase()
}
