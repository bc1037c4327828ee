// SPDX-License-Identifier: MPL-2.0

//! The driver's two libraries, loaded at run time: `libcuda.so.1` for the device, `libnvidia-encode.so.1` for the encoder.
//!
//! Both belong to NVIDIA's driver and are found by the dynamic linker's usual search (`ldconfig`, `LD_LIBRARY_PATH`).
//! Machines without them lack only this encoder.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use dds_nvenc_sys::{self as sys, ids};

use super::super::OpenError;
use crate::library::{self, Library};

const CUDA: &str = "libcuda.so.1";
const NVENC: &str = "libnvidia-encode.so.1";

/// The cure where the driver does not work.
const SEE_DRIVER: &str = "See what `nvidia-smi` says, or choose another encoder";

// The part of CUDA's driver interface (cuda.h) that is needed: handles are pointers, devices and results are ints.
type Context = *mut c_void;
type Init = unsafe extern "C" fn(flags: c_uint) -> c_int;
type ErrorString = unsafe extern "C" fn(result: c_int, text: *mut *const c_char) -> c_int;
type DriverVersion = unsafe extern "C" fn(version: *mut c_int) -> c_int;
type DeviceCount = unsafe extern "C" fn(count: *mut c_int) -> c_int;
type DeviceGet = unsafe extern "C" fn(device: *mut c_int, ordinal: c_int) -> c_int;
type DeviceName = unsafe extern "C" fn(name: *mut c_char, length: c_int, device: c_int) -> c_int;
type ContextCreate = unsafe extern "C" fn(context: *mut Context, flags: c_uint, device: c_int) -> c_int;
type ContextPush = unsafe extern "C" fn(context: Context) -> c_int;
type ContextPop = unsafe extern "C" fn(context: *mut Context) -> c_int;
type ContextDestroy = unsafe extern "C" fn(context: Context) -> c_int;
type ContextDevice = unsafe extern "C" fn(device: *mut c_int) -> c_int;
type Allocate =
    unsafe extern "C" fn(address: *mut u64, pitch: *mut usize, row: usize, rows: usize, element: c_uint) -> c_int;
type Free = unsafe extern "C" fn(address: u64) -> c_int;
type CopyAsync = unsafe extern "C" fn(copy: *const Memcpy2d, stream: *mut c_void) -> c_int;
type StreamCreate = unsafe extern "C" fn(stream: *mut *mut c_void, flags: c_uint) -> c_int;
type StreamCall = unsafe extern "C" fn(stream: *mut c_void) -> c_int;

/// `CU_STREAM_NON_BLOCKING`: does not wait for other work in the default stream.
const NON_BLOCKING: c_uint = 1;
/// `CU_MEMORYTYPE_HOST`.
const HOST: c_uint = 1;
/// `CU_MEMORYTYPE_DEVICE`.
const DEVICE: c_uint = 2;
/// Bytes that rows are aligned for reading in (4, 8 or 16 are allowed).
const ELEMENT: c_uint = 16;

/// `CUDA_MEMCPY2D`, as `cuMemcpy2DAsync_v2` takes it.
#[repr(C)]
struct Memcpy2d {
    src_x: usize,
    src_y: usize,
    src_type: c_uint,
    src_host: *const c_void,
    src_device: u64,
    src_array: *mut c_void,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: c_uint,
    dst_host: *mut c_void,
    dst_device: u64,
    dst_array: *mut c_void,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

/// Source of a copy.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// System memory.
    System(*const c_void),
    /// A `CUdeviceptr`.
    Gpu(u64),
}

/// Rows to copy into memory of the GPU. All in bytes, except `rows`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy2d {
    pub from: Side,
    pub from_pitch: usize,
    pub to: u64,
    pub to_pitch: usize,
    pub row: usize,
    pub rows: usize,
}

type MaxVersion = unsafe extern "C" fn(version: *mut u32) -> sys::NVENCSTATUS;
type CreateInstance = unsafe extern "C" fn(functions: *mut sys::NV_ENCODE_API_FUNCTION_LIST) -> sys::NVENCSTATUS;

