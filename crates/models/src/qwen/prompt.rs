//! The words around a prompt that the text encoder reads.
//!
//! The weights were trained on exactly these bytes, so they are part of the model as its tensors are.

use super::folder::Kind;

/// What stands before the words of a prompt.
const TEXT_TO_IMAGE: &str = "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships \
                             of the objects and background:";
/// What stands before the pictures and the words of an edit.
const EDIT: &str = "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain \
                    how the user's text instruction should alter or modify the image. Generate a new image that meets the user's \
                    requirements while maintaining consistency with the original input where appropriate.";

/// Where the encoder reads a picture.
const PICTURE: &str = "<|vision_start|><|image_pad|><|vision_end|>";

/// The whole text of a task with so many source pictures.
///
/// # Source
/// diffusers 0.42, `prompt_template_encode` of the three pipelines.
pub(super) fn text(kind: Kind, words: &str, pictures: usize) -> String {
    let system = match kind {
        Kind::TextToImage => TEXT_TO_IMAGE,
        Kind::Edit | Kind::EditPlus => EDIT,
    };
    let shown: String = match kind {
        Kind::TextToImage => String::new(),
        Kind::Edit => PICTURE.repeat(pictures),
        Kind::EditPlus => (1..=pictures)
            .map(|number| format!("Picture {number}: {PICTURE}"))
            .collect(),
    };
    format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{shown}{words}<|im_end|>\n<|im_start|>assistant\n"
    )
}

/// Tokens before the user's turn, whose states the denoiser does not read.
///
/// # Source
/// diffusers 0.42, `prompt_template_encode_start_idx`.
pub(super) fn prefix_tokens(kind: Kind) -> usize {
    match kind {
        Kind::TextToImage => 34,
        Kind::Edit | Kind::EditPlus => 64,
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::Digest;

    use super::*;

    /// The sums are of diffusers' templates.
    #[test]
    fn the_templates_are_those_that_the_weights_were_trained_on() {
        for (kind, pictures, bytes, sum) in [
            (
                Kind::TextToImage,
                0,
                215,
                "0194d360a674d2f127a8b5f2ad08f0692a2baab34d2b378d183aeb84087e91cc",
            ),
            (
                Kind::Edit,
                1,
                429,
                "846b0a7896f4ed820b88206dd2f23dbad7d2f1f2327589ab63be5ccc01c6f3a0",
            ),
            (
                Kind::EditPlus,
                0,
                386,
                "d5d65822319c122831aa17afe5322570a88232ba8475cd5cd0b9822f56d83857",
            ),
        ] {
            let template = text(kind, "{}", pictures);
            assert_eq!(
                (template.len(), Digest::of(template.as_bytes()).to_string()),
                (bytes, sum.to_owned())
            );
        }
        let two = text(Kind::EditPlus, "swap them", 2);
        assert!(
            two.contains(&format!(
                "user\nPicture 1: {PICTURE}Picture 2: {PICTURE}swap them<|im_end|>"
            )),
            "{two}"
        );
    }
}
