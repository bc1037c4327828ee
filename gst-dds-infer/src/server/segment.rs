// SPDX-License-Identifier: MPL-2.0

//! Regions of a segment whose frames have not all arrived.

use dds_protocol::feedback::{MAX_REGIONS, Region};
use dds_protocol::wish::Wishes;

use super::types::Request;

/// Collects the regions of a segment until they are requested.
#[derive(Debug)]
pub struct OpenSegment {
    stream_id: u32,
    /// Number of its first frame.
    base: u64,
    regions: Vec<Region>,
}

impl OpenSegment {
    pub fn new(stream_id: u32, base: u64) -> Self {
        Self {
            stream_id,
            base,
            regions: Vec::new(),
        }
    }

    pub fn is(&self, stream_id: u32, base: u64) -> bool {
        self.stream_id == stream_id && self.base == base
    }

    /// Adds the regions of the frame at `position`.
    pub fn add(&mut self, position: u8, mut regions: Vec<Region>) {
        regions.iter_mut().for_each(|r| r.frame_offset = position);
        self.regions.append(&mut regions);
    }

    /// Splits the regions into requests: all regions of a frame in one request, as many frames as fit.
    pub fn requests(self) -> Vec<Request> {
        let request = |regions: Vec<Region>| Request {
            stream_id: self.stream_id,
            frame: self.base,
            once: !regions.is_empty(),
            regions,
            // A stream of two passes takes none.
            wishes: Wishes::default(),
        };
        let mut requests = Vec::new();
        let mut batch: Vec<Region> = Vec::new();
        for frame in self.regions.chunk_by(|a, b| a.frame_offset == b.frame_offset) {
            if batch.len() + frame.len() > MAX_REGIONS {
                requests.push(request(std::mem::take(&mut batch)));
            }
            batch.extend_from_slice(frame);
        }
        requests.push(request(batch));
        requests
    }
}
