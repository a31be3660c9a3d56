//! Text that the vision-language models write: against transformers, sampled, and kept to a JSON Schema.
//!
//! `tests/golden/vlm.py` writes the expected tokens.

use std::fs;

use candle_core::{DType, Device};
use gavel_models::vlm::{Content, Conversation, Generation, Message, Vlm};
use serde_json::{Value, json};

use crate::conversations::Case;
use crate::kernels::{Kernels, root};

/// The cases with expected answers: folder of the model, folder of the answers.
const WRITTEN: [(&str, &str); 2] = [
    ("judge/judge-untied-sharded", "vlm/judge-untied-sharded"),
    ("vlm/qwen3-two-levels", "vlm/qwen3-two-levels"),
];

fn sampled(seed: u64) -> Generation<'static> {
    Generation {
        max_tokens: 20,
        temperature: 1.0,
        seed,
        ..Generation::default()
    }
}

/// A case whose model ends its answers with `<|im_end|>`.
fn with_end(name: &str) -> Case {
    let dir = root().join("tests/golden").join(name);
    let folder = copy(&dir);
    let file = folder.path().join("generation_config.json");
    fs::write(file, json!({ "eos_token_id": 459 }).to_string()).unwrap();
    Case::of(&dir, folder.path(), Kernels::Fused)
}

/// A copy of a folder's files.
fn copy(folder: &std::path::Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Both architectures.
fn models() -> [Case; 2] {
    WRITTEN.map(|(model, _)| Case::load(model, Kernels::Fused))
}

#[test]
fn greedy_answers_are_those_of_transformers() {
    for kernels in Kernels::ALL
        .into_iter()
        .filter(|kernels| *kernels != Kernels::CandleBf16)
    {
        for (model, answers) in WRITTEN {
            let case = Case::load(model, kernels);
            let file = root().join("tests/golden").join(answers).join("expected.safetensors");
            let answers = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
            for (i, conversation) in case.batch().iter().enumerate() {
                let expected: Vec<u32> = answers[&format!("written.{i}")]
                    .to_dtype(DType::U32)
                    .unwrap()
                    .to_vec1()
                    .unwrap();
                assert!(expected.len() >= 16);
                let generation = Generation {
                    max_tokens: expected.len(),
                    ..Generation::default()
                };
                let generated = case.model.generate(conversation, &generation).unwrap();
                assert_eq!(generated.tokens, expected, "{model} {i} by {kernels:?}");
                assert!(!generated.complete, "{model} {i} by {kernels:?}");
                assert_eq!(generated.completion_tokens, expected.len());
                assert_eq!(generated.prompt_tokens, case.expected[&format!("ids.{i}")].elem_count());
            }
        }
    }
}

/// bfloat16 may choose another of two words that are nearly as likely; but the cache is that of the whole prompt.
#[test]
fn greedy_answers_in_half_precision_go_on_as_the_whole_prompt_does() {
    for (model, _) in WRITTEN {
        let case = Case::load(model, Kernels::CandleBf16);
        let batch = case.batch();
        let logits = case.model.next_token_logits_batch(&batch).unwrap();
        let exact = Case::load(model, Kernels::Fused);
        let exact = exact.model.next_token_logits_batch(&batch).unwrap();
        for ((conversation, logits), exact) in batch.iter().zip(logits).zip(exact) {
            let largest = exact.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let errors = logits.iter().zip(&exact).map(|(a, b)| f64::from((a - b).abs()));
            let tolerance = Kernels::CandleBf16.tolerance() * f64::from(largest);
            assert!(errors.fold(0.0, f64::max) <= tolerance, "{model}");
            let generation = Generation {
                max_tokens: 8,
                ..Generation::default()
            };
            let generated = case.model.generate(conversation, &generation).unwrap();
            let first = generated.tokens[0] as usize;
            assert!(logits.iter().all(|logit| *logit <= logits[first]), "{model}");
            assert_eq!(generated, case.model.generate(conversation, &generation).unwrap());
        }
    }
}

#[test]
fn an_end_token_of_either_file_ends_the_answer() {
    let (name, answers) = WRITTEN[1];
    let file = root().join("tests/golden").join(answers).join("expected.safetensors");
    let written: Vec<u32> = candle_core::safetensors::load(file, &Device::Cpu).unwrap()["written.0"]
        .to_dtype(DType::U32)
        .unwrap()
        .to_vec1()
        .unwrap();
    let case = Case::load(name, Kernels::Fused);
    for (file, ends) in [
        ("config.json", vec![written[9]]),
        ("generation_config.json", vec![written[9], written[5]]),
    ] {
        let cut = written.iter().position(|token| ends.contains(token)).unwrap();
        let folder = copy(&root().join("tests/golden").join(name));
        let file = folder.path().join(file);
        let mut settings: Value = fs::read(&file).map_or(json!({}), |text| serde_json::from_slice(&text).unwrap());
        settings["eos_token_id"] = json!(ends);
        fs::write(file, settings.to_string()).unwrap();
        let model = Vlm::load(folder.path(), &Kernels::Fused.placement()).unwrap();
        let generated = model.generate(&case.batch()[0], &Generation::default()).unwrap();
        assert_eq!(generated.tokens, written[..cut]);
        assert!(generated.complete);
        assert_eq!(generated.completion_tokens, cut + 1);
    }
}

#[test]
fn a_seed_decides_what_is_sampled() {
    for case in models() {
        let conversation = &case.batch()[0];
        let text = |seed| case.model.generate(conversation, &sampled(seed)).unwrap();
        let texts: Vec<_> = (0..4).map(text).collect();
        assert_eq!(texts, (0..4).map(text).collect::<Vec<_>>());
        assert!(texts.windows(2).all(|pair| pair[0].tokens != pair[1].tokens));
    }
}

#[test]
fn sampling_near_temperature_zero_and_in_a_tiny_nucleus_is_greedy() {
    for case in models() {
        for conversation in case.batch() {
            let text = |generation: &Generation| case.model.generate(&conversation, generation).unwrap().tokens;
            let greedy = text(&Generation {
                temperature: 0.0,
                ..sampled(0)
            });
            for seed in 0..3 {
                let cold = Generation {
                    temperature: 1e-7,
                    ..sampled(seed)
                };
                assert_eq!(text(&cold), greedy);
                let narrow = Generation {
                    top_p: 1e-9,
                    ..sampled(seed)
                };
                assert_eq!(text(&narrow), greedy);
            }
        }
    }
}

#[test]
fn an_answer_does_not_depend_on_the_number_of_threads() {
    for case in models() {
        for conversation in case.batch() {
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| case.model.generate(&conversation, &sampled(5)).unwrap())
            };
            assert_eq!(with(1), with(3));
        }
    }
}

