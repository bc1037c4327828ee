// SPDX-License-Identifier: MPL-2.0

//! The scripts for servers, run as a user would: a camera that goes is waited for, and its successor is steered.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use common::{Camera, PATIENCE, count, scratch};
use serde_json::Value;

/// A script that runs, ended when it is dropped.
struct Script {
    child: Child,
    results: Receiver<String>,
    said: Receiver<String>,
}

/// Lines as they come; the channel ends with the last process that may write.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    told
}

/// A folder with the plugins that cargo built for this test, and nothing else: GStreamer looks at every library in it.
fn plugins(dir: &Path) -> PathBuf {
    let built = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let folder = dir.join("plugins");
    std::fs::create_dir(&folder).unwrap();
    for name in ["libgstdds.so", "libgstddsinfer.so"] {
        std::os::unix::fs::symlink(built.join(name), folder.join(name)).unwrap();
        assert!(
            folder.join(name).exists(),
            "cargo has not built {name} in {}",
            built.display()
        );
    }
    folder
}

/// The scripts run a model.
fn has_onnxruntime() -> bool {
    let installed = glib::user_data_dir().join("gst-dds").join("onnxruntime").exists();
    let found = installed || std::env::var_os("ORT_DYLIB_PATH").is_some();
    if !found {
        println!("skipped: no ONNX Runtime (pipelines/setup.sh installs it)");
    }
    found
}

impl Script {
    fn start(name: &str, dir: &Path, settings: &[(&str, &str)]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(name);
        let mut child = Command::new("bash")
            .arg(script)
            .env("GST_PLUGIN_PATH", plugins(dir))
            .env("GST_REGISTRY", dir.join("registry"))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let results = lines(child.stdout.take().unwrap());
        let said = lines(child.stderr.take().unwrap());
        Self { child, results, said }
    }

    /// The next line of results.
    fn result(&self, what: &str) {
        let Ok(line) = self.results.recv_timeout(PATIENCE) else {
            panic!(
                "no {what}; the script says {:?}",
                self.said.try_iter().collect::<Vec<_>>()
            );
        };
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(line["frame"].is_u64(), "{line}");
    }

    /// Passes over the lines that have come.
    fn forget(&self) {
        self.results.try_iter().for_each(drop);
    }

    /// Waits for the script to say something. All lines up to it.
    fn says(&self, words: &str) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while let Ok(line) = self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            all.push(line);
            if all.last().is_some_and(|line| line.contains(words)) {
                return all;
            }
        }
        panic!("no {words:?} in {all:#?}");
    }

    /// How it ended, after all that it started: nobody holds its output any more.
    fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            match self
                .results
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("it goes on"),
            }
        }
    }

    fn signal(&self, name: &str) {
        signal(&self.child, name);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // What it started, it ends.
            self.signal("TERM");
            let _ = self.child.wait();
        }
    }
}

