#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The server of an RTSP camera of two passes: looks at the first pass, asks for regions by RTCP, pastes the second pass over
# the picture and looks again. ?refine=1 in the URL asks for the second video track; everybody else sees one.
#
# The camera: pipelines/rtsp-camera.sh --encoder "mode=two-pass background-qp=36 region-qp=26 speed-preset=veryfast"
#
# Expected output, one line for each frame; "pass" says which pass found an object, "refinement" what became of the second
# pass:
#   {...,"objects":[{"class":0,...,"pass":2,"score":0.82,...}],...,"refinement":"done","regions":[...],...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/rtsp-two-pass-server.sh [--help]

Watches an RTSP camera of two passes. Results go to standard output, everything else to standard error. Ctrl-C ends it.

parameters, by environment:
  URL              the camera and its second track (rtsp://127.0.0.1:8554/camera?refine=1)
  USER_FILE        file with one line NAME:PASSWORD that the camera asks for (none); the same file as --user-file there
  USER_ID          name that the camera asks for, instead of a file (none)
  USER_PW          password (none). It is on no command line and printed nowhere
  PROTOCOLS        udp: feedback leaves at once; tcp: through the RTSP connection, where it may wait for up to one frame
                   (udp+tcp: by UDP, and where that is refused, by TCP)
  LATENCY          milliseconds that the jitter buffer waits for late packets (50; the default of rtspsrc is 2000)
  TIMEOUT          seconds without video after which the camera counts as gone (10)
  RETRY            seconds until it is tried again when it has gone; 0: that is the end (2)
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
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

URL=${URL:-rtsp://127.0.0.1:8554/camera?refine=1}
PROTOCOLS=${PROTOCOLS:-udp+tcp}
LATENCY=${LATENCY:-50}
TIMEOUT=${TIMEOUT:-10}
RETRY=${RETRY:-2}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
DEADLINE=${DEADLINE:-250}
THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
export URL USER_FILE=${USER_FILE:-} USER_ID=${USER_ID:-} USER_PW=${USER_PW:-}

# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

# As in rtsp-server.sh; the payload type tells the two tracks apart.
# shellcheck source=pipelines/until-stopped.sh
source "$here/until-stopped.sh"
until_stopped "$URL" "$RETRY" \
  /usr/bin/python3 "$here/rtsp-launch.py" \
  rtspsrc name=camera protocols="$PROTOCOLS" latency="$LATENCY" \
  timeout=$((TIMEOUT * 1000000)) tcp-timeout=$((TIMEOUT * 1000000)) \
  camera. ! application/x-rtp,payload=96 ! rtph264depay ! h264parse ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" box-confidence-threshold="$THRESHOLD" refine-deadline="$DEADLINE" \
  ! watchdog timeout=$((TIMEOUT * 1000)) ! fakesink async=false \
  camera. ! application/x-rtp,payload=97 ! rtph264depay ! h264parse ! avdec_h264 max-threads=1 ! infer.refine \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
