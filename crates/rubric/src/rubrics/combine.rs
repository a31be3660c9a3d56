//! How a prompt's own criteria and the general ones come together.

use gavel_core::spec::Combine;

use crate::{RubricSet, Theme};

/// The set that decides about a prompt with these themes of its own.
pub(crate) fn combine(rule: Combine, own: Vec<Theme>, general: &RubricSet) -> RubricSet {
    if rule == Combine::Specific {
        return RubricSet::of_themes(own);
    }
    let mut set = RubricSet::of_themes(own);
    for theme in &general.themes {
        let is_new = |(tip, _): &(&str, f64)| set.criteria().all(|own| own != *tip);
        let new: Vec<(&str, f64)> = theme.weighted().filter(is_new).collect();
        if new.is_empty() {
            continue;
        }
        let index = set.themes.iter().position(|own| own.heading() == theme.heading());
        let index = index.unwrap_or_else(|| {
            set.themes.push(Theme {
                name: theme.name.clone(),
                ..Theme::default()
            });
            set.themes.len() - 1
        });
        set.themes[index].extend(new.into_iter(), !theme.weights.is_empty());
    }
    set.themes.sort_by_key(|theme| theme.name.is_some());
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompts_own_criteria_come_first_and_none_stands_twice() {
        let general =
            RubricSet::from_text("- Sharp.\n\nFulfilment\n- As asked.\n- Nothing else.\n\nBlend\n- No seams.").unwrap();
        let own =
            RubricSet::from_text("Fulfilment\n- The cube is blue.\n- As asked.\n\nPreservation\n- The table stays.")
                .unwrap();
        let alone = combine(Combine::Specific, own.themes.clone(), &general);
        assert_eq!(alone.text(), own.text());
        let both = combine(Combine::SpecificThenGeneral, own.themes, &general);
        assert_eq!(
            both.text(),
            "- Sharp.\n\nFulfilment\n- The cube is blue.\n- As asked.\n- Nothing else.\n\nPreservation\n- The table stays.\n\n\
             Blend\n- No seams.\n"
        );
        // What the judge reads is read back as the same set.
        assert_eq!(RubricSet::from_text(&both.text()).unwrap().themes, both.themes);
    }

    #[test]
    fn weights_stay_with_their_criteria_and_what_has_none_counts_one() {
        let general = RubricSet::from_text(
            "Fulfilment\n- [weight 0.5] As asked.\n- [weight 0] Nothing else.\n\nBlend\n- No seams.",
        )
        .unwrap();
        let own = RubricSet::from_text("Fulfilment\n- The cube is blue.\n- As asked.").unwrap();
        let both = combine(Combine::SpecificThenGeneral, own.themes, &general);
        assert_eq!(
            both.text(),
            "Fulfilment\n- [weight 1] The cube is blue.\n- [weight 1] As asked.\n- [weight 0] Nothing else.\n\nBlend\n- No seams.\n"
        );
        assert_eq!(RubricSet::from_text(&both.text()).unwrap().themes, both.themes);
    }
}
