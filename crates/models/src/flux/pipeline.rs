//! The FLUX pipeline folder: text encoders, transformer, VAE.
