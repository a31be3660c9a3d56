//! The models by their values, held to the golden files, and what they say of broken folders.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken_folders;
mod broken_qwen_folders;
mod conversations;
mod golden;
mod golden_clip;
mod golden_dinov2;
mod golden_encoders;
mod golden_judge;
mod golden_qwen_pipeline;
mod golden_qwen_transformer;
mod golden_qwen_vae;
mod golden_transformer;
mod kernels;
mod lora_export;
mod lora_files;
mod lora_import;
mod text_encoder_device;
mod vlm_generation;
