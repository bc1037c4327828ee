// SPDX-License-Identifier: MPL-2.0

//! Helpers of the link's tests: ports, pipelines, waiting.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::{Duration, Instant};

use gst::prelude::*;

pub fn free_ports(n: usize) -> Vec<u16> {
    // All sockets are held until every port is known, so that no port is given twice.
    let sockets: Vec<_> = (0..n)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    sockets.iter().map(|s| s.local_addr().unwrap().port()).collect()
}

pub fn launch(line: &str) -> gst::Pipeline {
    gst::parse::launch(line).unwrap().downcast().unwrap()
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
