//! What judging costs a GPU with Qwen2.5-VL-7B, counted on tensors without values. docs/gpu.md has the table.

use candle_core::DType;
use serde_json::json;

use super::Seen;
use super::config::{Config, VisionConfig, VisionKind};
use super::decoder::Decoder;
use super::head::Head;
use super::prefix::{Branch, SEGMENT_LEAST, segments, tree};
use super::preprocess::Grid;
use super::reader::{Reader, Work};
use super::source::Source;
use super::vision::{Features, WindowedTower};
use crate::LoadError;
use crate::layers::{Bias, Linear, RmsNorm};
use crate::ops::Kernels;
use crate::ops::candle::counted::{Counted, Record, by_name, cost};

/// Weights in bfloat16 that have no values.
struct Blank(Record);

impl Blank {
    fn weight(&self, shape: &[usize]) -> Counted {
        Counted::new(shape, DType::BF16, &self.0)
    }
}

impl Source for Blank {
    type Array = Counted;

    fn matrix(&self, _name: &str, shape: &[usize]) -> Result<Counted, LoadError> {
        Ok(self.weight(shape))
    }

    fn linear(&self, _name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear<Counted>, LoadError> {
        let bias = match bias {
            Bias::None => None,
            Bias::Added => Some(self.weight(&[outputs])),
        };
        Ok(Linear::by_candle(self.weight(&[outputs, inputs]), bias))
    }

    fn rms_norm(&self, _name: &str, width: usize, eps: f64) -> Result<RmsNorm<Counted>, LoadError> {
        Ok(RmsNorm::new(self.weight(&[width]), eps, Kernels::Candle))
    }

    fn patch_embedding(&self, name: &str, config: &VisionConfig, bias: Bias) -> Result<Linear<Counted>, LoadError> {
        self.linear(
            name,
            3 * config.patch_size * config.patch_size,
            config.hidden_size,
            bias,
        )
    }

    fn dtype(&self) -> DType {
        DType::BF16
    }

    fn place(&self) -> Record {
        self.0.clone()
    }

    fn kernels(&self) -> Kernels {
        Kernels::Candle
    }

    fn is_host(&self) -> bool {
        false
    }
}

/// The settings of Qwen2.5-VL-7B-Instruct.
fn config() -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let settings = json!({
        "model_type": "qwen2_5_vl", "image_token_id": 151_655, "vocab_size": 152_064, "hidden_size": 3584,
        "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e6,
        "rope_scaling": { "type": "mrope", "mrope_section": [16, 24, 24] },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": 3584, "hidden_act": "silu"
        }
    });
    std::fs::write(&file, settings.to_string()).unwrap();
    Config::read(&file).unwrap()
}

/// A picture of 512 x 512, which is shown as one of 504 x 504.
const GRID: Grid = Grid {
    height: 36,
    width: 36,
    merge: 2,
};
/// Tokens of the system's message with the rubric, of the prompt with the words around it, of the words between the pictures, and of the
/// question after them.
const RUBRIC: u32 = 300;
const PROMPT: u32 = 40;
const BETWEEN: u32 = 8;
const QUESTION: u32 = 60;

/// What a token is: the one that opens a message, the one for a picture, and words, which differ from prompt to prompt where `of` does.
const OPENING: u32 = 0;
const WORDS: u32 = 1000;

/// The question about two pictures for a prompt, in the order of configs/judge/instruct.toml.
fn question(prompt: u32, image_token: u32) -> Vec<u32> {
    let words = |count: u32, of: u32| (0..count).map(move |word| WORDS + 1000 * of + word);
    let mut tokens = vec![OPENING];
    tokens.extend(words(RUBRIC - 1, 0));
    tokens.push(OPENING);
    tokens.extend(words(PROMPT - 1, 1 + prompt));
    tokens.push(image_token);
    tokens.extend(words(BETWEEN, 0));
    tokens.push(image_token);
    tokens.extend(words(QUESTION - 1, 0));
    tokens.push(OPENING);
    tokens
}

/// What is judged: of each prompt all pairs of its candidates, in both orders.
#[derive(Debug, Clone, Copy)]
struct Asked {
    prompts: usize,
    candidates: usize,
}

/// What judging takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Judging {
    /// Tokens that go through the language model.
    tokens: usize,
    kernels: i64,
    /// Whole GB read and written.
    gigabytes: i64,
    /// How often something goes to the GPU, and how many MB.
    uploads: u64,
    uploaded: u64,
    /// The most MB of tensors beside the weights.
    memory: i64,
}

