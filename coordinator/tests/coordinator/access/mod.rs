//! Who gets in, and what each may do: encryption, certificates and tokens, by real servers and clients on loopback.

mod authority;
mod browser;
mod encryption;
mod exposure;
mod keys;
mod renewal;
mod tokens;
