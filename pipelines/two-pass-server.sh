#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The server of a camera of two passes: looks at the first pass, asks for regions, pastes the second pass over the picture
# and looks again. A frame whose second pass does not come in time goes out with its first result.
#
# Expected output (two-pass-camera.sh running), one line for each frame; "pass" says which pass found an object, "refinement"
# what became of the second pass:
#   {...,"objects":[{"class":0,...,"pass":2,"score":0.82,...}],...,"refinement":"done","regions":[...],...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/two-pass-server.sh [--help]

Watches the camera of pipelines/two-pass-camera.sh. Results go to standard output, everything else to standard error.
Ctrl-C ends it.

parameters, by environment:
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
  PORT             UDP port here for RTP of the first pass (5000); the next ones are for the camera's RTCP, and for RTP and
                   RTCP of the second pass
  CAMERA_HOST      the camera, where RTCP with the feedback goes (127.0.0.1)
  FEEDBACK_PORT    UDP port of the camera for RTCP (5005); the next one is for that of the second pass
  LATENCY          milliseconds that the jitter buffers wait for late packets (20)
  DEADLINE         milliseconds that a frame waits for its second pass (250)
  THRESHOLD        least score of a result, 0-1, and the middle of the undecided band (0.3)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
PORT=${PORT:-5000}
CAMERA_HOST=${CAMERA_HOST:-127.0.0.1}
FEEDBACK_PORT=${FEEDBACK_PORT:-5005}
LATENCY=${LATENCY:-20}
DEADLINE=${DEADLINE:-250}
THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}

# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

# rtcp-fb-nack-pli: without it no requests for a key frame leave for the camera.
video=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true
# Two receivers: the passes are joined by what is in the streams, not by their times.
exec gst-launch-1.0 -q \
  ddsrtprecv name=first latency="$LATENCY" \
  udpsrc port="$PORT" reuse=false buffer-size=2000000 caps="$video" ! first.rtp_sink \
  udpsrc port=$((PORT + 1)) reuse=false ! first.rtcp_sink \
  first.rtcp_src ! udpsink host="$CAMERA_HOST" port="$FEEDBACK_PORT" sync=false async=false \
  first.src ! rtph264depay ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" box-confidence-threshold="$THRESHOLD" refine-deadline="$DEADLINE" \
  ! fakesink async=false \
  ddsrtprecv name=second latency="$LATENCY" \
  udpsrc port=$((PORT + 2)) reuse=false buffer-size=2000000 caps="$video" ! second.rtp_sink \
  udpsrc port=$((PORT + 3)) reuse=false ! second.rtcp_sink \
  second.rtcp_src ! udpsink host="$CAMERA_HOST" port=$((FEEDBACK_PORT + 1)) sync=false async=false \
  second.src ! rtph264depay ! avdec_h264 max-threads=1 ! infer.refine \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
