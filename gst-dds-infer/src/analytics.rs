// SPDX-License-Identifier: MPL-2.0

//! Objects as GstAnalytics metas, available from GStreamer 1.24 on.
//!
//! The library is opened at run time, so that one binary serves older GStreamer too. Only this file calls it.
//! Signatures are from `gst/analytics/*.h` of 1.24, which introduced all functions used here; 1.26 has the same.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_float, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::LazyLock;

use glib::translate::IntoGlib;

use crate::results::Object;

/// `GST_ANALYTICS_REL_TYPE_RELATE_TO`.
const RELATE_TO: c_uint = 1 << 3;
/// Name of the library.
const LIBRARY: &str = "libgstanalytics-1.0.so.0";

/// A `GstAnalyticsRelationMeta`.
type Relations = c_void;

/// A `GstAnalyticsMtd`: an entry of a meta.
#[repr(C)]
struct Entry {
    id: c_uint,
    meta: *mut Relations,
}

type FromBuffer = unsafe extern "C" fn(*mut gst::ffi::GstBuffer) -> *mut Relations;
type AddObject = unsafe extern "C" fn(
    *mut Relations,
    glib::ffi::GQuark,
    c_int,
    c_int,
    c_int,
    c_int,
    c_float,
    *mut Entry,
) -> glib::ffi::gboolean;
type AddClass = unsafe extern "C" fn(*mut Relations, c_float, glib::ffi::GQuark, *mut Entry) -> glib::ffi::gboolean;
type Relate = unsafe extern "C" fn(*mut Relations, c_uint, c_uint, c_uint) -> glib::ffi::gboolean;

/// The functions of the library, which stays loaded.
pub struct Analytics {
    get: FromBuffer,
    add: FromBuffer,
    add_object: AddObject,
    add_class: AddClass,
    relate: Relate,
}

/// The library, opened by the first call.
///
/// # Errors
/// Why it is not available.
pub fn library() -> Result<&'static Analytics, &'static str> {
    static ANALYTICS: LazyLock<Result<Analytics, String>> = LazyLock::new(Analytics::open);
    ANALYTICS.as_ref().map_err(String::as_str)
}

impl Analytics {
    /// Opens the library beside GStreamer's own, else from the system's paths.
    fn open() -> Result<Self, String> {
        let (major, minor, ..) = gst::version();
        if (major, minor) < (1, 24) {
            return Err(format!("GStreamer {major}.{minor} has no analytics metas; 1.24 has"));
        }
        let beside = beside_gstreamer().map(|directory| directory.join(LIBRARY));
        let names = beside.into_iter().chain([PathBuf::from(LIBRARY)]);
        let handle = names
            .filter_map(|name| CString::new(name.to_str()?).ok())
            .find_map(|name| {
                // SAFETY: the name is NUL terminated. The library's initialisers are GStreamer's; it links to the
                // libraries of this process, by their names, and is never closed.
                let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
                (!handle.is_null()).then_some(handle)
            })
            .ok_or_else(|| format!("{LIBRARY} is not installed"))?;
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open and the name NUL terminated.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            match address.is_null() {
                true => Err(format!("{LIBRARY} has no {}", name.to_string_lossy())),
                false => Ok(address),
            }
        };
        let get = symbol(c"gst_buffer_get_analytics_relation_meta")?;
        let add = symbol(c"gst_buffer_add_analytics_relation_meta")?;
        let add_object = symbol(c"gst_analytics_relation_meta_add_od_mtd")?;
        let add_class = symbol(c"gst_analytics_relation_meta_add_one_cls_mtd")?;
        let relate = symbol(c"gst_analytics_relation_meta_set_relation")?;
        // SAFETY: the addresses are of functions of these names, with the signatures of the header.
        unsafe {
            Ok(Self {
                get: std::mem::transmute::<*mut c_void, FromBuffer>(get),
                add: std::mem::transmute::<*mut c_void, FromBuffer>(add),
                add_object: std::mem::transmute::<*mut c_void, AddObject>(add_object),
                add_class: std::mem::transmute::<*mut c_void, AddClass>(add_class),
                relate: std::mem::transmute::<*mut c_void, Relate>(relate),
            })
        }
    }

    /// Adds the objects to the relation meta of a buffer, which is added if missing: one object detection each and,
    /// for a recognised face, the related classification. Returns the ids of the detections, in order.
    pub fn attach(&self, buffer: &mut gst::BufferRef, objects: &[Object]) -> Option<Vec<u32>> {
        let buffer = buffer.as_mut_ptr();
        // SAFETY: the buffer is writable and outlives the call; the meta belongs to it.
        let meta = unsafe {
            let there = (self.get)(buffer);
            if there.is_null() { (self.add)(buffer) } else { there }
        };
        if meta.is_null() {
            return None;
        }
        let mut ids = Vec::with_capacity(objects.len());
        for object in objects {
            let plain = Plain::of(object);
            let [x, y, width, height] = plain.rect;
            let mut entry = Entry {
                id: 0,
                meta: std::ptr::null_mut(),
            };
            // SAFETY: the meta belongs to the buffer, which nobody else changes meanwhile; the entry is only written.
            let added = unsafe {
                (self.add_object)(
                    meta,
                    quark(plain.label),
                    x,
                    y,
                    width,
                    height,
                    plain.confidence,
                    &mut entry,
                )
            };
            if added == glib::ffi::GFALSE {
                return None;
            }
            ids.push(entry.id);
            let Some((name, likeness)) = plain.name else { continue };
            let mut class = Entry {
                id: 0,
                meta: std::ptr::null_mut(),
            };
            // SAFETY: as above; both ids are of entries of this meta. Readers search from the object on; a
            // classification also relates to its object.
            unsafe {
                if (self.add_class)(meta, likeness, quark(name), &mut class) != glib::ffi::GFALSE {
                    (self.relate)(meta, RELATE_TO, entry.id, class.id);
                    (self.relate)(meta, RELATE_TO, class.id, entry.id);
                }
            }
        }
        Some(ids)
    }
}

