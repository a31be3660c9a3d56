//! The code that GPUs run, on the CPU, and weights in 8 and 4 bits: the same bytes on any fleet, and sampler and trainer agree.

use std::path::Path;

use gavel_core::run::Run;

use crate::support::{ONE_OF_EACH, Shape, adapter_digest, finish, ledger_of, look_back, short_run};

/// A short run of a quickstart, all of whose models compute by the code that GPUs run.
fn run_by_the_code_of_gpus(quickstart: &str, dtype: &str, out: &Path, shape: Shape, more: &[&str]) -> Run {
    let mut command = short_run(quickstart, out, shape);
    let settings = [
        "run.steps=2",
        "prompts.per_step=3",
        "evaluation.prompts=2",
        "model.device=cpu:candle",
        "judge.device=cpu:candle",
    ];
    let dtypes = [format!("model.dtype={dtype}"), format!("judge.dtype={dtype}")];
    for setting in settings.iter().chain(more) {
        command.args(["--set", setting]);
    }
    for setting in &dtypes {
        command.args(["--set", setting]);
    }
    finish(command);
    ledger_of(quickstart, out)
}

/// How far the ratio of equal velocities is from 1: trajectories hold log-probabilities, which are about 1, in float32.
const STORED_RATIO: f64 = 2e-7;

/// Checks that two runs of two steps came to the same, and that in both of them sampler and trainer agree.
fn check_agreement(one: &Run, other: &Run, what: &str) {
    let (one, other) = (&one.results().steps, &other.results().steps);
    assert_eq!((one.len(), other.len()), (2, 2), "{what}");
    for (one, other) in one.iter().zip(other) {
        assert!(one.record.terms > 0, "{what}: nothing was trained");
        for record in [&one.record, &other.record] {
            let off = record.ratio_deviation;
            assert!(off <= STORED_RATIO, "{what}: sampler and trainer disagree by {off:e}");
        }
        assert!(
            one.groups == other.groups,
            "{what}: pictures or verdicts depend on fleet or batch"
        );
    }
}

/// What a GPU would run, on the CPU: denoiser, encoders, autoencoder and judge, in both families and both formats.
#[test]
fn the_code_of_gpus_finishes_runs_in_which_sampler_and_trainer_agree_whatever_the_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let many = Shape {
        samplers: 2,
        trainers: 2,
        threads: 2,
        ..ONE_OF_EACH
    };
    for (quickstart, dtype) in [
        ("quickstart", "f32"),
        ("quickstart", "bf16"),
        ("quickstart-edit", "f32"),
        ("quickstart-edit", "bf16"),
    ] {
        let named = |what: &str| folder.path().join(format!("{quickstart}-{dtype}-{what}"));
        let (together, single) = (named("together"), named("single"));
        let run = run_by_the_code_of_gpus(quickstart, dtype, &together, ONE_OF_EACH, &["sampling.batch=3"]);
        let other = [
            "sampling.batch=1",
            "judge.batch=1",
            "trainer.checkpoint_activations=true",
        ];
        let other = run_by_the_code_of_gpus(quickstart, dtype, &single, many, &other);
        let what = format!("{quickstart} in {dtype}");
        check_agreement(&run, &other, &what);
        assert_eq!(
            adapter_digest(&together),
            adapter_digest(&single),
            "{what}: the adapter"
        );
        let (code, text) = look_back(&["verify", "--step=2"], &together);
        assert_eq!(code, Some(0), "{what}: {text}");
    }
}

/// Frozen weights in 8 bits by the CPU's own kernels, and in 4 by the code that GPUs run, with text encoders beside it.
#[test]
fn runs_with_quantized_weights_have_the_same_bytes_on_any_fleet() {
    let folder = tempfile::tempdir().expect("a folder");
    let many = Shape {
        samplers: 2,
        trainers: 2,
        threads: 2,
        ..ONE_OF_EACH
    };
    for (device, quantization) in [("cpu", "fp8"), ("cpu:candle", "nf4")] {
        let named = |what: &str| folder.path().join(format!("{}-{what}", device.replace(':', "-")));
        let device = format!("model.device={device}");
        let quantization = format!("model.quantization={quantization}");
        let quantized = |what: &str, shape: Shape, batch: &str| {
            let text = "model.text_encoder_device=cpu";
            let more = [&device, "judge.device=cpu", text, &quantization, batch];
            run_by_the_code_of_gpus("quickstart", "bf16", &named(what), shape, &more)
        };
        let run = quantized("together", ONE_OF_EACH, "sampling.batch=3");
        let other = quantized("single", many, "sampling.batch=1");
        check_agreement(&run, &other, &device);
        let adapter = adapter_digest(&named("together"));
        assert_eq!(adapter, adapter_digest(&named("single")), "{device}: the adapter");
        let (code, text) = look_back(&["verify", "--step=2"], &named("together"));
        assert_eq!(code, Some(0), "{device}: {text}");

        let whole = [&device, "judge.device=cpu", "model.text_encoder_device=cpu"];
        run_by_the_code_of_gpus("quickstart", "bf16", &named("whole"), ONE_OF_EACH, &whole);
        assert_ne!(
            adapter,
            adapter_digest(&named("whole")),
            "{device}: nothing was quantized"
        );
    }
}
