//! The operations on an NVIDIA GPU.

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, DevicePtrMut as _, DeviceRepr, LaunchConfig, PushKernelArg as _, sys::CUdeviceptr,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorageSlice, WrapErr as _, cudarc::cublas};
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};

use super::Operation;
use super::rows::Argument;

/// `cuda/kernels.cu`, compiled by build.rs.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// Lanes of a warp, which has one row, and warps of a block.
const LANES: u32 = 32;
const WARPS: u32 = 8;

/// Computes an operation of inputs on one GPU.
pub(super) fn launch(operation: Operation, inputs: &[(&CudaStorage, &Layout)]) -> Result<CudaStorage> {
    // A kernel is called after what is narrow: its input, or the result of float32 scores or of bytes.
    let (given, result) = (inputs[0].0.dtype(), operation.dtype(inputs[0].0.dtype()));
    let kind = match if matches!(given, DType::F32 | DType::U8) {
        result
    } else {
        given
    } {
        DType::F32 => "float",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        other => bail!("no kernel for {other:?}"),
    };
    match result {
        DType::F32 => run::<f32>(operation, kind, inputs),
        DType::BF16 => run::<bf16>(operation, kind, inputs),
        DType::F16 => run::<f16>(operation, kind, inputs),
        other => bail!("no kernel for {other:?}"),
    }
}

fn run<T: CudaDType + DeviceRepr>(
    operation: Operation,
    kind: &str,
    inputs: &[(&CudaStorage, &Layout)],
) -> Result<CudaStorage> {
    let device = inputs[0].0.device();
    let dims = inputs[0].1.dims();
    let (mut pointers, mut starts) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
    for (storage, layout) in inputs {
        let start = layout.start_offset();
        starts.push(start);
        pointers.push(pointer(storage, start)?);
    }
    if matches!(operation, Operation::MaskedSoftmax { bias_rows: 0, .. }) {
        // The kernel has a place for a bias, which it does not read.
        pointers.push(0);
    }
    // SAFETY: the kernel writes every value.
    let out = unsafe { device.alloc::<T>(operation.dims(dims).iter().product())? };
    let by = operation.rows(dims);
    let pack = operation.pack(dims, &starts, kind != "float");
    let function = device.get_or_load_custom_func(&format!("{}_{kind}_{pack}", operation.name()), "gavel", PTX)?;

    let (rows, width, arguments) = (by.rows as i64, by.width as i64, operation.arguments(dims));
    let mut call = function.builder();
    for pointer in &pointers {
        call.arg(pointer);
    }
    call.arg(&out).arg(&rows).arg(&width);
    for argument in &arguments {
        match argument {
            Argument::Whole(value) => call.arg(value),
            Argument::Real(value) => call.arg(value),
        };
    }
    let chunks = operation
        .chunk(LANES as usize, pack)
        .map_or(1, |chunk| by.width.div_ceil(chunk));
    let config = LaunchConfig {
        grid_dim: ((by.rows as u32).div_ceil(WARPS), chunks as u32, 1),
        block_dim: (LANES, WARPS, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: `Operation::check` has found the inputs to be what the kernel takes; they outlive the call, for all work of a device is on
    // one stream, in order.
    unsafe { call.launch(config) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
}

/// Where the values from `start` on lie.
fn pointer(storage: &CudaStorage, start: usize) -> Result<CUdeviceptr> {
    fn of<T>(slice: &CudaSlice<T>, start: usize, device: &CudaDevice) -> CUdeviceptr {
        slice.slice(start..).device_ptr(&device.cuda_stream()).0
    }
    let device = storage.device();
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => of(slice, start, device),
        CudaStorageSlice::BF16(slice) => of(slice, start, device),
        CudaStorageSlice::F16(slice) => of(slice, start, device),
        CudaStorageSlice::U8(slice) => of(slice, start, device),
        _ => bail!("no kernel for {:?}", storage.dtype()),
    })
}

/// A number format as cuBLAS has it.
fn number_format(dtype: DType) -> Result<cublas::sys::cudaDataType_t> {
    Ok(match dtype {
        DType::F32 => cublas::sys::cudaDataType_t::CUDA_R_32F,
        DType::BF16 => cublas::sys::cudaDataType_t::CUDA_R_16BF,
        DType::F16 => cublas::sys::cudaDataType_t::CUDA_R_16F,
        other => bail!("no product of {other:?}"),
    })
}

/// a b^T of narrow matrices (batch, m, k) and (batch, n, k), as float32 (batch, m, n): the sums as the tensor cores have them.
pub(in super::super) fn wide_product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.apply_op2_no_bwd(b, &WideProduct)
}

