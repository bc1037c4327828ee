// SPDX-License-Identifier: MPL-2.0

//! A report is one page that loads nothing, names every system and clip, and works in a browser on a telephone too,
//! whatever a run lacks.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use dds_eval::compare::compare;
use dds_eval::judge::{self, ClipResult, Filled, Judged};
use dds_eval::record::{Accuracy, ClipInfo, Freshness, Manifest, Scored, Summary};
use dds_eval::report;
use dds_eval::run::write_whole;
use dds_eval::system::SYSTEMS;

/// Bits beside uniform of long GOP at the same accuracy, and the age of results, of made-up systems.
fn traits_of(system: &str) -> (f64, f64) {
    match system {
        "ours-one-pass" => (0.58, 130.0),
        "ours-two-pass" => (0.74, 210.0),
        "dds" => (1.10, 930.0),
        "uniform-short" => (1.45, 150.0),
        "uniform-long" => (1.0, 145.0),
        "awstream" => (0.9, 160.0),
        "awstream-online" => (1.3, 240.0),
        "glimpse" => (1.2, 420.0),
        "eaar" => (1.15, 190.0),
        _ => (0.8, 170.0),
    }
}

fn point(clip: &str, system: &str, n: usize, scale: f64) -> Scored {
    let (cost, age) = traits_of(system);
    let spread = 1.0 + 0.35 * ((clip.len() * 7 + system.len() * 5) as f64).sin();
    let uniform = 5200.0 * scale * 0.72f64.powi(n as i32);
    let kbps = uniform
        * if system.starts_with("uniform") {
            cost
        } else {
            cost * spread
        };
    let top = if system == "glimpse" { 0.72 } else { 0.985 };
    let main = top - 0.021 * (n as f64).powf(1.55) - 0.01 * (n as f64 * 3.1 + clip.len() as f64).sin();
    let accuracy = |main: f64| Accuracy {
        main,
        paper: (main + 0.05).min(0.995),
        identity: None,
        agreement: None,
    };
    Scored {
        clip: clip.into(),
        system: system.into(),
        point: format!("qp{}", 24 + 3 * n),
        settings: format!("quantizer {}, \"{system}\" & <more>", 24 + 3 * n),
        shipped: n == 4 && !system.starts_with("uniform"),
        kbps,
        kbps_down: 4.5,
        kbps_headers: kbps + 31.0,
        norm: kbps / (5200.0 * scale * 1.45),
        refine_share: if system == "dds" || system == "ours-two-pass" {
            0.27
        } else {
            0.0
        },
        published: accuracy(main),
        plain: accuracy(main - if system == "dds" { 0.06 } else { 0.0 }),
        equal: accuracy(main + 0.004),
        freshness: Freshness {
            mean: age - 4.0 * n as f64,
            p50: age - 6.0 * n as f64,
            p95: 1.7 * age,
        },
        camera_ms: 6.0 + system.len() as f64 / 3.0,
        inferences: if system == "dds" { 1.9 } else { 1.0 },
    }
}

const CLIPS: [&str; 5] = [
    "crossroads",
    "motorway-at-night",
    "<yard> & \"gate\"",
    "market",
    "drone-over-a-rather-long-name",
];

