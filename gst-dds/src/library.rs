// SPDX-License-Identifier: MPL-2.0

//! Libraries opened at run time, and their functions. Errors are the dynamic linker's own messages.

#![allow(unsafe_code)]

pub use libloading::Library;

/// Opens a library, found by the dynamic linker's usual search.
///
/// # Safety
/// Its initialisers may be run in any process.
///
/// # Errors
/// Why it cannot be loaded.
pub unsafe fn open(name: &str) -> Result<Library, String> {
    // SAFETY: by contract.
    unsafe { Library::new(name) }.map_err(|error| words(&error))
}

/// A function of a library.
///
/// # Safety
/// `T` must be the type of that function.
///
/// # Errors
/// Why it is not there.
pub unsafe fn function<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: by contract.
    let symbol = unsafe { library.get::<T>(name) };
    symbol.map(|symbol| *symbol).map_err(|error| words(&error))
}

/// The linker's message, which the error only refers to.
fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
