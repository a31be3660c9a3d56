//! lora.
