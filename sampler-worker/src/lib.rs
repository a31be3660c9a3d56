//! A fleet's sampler: leases, blobs and adapters around [`gavel_policy::Sampler`].

#![forbid(unsafe_code)]

mod work;

pub use work::SamplerWork;
