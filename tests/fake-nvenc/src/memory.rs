// SPDX-License-Identifier: MPL-2.0

//! Memory of the device, streams, and what else GStreamer's CUDA library asks of a driver.
//!
//! Addresses are numbers that nobody may look behind. What is begun in a stream happens when the stream is waited for, and
//! not before: who forgets to wait works with old bytes.

#![allow(unsafe_code, missing_docs, non_snake_case)]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::cuda::{INVALID_CONTEXT, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, current, world};
use crate::nvenc::Encoder;
use crate::{fault, log};

const INVALID_HANDLE: c_int = 400;
const NOT_SUPPORTED: c_int = 801;

/// Where addresses begin: no process has anything there.
const FIRST_ADDRESS: u64 = 0x7_0000_0000_0000;
/// Bytes between what was allocated, so that running over an end is seen.
const GAP: u64 = 0x1_0000;
/// Bytes that rows are apart more than they are long, at least.
const MARGIN: usize = 192;

const HOST: c_uint = 1;
const DEVICE: c_uint = 2;

struct Allocation {
    context: usize,
    data: Vec<u8>,
}

/// What was allocated and not given back, and what waits in streams.
#[derive(Default)]
pub(crate) struct Memory {
    device: BTreeMap<u64, Allocation>,
    /// Pinned memory of the host.
    host: BTreeMap<usize, Vec<u8>>,
    /// Context and copies of each stream.
    streams: BTreeMap<usize, (usize, Vec<Memcpy2d>)>,
    used: u64,
}

impl Memory {
    /// What is left.
    pub fn count(&self) -> usize {
        self.device.len() + self.host.len() + self.streams.len()
    }

    /// Whether something of a context is left.
    pub fn any_of(&self, context: usize) -> bool {
        self.device.values().any(|one| one.context == context)
            || self
                .streams
                .values()
                .any(|(of, copies)| *of == context && !copies.is_empty())
    }

    fn allocate(&mut self, context: usize, bytes: usize) -> u64 {
        let address = FIRST_ADDRESS + self.used;
        self.used += (bytes as u64).next_multiple_of(GAP) + GAP;
        let data = vec![0xee; bytes];
        self.device.insert(address, Allocation { context, data });
        address
    }

    /// The bytes from an address on, to the end of what it lies in.
    pub fn at(&mut self, context: usize, address: u64) -> Result<&mut [u8], String> {
        let (base, allocation) = self
            .device
            .range_mut(..=address)
            .next_back()
            .ok_or_else(|| format!("{address:#x} is no memory of the device"))?;
        let offset = (address - base) as usize;
        if offset >= allocation.data.len() {
            return Err(format!("{address:#x} is no memory of the device"));
        }
        if allocation.context != context {
            return Err(format!("{address:#x} is memory of another context"));
        }
        Ok(&mut allocation.data[offset..])
    }

    fn copy(&mut self, context: usize, copy: &Memcpy2d) -> Result<(), String> {
        let rows = copy.height;
        if copy.width == 0 || rows == 0 || copy.src_pitch < copy.width || copy.dst_pitch < copy.width {
            return Err(format!("{} rows of {} bytes", rows, copy.width));
        }
        if copy.src_x + copy.src_y + copy.dst_x + copy.dst_y != 0 || copy.src_array + copy.dst_array != 0 {
            return Err("origins and arrays are not expected".into());
        }
        let from_bytes = copy.src_pitch * (rows - 1) + copy.width;
        let from: Vec<u8> = match copy.src_type {
            // SAFETY: the caller says that so many bytes are there.
            HOST => unsafe { std::slice::from_raw_parts(copy.src_host as *const u8, from_bytes) }.to_vec(),
            DEVICE => {
                let all = self.at(context, copy.src_device)?;
                let room = all.len();
                let part = all.get(..from_bytes);
                part.ok_or_else(|| format!("reads {from_bytes} bytes of {room}"))?
                    .to_vec()
            }
            other => return Err(format!("memory of kind {other}")),
        };
        let to_bytes = copy.dst_pitch * (rows - 1) + copy.width;
        let to = match copy.dst_type {
            // SAFETY: the caller says that so many bytes are there.
            HOST => unsafe { std::slice::from_raw_parts_mut(copy.dst_host as *mut u8, to_bytes) },
            DEVICE => {
                let all = self.at(context, copy.dst_device)?;
                let room = all.len();
                all.get_mut(..to_bytes)
                    .ok_or_else(|| format!("writes {to_bytes} bytes of {room}"))?
            }
            other => return Err(format!("memory of kind {other}")),
        };
        let rows = from.chunks(copy.src_pitch).zip(to.chunks_mut(copy.dst_pitch));
        for (from, to) in rows {
            to[..copy.width].copy_from_slice(&from[..copy.width]);
        }
        Ok(())
    }
}

