// SPDX-License-Identifier: MPL-2.0

//! Key frames: the network gets one a second and no request is forgotten, the pipeline itself gets each one at once.

#![cfg(feature = "x264")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Camera, element};
use gst::prelude::*;

/// Event that an RTP session sends upstream for a PLI or FIR.
fn from_network(ssrc: u32, all_headers: bool, count: u32) -> gst::Event {
    let structure = gst::Structure::builder("GstForceKeyUnit")
        .field("ssrc", ssrc)
        .field("all-headers", all_headers)
        .field("count", count)
        .build();
    gst::event::CustomUpstream::new(structure)
}

/// Pushes a frame; returns whether it is a key frame.
fn push(camera: &mut Camera) -> bool {
    !camera.push().flags().contains(gst::BufferFlags::DELTA_UNIT)
}

fn key_frames(camera: &Camera) -> Vec<usize> {
    let units = camera.units.iter().enumerate();
    units
        .filter(|(_, unit)| !unit.flags().contains(gst::BufferFlags::DELTA_UNIT))
        .map(|(i, _)| i)
        .collect()
}

#[test]
fn a_flood_gets_one_key_frame_a_second_and_is_counted() {
    let mut camera = Camera::new(element(), 160, 96);
    push(&mut camera);
    for ssrc in 0..75 {
        assert!(camera.harness.push_upstream_event(from_network(ssrc, false, 1)));
        assert!(camera.harness.push_upstream_event(from_network(7, false, 1)));
        push(&mut camera);
    }
    assert_eq!(key_frames(&camera), [0, 1, 31, 61]);
    assert_eq!(camera.count("key-frames-requested"), 150);
    assert_eq!(camera.count("key-frames-granted"), 3);
    assert!(camera.count("key-frames-deferred") > 140);
}

#[test]
fn the_second_request_of_a_second_waits_for_its_end_and_is_not_forgotten() {
    let mut camera = Camera::new(element(), 160, 96);
    for frame in 0..70 {
        if [5, 8, 20].contains(&frame) {
            camera.harness.push_upstream_event(from_network(1, false, 0));
        }
        push(&mut camera);
    }
    assert_eq!(key_frames(&camera), [0, 5, 35]);
    assert_eq!(camera.count("key-frames-deferred"), 2);
}

#[test]
fn a_key_frame_that_comes_anyway_serves_those_who_wait() {
    let element = element();
    element.set_property("key-int-max", 20u32);
    element.set_property("option-string", "scenecut=0");
    let mut camera = Camera::new(element, 160, 96);
    for frame in 0..60 {
        if [5, 8].contains(&frame) {
            camera.harness.push_upstream_event(from_network(1, false, 0));
        }
        push(&mut camera);
    }
    assert_eq!(key_frames(&camera), [0, 5, 25, 45]);
}

#[test]
fn the_pipeline_itself_gets_every_key_frame_at_once_whatever_the_network_asks() {
    let mut camera = Camera::new(element(), 160, 96);
    push(&mut camera);
    let at = |frame: u64| gst::ClockTime::SECOND.mul_div_floor(frame, 30).unwrap();
    for frame in 1..40 {
        camera.harness.push_upstream_event(from_network(1, false, 1));
        match frame {
            // An application, as soon as possible.
            5 | 6 => assert!(
                camera
                    .harness
                    .push_upstream_event(gst_video::UpstreamForceKeyUnitEvent::builder().build())
            ),
            // A muxer, for a future time.
            9 => {
                let event = gst_video::UpstreamForceKeyUnitEvent::builder().running_time(at(12));
                assert!(camera.harness.push_upstream_event(event.build()));
            }
            // Even where it names a stream.
            15 => {
                let structure = gst::Structure::builder("GstForceKeyUnit")
                    .field("ssrc", 1u32)
                    .field("running-time", at(17));
                let event = gst::event::CustomUpstream::new(structure.build());
                assert!(camera.harness.push_upstream_event(event));
            }
            // An upstream element.
            20 => {
                let event = gst_video::DownstreamForceKeyUnitEvent::builder().all_headers(true);
                assert!(camera.harness.push_event(event.build()));
            }
            _ => {}
        }
        push(&mut camera);
    }
    assert_eq!(key_frames(&camera), [0, 1, 5, 6, 12, 17, 20, 31]);
}

