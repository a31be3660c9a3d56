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
        let tips = theme.tips.iter();
        let new = tips.filter(|tip| set.criteria().all(|own| own != tip.trim()));
        let new: Vec<String> = new.cloned().collect();
        match set.themes.iter_mut().find(|own| own.heading() == theme.heading()) {
            Some(own) => own.tips.extend(new),
            None if new.is_empty() => {}
            None => set.themes.push(Theme {
                name: theme.name.clone(),
                tips: new,
            }),
        }
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
}
