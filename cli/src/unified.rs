//! One build for `cargo run` and `cargo test`.
//!
//! A crate with other features is compiled anew, and so is all that is built upon it. Dependencies of the tests and of the cloud
//! stores switch features of these five on, below everything else of ours: switched on here too, they leave the models, the core
//! and the gRPC stack as the first build has made them.

use digest as _;
use getrandom as _;
use idna as _;
use num_complex as _;
use ring as _;