/// Structures of C that are valid where all their bytes are zero.
///
/// # Safety
/// Nothing but numbers, arrays, unions of them, pointers and optional functions.
pub(super) unsafe trait Plain {}

macro_rules! plain {
    ($($name:ident)*) => {
        // SAFETY: all are made of numbers, pointers and optional functions.
        $(unsafe impl Plain for sys::$name {})*
    };
}

plain! {
    NV_ENCODE_API_FUNCTION_LIST NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS NV_ENC_CAPS_PARAM NV_ENC_PRESET_CONFIG
    NV_ENC_INITIALIZE_PARAMS NV_ENC_RECONFIGURE_PARAMS NV_ENC_CREATE_INPUT_BUFFER NV_ENC_CREATE_BITSTREAM_BUFFER
    NV_ENC_LOCK_INPUT_BUFFER NV_ENC_LOCK_BITSTREAM NV_ENC_PIC_PARAMS NV_ENC_SEQUENCE_PARAM_PAYLOAD NV_ENC_QP
    NV_ENC_CONFIG NV_ENC_REGISTER_RESOURCE NV_ENC_MAP_INPUT_RESOURCE
}

/// The structure with all bytes zero, as the header demands of reserved fields.
pub(super) fn zeroed<T: Plain>() -> T {
    // SAFETY: by the contract of the trait.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Both libraries, and the functions found in them.
pub(super) struct Driver {
    pub functions: sys::NV_ENCODE_API_FUNCTION_LIST,
    /// Highest version of the encoder's interface.
    pub api: (u32, u32),
    cuda: Cuda,
    // Last field: the functions above are theirs.
    _nvenc: Library,
    _cuda: Library,
}

// SAFETY: nothing but functions that may be called from any thread, and handles of the libraries they are in; the
// pointers in the list are reserved and null.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

struct Cuda {
    error_string: ErrorString,
    driver_version: DriverVersion,
    device_count: DeviceCount,
    device_get: DeviceGet,
    device_name: DeviceName,
    context_create: ContextCreate,
    context_push: ContextPush,
    context_pop: ContextPop,
    context_destroy: ContextDestroy,
    context_device: ContextDevice,
    allocate: Allocate,
    free: Free,
    copy: CopyAsync,
    stream_create: StreamCreate,
    stream_wait: StreamCall,
    stream_destroy: StreamCall,
}

fn load(name: &str) -> Result<Library, OpenError> {
    // SAFETY: the initialisers are those of NVIDIA's driver, which any process may run.
    unsafe { library::open(name) }.map_err(|words| {
        OpenError::refused(
            "encoder=nvenc",
            format!("{name} of NVIDIA's driver cannot be loaded ({words})"),
            "Install it with its encoder library (Debian: libcuda1 and libnvidia-encode1), or choose another encoder",
        )
    })
}

/// A function of a library.
///
/// # Safety
/// `T` must be the type of that function.
unsafe fn function<T: Copy>(library: &Library, name: &str) -> Result<T, OpenError> {
    // SAFETY: by contract.
    unsafe { library::function(library, name) }.map_err(|words| {
        OpenError::refused(
            "encoder=nvenc",
            format!("NVIDIA's driver lacks the function {name} ({words})"),
            "Install a newer driver, or choose another encoder",
        )
    })
}

impl Driver {
    /// Loads and initialises both libraries.
    ///
    /// # Errors
    /// Which one is missing, or the driver's message.
    pub fn load() -> Result<Self, OpenError> {
        let library = load(CUDA)?;
        // SAFETY: names and types are those of cuda.h; its macros add `_v2` to the names.
        let (init, cuda) = unsafe {
            let init: Init = function(&library, "cuInit")?;
            let cuda = Cuda {
                error_string: function(&library, "cuGetErrorString")?,
                driver_version: function(&library, "cuDriverGetVersion")?,
                device_count: function(&library, "cuDeviceGetCount")?,
                device_get: function(&library, "cuDeviceGet")?,
                device_name: function(&library, "cuDeviceGetName")?,
                context_create: function(&library, "cuCtxCreate_v2")?,
                context_push: function(&library, "cuCtxPushCurrent_v2")?,
                context_pop: function(&library, "cuCtxPopCurrent_v2")?,
                context_destroy: function(&library, "cuCtxDestroy_v2")?,
                context_device: function(&library, "cuCtxGetDevice")?,
                allocate: function(&library, "cuMemAllocPitch_v2")?,
                free: function(&library, "cuMemFree_v2")?,
                copy: function(&library, "cuMemcpy2DAsync_v2")?,
                stream_create: function(&library, "cuStreamCreate")?,
                stream_wait: function(&library, "cuStreamSynchronize")?,
                stream_destroy: function(&library, "cuStreamDestroy_v2")?,
            };
            (init, cuda)
        };
        // SAFETY: 0 is the only flag there is; it may be called any number of times.
        cuda.check("cuInit", unsafe { init(0) })?;

        let nvenc = load(NVENC)?;
        // SAFETY: names and types are those of nvEncodeAPI.h.
        let (max_version, create): (MaxVersion, CreateInstance) = unsafe {
            (
                function(&nvenc, "NvEncodeAPIGetMaxSupportedVersion")?,
                function(&nvenc, "NvEncodeAPICreateInstance")?,
            )
        };
        let mut version = 0;
        // SAFETY: the pointer is to a number of its own.
        let status = unsafe { max_version(&mut version) };
        let api = (version >> 4, version & 0xf);
        if status != sys::NV_ENC_SUCCESS || version < ids::API_VERSION_COMPARED {
            return Err(OpenError::refused(
                "encoder=nvenc",
                format!(
                    "the driver's NVENC interface is {}.{}, and {}.{} is needed",
                    api.0,
                    api.1,
                    sys::NVENCAPI_MAJOR_VERSION,
                    sys::NVENCAPI_MINOR_VERSION
                ),
                "Install driver 470.57.02 or newer, or choose another encoder",
            ));
        }
        let mut functions = zeroed::<sys::NV_ENCODE_API_FUNCTION_LIST>();
        functions.version = ids::FUNCTION_LIST_VER;
        // SAFETY: the structure has the version it declares.
        let status = unsafe { create(&mut functions) };
        if status != sys::NV_ENC_SUCCESS {
            return Err(refused(&CallError::new("NvEncodeAPICreateInstance", status, "")));
        }
        Ok(Self {
            functions,
            api,
            cuda,
            _nvenc: nvenc,
            _cuda: library,
        })
    }

    /// Number of devices.
    pub fn devices(&self) -> Result<c_int, OpenError> {
        let mut count = 0;
        // SAFETY: the pointer is to a number of its own.
        let result = unsafe { (self.cuda.device_count)(&mut count) };
        self.cuda.check("cuDeviceGetCount", result)?;
        if count < 1 {
            return Err(OpenError::refused(
                "encoder=nvenc",
                "the driver sees no NVIDIA GPU",
                SEE_DRIVER,
            ));
        }
        Ok(count)
    }

    /// Version of CUDA that the driver supports, such as 12.2.
    pub fn cuda_version(&self) -> String {
        let mut version = 0;
        // SAFETY: the pointer is to a number of its own; on failure it stays 0.
        unsafe { (self.cuda.driver_version)(&mut version) };
        format!("{}.{}", version / 1000, version % 1000 / 10)
    }

    /// A context on a device, and the device's name. It is not left current on this thread.
    pub fn context(&self, ordinal: c_int) -> Result<(Context, String), OpenError> {
        let mut device = 0;
        let mut context = ptr::null_mut();
        // SAFETY: all pointers are to variables of their own.
        unsafe {
            self.cuda
                .check("cuDeviceGet", (self.cuda.device_get)(&mut device, ordinal))?;
        }
        let name = self.device_name(device)?;
        // SAFETY: as above.
        let created = unsafe { (self.cuda.context_create)(&mut context, 0, device) };
        self.cuda.check("cuCtxCreate", created)?;
        self.leave();
        Ok((context, name))
    }

    /// Name of the device of the current context.
    pub fn current_device(&self) -> Result<String, OpenError> {
        let mut device = 0;
        // SAFETY: the pointer is to a variable of its own.
        let result = unsafe { (self.cuda.context_device)(&mut device) };
        self.cuda.check("cuCtxGetDevice", result)?;
        self.device_name(device)
    }

    fn device_name(&self, device: c_int) -> Result<String, OpenError> {
        let mut name: [c_char; 256] = [0; 256];
        // SAFETY: the buffer is longer than the length passed.
        let named = unsafe { (self.cuda.device_name)(name.as_mut_ptr(), name.len() as c_int - 1, device) };
        self.cuda.check("cuDeviceGetName", named)?;
        // SAFETY: the last byte of the buffer was kept from the driver and is 0.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    }

    /// Memory of the current context's device for `rows` of `row` bytes: its address, and the bytes from one row to the
    /// next.
    pub fn allocate(&self, row: usize, rows: usize) -> Result<(u64, usize), OpenError> {
        let (mut address, mut pitch) = (0, 0);
        // SAFETY: the pointers are to variables of their own.
        let result = unsafe { (self.cuda.allocate)(&mut address, &mut pitch, row, rows, ELEMENT) };
        self.cuda.check("cuMemAllocPitch", result)?;
        Ok((address, pitch))
    }

    /// Frees memory; 0 is none.
    ///
    /// # Safety
    /// It came from [`Self::allocate`] with the context that is current now, was not freed, and nothing uses it.
    pub unsafe fn free(&self, address: u64) {
        if address != 0 {
            // SAFETY: by contract. A failure cannot be handled, here and below.
            unsafe { (self.cuda.free)(address) };
        }
    }

    /// A stream of the current context for copies.
    pub fn stream(&self) -> Result<*mut c_void, OpenError> {
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer is to a variable of its own.
        let result = unsafe { (self.cuda.stream_create)(&mut stream, NON_BLOCKING) };
        self.cuda.check("cuStreamCreate", result)?;
        Ok(stream)
    }

    /// Ends a stream; null is none.
    ///
    /// # Safety
    /// It came from [`Self::stream`] with the context that is current now, and was not ended.
    pub unsafe fn end_stream(&self, stream: *mut c_void) {
        if !stream.is_null() {
            // SAFETY: by contract.
            unsafe { (self.cuda.stream_destroy)(stream) };
        }
    }

    /// Begins a copy.
    ///
    /// # Safety
    /// Both sides are valid for the given rows, and stay until [`Self::wait`]; stream and memory are of the current
    /// context.
    pub unsafe fn copy(&self, copy: &Copy2d, stream: *mut c_void) -> Result<(), OpenError> {
        let (src_type, src_host, src_device) = match copy.from {
            Side::System(at) => (HOST, at, 0),
            Side::Gpu(at) => (DEVICE, ptr::null(), at),
        };
        let copy = Memcpy2d {
            src_x: 0,
            src_y: 0,
            src_type,
            src_host,
            src_device,
            src_array: ptr::null_mut(),
            src_pitch: copy.from_pitch,
            dst_x: 0,
            dst_y: 0,
            dst_type: DEVICE,
            dst_host: ptr::null_mut(),
            dst_device: copy.to,
            dst_array: ptr::null_mut(),
            dst_pitch: copy.to_pitch,
            width: copy.row,
            height: copy.rows,
        };
        // SAFETY: by contract.
        let result = unsafe { (self.cuda.copy)(&copy, stream) };
        self.cuda.check("cuMemcpy2DAsync", result)
    }

    /// Waits until all work in a stream is done.
    ///
    /// # Safety
    /// It came from [`Self::stream`] with the context that is current now, and was not ended.
    pub unsafe fn wait(&self, stream: *mut c_void) -> Result<(), OpenError> {
        // SAFETY: by contract.
        let result = unsafe { (self.cuda.stream_wait)(stream) };
        self.cuda.check("cuStreamSynchronize", result)
    }

    /// Makes a context current on this thread until [`Self::leave`].
    pub fn enter(&self, context: Context) -> Result<(), OpenError> {
        // SAFETY: the context came from `context` and is not destroyed.
        let result = unsafe { (self.cuda.context_push)(context) };
        self.cuda.check("cuCtxPushCurrent", result)
    }

    /// Takes the current context off this thread.
    pub fn leave(&self) {
        let mut context = ptr::null_mut();
        // SAFETY: the pointer is to a variable of its own. A failure cannot be handled.
        unsafe { (self.cuda.context_pop)(&mut context) };
    }

    /// Destroys a context that nothing uses any more.
    ///
    /// # Safety
    /// It came from [`Self::context`] and was not destroyed.
    pub unsafe fn destroy(&self, context: Context) {
        // SAFETY: by contract. A failure cannot be handled.
        unsafe { (self.cuda.context_destroy)(context) };
    }
}

impl Cuda {
    fn check(&self, call: &'static str, result: c_int) -> Result<(), OpenError> {
        if result == 0 {
            return Ok(());
        }
        let mut text = ptr::null();
        // SAFETY: the pointer is to a variable of its own; a text is a C string that lives as long as the library.
        let text = unsafe {
            (self.error_string)(result, &mut text);
            if text.is_null() {
                String::new()
            } else {
                format!(": {}", CStr::from_ptr(text).to_string_lossy())
            }
        };
        Err(OpenError::refused(
            "encoder=nvenc",
            format!("{call} says {result}{text}"),
            SEE_DRIVER,
        ))
    }
}

/// A call that the encoder refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallError {
    call: &'static str,
    pub status: sys::NVENCSTATUS,
    /// The driver's own message, may be empty.
    text: String,
}

impl CallError {
    pub fn new(call: &'static str, status: sys::NVENCSTATUS, text: impl Into<String>) -> Self {
        Self {
            call,
            status,
            text: text.into(),
        }
    }

    /// Whether the device is gone, or was reset.
    fn lost(&self) -> bool {
        matches!(
            self.status,
            sys::NV_ENC_ERR_DEVICE_NOT_EXIST | sys::NV_ENC_ERR_INVALID_DEVICE | sys::NV_ENC_ERR_INVALID_ENCODERDEVICE
        )
    }

    fn name(&self) -> &'static str {
        const NAMES: [&str; 26] = [
            "SUCCESS",
            "NO_ENCODE_DEVICE",
            "UNSUPPORTED_DEVICE",
            "INVALID_ENCODERDEVICE",
            "INVALID_DEVICE",
            "DEVICE_NOT_EXIST",
            "INVALID_PTR",
            "INVALID_EVENT",
            "INVALID_PARAM",
            "INVALID_CALL",
            "OUT_OF_MEMORY",
            "ENCODER_NOT_INITIALIZED",
            "UNSUPPORTED_PARAM",
            "LOCK_BUSY",
            "NOT_ENOUGH_BUFFER",
            "INVALID_VERSION",
            "MAP_FAILED",
            "NEED_MORE_INPUT",
            "ENCODER_BUSY",
            "EVENT_NOT_REGISTERED",
            "GENERIC",
            "INCOMPATIBLE_CLIENT_KEY",
            "UNIMPLEMENTED",
            "RESOURCE_REGISTER_FAILED",
            "RESOURCE_NOT_REGISTERED",
            "RESOURCE_NOT_MAPPED",
        ];
        NAMES.get(self.status as usize).copied().unwrap_or("unknown error")
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} says {} ({})", self.call, self.name(), self.status)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        if self.lost() {
            f.write_str(". The GPU was reset or taken away: see what `nvidia-smi` says, then restart the pipeline")?;
        }
        Ok(())
    }
}

/// Makes a refusal to open of it, with the cure where it is known.
pub(super) fn refused(error: &CallError) -> OpenError {
    let cure = match error.status {
        sys::NV_ENC_ERR_OUT_OF_MEMORY => {
            "Close other programs that encode on this GPU: memory and the number of sessions are limited"
        }
        sys::NV_ENC_ERR_NO_ENCODE_DEVICE | sys::NV_ENC_ERR_UNSUPPORTED_DEVICE => {
            "Choose another encoder: this GPU has none"
        }
        sys::NV_ENC_ERR_INVALID_VERSION => "Install a newer driver, or choose another encoder",
        _ => SEE_DRIVER,
    };
    OpenError::refused("encoder=nvenc", error.to_string(), cure)
}