#[test]
fn what_is_granted_late_is_announced_downstream_as_it_was_asked() {
    let mut camera = Camera::new(element(), 160, 96);
    let mut announced = Vec::new();
    for frame in 0..40 {
        match frame {
            2 => assert!(camera.harness.push_upstream_event(from_network(1, false, 3))),
            4 => assert!(camera.harness.push_upstream_event(from_network(1, true, 4))),
            9 => assert!(camera.harness.push_upstream_event(from_network(2, false, 5))),
            _ => {}
        }
        push(&mut camera);
        while let Some(event) = camera.harness.try_pull_event() {
            if let Ok(event) = gst_video::DownstreamForceKeyUnitEvent::parse(&event) {
                announced.push((frame, event.all_headers, event.count));
            }
        }
    }
    assert_eq!(announced, [(2, false, 3), (32, true, 4)]);
}

#[test]
fn a_seek_back_does_not_defer_for_ever() {
    let mut camera = Camera::new(element(), 160, 96);
    camera.frames = 30_000;
    push(&mut camera);
    camera.harness.push_upstream_event(from_network(1, false, 0));
    assert!(push(&mut camera));
    camera.frames = 0;
    camera.harness.push_upstream_event(from_network(1, false, 0));
    assert!(push(&mut camera));
}

/// An RTCP compound: an empty receiver report, and a PLI (RFC 4585 6.3.1) or a FIR (RFC 5104 4.3.1).
fn rtcp(sender: u32, media: u32, fir: Option<u8>) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend(sender.to_be_bytes());
    packet.extend(match fir {
        None => [0x81, 206, 0, 2],
        Some(_) => [0x84, 206, 0, 4],
    });
    packet.extend(sender.to_be_bytes());
    match fir {
        None => packet.extend(media.to_be_bytes()),
        Some(number) => {
            packet.extend([0; 4]);
            packet.extend(media.to_be_bytes());
            packet.extend([number, 0, 0, 0]);
        }
    }
    packet
}

#[test]
fn a_flood_of_pli_and_fir_through_an_rtp_session_gets_one_key_frame_a_second() {
    common::init();
    let pipeline = gst::parse::launch(
        "rtpbin name=r rtp-profile=avpf \
         videotestsrc is-live=true ! video/x-raw,width=160,height=96,framerate=30/1 ! \
         ddsencode name=e speed-preset=superfast threads=1 ! rtph264pay name=p ! \
         application/x-rtp,rtcp-fb-nack-pli=true,rtcp-fb-ccm-fir=true ! r.send_rtp_sink_0 \
         r.send_rtp_src_0 ! fakesink async=false sync=false \
         appsrc name=a is-live=true format=time caps=application/x-rtcp ! r.recv_rtcp_sink_0",
    )
    .unwrap();
    let bin = pipeline.downcast_ref::<gst::Bin>().unwrap();
    let source = bin.by_name("a").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let [encoder, payloader] = ["e", "p"].map(|name| bin.by_name(name).unwrap());
    let coded = Arc::new(Mutex::new(Vec::new()));
    let seen = coded.clone();
    encoder
        .static_pad("src")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &info.data {
                let key_frame = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
                seen.lock().unwrap().push((buffer.pts().unwrap(), key_frame));
            }
            gst::PadProbeReturn::Ok
        })
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    // Video paces the test.
    let span = |coded: &[(gst::ClockTime, bool)]| match coded {
        [(first, _), .., (last, _)] => *last - *first,
        _ => gst::ClockTime::ZERO,
    };
    let mut number = 0u8;
    while span(&coded.lock().unwrap()) < gst::ClockTime::from_mseconds(2600) {
        number = number.wrapping_add(1);
        // The session chooses the stream's SSRC.
        let media = payloader
            .property::<gst::Structure>("stats")
            .get::<u32>("ssrc")
            .unwrap();
        for (sender, fir) in [(98, None), (99, Some(number))] {
            let packet = gst::Buffer::from_mut_slice(rtcp(sender, media, fir));
            source.push_buffer(packet).unwrap();
        }
        let error = bus.timed_pop_filtered(gst::ClockTime::from_mseconds(10), &[gst::MessageType::Error]);
        assert!(error.is_none(), "{error:?}");
    }
    let requested = encoder
        .property::<gst::Structure>("stats")
        .get::<u64>("key-frames-requested")
        .unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let coded = coded.lock().unwrap();
    let at: Vec<_> = coded.iter().filter(|(_, key)| *key).map(|(pts, _)| *pts).collect();
    assert!(requested > 20, "the session passes requests on: {requested}");
    // The first picture, then one a second.
    assert!((3..=4).contains(&at.len()), "{at:?}");
    let second = gst::ClockTime::from_mseconds(999);
    assert!(at.windows(2).skip(1).all(|pair| pair[1] - pair[0] > second), "{at:?}");
}
