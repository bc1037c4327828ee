// SPDX-License-Identifier: MPL-2.0

//! `dds-rtsp-camera`: an RTSP camera that the neural networks at its receivers steer.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use gst_dds_link::secret::Exposed;
use gst_dds_link::sync::Mutex;
use gst_rtsp_server::prelude::*;

use dds_rtsp_camera::camera::Camera;
use dds_rtsp_camera::elements::guard;
use dds_rtsp_camera::encoder::Recipe;
use dds_rtsp_camera::options::{self, Options};
use dds_rtsp_camera::server;
use dds_rtsp_camera::source::Source;
use dds_rtsp_camera::{signals, warn};

/// Most bytes of a file with names and passwords.
const MAX_LOGINS: u64 = 1 << 20;

fn main() -> ExitCode {
    // Arguments that are not text could not be printed, and ignoring one could open the camera to all.
    let text = |of: &str, text: OsString| text.into_string().map_err(|_| format!("{of}: give text in UTF-8"));
    let environment = |name: &str| std::env::var_os(name).map(|value| text(name, value)).transpose();
    let secret = |path: &Path| gst_dds_link::secret::read(path, MAX_LOGINS);
    let arguments = std::env::args_os().skip(1).enumerate();
    let arguments: Result<Vec<_>, _> = arguments
        .map(|(i, value)| text(&format!("argument {}", i + 1), value))
        .collect();
    let options = match arguments.and_then(|arguments| options::parse(arguments, environment, secret)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => return failed(2, &error),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error),
    }
}

fn failed(status: u8, error: &str) -> ExitCode {
    eprintln!("dds-rtsp-camera: {error}");
    ExitCode::from(status)
}

/// Prints the report. The reader may be gone; the camera goes on.
fn print_report(camera: &Camera) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", camera.report());
}

fn run(options: &Options) -> Result<(), String> {
    let main = glib::MainLoop::new(None, false);
    {
        let main = main.clone();
        signals::on_end(move || main.quit());
    }
    gst::init().map_err(|e| e.to_string())?;
    gstdds::plugin_register_static().map_err(|e| e.to_string())?;
    let recipe = Recipe::read(options)?;
    let broken = Arc::new(Mutex::new(None));
    let source = {
        let (main, broken) = (main.clone(), broken.clone());
        Source::open(options, recipe.formats, move |error| {
            *broken.lock().unwrap() = Some(error);
            main.quit();
        })?
    };
    let encoder = recipe.open(source.caps())?;
    let remarks = [source.remark.clone().into_iter().collect(), encoder.remarks.clone()].concat();
    let camera = Camera::new(source, options, &recipe);
    let (server, listener) = server::listen(options, &encoder, &camera)?;

    let scheme = if options.certificate.is_some() { "rtsps" } else { "rtsp" };
    eprintln!(
        "dds-rtsp-camera: {scheme}://{}{}",
        SocketAddr::new(options.address, server.bound_port() as u16),
        options.path
    );
    // After the address, which programs that start this one wait for.
    remarks.iter().for_each(|remark| eprintln!("dds-rtsp-camera: {remark}"));
    options.exposed.iter().for_each(warn);
    // It holds the private key.
    let certificate = options.certificate.as_deref();
    let exposed = certificate.and_then(|path| Exposed::of(path, &std::fs::metadata(path).ok()?));
    exposed.iter().for_each(warn);
    if options.report > 0 {
        let camera = camera.clone();
        let guarded = guard("the report");
        glib::timeout_add_seconds(options.report, move || {
            guarded.run((), || print_report(&camera));
            glib::ControlFlow::Continue
        });
    }
    main.run();
    print_report(&camera);
    listener.remove();
    // Closes the connections of clients, so that they need not wait for a time-out.
    server.client_filter(Some(&mut |_, _| gst_rtsp_server::RTSPFilterResult::Remove));
    let broken = broken.lock().unwrap().take();
    broken.map_or(Ok(()), Err)
}