/// `CUDA_MEMCPY2D`; pointers are kept as numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy2d {
    src_x: usize,
    src_y: usize,
    src_type: c_uint,
    src_host: usize,
    src_device: u64,
    src_array: usize,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: c_uint,
    dst_host: usize,
    dst_device: u64,
    dst_array: usize,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

fn violation(call: &str, why: &str) -> c_int {
    log(&format!("violation {call}: {why}"));
    INVALID_VALUE
}

/// The current context, or what to answer without one.
fn context(call: &str) -> Result<usize, c_int> {
    current().ok_or_else(|| {
        violation(call, "no context is current");
        INVALID_CONTEXT
    })
}

macro_rules! context {
    ($call:expr) => {
        match context($call) {
            Ok(context) => context,
            Err(result) => return result,
        }
    };
}

/// # Safety
/// The pointers must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut u64,
    pitch: *mut usize,
    row: usize,
    rows: usize,
    element: c_uint,
) -> c_int {
    let context = context!("cuMemAllocPitch");
    if row == 0 || rows == 0 || ![4, 8, 16].contains(&element) {
        return violation("cuMemAllocPitch", "sizes");
    }
    let mut world = world();
    if fault("gpu-out-of-memory") && world.encoders.values().any(Encoder::wants_input) {
        return OUT_OF_MEMORY;
    }
    let bytes = (row + MARGIN).next_multiple_of(512);
    let at = world.memory.allocate(context, bytes * rows);
    // SAFETY: by contract.
    unsafe { (*address, *pitch) = (at, bytes) };
    SUCCESS
}

/// # Safety
/// `address` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    let context = context!("cuMemAlloc");
    let at = world().memory.allocate(context, bytes);
    // SAFETY: by contract.
    unsafe { *address = at };
    SUCCESS
}

/// # Safety
/// Safe; C's interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    let context = context!("cuMemFree");
    match world().memory.device.remove(&address) {
        Some(allocation) if allocation.context == context => SUCCESS,
        Some(_) => violation("cuMemFree", "memory of another context"),
        None => violation("cuMemFree", "no such memory"),
    }
}

/// # Safety
/// `address` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize) -> c_int {
    context!("cuMemAllocHost");
    let mut data = vec![0u8; bytes.max(1)];
    let at = data.as_mut_ptr();
    world().memory.host.insert(at as usize, data);
    // SAFETY: by contract.
    unsafe { *address = at.cast() };
    SUCCESS
}

/// # Safety
/// Nothing uses the memory any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(address: *mut c_void) -> c_int {
    context!("cuMemFreeHost");
    match world().memory.host.remove(&(address as usize)) {
        Some(_) => SUCCESS,
        None => violation("cuMemFreeHost", "no such memory"),
    }
}

/// # Safety
/// `copy` must be valid, and what it tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2D_v2(copy: *const Memcpy2d) -> c_int {
    let context = context!("cuMemcpy2D");
    // SAFETY: by contract.
    let copy = unsafe { &*copy };
    match world().memory.copy(context, copy) {
        Ok(()) => SUCCESS,
        Err(why) => violation("cuMemcpy2D", &why),
    }
}

/// The key of a stream: each context has its own default one.
fn key(context: usize, stream: *mut c_void) -> usize {
    if stream.is_null() { context } else { stream as usize }
}

/// # Safety
/// `copy` must be valid, and what it tells until the stream was waited for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(copy: *const Memcpy2d, stream: *mut c_void) -> c_int {
    let context = context!("cuMemcpy2DAsync");
    let mut world = world();
    // SAFETY: by contract.
    let to = unsafe { (*copy).dst_device };
    if fault("copy-refused") && world.encoders.values().any(|encoder| encoder.reads(to)) {
        return OUT_OF_MEMORY;
    }
    let key = key(context, stream);
    if stream.is_null() {
        world.memory.streams.entry(key).or_insert((context, Vec::new()));
    }
    match world.memory.streams.get_mut(&key) {
        Some((of, copies)) if *of == context => {
            // SAFETY: by contract.
            copies.push(unsafe { *copy });
            SUCCESS
        }
        _ => {
            violation("cuMemcpy2DAsync", "no stream of this context");
            INVALID_HANDLE
        }
    }
}

