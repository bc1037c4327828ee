// SPDX-License-Identifier: MPL-2.0

//! Pictures in the memory of NVIDIA's GPUs, as GStreamer's CUDA library passes them between elements
//! (`video/x-raw(memory:CUDAMemory)`).
//!
//! The library (`libgstcuda-1.0.so.0`, from GStreamer 1.22 on) is opened at run time, so that the plugin loads where it
//! is not installed. Only this file calls it. Signatures and the layout of `GstCudaMemory` are those of `gst/cuda/*.h`
//! of 1.22, and unchanged in 1.26.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, LazyLock};

use glib::translate::{FromGlibPtrNone, ToGlibPtr};
use gst::prelude::*;

use crate::encoder::{Gpu, GpuPicture, GpuPlane};
use crate::library;

/// Name of the library.
const LIBRARY: &str = "libgstcuda-1.0.so.0";
/// Feature of caps whose buffers hold CUDA memory (`GST_CAPS_FEATURE_MEMORY_CUDA_MEMORY`).
pub const FEATURE: &str = "memory:CUDAMemory";
/// Type of contexts that carry a CUDA context (`GST_CUDA_CONTEXT_TYPE`).
const CONTEXT: &str = "gst.cuda.context";
/// `GST_MAP_CUDA`: maps the device's memory, not a copy of it.
const MAP_CUDA: gst::ffi::GstMapFlags = gst::ffi::GST_MAP_FLAG_LAST << 1;
/// Any device.
const ANY: c_int = -1;

/// The head of a `GstCudaMemory`.
#[repr(C)]
struct CudaMemory {
    memory: gst::ffi::GstMemory,
    context: *mut c_void,
}

type Load = unsafe extern "C" fn() -> glib::ffi::gboolean;
type InitMemory = unsafe extern "C" fn();
type Ensure = unsafe extern "C" fn(*mut gst::ffi::GstElement, c_int, *mut *mut c_void) -> glib::ffi::gboolean;
type HandleContext = unsafe extern "C" fn(
    *mut gst::ffi::GstElement,
    *mut gst::ffi::GstContext,
    c_int,
    *mut *mut c_void,
) -> glib::ffi::gboolean;
type HandleQuery =
    unsafe extern "C" fn(*mut gst::ffi::GstElement, *mut gst::ffi::GstQuery, *mut c_void) -> glib::ffi::gboolean;
type Handle = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type IsMemory = unsafe extern "C" fn(*mut gst::ffi::GstMemory) -> glib::ffi::gboolean;
type Sync = unsafe extern "C" fn(*mut CudaMemory);

/// The functions of the library, which stays loaded.
struct Functions {
    ensure: Ensure,
    handle_context: HandleContext,
    handle_query: HandleQuery,
    handle: Handle,
    is_memory: IsMemory,
    /// From 1.24 on: waits for what is still being written.
    sync: Option<Sync>,
}

/// The library, opened by the first call; `Err` holds the reason why there is none.
fn functions() -> Result<&'static Functions, &'static str> {
    static FUNCTIONS: LazyLock<Result<Functions, String>> = LazyLock::new(Functions::open);
    FUNCTIONS.as_ref().map_err(String::as_str)
}

/// Whether pictures may come in CUDA memory here.
///
/// # Errors
/// Names what is missing.
pub fn available() -> Result<(), &'static str> {
    functions().map(|_| ())
}

impl Functions {
    fn open() -> Result<Self, String> {
        // SAFETY: the library's initialisers are GStreamer's; it is never closed.
        let library = unsafe { library::open(LIBRARY) }?;
        let library = Box::leak(Box::new(library));
        // SAFETY: names and types are those of the library's headers.
        unsafe {
            let load: Load = library::function(library, "gst_cuda_load_library")?;
            let init_memory: InitMemory = library::function(library, "gst_cuda_memory_init_once")?;
            let functions = Self {
                ensure: library::function(library, "gst_cuda_ensure_element_context")?,
                handle_context: library::function(library, "gst_cuda_handle_set_context")?,
                handle_query: library::function(library, "gst_cuda_handle_context_query")?,
                handle: library::function(library, "gst_cuda_context_get_handle")?,
                is_memory: library::function(library, "gst_is_cuda_memory")?,
                sync: library::function(library, "gst_cuda_memory_sync").ok(),
            };
            if load() == glib::ffi::GFALSE {
                return Err("GStreamer's CUDA library does not find NVIDIA's driver (libcuda.so.1)".into());
            }
            init_memory();
            Ok(functions)
        }
    }
}