/// A schema with everything that the project's own schemas use.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "winner": { "type": "integer", "minimum": 1, "maximum": 12 },
            "certain": { "type": "boolean" },
            "kind": { "type": "string", "enum": ["colour", "shape", "place \"left\""] },
            "criteria": {
                "type": "array", "minItems": 2, "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {
                        "text": { "type": "string", "maxLength": 12 },
                        "weight": { "type": "integer", "minimum": -3, "maximum": 40 },
                    },
                    "required": ["text"],
                },
            },
        },
        "required": ["winner", "certain", "kind", "criteria"],
    })
}

fn assert_conforms(text: &str) {
    let document: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&document), ["winner", "certain", "kind", "criteria"], "{text}");
    assert!((1..=12).contains(&document["winner"].as_i64().unwrap()), "{text}");
    assert!(document["certain"].is_boolean(), "{text}");
    let kind = document["kind"].as_str().unwrap();
    assert!(["colour", "shape", "place \"left\""].contains(&kind), "{text}");
    let criteria = document["criteria"].as_array().unwrap();
    assert!((2..=3).contains(&criteria.len()), "{text}");
    for criterion in criteria {
        assert!(criterion["text"].as_str().unwrap().chars().count() <= 12, "{text}");
        match keys(criterion).len() {
            1 => {}
            2 => assert!((-3..=40).contains(&criterion["weight"].as_i64().unwrap()), "{text}"),
            _ => panic!("{text}"),
        }
    }
}

#[test]
fn a_random_model_writes_documents_of_the_schema_and_nothing_else() {
    let schema = schema();
    for (name, _) in WRITTEN {
        let case = with_end(name);
        let conversation = &case.batch()[0];
        for seed in 0..8 {
            let generation = Generation {
                max_tokens: 400,
                temperature: if seed == 0 { 0.0 } else { 1.5 },
                seed,
                schema: Some(&schema),
                ..Generation::default()
            };
            let generated = case.model.generate(conversation, &generation).unwrap();
            assert!(generated.complete, "{}", generated.text);
            assert_conforms(&generated.text);
            let free = Generation {
                schema: None,
                ..generation
            };
            let text = case.model.generate(conversation, &free).unwrap().text;
            assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
        }
    }
}

#[test]
fn integers_are_written_so_that_they_are_read_as_integers() {
    let case = with_end(WRITTEN[1].0);
    let schema = json!({ "type": "array", "items": { "type": "integer", "minimum": -1, "maximum": 1 }, "minItems": 40, "maxItems": 40 });
    let generation = Generation {
        schema: Some(&schema),
        max_tokens: 200,
        ..sampled(0)
    };
    let generated = case.model.generate(&case.batch()[0], &generation).unwrap();
    let numbers: Vec<i64> = serde_json::from_str(&generated.text).unwrap();
    assert!([-1, 0, 1].iter().all(|number| numbers.contains(number)), "{numbers:?}");
}

#[test]
fn a_document_that_is_cut_is_not_called_complete() {
    let case = with_end(WRITTEN[1].0);
    let schema = schema();
    let generation = Generation {
        max_tokens: 9,
        schema: Some(&schema),
        ..Generation::default()
    };
    let generated = case.model.generate(&case.batch()[0], &generation).unwrap();
    assert!(!generated.complete);
    assert_eq!(generated.completion_tokens, 9);
    assert!(generated.text.starts_with('{'), "{}", generated.text);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let case = with_end("judge/judge-untied-sharded");
    let messages = [Message::user(vec![Content::text("Which?")])];
    let conversation = Conversation {
        messages: &messages,
        images: Vec::new(),
    };
    let (list, number) = (json!([]), json!({ "type": "integer", "minimum": 3, "maximum": 2 }));
    for (generation, part) in [
        (
            Generation {
                max_tokens: 0,
                ..Generation::default()
            },
            "`max_tokens`",
        ),
        (
            Generation {
                temperature: -1.0,
                ..Generation::default()
            },
            "`temperature`",
        ),
        (
            Generation {
                top_p: 0.0,
                ..Generation::default()
            },
            "`top_p`",
        ),
        (
            Generation {
                schema: Some(&list),
                ..Generation::default()
            },
            "`schema`",
        ),
        (
            Generation {
                schema: Some(&number),
                ..Generation::default()
            },
            "`schema`",
        ),
    ] {
        let error = case.model.generate(&conversation, &generation).unwrap_err().to_string();
        assert!(error.starts_with(part), "{error}");
    }
}
