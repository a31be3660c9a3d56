//! How trainers name the tensors of an adapter: the one table that reading and writing share.

/// peft: the settings stand in a file beside the weights.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";
/// diffusers' pipelines.
pub(super) const DIFFUSERS_PREFIX: &str = "transformer.";
/// ai-toolkit, ComfyUI.
pub(super) const COMFY_PREFIX: &str = "diffusion_model.";
/// kohya's sd-scripts and musubi-tuner, which write each dot of a path as `_`; ComfyUI reads them too.
const KOHYA_PREFIX: &str = "lora_unet_";

/// How the names of factor A and of factor B end.
pub(super) type FactorEnds = (&'static str, &'static str);

/// The form whose alpha stands in peft's `adapter_config.json` alone.
pub(super) const PEFT_ENDS: FactorEnds = (".lora_A.weight", ".lora_B.weight");
pub(super) const KOHYA_ENDS: FactorEnds = (".lora_down.weight", ".lora_up.weight");
/// Every form.
const FACTOR_ENDS: [FactorEnds; 4] = [
    PEFT_ENDS,
    (".lora_A.default.weight", ".lora_B.default.weight"),
    KOHYA_ENDS,
    (".lora.down.weight", ".lora.up.weight"),
];
pub(super) const ALPHA_END: &str = ".alpha";

/// Header key under which diffusers looks for the settings.
pub(super) const DIFFUSERS_METADATA: &str = "lora_adapter_metadata";
/// Header key under which kohya's scripts note the rank that was asked for.
pub(super) const KOHYA_RANK: &str = "ss_network_dim";

/// What a tensor of an adapter is for its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    A,
    B,
    Alpha,
}

/// The path in front of a name's end, and what the end says.
pub(super) fn split(name: &str) -> Option<(&str, Part)> {
    if let Some(path) = name.strip_suffix(ALPHA_END) {
        return Some((path, Part::Alpha));
    }
    FACTOR_ENDS.iter().find_map(|(a, b)| {
        let a = name.strip_suffix(a).map(|path| (path, Part::A));
        a.or_else(|| name.strip_suffix(b).map(|path| (path, Part::B)))
    })
}

/// A layer's path as kohya's scripts write it.
pub(super) fn kohya(layer: &str) -> String {
    format!("{KOHYA_PREFIX}{}", layer.replace('.', "_"))
}

/// Whether a path is written so.
pub(super) fn is_kohya(path: &str) -> bool {
    path.starts_with(KOHYA_PREFIX)
}

/// A layer's path without the prefix of its trainer, if it has one of those that keep the dots.
pub(super) fn bare(path: &str) -> &str {
    let prefixes = [DIFFUSERS_PREFIX, COMFY_PREFIX, PEFT_PREFIX];
    prefixes
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix))
        .unwrap_or(path)
}
