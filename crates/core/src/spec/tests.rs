use std::path::{Path, PathBuf};

use toml::Table;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn config(name: &str) -> Table {
    std::fs::read_to_string(root().join("configs").join(name))
        .unwrap()
        .parse()
        .unwrap()
}

pub(super) fn quickstart() -> Table {
    config("quickstart.toml")
}

/// A valid spec in which every path is set that a judge of several kinds can have.
pub(super) fn full() -> RunSpec {
    let mut table = quickstart();
    let judge: Table = r#"
        family = "ensemble"
        template = "judge.toml"
        rubric = "rubric.toml"
        reasons = { template = "reason.toml" }
        writer = { template = "write.toml", nearest = 2, embedding = { path = "flux" }, family = "auto", path = "writer" }
        held_out = { path = "other-judge", template = "other.toml", rubric = "other-rubric.toml" }
        [[members]]
        path = "judge"
        template = "first.toml"
        [[members]]
        family = "openai"
        endpoint = "http://localhost/v1"
        model = "vlm"
        template = "second.toml"
    "#
    .parse()
    .unwrap();
    table.insert("judge".into(), judge.into());
    table["lora"]
        .as_table_mut()
        .unwrap()
        .insert("init".into(), "adapter".into());
    RunSpec::from_value(table).unwrap()
}

/// Layers `overlay` over the quickstart and returns the problems as text, one line each.
pub(super) fn problems(overlay: &str) -> Vec<String> {
    let mut table = quickstart();
    for (section, keys) in overlay.parse::<Table>().unwrap() {
        match (table.get_mut(&section).and_then(toml::Value::as_table_mut), keys) {
            (Some(known), toml::Value::Table(keys)) => known.extend(keys),
            (_, keys) => drop(table.insert(section, keys)),
        }
    }
    RunSpec::from_value(table).map_or_else(
        |problems| problems.0.iter().map(ToString::to_string).collect(),
        |_| vec![],
    )
}

#[test]
fn every_shipped_configuration_is_read() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        RunSpec::from_value(config(path.file_name().unwrap().to_str().unwrap()))
            .unwrap_or_else(|problems| panic!("{}: {problems}", path.display()));
    }
    assert!(seen >= 3);
}

#[test]
fn a_spec_survives_json() {
    let spec = RunSpec::from_value(quickstart()).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<RunSpec>(&text).unwrap(), spec);
}

#[test]
fn defaults_are_the_published_recipe() {
    let flux = RunSpec::from_value(config("flux-dev.toml")).unwrap();
    assert_eq!(flux.sampling, SamplingSpec::default());
    assert_eq!(flux.objective, ObjectiveSpec::default());
    assert_eq!(flux.optimizer, OptimizerSpec::default());
    assert_eq!(flux.lora, LoraSpec::default());
    assert_eq!(flux.checkpoints, CheckpointSpec::default());
    assert_eq!(flux.trained_steps(), (0..7).collect::<Vec<_>>());
}

#[test]
fn a_misspelt_key_is_refused_with_the_nearest_name() {
    assert_eq!(
        problems("[objective]\nclip_rnage = 0.2"),
        ["objective.clip_rnage: unknown key; did you mean `objective.clip_range`?"]
    );
    assert_eq!(
        problems("[objektive]\nkl_beta = 0.0"),
        ["objektive: unknown section; did you mean `objective`?"]
    );
    assert_eq!(
        problems("eta = 0.3"),
        ["eta: unknown section; did you mean `sampling.eta`?"]
    );
    assert_eq!(problems("[run]\nxyzzy = 1"), ["run.xyzzy: unknown key"]);
}

#[test]
fn values_of_a_wrong_type_are_all_named_by_path() {
    let found = problems(
        "[run]\nsteps = \"many\"\n[sampling]\neta = true\nwidth = -64\nsde = \"dans\"\n[lora]\ntarget_modules = [\"a\", 3]\n\
         [fleet]\nlease = \"soon\"\n[model]\ndevice = \"gpu\"\n[coordinator]\ngrpc = 80",
    );
    let keys: Vec<&str> = found.iter().map(|line| line.split_once(": ").unwrap().0).collect();
    for key in [
        "run.steps",
        "sampling.eta",
        "sampling.width",
        "sampling.sde",
        "lora.target_modules[1]",
        "fleet.lease",
        "model.device",
        "coordinator.grpc",
    ] {
        assert!(keys.contains(&key), "{key} is not in {found:#?}");
    }
    assert_eq!(found.len(), 8, "{found:#?}");
    assert!(found.iter().any(|line| line.contains("`dance`")), "{found:#?}");
    assert!(problems("run = 3")[0].starts_with("run: must be a table"));
}

