// SPDX-License-Identifier: MPL-2.0

//! Finds libx265 and reads its header.

use std::path::PathBuf;

fn main() {
    let library = match pkg_config::Config::new().atleast_version("3.0").probe("x265") {
        Ok(library) => library,
        Err(error) => {
            panic!("libx265 is not found: {error}. Install libx265-dev, or build without the feature `x265`")
        }
    };
    let header = library
        .include_paths
        .iter()
        .map(|path| path.join("x265.h"))
        .find(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("/usr/include/x265.h"));
    let bindings = bindgen::Builder::default()
        .header(header.to_string_lossy())
        .clang_args(library.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .allowlist_function("x265_api_query")
        .allowlist_type("x265_(api|param|picture|nal|stats)|X265_RC_METHODS")
        .prepend_enum_name(false)
        .allowlist_var("X265_(BUILD|MAJOR_VERSION|TYPE_.*|CSP_.*|LOG_.*|AQ_.*|PARAM_BAD_.*)")
        .generate_comments(false)
        .layout_tests(false)
        .generate();
    let written = bindings.map(|bindings| {
        let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
        bindings.write_to_file(out.join("x265.rs"))
    });
    match written {
        Ok(Ok(())) => println!("cargo:rerun-if-changed={}", header.display()),
        Ok(Err(error)) => panic!("the bindings of libx265 cannot be written: {error}"),
        Err(error) => panic!("{} cannot be read: {error}", header.display()),
    }
}