struct WideProduct;

impl CustomOp2 for WideProduct {
    fn name(&self) -> &'static str {
        "wide_product"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is for GPUs", self.name())
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (&[batch, m, k], &[_, n, _]) = (a_layout.dims(), b_layout.dims()) else {
            bail!("{} of {:?} and {:?}", self.name(), a_layout.dims(), b_layout.dims());
        };
        let (Some((a_start, _)), Some((b_start, _))) = (a_layout.contiguous_offsets(), b_layout.contiguous_offsets())
        else {
            bail!("an input of {} is not contiguous", self.name());
        };
        if b_layout.dims() != [batch, n, k] || a.dtype() != b.dtype() {
            bail!("{} of {:?} and {:?}", self.name(), a_layout.dims(), b_layout.dims());
        }
        let kind = number_format(a.dtype())?;
        let device = a.device();
        // SAFETY: the product writes every value.
        let mut out = unsafe { device.alloc::<f32>(batch * m * n)? };
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (stream, blas) = (device.cuda_stream(), device.cublas_handle());
        let to = out.device_ptr_mut(&stream).0;
        // cuBLAS counts columns first: it computes the transposed result, of b and a in this order.
        // SAFETY: both inputs are contiguous, of the sizes given, and outlive the call; all work of a device is on one stream, in order.
        unsafe {
            cublas::result::gemm_strided_batched_ex(
                *blas.handle(),
                cublas::sys::cublasOperation_t::CUBLAS_OP_T,
                cublas::sys::cublasOperation_t::CUBLAS_OP_N,
                n as i32,
                m as i32,
                k as i32,
                (&raw const one).cast(),
                pointer(b, b_start)? as *const _,
                kind,
                k as i32,
                (n * k) as i64,
                pointer(a, a_start)? as *const _,
                kind,
                k as i32,
                (m * k) as i64,
                (&raw const zero).cast(),
                to as *mut _,
                cublas::sys::cudaDataType_t::CUDA_R_32F,
                n as i32,
                (m * n) as i64,
                batch as i32,
                cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), (batch, m, n).into()))
    }
}

/// Adds a b to sums (m, n), which start somewhere and have rows so far apart, of row-major a (m, k) and b (k, n), which start somewhere.
pub(super) fn add_product(
    (m, n, k): (usize, usize, usize),
    (sums, sums_start, stride): (&CudaStorage, usize, usize),
    (a, a_start): (&CudaStorage, usize),
    (b, b_start): (&CudaStorage, usize),
) -> Result<()> {
    if a.dtype() != sums.dtype() || b.dtype() != sums.dtype() {
        bail!(
            "a product of {:?} and {:?} added to {:?}",
            a.dtype(),
            b.dtype(),
            sums.dtype()
        );
    }
    let kind = number_format(sums.dtype())?;
    let one = 1.0_f32;
    // cuBLAS counts columns first: it computes the transposed result, of b and a in this order.
    // SAFETY: the inputs are contiguous, the sums lie as the strides say, and all outlive the call; all work of a device is on one stream, in order.
    unsafe {
        cublas::result::gemm_ex(
            *sums.device().cublas_handle().handle(),
            cublas::sys::cublasOperation_t::CUBLAS_OP_N,
            cublas::sys::cublasOperation_t::CUBLAS_OP_N,
            n as i32,
            m as i32,
            k as i32,
            (&raw const one).cast(),
            pointer(b, b_start)? as *const _,
            kind,
            n as i32,
            pointer(a, a_start)? as *const _,
            kind,
            k as i32,
            (&raw const one).cast(),
            pointer(sums, sums_start)? as *mut _,
            kind,
            stride as i32,
            cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    }
    .w()
}
