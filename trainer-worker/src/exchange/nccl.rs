//! Exchange by NCCL: from GPU to GPU, over NVLink, InfiniBand or Ethernet, whatever the machines have.
//!
//! Communicators are non-blocking: no call waits in the library, so that a member that dies in the middle is noticed (by
//! NCCL, by the coordinator, or by the bound) and the communicator aborted.

#![expect(unsafe_code, reason = "calls into NCCL; each says why it is sound")]

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtrMut, DriverError};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::safe::Id;
use cudarc::nccl::sys;
use gavel_core::spec::Device;

use super::{Exchange, ExchangeError, Seat, Shard};

/// Length of NCCL's unique id.
const ID_BYTES: usize = 128;
/// Pause between two looks at what goes on without us.
const POLL: Duration = Duration::from_millis(1);

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

    fn exchange(
        &self,
        seat: &Seat<'_>,
        shards: &[Shard<'_>],
        take: &mut dyn FnMut(&[f32]),
    ) -> Result<(), ExchangeError> {
        libraries()?;
        let Device::Cuda(ordinal) = seat.device else {
            return Err(ExchangeError::NoGpu { device: seat.device });
        };
        let context = CudaContext::new(ordinal).map_err(|error| broken("cuDevicePrimaryCtxRetain", &error))?;
        let stream = context.new_stream().map_err(|error| broken("cuStreamCreate", &error))?;
        let mut buffer = stream
            .alloc_zeros::<f32>(seat.parameters)
            .map_err(|error| broken("cuMemAlloc", &error))?;
        let mut received = vec![0.0_f32; seat.parameters];
        let communicator = Communicator::meet(seat)?;
        for shard in shards {
            if let Some(sum) = shard.sum {
                stream
                    .memcpy_htod(sum, &mut buffer)
                    .map_err(|error| broken("cuMemcpyHtoD", &error))?;
            }
            communicator.broadcast(&mut buffer, shard.owner, &stream)?;
            match shard.sum {
                Some(sum) => take(sum),
                None => {
                    stream
                        .memcpy_dtoh(&buffer, &mut received)
                        .and_then(|()| stream.synchronize())
                        .map_err(|error| broken("cuMemcpyDtoH", &error))?;
                    take(&received);
                }
            }
        }
        communicator.leave()
    }
}

/// A communicator; aborted when it is dropped before [`Communicator::leave`].
struct Communicator<'a> {
    raw: sys::ncclComm_t,
    seat: &'a Seat<'a>,
    until: Instant,
}

impl<'a> Communicator<'a> {
    fn meet(seat: &'a Seat<'a>) -> Result<Self, ExchangeError> {
        let bytes: [u8; ID_BYTES] = seat.rendezvous.try_into().map_err(|_| ExchangeError::Mismatch {
            problem: format!(
                "the rendezvous has {} bytes, NCCL's has {ID_BYTES}",
                seat.rendezvous.len()
            ),
        })?;
        let id = sys::ncclUniqueId {
            internal: bytes.map(|byte| byte as c_char),
        };
        let mut communicator = Self {
            raw: ptr::null_mut(),
            seat,
            until: Instant::now() + seat.within,
        };
        let mut config = non_blocking();
        // SAFETY: `raw` and `config` live until the call returns; NCCL copies what it keeps.
        let begun = unsafe {
            result::comm_init_rank_config(
                &raw mut communicator.raw,
                seat.size as c_int,
                id,
                seat.rank as c_int,
                &raw mut config,
            )
        };
        communicator.settle("ncclCommInitRankConfig", begun)?;
        Ok(communicator)
    }

    /// Sends the owner's buffer to everybody else's, and waits until it is there.
    fn broadcast(
        &self,
        buffer: &mut CudaSlice<f32>,
        owner: usize,
        stream: &std::sync::Arc<CudaStream>,
    ) -> Result<(), ExchangeError> {
        let begun = {
            let (pointer, _guard) = buffer.device_ptr_mut(stream);
            // SAFETY: the buffer holds `parameters` values and outlives the broadcast: this function does not return
            // before it is over, or the caller aborts the communicator. Sending in place is allowed.
            unsafe {
                result::broadcast(
                    pointer as *const _,
                    pointer as *mut _,
                    self.seat.parameters,
                    sys::ncclDataType_t::ncclFloat32,
                    owner as c_int,
                    self.raw,
                    stream.cu_stream().cast(),
                )
            }
        };
        self.settle("ncclBroadcast", begun)?;
        let over = stream
            .record_event(None)
            .map_err(|error| broken("cuEventRecord", &error))?;
        while !over.try_is_complete().map_err(|error| broken("cuEventQuery", &error))? {
            // A member that died shows here, not on the stream.
            self.state("ncclBroadcast")?;
            self.pause()?;
        }
        Ok(())
    }

    /// Takes leave when everybody has what was sent; an abort could cut off what is still on its way to others.
    fn leave(mut self) -> Result<(), ExchangeError> {
        // SAFETY: the communicator is initialised, and nothing is called on it afterwards but its state.
        let begun = unsafe { result::comm_finalize(self.raw) };
        self.settle("ncclCommFinalize", begun)?;
        let raw = std::mem::replace(&mut self.raw, ptr::null_mut());
        // SAFETY: finalised, and `raw` is used for the last time.
        let destroyed = unsafe { result::comm_destroy(raw) };
        destroyed.map(|_| ()).map_err(|error| failed("ncclCommDestroy", &error))
    }

    /// Waits until a call that was begun is done.
    fn settle(&self, call: &'static str, begun: Result<NcclStatus, NcclError>) -> Result<(), ExchangeError> {
        let mut status = begun.map_err(|error| failed(call, &error))?;
        while status == NcclStatus::InProgress {
            self.pause()?;
            status = self.state(call)?;
        }
        Ok(())
    }

    fn state(&self, call: &'static str) -> Result<NcclStatus, ExchangeError> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive, and `state` until the call returns.
        unsafe { sys::ncclCommGetAsyncError(self.raw, &raw mut state) }
            .result()
            .and_then(|_| state.result())
            .map_err(|error| failed(call, &error))
    }

    fn pause(&self) -> Result<(), ExchangeError> {
        if (self.seat.cancelled)() {
            return Err(ExchangeError::Cancelled);
        }
        if Instant::now() > self.until {
            let within = self.seat.within;
            return Err(ExchangeError::TimedOut { within });
        }
        std::thread::sleep(POLL);
        Ok(())
    }
}

impl Drop for Communicator<'_> {
    fn drop(&mut self) {
        if self.raw.is_null() {
            return;
        }
        // SAFETY: the communicator is alive, and this is its last use.
        if let Err(error) = unsafe { result::comm_abort(self.raw) } {
            tracing::warn!(error = %failed("ncclCommAbort", &error), "a communicator was not aborted");
        }
    }
}

/// NCCL_CONFIG_INITIALIZER of NCCL 2.27, and non-blocking. A library that knows fewer fields reads only those.
fn non_blocking() -> sys::ncclConfig_t {
    const MAGIC: u32 = 0xcafe_beef;
    const VERSION: u32 = 22_700;
    const UNDEFINED: c_int = c_int::MIN;
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: MAGIC,
        version: VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
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
