// SPDX-License-Identifier: MPL-2.0

//! The few functions of CUDA's driver interface, and who has what.

#![allow(unsafe_code, missing_docs, non_snake_case)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard};

use crate::memory::Memory;
use crate::nvenc::Encoder;
use crate::{DEVICE, fault, log};

pub(crate) const SUCCESS: c_int = 0;
pub(crate) const INVALID_VALUE: c_int = 1;
pub(crate) const OUT_OF_MEMORY: c_int = 2;
const NO_DEVICE: c_int = 100;
pub(crate) const INVALID_CONTEXT: c_int = 201;
const SYSTEM_DRIVER_MISMATCH: c_int = 803;

/// The device. GStreamer takes it for its place in the list, so that it is the first one's.
pub(crate) const THE_DEVICE: c_int = 0;

thread_local! {
    /// Contexts of this thread, the current one last.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Everything that was made and not yet ended. Handles are numbers that nobody may look behind.
#[derive(Default)]
pub(crate) struct World {
    last_handle: usize,
    pub contexts: Vec<usize>,
    pub encoders: HashMap<usize, Encoder>,
    pub memory: Memory,
}

impl World {
    pub fn handle(&mut self) -> usize {
        self.last_handle += 0x1000;
        self.last_handle
    }

    /// Writes down what is left.
    pub fn count(&self) {
        let buffers = self.encoders.values().map(Encoder::buffers).sum::<usize>() + self.memory.count();
        log(&format!(
            "left {} {} {buffers}",
            self.contexts.len(),
            self.encoders.len()
        ));
    }
}

pub(crate) fn world() -> MutexGuard<'static, World> {
    static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);
    WORLD.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The context that is current on this thread.
pub(crate) fn current() -> Option<usize> {
    CURRENT.with_borrow(|stack| stack.last().copied())
}

/// # Safety
/// Safe; C's interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> c_int {
    if fault("cuda-broken") {
        return SYSTEM_DRIVER_MISMATCH;
    }
    if flags == 0 { SUCCESS } else { INVALID_VALUE }
}

/// # Safety
/// `text` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(result: c_int, text: *mut *const c_char) -> c_int {
    let words = match result {
        NO_DEVICE => c"no CUDA-capable device is detected",
        SYSTEM_DRIVER_MISMATCH => c"system has unsupported display driver / cuda driver combination",
        INVALID_CONTEXT => c"invalid device context",
        OUT_OF_MEMORY => c"out of memory",
        _ => c"invalid argument",
    };
    // SAFETY: by contract.
    unsafe { *text = words.as_ptr() };
    SUCCESS
}

/// # Safety
/// `version` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: by contract.
    unsafe { *version = 11040 };
    SUCCESS
}

/// # Safety
/// `count` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: by contract.
    unsafe { *count = c_int::from(!fault("no-device")) };
    SUCCESS
}

/// # Safety
/// `device` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    if ordinal != 0 {
        return NO_DEVICE;
    }
    // SAFETY: by contract.
    unsafe { *device = THE_DEVICE };
    SUCCESS
}

/// # Safety
/// `name` must have room for `length` characters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> c_int {
    if device != THE_DEVICE || (length as usize) <= DEVICE.len() {
        return INVALID_VALUE;
    }
    // SAFETY: there is room, as just checked.
    unsafe {
        std::ptr::copy_nonoverlapping(DEVICE.as_ptr().cast(), name, DEVICE.len());
        *name.add(DEVICE.len()) = 0;
    }
    SUCCESS
}

/// # Safety
/// `context` must be valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut *mut c_void, flags: c_uint, device: c_int) -> c_int {
    if device != THE_DEVICE || flags != 0 {
        return INVALID_VALUE;
    }
    let mut world = world();
    let handle = world.handle();
    world.contexts.push(handle);
    // As in CUDA it is current at once.
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
    // SAFETY: by contract.
    unsafe { *context = handle as *mut c_void };
    SUCCESS
}

/// # Safety
/// Safe; C's interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPushCurrent_v2(context: *mut c_void) -> c_int {
    let handle = context as usize;
    if !world().contexts.contains(&handle) {
        log("violation cuCtxPushCurrent: no such context");
        return INVALID_CONTEXT;
    }
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
    SUCCESS
}

/// # Safety
/// `context` must be valid or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut *mut c_void) -> c_int {
    let Some(handle) = CURRENT.with_borrow_mut(Vec::pop) else {
        log("violation cuCtxPopCurrent: none is current");
        return INVALID_CONTEXT;
    };
    // SAFETY: by contract.
    unsafe {
        if let Some(context) = context.as_mut() {
            *context = handle as *mut c_void;
        }
    }
    SUCCESS
}

/// # Safety
/// Safe; C's interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDestroy_v2(context: *mut c_void) -> c_int {
    let handle = context as usize;
    let mut world = world();
    if !world.contexts.contains(&handle) {
        log("violation cuCtxDestroy: no such context");
        return INVALID_CONTEXT;
    }
    if world.encoders.values().any(|encoder| encoder.context == handle) {
        log("violation cuCtxDestroy: an encoder is open in it");
    }
    if world.memory.any_of(handle) {
        log("violation cuCtxDestroy: memory of it is left");
    }
    if CURRENT.with_borrow(|stack| stack.contains(&handle)) {
        log("violation cuCtxDestroy: still current");
    }
    world.contexts.retain(|one| *one != handle);
    world.count();
    SUCCESS
}