#[test]
fn values_out_of_range_are_all_told_together() {
    for (overlay, key) in [
        ("[run]\nname = \"\"", "run.name"),
        ("[run]\nname = \"../up\"", "run.name"),
        ("[run]\nsteps = 10_000_001", "run.steps"),
        ("[model]\npath = \"\"", "model.path"),
        ("[model]\nfamily = \"FLUX.1\"", "model.family"),
        ("[model]\ndtype = \"f16\"", "model.dtype"),
        ("[model]\ntext_encoder_device = \"cuda:1\"", "model.text_encoder_device"),
        ("[prompts]\nper_step = 0", "prompts.per_step"),
        ("[prompts]\ntrain = \"\"", "prompts.train"),
        ("[sampling]\neta = nan", "sampling.eta"),
        ("[sampling]\nshift = inf", "sampling.shift"),
        ("[sampling]\nnoise_steps = 9", "sampling.noise_steps"),
        ("[sampling]\nwidth = 65", "sampling.width"),
        ("[sampling]\nheight = 0", "sampling.height"),
        ("[sampling]\nguidance_scale = nan", "sampling.guidance_scale"),
        ("[lora]\nrank = 0", "lora.rank"),
        ("[lora]\nalpha = nan", "lora.alpha"),
        ("[lora]\ndropout = 0.1", "lora.dropout"),
        ("[lora]\ntarget_modules = []", "lora.target_modules"),
        ("[objective]\nclip_range = 1.0", "objective.clip_range"),
        ("[objective]\nclip_range = nan", "objective.clip_range"),
        ("[objective]\nkl_beta = -1", "objective.kl_beta"),
        ("[objective]\nreward_preferred = -2", "objective.reward_preferred"),
        ("[objective]\nadvantage_clip = 0", "objective.advantage_clip"),
        ("[optimizer]\nlearning_rate = nan", "optimizer.learning_rate"),
        ("[optimizer]\nbeta1 = 1.0", "optimizer.beta1"),
        ("[optimizer]\nema_decay = -0.1", "optimizer.ema_decay"),
        ("[judge]\nmargin = 0.5", "judge.margin"),
        ("[judge]\nbatch = 0", "judge.batch"),
        ("[judge]\nrubric = \"\"", "judge.rubric"),
        ("[trainer]\nshard = 0", "trainer.shard"),
        ("[evaluation]\nbatch = 0", "evaluation.batch"),
        ("[trainer]\nexchange = \"nccl\"", "trainer.exchange"),
        ("[evaluation]\nprompts = 0", "evaluation.prompts"),
        ("[limits]\nattempts = 0", "limits.attempts"),
        ("[limits]\nratio_deviation = 0", "limits.ratio_deviation"),
        ("[fleet]\nlease = \"6s\"", "fleet.lease"),
        ("[fleet]\nheartbeat = \"0s\"", "fleet.heartbeat"),
    ] {
        let found = problems(overlay);
        assert_eq!(found.len(), 1, "{overlay}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{overlay}: {found:?}");
    }
    let together = problems("[run]\nsteps = 10_000_001\n[sampling]\neta = 0\n[lora]\nrnak = 4");
    assert_eq!(together.len(), 3, "{together:?}");
}

#[test]
fn an_empty_configuration_names_what_must_be_set() {
    let problems = RunSpec::from_value(Table::new()).unwrap_err();
    let keys: Vec<&str> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "run.name",
            "model.path",
            "prompts.train",
            "judge.path",
            "judge.template",
            "judge.rubric"
        ]
    );
}

#[test]
fn evaluation_needs_held_out_prompts() {
    let mut table = quickstart();
    table["prompts"].as_table_mut().unwrap().remove("held_out");
    let problems = RunSpec::from_value(table.clone()).unwrap_err();
    assert_eq!(problems.0[0].key, "prompts.held_out");
    table.remove("evaluation");
    assert!(RunSpec::from_value(table).unwrap().evaluation.is_none());
}

#[test]
fn noise_reaches_every_trained_step_unless_told_otherwise() {
    let mut table = quickstart();
    table["sampling"].as_table_mut().unwrap().remove("noise_steps");
    table["sampling"]["steps"] = 10.into();
    assert_eq!(
        RunSpec::from_value(table.clone()).unwrap().trained_steps(),
        (0..9).collect::<Vec<_>>()
    );
    table["objective"]["ignore_last"] = false.into();
    assert_eq!(
        RunSpec::from_value(table).unwrap().trained_steps(),
        (0..10).collect::<Vec<_>>()
    );
}

/// A row of a table in docs/configuration.md.
pub(in crate::spec) struct Row {
    pub(in crate::spec) section: String,
    pub(in crate::spec) key: String,
    pub(in crate::spec) kind: String,
    pub(in crate::spec) default: String,
}

pub(in crate::spec) fn documented() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut rows = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## `[") {
            section = heading.split(']').next().unwrap();
        }
        let Some(row) = line.strip_prefix("| `") else { continue };
        let cells: Vec<&str> = row.split(" | ").collect();
        rows.push(Row {
            section: section.to_owned(),
            key: cells[0].trim_end_matches('`').to_owned(),
            kind: cells[1].to_owned(),
            default: cells[2].to_owned(),
        });
    }
    rows
}

