//! Names of the code that FLUX was published with, which ComfyUI and kohya's scripts use: what is one layer there is several of diffusers'.

use std::collections::BTreeMap;

use crate::lora::AdaptableLayers;

/// A layer of the original code, and diffusers' layers that its rows are, in their order.
type Layer = (&'static str, &'static [&'static str]);

const DOUBLE_BLOCK: &[Layer] = &[
    ("img_attn.qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("img_attn.proj", &["attn.to_out.0"]),
    ("img_mlp.0", &["ff.net.0.proj"]),
    ("img_mlp.2", &["ff.net.2"]),
    (
        "txt_attn.qkv",
        &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    ),
    ("txt_attn.proj", &["attn.to_add_out"]),
    ("txt_mlp.0", &["ff_context.net.0.proj"]),
    ("txt_mlp.2", &["ff_context.net.2"]),
];
const SINGLE_BLOCK: &[Layer] = &[
    ("linear1", &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]),
    ("linear2", &["proj_out"]),
];
const OUTSIDE: &[Layer] = &[
    ("img_in", &["x_embedder"]),
    ("txt_in", &["context_embedder"]),
    ("final_layer.linear", &["proj_out"]),
];

/// The original code's names of these layers, each with the layers that its rows are.
///
/// # Source
/// diffusers 0.42, `_convert_kohya_flux_lora_to_diffusers`.
pub(super) fn names(layers: &AdaptableLayers) -> BTreeMap<String, Vec<String>> {
    let mut names = BTreeMap::new();
    let mut add = |original: String, front: &str, parts: &[&str]| -> bool {
        let paths: Vec<String> = parts.iter().map(|part| format!("{front}{part}")).collect();
        let known = paths.iter().all(|path| layers.layers.contains_key(path));
        if known {
            names.insert(original, paths);
        }
        known
    };
    for (name, parts) in OUTSIDE {
        add((*name).to_owned(), "", parts);
    }
    for (blocks, original, kinds) in [
        ("transformer_blocks", "double_blocks", DOUBLE_BLOCK),
        ("single_transformer_blocks", "single_blocks", SINGLE_BLOCK),
    ] {
        for block in 0.. {
            let mut any = false;
            for (name, parts) in kinds {
                any |= add(
                    format!("{original}.{block}.{name}"),
                    &format!("{blocks}.{block}."),
                    parts,
                );
            }
            if !any {
                break;
            }
        }
    }
    names
}