/// A run with everything that goes wrong: Vigil is missing, CloudSeg ran on two clips, Glimpse has no point on one clip, EAAR
/// sent nothing and found nothing on another.
fn summary(task: &str) -> Summary {
    let mut points = Vec::new();
    for (c, clip) in CLIPS.into_iter().enumerate() {
        for system in SYSTEMS.iter().map(|s| s.id).filter(|s| *s != "vigil") {
            if (system == "cloudseg" && c > 1) || (system == "glimpse" && c == 3) {
                continue;
            }
            for n in 0..9 {
                let mut point = point(clip, system, n, 0.6 + 0.3 * c as f64);
                if system == "eaar" && c == 2 {
                    (point.kbps, point.kbps_headers, point.norm) = (0.0, 0.0, 0.0);
                    for accuracy in [&mut point.published, &mut point.plain, &mut point.equal] {
                        *accuracy = Accuracy::default();
                    }
                }
                if task == "segmentation" {
                    point.published.paper = 0.0;
                    point.published.agreement = Some(point.published.main * 0.97);
                }
                if task == "face" {
                    point.published.identity = Some(point.published.main * 0.9);
                }
                points.push(point);
            }
        }
    }
    let pooled_clips: Vec<String> = CLIPS.iter().map(|c| c.to_string()).collect();
    for system in SYSTEMS
        .iter()
        .map(|s| s.id)
        .filter(|s| !["vigil", "cloudseg"].contains(s))
    {
        for n in 0..9 {
            let name = format!("qp{}", 24 + 3 * n);
            let own: Vec<Scored> = points
                .iter()
                .filter(|p| p.system == system && p.point == name)
                .cloned()
                .collect();
            let mean = |of: fn(&Scored) -> f64| own.iter().map(of).sum::<f64>() / own.len() as f64;
            let mut all = own[0].clone();
            all.clip = "pooled".into();
            all.kbps = mean(|p| p.kbps);
            all.kbps_headers = mean(|p| p.kbps_headers);
            all.norm = mean(|p| p.norm);
            all.published.main = mean(|p| p.published.main);
            all.published.paper = mean(|p| p.published.paper);
            all.plain.main = mean(|p| p.plain.main);
            all.equal.main = mean(|p| p.equal.main);
            points.push(all);
        }
    }
    Summary {
        manifest: Manifest {
            command: "dds-eval run --clips \"a b\" --out <out>".into(),
            machine: "8 cores of a made-up processor".into(),
            versions: "GStreamer 1.22, libx264 164, ONNX Runtime 1.20, gst-dds 0.1.0".into(),
            model: "street_nano.onnx".into(),
            task: task.into(),
            rtt_ms: 40.0,
            inference_ms: 25.0,
            link_kbps: 4000.0,
            key_frames: 10,
            clips: CLIPS
                .iter()
                .enumerate()
                .map(|(n, name)| ClipInfo {
                    name: name.to_string(),
                    path: format!("clips/{name}.mp4"),
                    sha256: format!("{n:x}").repeat(64),
                    size: (1280, 720),
                    rate: 29.97,
                    frames: 300,
                })
                .collect(),
            seconds: 4321.0,
        },
        threshold: 0.3,
        pooled_clips,
        points,
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn written(name: &str, summary: &Summary) -> (PathBuf, String) {
    let folder = folder(name);
    report::write(&folder, summary).unwrap();
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    (folder, page)
}

/// Every tag that is opened is closed, in order; elements without content aside.
fn assert_balanced(page: &str) {
    const VOID: [&str; 6] = ["meta", "link", "img", "br", "hr", "input"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        // A ">" inside a quoted value does not end the tag.
        let mut quoted = false;
        let end = rest.find(|c: char| {
            quoted ^= c == '"';
            c == '>' && !quoted
        });
        let tag = &rest[..end.unwrap_or_else(|| panic!("no end of <{}", &rest[..rest.len().min(60)]))];
        rest = &rest[tag.len() + 1..];
        if tag.starts_with('!') || tag.ends_with('/') {
            continue;
        }
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric())
            .collect();
        assert!(!name.is_empty(), "<{tag}> is no tag");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "<{tag}> closes another");
        } else if !VOID.contains(&name.as_str()) {
            open.push(name.clone());
            // Text of scripts and styles is no markup.
            if name == "script" || name == "style" {
                rest = &rest[rest.find(&format!("</{name}")).unwrap()..];
            }
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

fn assert_loads_nothing(page: &str) {
    let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for word in [
        "http://",
        "https://",
        "@import",
        "<link rel=\"stylesheet\"",
        "url(",
        "<iframe",
    ] {
        assert!(!page.contains(word), "the page holds {word}");
    }
    for part in page.split("src=\"").skip(1) {
        assert!(part.starts_with("data:"), "src={}", &part[..part.len().min(40)]);
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

#[test]
fn a_report_names_every_system_and_clip_and_loads_nothing() {
    let summary = summary("detection");
    let folder = folder("detection");
    std::fs::create_dir(folder.join("strips")).unwrap();
    for (system, pattern) in [("dds", 0), ("ours-one-pass", 18), ("uniform-long", 13)] {
        let file = folder.join("strips").join(format!("crossroads-{system}.jpg"));
        jpeg(&file, pattern);
    }
    report::write(&folder, &summary).unwrap();
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    assert_balanced(&page);
    assert_loads_nothing(&page);
    for system in SYSTEMS {
        assert!(page.contains(&escaped(system.name)), "{}", system.name);
        assert!(page.contains(&escaped(system.rule)), "{}", system.rule);
    }
    for clip in &summary.manifest.clips {
        assert!(
            page.contains(&format!("<h3>{}</h3>", escaped(&clip.name))),
            "{}",
            clip.name
        );
        assert!(page.contains(&clip.sha256));
    }
    for words in ["overview", "savings", "clips", "freshness", "rules", "published", "run"] {
        assert!(page.contains(&format!("<section id=\"{words}\">")), "{words}");
    }
    assert!(page.contains("CloudSeg ran on 2 of 5 clips"));
    assert!(page.contains("Not in this run: Vigil."));
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 3);
    for word in ["NaN", "inf%", "inf ", ">inf<"] {
        assert!(!page.contains(word), "{word}");
    }
    for name in ["pooled", "freshness"] {
        let svg = std::fs::read_to_string(folder.join(format!("{name}.svg"))).unwrap();
        assert_balanced(&svg);
        let png = std::fs::read(folder.join(format!("{name}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG"), "{name}.png is {} bytes", png.len());
    }
    let points = std::fs::read_to_string(folder.join("points.csv")).unwrap();
    assert_eq!(points.lines().count(), 1 + summary.points.len());
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("savings.json")).unwrap()).unwrap();
    assert!(!json["over_clips"].as_array().unwrap().is_empty());
    let savings = std::fs::read_to_string(folder.join("savings.csv")).unwrap();
    assert_eq!(savings.lines().count(), 1 + json["rows"].as_array().unwrap().len());
}

/// Figures of every captured picture, as a run keeps them: ours takes half of uniform's bits.
fn keep_results(folder: &Path) {
    for clip in CLIPS.into_iter().chain(["sf_street_1080p", "vn_avenue"]) {
        let point = |system: &str, n: usize, share: f64| {
            let filled = Filled {
                strict: 0.98 - 0.03 * n as f64,
                confident: 0.99 - 0.02 * n as f64,
                age_p95: 300.0,
                ..Filled::default()
            };
            Judged {
                system: system.into(),
                point: format!("qp{n} <&>"),
                kbps: share * 5000.0 * 0.7f64.powi(n as i32),
                camera_ms: 10.0 * share,
                held: filled,
                predicted: filled,
                interpolated: filled,
                ..Judged::default()
            }
        };
        let uniform = (0..6).map(|n| point("uniform-full", n, 1.0));
        let result = ClipResult {
            format: judge::FORMAT,
            clip: ClipInfo {
                name: clip.into(),
                ..ClipInfo::default()
            },
            model: "street_nano.onnx".into(),
            key_frames: 10,
            points: uniform.chain((0..6).map(|n| point("ours-rate", n, 0.5))).collect(),
            ..ClipResult::default()
        };
        write_whole(&result.path(folder), &serde_json::to_vec(&result).unwrap()).unwrap();
    }
}

#[test]
fn targets_stand_beside_what_was_measured() {
    let folder = folder("targets");
    keep_results(&folder);
    report::write(&folder, &summary("detection")).unwrap();
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    assert_balanced(&page);
    assert_loads_nothing(&page);
    assert!(page.contains("<section id=\"targets\">") && page.contains("href=\"#targets\""));
    let row = "1 uniform, strict F1, predicted, at 0.95</th><td>0.50</td><td><b>0.50</b></td><td><b>0.50</b></td>";
    assert!(page.contains(row));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert!(read("targets.txt").contains("uniform, strict F1, predicted, at 0.95"));
    let head = read("targets.csv").lines().next().unwrap().to_owned();
    assert!(head.contains(",sf_street_1080p,vn_avenue,") && head.contains(",drone-over-a-rather-long-name"));
    assert_eq!(read("judged.csv").lines().count(), 1 + 12 * (CLIPS.len() + 2));
    // Results of another version are named, not mixed in.
    let path = folder.join("results/street_nano-10s/market.json");
    let older = read("results/street_nano-10s/market.json").replacen("\"format\":", "\"format\":9", 1);
    std::fs::write(&path, older).unwrap();
    let error = report::write(&folder, &summary("detection")).unwrap_err().to_string();
    assert!(error.contains("market.json is of another version"), "{error}");
}

fn jpeg(file: &Path, pattern: u32) {
    use gst::prelude::*;
    gst::init().unwrap();
    let pipeline = dds_tests::launch(&format!(
        "videotestsrc num-buffers=1 pattern={pattern} ! video/x-raw,width=640,height=180 ! videoconvert ! jpegenc \
         ! filesink name=out"
    ))
    .unwrap();
    pipeline
        .by_name("out")
        .unwrap()
        .set_property("location", file.to_str().unwrap());
    pipeline.set_state(gst::State::Playing).unwrap();
    let end = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(20), &end);
    assert_eq!(message.map(|m| m.type_()), Some(gst::MessageType::Eos));
    pipeline.set_state(gst::State::Null).unwrap();
}

fn answer(page: &str) -> &str {
    let (_, rest) = page.split_once("<p class=\"answer\">").unwrap();
    rest.split_once("</p>").unwrap().0
}

#[test]
fn the_answer_is_that_of_the_numbers_whichever_way_they_point() {
    let mut run = summary("detection");
    let share = |factor: f64, run: &mut Summary| {
        for point in run.points.iter_mut().filter(|p| p.system == "ours-one-pass") {
            // Of uniform at the same accuracy, on every clip.
            let n: i32 = (point.point[2..].parse::<i32>().unwrap() - 24) / 3;
            let clip = CLIPS.iter().position(|c| *c == point.clip).unwrap_or(0);
            point.kbps = factor * 5200.0 * (0.6 + 0.3 * clip as f64) * 0.72f64.powi(n);
        }
        written("answer", run).1
    };
    let page = share(0.5, &mut run);
    assert!(
        answer(&page).starts_with(
            "At 90\u{a0}% of the best uniform encode\u{2019}s accuracy, gst-dds (one pass) needs <b class=\"win\">50\u{a0}%</b> \
             of the bits of uniform x264 of GOP 250 and "
        ),
        "{}",
        answer(&page)
    );
    assert!(page.contains("it takes <b class=\"win\">50\u{a0}% fewer bits</b> than"));
    let page = share(1.25, &mut run);
    assert!(
        answer(&page).contains("needs <b class=\"loss\">125\u{a0}%</b> of the bits"),
        "{}",
        answer(&page)
    );
    assert!(page.contains("it takes <b class=\"loss\">25\u{a0}% more bits</b> than"));
}

#[test]
fn other_tasks_have_their_own_words() {
    let (_, page) = written("segmentation", &summary("segmentation"));
    assert_balanced(&page);
    assert!(page.contains("mIoU") && !page.contains("strict F1"));
    let (_, page) = written("face", &summary("face"));
    assert_balanced(&page);
    assert!(page.contains("strict F1 of faces") && page.contains("By identity"));
}

#[test]
fn a_run_of_nothing_is_still_a_page() {
    let nothing = Summary {
        points: Vec::new(),
        pooled_clips: Vec::new(),
        ..summary("detection")
    };
    let (_, page) = written("nothing", &nothing);
    assert_balanced(&page);
    assert!(page.contains("No system of gst-dds is in this run.") && page.contains("no points in this run"));
    let mut odd = summary("detection");
    for point in &mut odd.points {
        (point.kbps, point.published.main, point.freshness.p95) = (f64::NAN, f64::NAN, f64::INFINITY);
    }
    odd.points.push(self::point("market", "a \"new\" <system>", 2, 1.0));
    let (_, page) = written("odd", &odd);
    assert_balanced(&page);
    assert!(page.contains("a &quot;new&quot; &lt;system&gt;"));
}

#[test]
fn runs_are_compared_by_all_but_the_clock() {
    let first = summary("detection");
    let mut second = first.clone();
    for point in &mut second.points {
        point.camera_ms *= 1.1;
    }
    second.manifest.seconds = 1.0;
    second.manifest.machine = "another".into();
    let comparison = compare(&first, &second);
    let text = comparison.to_string();
    assert!(comparison.same(), "{text}");
    assert!(text.starts_with("same numbers: "), "{text}");
    assert!(
        text.contains("same inputs") && text.contains("machine") && text.contains("camera, median ms"),
        "{text}"
    );
    second.points[3].kbps += 0.5;
    second.points.remove(0);
    second.manifest.clips[1].sha256 = "0".repeat(64);
    let comparison = compare(&first, &second);
    let text = comparison.to_string();
    assert!(!comparison.same());
    assert_eq!(
        (
            comparison.points.len(),
            comparison.missing.len(),
            comparison.inputs.len()
        ),
        (1, 1, 1),
        "{text}"
    );
    assert!(text.starts_with("different numbers: 1 of "), "{text}");
    assert!(text.contains("gst-dds, one pass"), "{text}");
}

/// What a browser makes of the page: scripts of the page put their findings into a frame's document, which is dumped.
fn browsed(folder: &Path, page: &str, width: u32) -> Option<String> {
    if std::env::var_os("DDS_NO_CHROMIUM").is_some() {
        println!("skipped: DDS_NO_CHROMIUM is set");
        return None;
    }
    // What goes wrong is collected before anything of the page runs.
    let watch = "<head><script>window.wrong = [];\
                 addEventListener('error', (e) => wrong.push(String(e.message)), true);\
                 addEventListener('securitypolicyviolation', (e) => wrong.push('loads ' + e.blockedURI));\
                 for (const name of ['error', 'warn']) console[name] = (...a) => wrong.push(a.join(' '));</script>";
    let watched = page.replacen("<head>", watch, 1);
    // A frame has the width of a telephone, which windows do not go down to.
    let mut wrapper = format!(
        "<!DOCTYPE html><html><body><iframe id=\"f\" width=\"{width}\" height=\"800\" srcdoc=\"{}\"></iframe>",
        escaped(&watched)
    );
    write!(
        wrapper,
        "<pre id=\"found\"></pre><script>addEventListener('load', () => {{\
         const w = document.getElementById('f').contentWindow, d = w.document, e = d.documentElement;\
         for (const one of d.querySelectorAll('details')) one.open = true;\
         const wide = [...d.querySelectorAll('body *')].filter((x) => !x.closest('.scroll') \
           && x.getBoundingClientRect().right > e.clientWidth + 1).map((x) => x.tagName);\
         d.querySelector('.legend button')?.click();\
         const found = {{wrong: w.wrong, scroll: e.scrollWidth, client: e.clientWidth, wide,\
           gone: d.querySelectorAll('g.gone').length, title: d.title, lang: e.lang,\
           drawn: [...d.querySelectorAll('svg[role=img]')].filter((x) => x.getBoundingClientRect().width > 0).length,\
           named: [...d.querySelectorAll('svg[role=img]')].every((x) => x.getAttribute('aria-label'))}};\
         document.body.replaceChildren(Object.assign(document.createElement('pre'), \
           {{textContent: 'FOUND' + JSON.stringify(found) + 'END'}}));\
         }});</script></body></html>"
    )
    .unwrap();
    let file = folder.join(format!("frame-{width}.html"));
    std::fs::write(&file, wrapper).unwrap();
    let profile = folder.join(format!("profile-{width}"));
    let output = Command::new("timeout")
        .args([
            "60",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", file.display()))
        .output()
        .expect("timeout is part of coreutils");
    let _ = std::fs::remove_dir_all(&profile);
    assert_ne!(
        output.status.code(),
        Some(127),
        "no chromium to look at the page with: install the package chromium, or set DDS_NO_CHROMIUM"
    );
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let console: Vec<&str> = err.lines().filter(|l| l.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    let found = out.split_once("FOUND").and_then(|(_, rest)| rest.split_once("END"));
    let (found, _) = found.unwrap_or_else(|| panic!("{}: chromium shows no page: {err}", output.status));
    Some(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

#[test]
fn a_browser_shows_the_page_without_errors_on_a_telephone_and_on_a_desk() {
    let folder = folder("browser");
    keep_results(&folder);
    report::write(&folder, &summary("detection")).unwrap();
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    for width in [360, 1280] {
        let Some(found) = browsed(&folder, &page, width) else {
            return;
        };
        let found: serde_json::Value = serde_json::from_str(&found).unwrap_or_else(|e| panic!("{e}: {found}"));
        assert_eq!(found["wrong"], serde_json::json!([]), "{width}: {found}");
        assert_eq!(found["wide"], serde_json::json!([]), "{width}: {found}");
        let (scroll, client) = (found["scroll"].as_u64().unwrap(), found["client"].as_u64().unwrap());
        assert!(scroll <= client && client <= u64::from(width), "{width}: {found}");
        assert_eq!(found["lang"], "en");
        assert_eq!(found["named"], true);
        assert!(found["title"].as_str().unwrap().contains("gst-dds"), "{found}");
        // Two plots of each clip, the pooled one and the ages, each in the version for this width.
        assert_eq!(found["drawn"], 2 * CLIPS.len() + 2, "{width}: {found}");
        assert!(found["gone"].as_u64().unwrap() > 0, "the legend hides nothing: {found}");
    }
}
