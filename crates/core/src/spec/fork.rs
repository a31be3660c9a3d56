//! A run that goes on from a step of another one, under other settings.

use super::RunSpec;
use super::problems::Problems;

/// The section and key of a fork's own adapter.
const INIT: &str = "lora.init";

impl RunSpec {
    /// Checks whether a run of this spec can start from an adapter of a run of `origin`, with the contents of its files: everything may
    /// change but what the adapter belongs to, and what the files are.
    ///
    /// # Errors
    /// Names each key that would have to stay.
    pub fn check_fork(&self, origin: &Self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        let belongs = |key: &String| {
            key.starts_with("model.") || (key.starts_with("lora.") && !["lora.dropout", INIT].contains(&key.as_str()))
        };
        for key in origin.differences(self).iter().filter(|key| belongs(key)) {
            problems.require(false, key, || {
                "must stay as it is: the adapter was made under it".into()
            });
        }
        let (before, now) = (origin.paths(), self.paths());
        let keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
        for key in keys.filter(|key| *key != INIT && before.get(*key) != now.get(*key)) {
            problems.require(false, key, || {
                "must stay as it is: the files of a run come with it; for others export the adapter and submit a configuration with `lora.init`"
                    .into()
            });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::full;

    #[test]
    fn a_fork_may_change_everything_but_its_adapter_and_its_files() {
        let origin = full();
        let mut fork = origin.clone();
        fork.run.name = "fork".into();
        fork.run.steps += 7;
        fork.objective.kl_beta *= 2.0;
        fork.lora.init = Some("origin, step 3".into());
        fork.lora.dropout = 0.5;
        fork.check_fork(&origin).unwrap();

        fork.lora.rank += 1;
        fork.prompts.train = "others.txt".into();
        let problems = fork.check_fork(&origin).unwrap_err().to_string();
        assert!(problems.contains("lora.rank: must stay"), "{problems}");
        assert!(problems.contains("prompts.train: must stay"), "{problems}");
        assert_eq!(problems.lines().count(), 2, "{problems}");
    }
}