/// # Safety
/// `stream` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, flags: c_uint) -> c_int {
    let context = context!("cuStreamCreate");
    if flags > 1 {
        return violation("cuStreamCreate", "flags");
    }
    let mut world = world();
    let handle = world.handle();
    world.memory.streams.insert(handle, (context, Vec::new()));
    // SAFETY: by contract.
    unsafe { *stream = handle as *mut c_void };
    SUCCESS
}

/// # Safety
/// What waits in the stream must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> c_int {
    let context = context!("cuStreamSynchronize");
    let mut world = world();
    let key = key(context, stream);
    let copies = if stream.is_null() {
        world
            .memory
            .streams
            .remove(&key)
            .map_or_else(Vec::new, |(_, copies)| copies)
    } else {
        let Some((_, copies)) = world.memory.streams.get_mut(&key) else {
            violation("cuStreamSynchronize", "no such stream");
            return INVALID_HANDLE;
        };
        std::mem::take(copies)
    };
    for copy in copies {
        if let Err(why) = world.memory.copy(context, &copy) {
            return violation("cuMemcpy2DAsync", &why);
        }
    }
    SUCCESS
}

/// # Safety
/// Safe; C's interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> c_int {
    context!("cuStreamDestroy");
    match world().memory.streams.remove(&(stream as usize)) {
        Some((_, copies)) if copies.is_empty() => SUCCESS,
        Some(_) => violation("cuStreamDestroy", "something still waits in it"),
        None => violation("cuStreamDestroy", "no such stream"),
    }
}

/// The same by the name that GStreamer asks for.
///
/// # Safety
/// Safe; C's interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy(stream: *mut c_void) -> c_int {
    // SAFETY: as above.
    unsafe { cuStreamDestroy_v2(stream) }
}

/// # Safety
/// `device` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> c_int {
    context!("cuCtxGetDevice");
    // SAFETY: by contract.
    unsafe { *device = crate::cuda::THE_DEVICE };
    SUCCESS
}

/// # Safety
/// `name` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_result: c_int, name: *mut *const c_char) -> c_int {
    // SAFETY: by contract.
    unsafe { *name = c"CUDA_ERROR_FAKE".as_ptr() };
    SUCCESS
}

/// # Safety
/// `value` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> c_int {
    const TEXTURE_ALIGNMENT: c_int = 14;
    const MAJOR: c_int = 75;
    // SAFETY: by contract.
    unsafe {
        *value = match attribute {
            TEXTURE_ALIGNMENT => 512,
            MAJOR => 8,
            _ => 0,
        };
    }
    SUCCESS
}

/// Functions that GStreamer's library wants to find, and that nothing here calls.
macro_rules! not_supported {
    ($($name:ident)*) => {
        $(
            /// # Safety
            /// Safe; C's interface.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name() -> c_int {
                NOT_SUPPORTED
            }
        )*
    };
}

not_supported! {
    cuCtxSynchronize cuCtxEnablePeerAccess cuCtxDisablePeerAccess cuDeviceCanAccessPeer cuGraphicsMapResources
    cuGraphicsUnmapResources cuGraphicsResourceSetMapFlags_v2 cuGraphicsResourceSetMapFlags
    cuGraphicsSubResourceGetMappedArray cuGraphicsResourceGetMappedPointer_v2 cuGraphicsUnregisterResource
    cuGraphicsGLRegisterImage cuGraphicsGLRegisterBuffer cuGLGetDevices cuGLGetDevices_v2 cuMemcpyDtoD_v2
    cuMemcpyDtoDAsync_v2 cuMemcpyDtoH_v2 cuMemcpyDtoHAsync_v2 cuMemcpyHtoD_v2 cuMemcpyHtoDAsync_v2 cuModuleLoadData
    cuModuleUnload cuModuleGetFunction cuTexObjectCreate cuTexObjectDestroy cuLaunchKernel cuMemcpyDtoD
    cuMemcpyDtoDAsync cuMemcpyDtoH cuMemcpyDtoHAsync cuMemcpyHtoD cuMemcpyHtoDAsync cuEventCreate cuEventDestroy
    cuEventDestroy_v2 cuEventRecord cuEventSynchronize cuIpcGetEventHandle cuIpcOpenEventHandle cuCtxGetLimit
    cuIpcGetMemHandle cuIpcOpenMemHandle cuIpcOpenMemHandle_v2 cuIpcCloseMemHandle cuCtxSetLimit cuMemsetD2D8_v2
    cuMemsetD2D8Async cuMemsetD2D16_v2 cuMemsetD2D16Async cuMemsetD2D32_v2 cuMemsetD2D32Async
}