/// The CUDA context that an element shares with its neighbours, once it has one.
#[derive(Default)]
pub struct Slot(AtomicPtr<c_void>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Slot {
    /// Takes the context from a `GstContext` of that type, unless there is one already. For `GstElement::set_context`.
    pub fn offer(&self, element: &gst::Element, context: &gst::Context) {
        if context.context_type() != CONTEXT {
            return;
        }
        let Ok(functions) = functions() else { return };
        // SAFETY: element and context are alive; the library reads and writes the pointer as it does that of its own
        // elements, and puts a reference of ours there.
        unsafe {
            (functions.handle_context)(element.as_ptr(), context.to_glib_none().0, ANY, self.0.as_ptr());
        }
    }

    /// Answers a query for our context; `false` where it asks for something else, or we have none.
    pub fn answer(&self, element: &gst::Element, query: &mut gst::QueryRef) -> bool {
        let context = self.0.load(Ordering::Acquire);
        if context.is_null() {
            return false;
        }
        let Ok(functions) = functions() else { return false };
        // SAFETY: element and query are alive, and the query ours to write; what is in the slot is a reference of ours.
        unsafe { (functions.handle_query)(element.as_ptr(), query.as_mut_ptr(), context) != glib::ffi::GFALSE }
    }

    /// The context: that of a neighbour or of the application, else a new one, which is announced to them.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ensure(&self, element: &gst::Element) -> Result<Context, String> {
        let functions = functions()?;
        // SAFETY: the element is alive. The library queries neighbours and application, which answer by `set_context`
        // and so by `offer`, which writes where this pointer points.
        let there = unsafe { (functions.ensure)(element.as_ptr(), ANY, self.0.as_ptr()) };
        let context = self.0.load(Ordering::Acquire);
        if there == glib::ffi::GFALSE || context.is_null() {
            return Err("no CUDA context: see what `nvidia-smi` says".into());
        }
        // SAFETY: a GstCudaContext is a GstObject, alive while the slot holds it.
        let object = unsafe { gst::Object::from_glib_none(context.cast::<gst::ffi::GstObject>()) };
        Ok(Context { object, functions })
    }

    /// Gives the context back.
    pub fn clear(&self) {
        let context = self.0.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !context.is_null() {
            // SAFETY: the reference that was in the slot was ours.
            unsafe { gst::ffi::gst_object_unref(context.cast()) };
        }
    }
}

/// A CUDA context of GStreamer's.
#[derive(Clone)]
pub struct Context {
    object: gst::Object,
    functions: &'static Functions,
}

impl Context {
    /// As encoders know it.
    pub fn gpu(&self) -> Gpu {
        // SAFETY: the object is a GstCudaContext, whose CUcontext lives as long as it does.
        unsafe {
            let context = (self.functions.handle)(self.object.as_ptr().cast());
            Gpu::new(context, Arc::new(self.object.clone()))
        }
    }

    /// The picture of a buffer in this context, without a copy; `None` where it is elsewhere and has to be read through
    /// system memory, which works with every memory.
    pub fn map<'a>(&self, buffer: &'a gst::BufferRef, info: &gst_video::VideoInfo) -> Option<Mapped<'a>> {
        if buffer.n_memory() != 1 {
            return None;
        }
        // SAFETY: the buffer has one memory, which it keeps while it is borrowed; `is_memory` checks that it is the
        // structure that is read here. Mapping only reads the buffer, although the pointer's type is mutable.
        unsafe {
            let raw = buffer.as_ptr().cast_mut();
            let memory = gst::ffi::gst_buffer_peek_memory(raw, 0);
            if (self.functions.is_memory)(memory) == glib::ffi::GFALSE {
                return None;
            }
            let memory = memory.cast::<CudaMemory>();
            if (*memory).context != self.object.as_ptr().cast() {
                return None;
            }
            if let Some(sync) = self.functions.sync {
                sync(memory);
            }
            let mut frame = MaybeUninit::<gst_video::ffi::GstVideoFrame>::zeroed();
            let mapped = gst_video::ffi::gst_video_frame_map(
                frame.as_mut_ptr(),
                info.to_glib_none().0.cast_mut(),
                raw,
                gst::ffi::GST_MAP_READ | MAP_CUDA,
            );
            (mapped != glib::ffi::GFALSE).then(|| Mapped {
                frame: frame.assume_init(),
                lent: PhantomData,
            })
        }
    }
}

/// A mapped picture in the memory of a GPU.
pub struct Mapped<'a> {
    frame: gst_video::ffi::GstVideoFrame,
    lent: PhantomData<&'a gst::BufferRef>,
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // SAFETY: it was mapped, once.
        unsafe { gst_video::ffi::gst_video_frame_unmap(&mut self.frame) };
    }
}

impl Mapped<'_> {
    /// The picture for the encoder; `pts` as in [`crate::encoder::Picture::pts`]. `None` where it is upside down.
    pub fn picture(&self, pts: i64) -> Option<GpuPicture<'_>> {
        // SAFETY: the description of a mapped frame points to one of its format, which lives for ever.
        let planes = unsafe { (*self.frame.info.finfo).n_planes } as usize;
        let mut all = [GpuPlane::default(); 3];
        for (i, plane) in all.iter_mut().enumerate().take(planes) {
            *plane = GpuPlane {
                address: self.frame.data[i] as u64,
                stride: usize::try_from(self.frame.info.stride[i]).ok()?,
            };
        }
        // SAFETY: the planes were mapped for the device, in the context that was requested of the memory, and stay
        // while this is borrowed; earlier work on them has been waited for.
        Some(unsafe { GpuPicture::new(all, pts) })
    }
}
