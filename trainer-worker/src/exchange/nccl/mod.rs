//! Exchange by NCCL: from GPU to GPU, over NVLink, InfiniBand or Ethernet, whatever the machines have.
//!
//! Communicators are non-blocking: no call waits in the library, so that a member that dies in the middle is noticed (by
//! NCCL, by the coordinator, or by the bound) and the communicator aborted.

#![expect(unsafe_code, reason = "calls into NCCL; each says why it is sound")]

mod communicator;

use std::ffi::{CStr, c_char};

use cudarc::driver::{CudaContext, DriverError};
use cudarc::nccl::result::{self, NcclError};
use cudarc::nccl::safe::Id;
use cudarc::nccl::sys;
use gavel_core::spec::Device;

use self::communicator::NcclCommunicator;
use super::{Communicator, Exchange, ExchangeError, Seat, Watch};

/// Length of NCCL's unique id.
const ID_BYTES: usize = 128;

pub(super) struct Nccl;

impl Exchange for Nccl {
    fn check(&self) -> Result<String, ExchangeError> {
        libraries()?;
        let version = result::get_nccl_version().map_err(|error| failed("ncclGetVersion", &error))?;
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        Ok(format!("NCCL {major}.{minor}.{patch}"))
    }

    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError> {
        libraries()?;
        let id = Id::new().map_err(|error| failed("ncclGetUniqueId", &error))?;
        Ok(id.internal().iter().map(|byte| byte.cast_unsigned()).collect())
    }

    fn meet(&self, seat: &Seat<'_>, watch: &Watch<'_>) -> Result<Box<dyn Communicator>, ExchangeError> {
        libraries()?;
        let Device::Cuda(ordinal) = seat.device else {
            return Err(ExchangeError::NoGpu { device: seat.device });
        };
        let bytes: [u8; ID_BYTES] = seat.rendezvous.try_into().map_err(|_| ExchangeError::Mismatch {
            problem: format!(
                "the rendezvous has {} bytes, NCCL's has {ID_BYTES}",
                seat.rendezvous.len()
            ),
        })?;
        let id = sys::ncclUniqueId {
            internal: bytes.map(|byte| byte as c_char),
        };
        let context = CudaContext::new(ordinal).map_err(|error| broken("cuDevicePrimaryCtxRetain", &error))?;
        let stream = context.new_stream().map_err(|error| broken("cuStreamCreate", &error))?;
        Ok(Box::new(NcclCommunicator::meet(seat, id, stream, watch)?))
    }
}

/// With `cuda` the libraries are linked: the program would not have started without them.
#[cfg(feature = "cuda")]
fn libraries() -> Result<(), ExchangeError> {
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn libraries() -> Result<(), ExchangeError> {
    // SAFETY: loads the libraries, whose initialisers are NVIDIA's.
    let (driver, nccl) = unsafe { (cudarc::driver::sys::is_culib_present(), sys::is_culib_present()) };
    for (present, library) in [(driver, "libcuda.so"), (nccl, "libnccl.so")] {
        if !present {
            return Err(ExchangeError::Library { library });
        }
    }
    Ok(())
}

fn failed(call: &'static str, error: &NcclError) -> ExchangeError {
    // SAFETY: NCCL answers with a static text for every code.
    let reason = unsafe { CStr::from_ptr(sys::ncclGetErrorString(error.0)) };
    ExchangeError::Call {
        call,
        reason: reason.to_string_lossy().into_owned(),
    }
}

fn broken(call: &'static str, error: &DriverError) -> ExchangeError {
    ExchangeError::Call {
        call,
        reason: error.to_string(),
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    /// cudarc panics where a library is missing; a worker must not.
    #[test]
    fn a_missing_library_is_an_error_with_a_remedy() {
        use gavel_core::Hint as _;

        let exchange: &dyn Exchange = &Nccl;
        for found in [exchange.check(), exchange.rendezvous().map(|_| String::new())] {
            if let Err(error) = found {
                assert!(matches!(&error, ExchangeError::Library { .. }), "{error}");
                assert!(error.hint().is_some_and(|hint| hint.contains("LD_LIBRARY_PATH")));
            }
        }
    }
}
