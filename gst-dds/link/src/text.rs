// SPDX-License-Identifier: MPL-2.0

//! Text from C: a `gchar *` is any bytes or nothing. The bindings take it for UTF-8, panic where it is not
//! (`Value::get::<&str>`), or trust it blindly.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::path::PathBuf;

use glib::translate::ToGlibPtr;

/// The bytes of a string, without the zero at their end; `None` for values of another type and for NULL.
pub fn bytes(value: &glib::Value) -> Option<&[u8]> {
    if !value.type_().is_a(glib::Type::STRING) {
        return None;
    }
    // SAFETY: The value holds a string, checked above, and keeps it as long as it is borrowed.
    let text = unsafe { glib::gobject_ffi::g_value_get_string(value.to_glib_none().0) };
    if text.is_null() {
        return None;
    }
    // SAFETY: A C string of the value.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// The text of a string, `None` as in [`bytes`] and for invalid UTF-8.
pub fn utf8(value: &glib::Value) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

/// A path, which may be any bytes where the system allows them; `None` for an empty one as well.
pub fn path(value: &glib::Value) -> Option<PathBuf> {
    let bytes = bytes(value).filter(|bytes| !bytes.is_empty())?;
    #[cfg(unix)]
    let path = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
    #[cfg(not(unix))]
    let path = std::ffi::OsStr::new(std::str::from_utf8(bytes).ok()?);
    let path: &std::ffi::OsStr = path;
    Some(path.into())
}

/// The text of a field.
pub fn field<'a>(structure: &'a gst::StructureRef, name: &str) -> Option<&'a str> {
    utf8(structure.value(name).ok()?)
}

/// A string of these bytes up to the first zero, valid or not, as C code may set it. For tests.
#[doc(hidden)]
pub fn value_of(bytes: &[u8]) -> glib::Value {
    use glib::value::ToValue;
    let mut text = bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    text.push(0);
    let mut value = "".to_value();
    let raw: *mut glib::gobject_ffi::GValue = glib::translate::ToGlibPtrMut::to_glib_none_mut(&mut value).0;
    // SAFETY: The value is one for strings and copies what ends in a zero.
    unsafe { glib::gobject_ffi::g_value_set_string(raw, text.as_ptr().cast()) };
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use glib::prelude::*;

    #[test]
    fn a_string_is_any_bytes_or_nothing() {
        for text in [&b"DDS1"[..], b"", b"\xff\xff\xff\xff", b"\xc3", "Ä".as_bytes()] {
            let value = value_of(text);
            assert_eq!(bytes(&value), Some(text));
            assert_eq!(utf8(&value), std::str::from_utf8(text).ok());
            assert_eq!(path(&value).is_some(), !text.is_empty());
        }
        assert_eq!(bytes(&None::<&str>.to_value()), None);
        assert_eq!(bytes(&7u32.to_value()), None);
    }
}
