// SPDX-License-Identifier: MPL-2.0

//! Receives log lines of libx264.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;

use x264_sys as sys;

use crate::encoder::{Config, Log, LogLevel};
use crate::vbv::Vbv;

/// Error lines kept for messages.
const KEPT_ERRORS: usize = 3;

/// Receiver of the log lines of one encoder.
pub(super) struct LogSink {
    log: Log,
    /// The VBV is open on purpose: its warning about the level is dropped.
    open_vbv: bool,
    /// Limits of the rate factor are lifted on purpose: that warning is dropped too.
    exact: bool,
    /// The last errors, for messages.
    errors: Mutex<Vec<String>>,
}

impl LogSink {
    pub fn new(log: Log, config: &Config) -> Self {
        Self {
            log,
            open_vbv: config.vbv == Vbv::OPEN,
            exact: config.is_exact(),
            errors: Mutex::default(),
        }
    }

    /// Makes libx264 write its lines here. It keeps a pointer for as long as its encoder is open.
    pub fn listen(&self, p: &mut sys::x264_param_t) {
        p.pf_log = Some(log_line);
        p.p_log_private = (&raw const *self).cast_mut().cast();
        p.i_log_level = sys::X264_LOG_DEBUG as c_int;
    }

    /// The library's errors since the last call, for the end of a sentence; empty where there are none.
    pub fn take_errors(&self) -> String {
        let errors = std::mem::take(&mut *self.errors.lock().unwrap());
        errors.iter().map(|line| format!(": {line}")).collect()
    }

    fn line(&self, level: LogLevel, text: &str) {
        let wide = self.open_vbv && text.starts_with("VBV") && text.contains("level limit");
        // In exact mode the VBV only backs a cap that is kept and counted elsewhere.
        let limited = self.exact && (text.starts_with("CRF max") || text.starts_with("VBV underflow"));
        let expected = wide || limited;
        if level == LogLevel::Error {
            let mut errors = self.errors.lock().unwrap();
            if errors.len() == KEPT_ERRORS {
                errors.remove(0);
            }
            errors.push(text.into());
        }
        (self.log)(if expected { LogLevel::Debug } else { level }, text);
    }
}

/// Receives log lines of libx264. `V` is the platform's `va_list`: its type differs between architectures and is taken
/// from the binding's declaration of the callback.
///
/// # Safety
/// `private` must point to a live [`LogSink`]; `format` and `arguments` must be a `printf` format and its arguments.
unsafe extern "C" fn log_line<V>(private: *mut c_void, level: c_int, format: *const c_char, arguments: V) {
    type Format<V> = unsafe extern "C" fn(*mut c_char, usize, *const c_char, V) -> c_int;
    unsafe extern "C" {
        fn vsnprintf();
    }
    let mut text: [c_char; 1024] = [0; 1024];
    // SAFETY: `vsnprintf` has this signature in C with `V` the platform's va_list; it is only named without arguments
    // above because that type has no portable spelling. The buffer and its length belong together.
    let printed = unsafe {
        let format_into: Format<V> = std::mem::transmute::<unsafe extern "C" fn(), Format<V>>(vsnprintf);
        format_into(text.as_mut_ptr(), text.len(), format, arguments)
    };
    if printed < 0 {
        return;
    }
    // Panics of a log handler belong to the application.
    static GUARD: gst_dds_link::guard::Guard = gst_dds_link::guard::Guard::new("the log of libx264");
    // SAFETY: vsnprintf ends the text with a zero byte within the buffer; `private` is a live LogSink by contract and
    // its closure may be called from any thread.
    let (sink, text) = unsafe { (&*private.cast::<LogSink>(), CStr::from_ptr(text.as_ptr())) };
    let level = match level {
        sys::X264_LOG_NONE => return,
        l if l == sys::X264_LOG_ERROR as c_int => LogLevel::Error,
        l if l == sys::X264_LOG_WARNING as c_int => LogLevel::Warning,
        l if l == sys::X264_LOG_INFO as c_int => LogLevel::Info,
        _ => LogLevel::Debug,
    };
    GUARD.run((), || sink.line(level, text.to_string_lossy().trim_end()));
}