/// Judges by prompts that are cut where `least` tokens have gathered. Tells the kernels too.
fn judging(asked: Asked, least: usize) -> (Judging, String) {
    let (config, record) = (config(), Record::default());
    let source = Blank(record.clone());
    let VisionKind::Windowed(windows) = &config.vision.kind else {
        panic!("no windows");
    };
    let tower = WindowedTower::load(&source, "visual", &config.vision, windows).unwrap();
    let decoder = Decoder::load(&source, "model", &config.text).unwrap();
    let head = Head::Weights(source.weight(&[config.text.vocab_size, config.text.hidden_size]));
    let weights = record.live();
    record.take();
    record.take_most();
    let depth = 3 * config.vision.patch_size * config.vision.patch_size;
    let patches = vec![0.0; GRID.height * GRID.width * depth];
    let see = || Seen {
        features: Features {
            tokens: tower.forward(&patches, GRID, &record).unwrap(),
            deepstack: Vec::new(),
        },
        grid: GRID,
    };
    let seen: Vec<Seen<Counted>> = (0..asked.prompts * asked.candidates).map(|_| see()).collect();
    let mut prompts = Vec::new();
    for prompt in 0..asked.prompts {
        let tokens = question(prompt as u32, config.image_token_id);
        let own = prompt * asked.candidates..(prompt + 1) * asked.candidates;
        for first in own.clone() {
            for second in own.clone().filter(|second| *second != first) {
                let size = |picture: usize| seen[picture].grid.merged_tokens();
                let pictures = [first, second];
                prompts.push(segments(&tokens, &pictures, config.image_token_id, size, least));
            }
        }
    }
    let questions = prompts.len();
    let branches = tree(prompts);
    let reader = Reader {
        decoder: &decoder,
        head: &head,
        image_token: config.image_token_id,
        seen: &seen,
        work: Work::Alone,
    };
    let answers = reader.answers(&branches, None).unwrap();
    assert_eq!(answers.len(), questions);
    let kernels = record.take();
    let (uploads, uploaded) = record.take_uploads();
    let most = record.take_most();
    let cost = cost(&kernels);
    let judging = Judging {
        tokens: branches.iter().map(tokens).sum(),
        kernels: cost.kernels,
        gigabytes: (cost.bytes as f64 / 1e9).round() as i64,
        uploads,
        uploaded: (uploaded as f64 / 1e6).round() as u64,
        memory: ((most - weights) as f64 / 1e6).round() as i64,
    };
    (judging, by_name(&kernels))
}

/// Tokens of a branch and of all that go on from it, each once.
fn tokens(branch: &Branch) -> usize {
    let pictures = branch.segment.pictures.len();
    let own = branch.segment.tokens.len() + pictures * (GRID.merged_tokens() - 1);
    own + branch.next.iter().map(tokens).sum::<usize>()
}

/// What a change costs or saves is to be seen: whoever changes these changes docs/gpu.md too.
const PAIR: Judging = Judging {
    tokens: 1812,
    kernels: 6701,
    gigabytes: 135,
    uploads: 25,
    uploaded: 8,
    memory: 279,
};
const PAIR_WHOLE: Judging = Judging {
    tokens: 2112,
    kernels: 4178,
    gigabytes: 107,
    uploads: 18,
    uploaded: 8,
    memory: 241,
};
const EIGHT_PAIRS: Judging = Judging {
    tokens: 12_396,
    kernels: 49_023,
    gigabytes: 957,
    uploads: 179,
    uploaded: 62,
    memory: 320,
};
const EIGHT_PAIRS_WHOLE: Judging = Judging {
    tokens: 16_896,
    kernels: 33_424,
    gigabytes: 858,
    uploads: 144,
    uploaded: 64,
    memory: 282,
};
const FOUR_CANDIDATES: Judging = Judging {
    tokens: 6396,
    kernels: 19_747,
    gigabytes: 469,
    uploads: 71,
    uploaded: 17,
    memory: 290,
};
const FOUR_CANDIDATES_WHOLE: Judging = Judging {
    tokens: 12_672,
    kernels: 14_052,
    gigabytes: 547,
    uploads: 76,
    uploaded: 20,
    memory: 251,
};

#[test]
fn judging_with_qwen2_5_vl_7b_costs_what_the_documentation_tells() {
    let asked = [(1, 2), (8, 2), (1, 4)].map(|(prompts, candidates)| Asked { prompts, candidates });
    // Cut, and every question on its own, as if no two had anything in common.
    let counted = asked.map(|asked| [SEGMENT_LEAST, usize::MAX].map(|least| judging(asked, least)));
    let found = counted
        .each_ref()
        .map(|both| both.each_ref().map(|(judging, _)| *judging));
    let told = [
        [PAIR, PAIR_WHOLE],
        [EIGHT_PAIRS, EIGHT_PAIRS_WHOLE],
        [FOUR_CANDIDATES, FOUR_CANDIDATES_WHOLE],
    ];
    assert_eq!(found, told, "a pair takes\n{}", counted[0][0].1);
}
