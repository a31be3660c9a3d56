//! A communicator of NCCL, with the stream that its calls are on.

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys;

use super::{broken, failed};
use crate::exchange::{Communicator, ExchangeError, Parts, Seat, Watch};

/// Pause between two looks at what goes on without us.
const POLL: Duration = Duration::from_millis(1);
/// How long a communicator that is no longer needed may take to let go out what is on its way.
const FAREWELL_WITHIN: Duration = Duration::from_secs(5);

/// A group's communicator. Aborted as soon as a call fails, before the buffers of that call are freed: freeing waits for what works
/// on them. Otherwise taken leave of when it is dropped.
pub(super) struct NcclCommunicator {
    /// Null once it is aborted.
    raw: sys::ncclComm_t,
    rank: usize,
    size: usize,
    stream: Arc<CudaStream>,
}

// SAFETY: NCCL's communicators may be used from any thread, by one at a time; there is no shared access without `&mut`.
unsafe impl Send for NcclCommunicator {}

impl NcclCommunicator {
    pub(super) fn meet(
        seat: &Seat<'_>,
        id: sys::ncclUniqueId,
        stream: Arc<CudaStream>,
        watch: &Watch<'_>,
    ) -> Result<Self, ExchangeError> {
        let mut communicator = Self {
            raw: ptr::null_mut(),
            rank: seat.rank,
            size: seat.size,
            stream,
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
        match communicator.settle("ncclCommInitRankConfig", begun, watch) {
            Ok(()) => Ok(communicator),
            Err(error) => {
                communicator.abort();
                Err(error)
            }
        }
    }

    /// Sends and receives at once, piece by piece: between two members there is at most one piece each way.
    fn begin_scatter(
        &self,
        parts: &Parts<'_>,
        outgoing: &mut CudaSlice<f32>,
        incoming: &mut CudaSlice<f32>,
        watch: &Watch<'_>,
    ) -> Result<(), ExchangeError> {
        let begun = {
            let stream: sys::cudaStream_t = self.stream.cu_stream().cast();
            let (mut from, _sent) = outgoing.device_ptr_mut(&self.stream);
            let (mut to, _received) = incoming.device_ptr_mut(&self.stream);
            result::group_start().map_err(|error| failed("ncclGroupStart", &error))?;
            let mut refused = Ok(NcclStatus::Success);
            for (peer, (sent, received)) in parts.to.iter().zip(parts.from).enumerate() {
                // SAFETY: the buffers hold the sums of `to` and `from`, and outlive what is begun here: the caller waits for its
                // end, or aborts the communicator before it frees them.
                unsafe {
                    if *sent > 0 && refused.is_ok() {
                        let kind = sys::ncclDataType_t::ncclFloat32;
                        refused = result::send(from as *const _, *sent, kind, peer as c_int, self.raw, stream);
                    }
                    if *received > 0 && refused.is_ok() {
                        let kind = sys::ncclDataType_t::ncclFloat32;
                        refused = result::recv(to as *mut _, *received, kind, peer as c_int, self.raw, stream);
                    }
                }
                from += size_of_f32(*sent);
                to += size_of_f32(*received);
            }
            // Whatever was refused, the group has to be ended.
            refused.and(result::group_end())
        };
        self.settle("ncclSend and ncclRecv", begun, watch)
    }

    fn begin_gather(&self, all: &mut CudaSlice<f32>, count: usize, watch: &Watch<'_>) -> Result<(), ExchangeError> {
        let begun = {
            let (all, _guard) = all.device_ptr_mut(&self.stream);
            let own = all + size_of_f32(self.rank * count);
            // SAFETY: the buffer holds `count` values of each member, and outlives what is begun here, as in `begin_scatter`.
            // Gathering in place is allowed where a member's own values already lie in their place.
            unsafe {
                result::all_gather(
                    own as *const _,
                    all as *mut _,
                    count,
                    sys::ncclDataType_t::ncclFloat32,
                    self.raw,
                    self.stream.cu_stream().cast(),
                )
            }
        };
        self.settle("ncclAllGather", begun, watch)
    }

    /// Waits until what was begun on the stream is done. The stream itself is not waited for: it would not end where a member died.
    fn finish(&self, call: &'static str, meanwhile: &mut dyn FnMut(), watch: &Watch<'_>) -> Result<(), ExchangeError> {
        let over = self
            .stream
            .record_event(None)
            .map_err(|error| broken("cuEventRecord", &error))?;
        meanwhile();
        while !over.try_is_complete().map_err(|error| broken("cuEventQuery", &error))? {
            // A member that died shows here, not on the stream.
            self.state(call)?;
            pause(watch)?;
        }
        Ok(())
    }

    /// Waits until a call that was begun is done.
    fn settle(
        &self,
        call: &'static str,
        begun: Result<NcclStatus, NcclError>,
        watch: &Watch<'_>,
    ) -> Result<(), ExchangeError> {
        let mut status = begun.map_err(|error| failed(call, &error))?;
        while status == NcclStatus::InProgress {
            pause(watch)?;
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

    /// Makes a device buffer; of one value where none is needed, since none may be allocated.
    fn buffer(&self, values: usize) -> Result<CudaSlice<f32>, ExchangeError> {
        let made = self.stream.alloc_zeros::<f32>(values.max(1));
        made.map_err(|error| broken("cuMemAlloc", &error))
    }

    fn download(&self, from: &CudaSlice<f32>, to: &mut [f32]) -> Result<(), ExchangeError> {
        if to.is_empty() {
            return Ok(());
        }
        let copied = self.stream.memcpy_dtoh(&from.slice(..to.len()), to);
        copied
            .and_then(|()| self.stream.synchronize())
            .map_err(|error| broken("cuMemcpyDtoH", &error))
    }

    fn alive(&self) -> Result<(), ExchangeError> {
        if self.raw.is_null() {
            return Err(ExchangeError::Mismatch {
                problem: "its communicator was aborted".into(),
            });
        }
        Ok(())
    }

    fn abort(&mut self) {
        let raw = std::mem::replace(&mut self.raw, ptr::null_mut());
        if raw.is_null() {
            return;
        }
        // SAFETY: the communicator is alive, and this is its last use.
        if let Err(error) = unsafe { result::comm_abort(raw) } {
            tracing::warn!(error = %failed("ncclCommAbort", &error), "a communicator was not aborted");
        }
    }

    /// Takes leave when everything that was sent is there; an abort could cut off what is still on its way to others.
    fn leave(&mut self) -> Result<(), ExchangeError> {
        let never = || false;
        let watch = Watch::new(FAREWELL_WITHIN, &never);
        // SAFETY: the communicator is initialised, and nothing is called on it afterwards but its state.
        let begun = unsafe { result::comm_finalize(self.raw) };
        self.settle("ncclCommFinalize", begun, &watch)?;
        let raw = std::mem::replace(&mut self.raw, ptr::null_mut());
        // SAFETY: finalised, and `raw` is used for the last time.
        let destroyed = unsafe { result::comm_destroy(raw) };
        destroyed.map(|_| ()).map_err(|error| failed("ncclCommDestroy", &error))
    }
}

impl Communicator for NcclCommunicator {
    fn scatter(
        &mut self,
        parts: &Parts<'_>,
        received: &mut [f32],
        meanwhile: &mut dyn FnMut(),
        watch: &Watch<'_>,
    ) -> Result<(), ExchangeError> {
        self.alive()?;
        let mut outgoing = self.buffer(parts.values.len())?;
        let mut incoming = self.buffer(received.len())?;
        let done = self
            .stream
            .memcpy_htod(parts.values, &mut outgoing)
            .map_err(|error| broken("cuMemcpyHtoD", &error))
            .and_then(|()| self.begin_scatter(parts, &mut outgoing, &mut incoming, watch))
            .and_then(|()| self.finish("ncclSend and ncclRecv", meanwhile, watch))
            .and_then(|()| self.download(&incoming, received));
        done.inspect_err(|_| self.abort())
    }

    fn gather(&mut self, own: &[f32], all: &mut [f32], watch: &Watch<'_>) -> Result<(), ExchangeError> {
        self.alive()?;
        let mut buffer = self.buffer(own.len() * self.size)?;
        let start = self.rank * own.len();
        let done = self
            .stream
            .memcpy_htod(own, &mut buffer.slice_mut(start..start + own.len()))
            .map_err(|error| broken("cuMemcpyHtoD", &error))
            .and_then(|()| self.begin_gather(&mut buffer, own.len(), watch))
            .and_then(|()| self.finish("ncclAllGather", &mut || (), watch))
            .and_then(|()| self.download(&buffer, all));
        done.inspect_err(|_| self.abort())
    }
}

impl Drop for NcclCommunicator {
    fn drop(&mut self) {
        if self.raw.is_null() {
            return;
        }
        if let Err(error) = self.leave() {
            tracing::debug!(%error, "a communicator is aborted");
            self.abort();
        }
    }
}

fn pause(watch: &Watch<'_>) -> Result<(), ExchangeError> {
    watch.goes_on()?;
    std::thread::sleep(POLL);
    Ok(())
}

fn size_of_f32(values: usize) -> u64 {
    (values * size_of::<f32>()) as u64
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