/// An object in the types of the library.
#[derive(Debug, PartialEq)]
struct Plain<'a> {
    label: &'a str,
    /// Left, top, width, height.
    rect: [c_int; 4],
    /// 0 to 1.
    confidence: f32,
    /// Identity of the face, and similarity, 0 to 1.
    name: Option<(&'a str, f32)>,
}

impl<'a> Plain<'a> {
    fn of(object: &'a Object) -> Self {
        let sides = [object.x, object.y, object.width, object.height];
        let name = object.face.as_ref().and_then(|face| {
            let name = face.identity.as_deref()?;
            Some((name, face.similarity.clamp(0.0, 1.0)))
        });
        Self {
            label: &object.label,
            rect: sides.map(|side| c_int::try_from(side).unwrap_or(c_int::MAX)),
            confidence: object.score.clamp(0.0, 1.0),
            name,
        }
    }
}

/// A quark. Its string is never freed: labels and identities are few.
fn quark(text: &str) -> glib::ffi::GQuark {
    // C would cut the text at a NUL.
    glib::Quark::from_str(text.split('\0').next().unwrap_or_default()).into_glib()
}

/// Directory of GStreamer's library in this process.
fn beside_gstreamer() -> Option<PathBuf> {
    let version: unsafe extern "C" fn(*mut c_uint, *mut c_uint, *mut c_uint, *mut c_uint) = gst::ffi::gst_version;
    // SAFETY: an all-zero Dl_info is valid (null pointers); dladdr only looks the address up and fills it. The name it
    // returns is a NUL terminated string that lives as long as the library, which is in use.
    let name: *const c_char = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(version as *const c_void, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        info.dli_fname
    };
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    Some(std::path::Path::new(name).parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Face;

    fn object(face: Option<Face>) -> Object {
        Object {
            label: "person".into(),
            class: 0,
            score: 1.5,
            objectness: None,
            x: 3,
            y: u32::MAX,
            width: 5,
            height: 7,
            pass: 1,
            face,
            landmarks: None,
        }
    }

    #[test]
    fn objects_are_said_in_the_ranges_of_the_library() {
        let object = object(None);
        let plain = Plain::of(&object);
        assert_eq!(
            (plain.rect, plain.confidence, plain.name),
            ([3, i32::MAX, 5, 7], 1.0, None)
        );
    }

    #[test]
    fn strangers_are_not_classified_and_known_faces_are() {
        let face = |identity: Option<&str>, similarity| Face {
            identity: identity.map(str::to_owned),
            similarity,
        };
        let stranger = object(Some(face(None, 0.9)));
        assert_eq!(Plain::of(&stranger).name, None);
        let known = object(Some(face(Some("Ada"), -0.5)));
        assert_eq!(Plain::of(&known).name, Some(("Ada", 0.0)));
    }

    #[test]
    fn the_library_is_there_from_the_release_on_that_has_it_and_else_the_reason_is_reported() {
        gst::init().unwrap();
        match library() {
            Ok(_) => assert!(gst::version() >= (1, 24, 0, 0)),
            Err(why) => assert!(why.contains("1.24") || why.contains(LIBRARY), "{why}"),
        }
    }

    #[test]
    fn every_object_has_its_own_id_in_one_meta() {
        gst::init().unwrap();
        let library = match library() {
            Ok(library) => library,
            Err(why) => {
                println!("skipped: {why}");
                return;
            }
        };
        let mut buffer = gst::Buffer::new();
        let known = Face {
            identity: Some("Ada".into()),
            similarity: 0.7,
        };
        let objects = [object(None), object(Some(known)), object(None)];
        let first = library.attach(buffer.make_mut(), &objects).unwrap();
        let second = library.attach(buffer.make_mut(), &objects[..1]).unwrap();
        let mut ids = [first, second].concat();
        assert_eq!(ids.len(), 4);
        ids.dedup();
        assert_eq!(ids.len(), 4);
        assert_eq!(buffer.iter_meta::<gst::Meta>().count(), 1);
    }
}