fn signal(child: &Child, name: &str) {
    let done = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn a_camera_that_was_killed_or_fell_silent_is_watched_and_steered_again() {
    if !has_onnxruntime() {
        return;
    }
    let steered = |r: &Value| count(r, "feedback-packets-rtcp") >= 5;
    for (script, options, query, protocols) in [
        ("rtsp-server.sh", [].as_slice(), "", "udp"),
        (
            "rtsp-two-pass-server.sh",
            &["--encoder", "mode=two-pass"],
            "?refine=1",
            "tcp",
        ),
    ] {
        let dir = scratch(script);
        let camera = Camera::pattern(options);
        let port = camera.port.to_string();
        let url = format!("{}{query}", camera.url());
        let settings = [
            ("URL", &*url),
            ("PROTOCOLS", protocols),
            ("RETRY", "1"),
            ("TIMEOUT", "4"),
        ];
        let mut server = Script::start(script, &dir, &settings);
        server.result("first line");
        camera.wait_for("feedback", steered);
        drop(camera);
        server.says("trying again in 1 s");

        let camera = Camera::pattern(&[options, &["--port", &port]].concat());
        camera.wait_for("feedback to the successor", steered);
        server.forget();
        server.result("line of the successor");

        if protocols == "udp" {
            // As a power cut: nothing says goodbye, and the connection stays.
            signal(&camera.child, "STOP");
            server.says("trying again in 1 s");
            server.forget();
            signal(&camera.child, "CONT");
            server.result("line of the one that woke up");
        }

        server.signal("INT");
        assert_eq!(server.end().code(), Some(130), "{script}");
    }
}

/// Command lines of a process and of all that it started, as everybody sees them in the list of processes.
fn command_lines(process: u32) -> Vec<String> {
    let mut family = vec![process];
    let mut lines = Vec::new();
    while let Some(id) = family.pop() {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{id}/{what}")).unwrap_or_default();
        lines.push(read("cmdline").replace('\0', " "));
        let children = read(&format!("task/{id}/children"));
        family.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
    }
    lines
}

#[test]
fn a_password_is_on_no_command_line_and_printed_nowhere() {
    if !has_onnxruntime() {
        return;
    }
    let dir = scratch("passwords");
    let login = dir.join("camera's login");
    std::fs::write(&login, "ada:s3cr3t\n").unwrap();
    std::fs::set_permissions(&login, std::fs::Permissions::from_mode(0o644)).unwrap();
    let login = login.to_str().unwrap();
    for (n, (script, user, settings)) in [
        ("rtsp-server.sh", "", [("USER_FILE", login)].as_slice()),
        ("rtsp-server.sh", "ada:s3cr3t@", &[]),
        (
            "rtsp-two-pass-server.sh",
            "",
            &[("USER_ID", "ada"), ("USER_PW", "s3cr3t")],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let two_pass = script.contains("two-pass");
        let options: &[&str] = if two_pass { &["--encoder", "mode=two-pass"] } else { &[] };
        let camera = Camera::pattern(&[options, &["--user-file", login]].concat());
        camera.says(&format!("chmod o-rwx {}", quoted(login, r"\'")));
        let query = if two_pass { "?refine=1" } else { "" };
        let url = camera.url().replace("//", &format!("//{user}")) + query;
        let of_run = dir.join(n.to_string());
        std::fs::create_dir(&of_run).unwrap();
        let settings = [settings, &[("URL", &*url), ("RETRY", "1"), ("GST_DEBUG", "2")]].concat();
        let mut server = Script::start(script, &of_run, &settings);
        server.result("first line");
        let lines = command_lines(server.child.id());
        assert!(lines.iter().any(|line| line.contains("rtspsrc")), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("s3cr3t")), "{lines:?}");
        drop(camera);
        let mut said = server.says("trying again in 1 s");
        server.signal("INT");
        assert_eq!(server.end().code(), Some(130), "{script}");
        said.extend(server.said.try_iter());
        assert!(said.iter().all(|line| !line.contains("s3cr3t")), "{said:#?}");
        let exposed = said
            .iter()
            .any(|line| line.ends_with(&format!("chmod o-rwx {}", quoted(login, "\"'\""))));
        assert_eq!(exposed, n == 0, "{said:#?}");
    }
}

/// As a shell reads it, with a quote in it written so.
fn quoted(text: &str, quote: &str) -> String {
    format!("'{}'", text.replace('\'', &format!("'{quote}'")))
}

#[test]
fn what_no_new_try_would_mend_ends_the_script() {
    let dir = scratch("ends");
    let camera = Camera::pattern(&["--user", "ada:secret"]);
    let url = camera.url();
    let wrong = [("URL", &*url), ("USER_ID", "ada"), ("USER_PW", "wrong"), ("RETRY", "1")];
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = format!("rtsp://{nobody}/camera");
    let no_retry = [("URL", &*nobody), ("RETRY", "0")];
    let no_model = [("URL", &*url), ("MODEL", "no-such-file.onnx"), ("RETRY", "1")];
    for (n, (settings, words)) in [
        (wrong.as_slice(), "nauthorized"),
        (&no_retry, "Failed to connect"),
        (&no_model, "no-such-file.onnx"),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = dir.join(n.to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut server = Script::start("rtsp-server.sh", &dir, settings);
        server.says(words);
        assert!(!server.end().success(), "{words}");
    }
}
