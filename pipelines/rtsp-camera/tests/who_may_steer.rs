// SPDX-License-Identifier: MPL-2.0

//! Users watch and steer, viewers only watch: what a viewer's server sends is counted and goes no further.

mod common;

use common::{Camera, Server, assert_one_healthy_encoder, count, steered};
use serde_json::Value;

const LOGINS: [&str; 4] = ["--user", "ada:secret", "--viewer", "bo:weak"];

fn watch(camera: &Camera, name: &str, password: &str, protocol: &str, x: u32) -> Server {
    let url = camera.url();
    Server::watch(
        &format!("location={url} latency=50 user-id={name} user-pw={password} protocols={protocol}"),
        x,
    )
}

/// Receivers of which at least ten packets were refused for that reason.
fn refused<'a>(report: &'a Value, reason: &str) -> Vec<&'a Value> {
    let all = report["receivers"].as_array().unwrap().iter();
    all.filter(|r| r["reason"] == reason && r["refused"].as_u64() >= Some(10))
        .collect()
}

#[test]
fn a_viewers_feedback_is_counted_and_never_reaches_the_encoder() {
    dds_tests::init().unwrap();
    for (protocol, rule) in [("udp", "first"), ("tcp", "all")] {
        let camera = Camera::pattern(&[&LOGINS[..], &["--steer", rule]].concat());
        // First, and so the one to steer if it might.
        let viewer = watch(&camera, "bo", "weak", protocol, 32);
        let report = camera.wait_for("the viewer to be refused", |r| !refused(r, "may only watch").is_empty());
        assert_eq!(count(&report, "feedback-packets"), 0, "{protocol} {rule}: {report}");
        let [only] = report["receivers"].as_array().unwrap().as_slice() else {
            panic!("{report}");
        };
        assert_eq!(
            (&only["steers"], &only["packets"]),
            (&false.into(), &0.into()),
            "{report}"
        );

        let _user = watch(&camera, "ada", "secret", protocol, 192);
        let report = camera.wait_for("the user to steer", |r| count(r, "frames-steered") >= 20);
        assert_one_healthy_encoder(&report);
        let [viewers, users] = report["receivers"].as_array().unwrap().as_slice() else {
            panic!("{report}");
        };
        assert_eq!(
            (&viewers["steers"], &viewers["packets"]),
            (&false.into(), &0.into()),
            "{report}"
        );
        assert_eq!(
            (&users["steers"], &users["refused"]),
            (&true.into(), &0.into()),
            "{report}"
        );
        // One region of one user: nothing of the viewer's.
        assert!(
            count(&report, "regions-requested") <= count(&report, "feedback-complete"),
            "{report}"
        );
        drop(viewer);
    }
}

#[test]
fn without_viewers_whoever_may_watch_may_steer() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&LOGINS[..2]);
    let _user = watch(&camera, "ada", "secret", "tcp", 32);
    let report = camera.wait_for("steered frames", steered);
    assert_one_healthy_encoder(&report);
    assert_eq!(report["receivers"][0]["reason"], Value::Null, "{report}");
}

#[test]
fn a_viewers_password_is_asked_for_too() {
    dds_tests::init().unwrap();
    let camera = Camera::pattern(&LOGINS);
    for (name, password) in [("bo", "secret"), ("ada", "weak"), ("cy", "weak")] {
        let complaint = watch(&camera, name, password, "tcp", 32).complaint();
        assert!(complaint.contains("401"), "{name}:{password}: {complaint}");
    }
}