#[test]
fn every_key_is_documented() {
    let key = |row: Row| (row.section, row.key);
    let (nested, rows): (Vec<_>, Vec<_>) = documented().into_iter().partition(|row| row.section.contains('.'));
    let nested: Vec<_> = nested.into_iter().map(key).collect();
    let rows: Vec<_> = rows.into_iter().map(key).collect();
    let owned = |(section, key): (&str, &str)| (section.to_owned(), key.to_owned());
    let reasons = super::keys::of(|probe| ReasonsSpec::deserialize(probe)).into_iter();
    let writer = super::judge::writer_keys().into_iter();
    let embedding = super::judge::embedding_keys().into_iter();
    let held_out = std::iter::once(owned(("judge.held_out", "share")));
    assert_eq!(
        nested,
        reasons
            .map(|key| owned(("judge.reasons", key)))
            .chain(writer.map(|key| owned(("judge.writer", key))))
            .chain(embedding.map(|key| owned(("judge.writer.embedding", key))))
            .chain(held_out)
            .collect::<Vec<_>>()
    );
    assert_eq!(
        rows,
        RunSpec::keys().map(owned).collect::<Vec<_>>(),
        "docs/configuration.md has one table row for each key, in the order of the structs"
    );
}

#[test]
fn documented_defaults_are_the_defaults() {
    let mut spec = Table::try_from(RunSpec {
        evaluation: Some(EvaluationSpec::default()),
        ..RunSpec::default()
    })
    .unwrap();
    let mut judge = super::judge::defaults();
    judge.insert("reasons".into(), toml::Value::try_from(ReasonsSpec::default()).unwrap());
    let mut writer = Table::try_from(WriterSpec::default()).unwrap();
    let mut embedding = Table::try_from(EmbeddingServerSpec::default()).unwrap();
    embedding.extend(Table::try_from(TextEncoderSpec::default()).unwrap());
    writer.insert("embedding".into(), embedding.into());
    judge.insert("writer".into(), writer.into());
    judge.insert(
        "held_out".into(),
        toml::Value::try_from(HeldOutJudgeSpec::default()).unwrap(),
    );
    spec.insert("judge".into(), judge.into());
    let mut checked = 0;
    for Row {
        section, key, default, ..
    } in documented()
    {
        let Some(default) = default.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')) else {
            continue;
        };
        let default = format!("v = {default}").parse::<Table>().unwrap()["v"].clone();
        let mut parts = section.split('.');
        let first = &spec[parts.next().unwrap()];
        let table = parts.fold(first, |table, part| &table[part]);
        // A key that is not written while it says nothing is off.
        let found = table.get(&key).cloned().unwrap_or(toml::Value::Boolean(false));
        assert_eq!(found, default, "{section}.{key}");
        checked += 1;
    }
    assert!(checked > 40, "only {checked} defaults were found");
}

#[test]
fn probes_and_rules_that_come_to_nothing_or_to_too_much_are_refused() {
    let keys = |more: &str| -> Vec<String> {
        let mut table = quickstart();
        for (section, values) in more.parse::<Table>().unwrap() {
            let section = table.entry(section).or_insert_with(|| Table::new().into());
            section
                .as_table_mut()
                .unwrap()
                .extend(values.as_table().unwrap().clone());
        }
        let problems = RunSpec::from_value(table).err().unwrap_or_default();
        problems.0.into_iter().map(|problem| problem.key).collect()
    };
    for (more, key) in [
        (
            "evaluation.every = 10\nstop = { patience = 3, kl_max = 0.5, decided_min = 0.1, diversity_min = 0.01 }",
            None,
        ),
        ("evaluation.every = 0", Some("evaluation.every")),
        ("evaluation.subset = 8", Some("evaluation.subset")),
        ("stop.patience = 3", Some("stop.patience")),
        (
            "evaluation.every = 1\nevaluation.subset = 4_000_000_000",
            Some("evaluation.every"),
        ),
        ("stop.kl_max = 0.0", Some("stop.kl_max")),
        ("stop.decided_min = 1.5", Some("stop.decided_min")),
        ("stop.diversity_min = -0.1", Some("stop.diversity_min")),
        ("stop.agreement_min = 0.6", Some("stop.agreement_min")),
        (
            "stop = { agreement_min = 0.6, agreement_steps = 4 }\njudge.held_out = { path = \"m\", template = \"t\", rubric = \"r\" }",
            None,
        ),
        ("stop.agreement_steps = 4", Some("stop.agreement_steps")),
    ] {
        assert_eq!(
            keys(more),
            key.map(str::to_owned).into_iter().collect::<Vec<_>>(),
            "{more}"
        );
    }
}
