#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The server of an RTSP camera: watches it with rtspsrc, runs the model with ddsinfer and prints one line of JSON per frame.
# Where the camera codes with ddsencode (rtsp-camera.sh), feedback goes back to it by RTCP; nothing in the line says so.
# Other cameras are inferred all the same. A camera that goes is waited for.
#
# Expected output (rtsp-camera.sh running), one line for each frame:
#   {"age_ms":null,...,"damaged":false,"frame":12,"generation":17,...,"objects":[{"class":0,"height":90,"label":"person",
#   "score":0.71,...}],...,"regions":[{"height":96,"width":48,"x":288,"y":160}],"stream_id":2868303105,"width":768}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/rtsp-server.sh [--help]

Watches an RTSP camera. Results go to standard output, everything else to standard error. Ctrl-C ends it.

parameters, by environment:
  URL              the camera (rtsp://127.0.0.1:8554/camera)
  USER_FILE        file with one line NAME:PASSWORD that the camera asks for (none); the same file as --user-file there
  USER_ID          name that the camera asks for, instead of a file (none)
  USER_PW          password (none). It is on no command line and printed nowhere
  PROTOCOLS        udp: feedback leaves at once; tcp: through the RTSP connection, where it may wait for up to one frame
                   (udp+tcp: by UDP, and where that is refused, by TCP)
  LATENCY          milliseconds that the jitter buffer waits for late packets (50; the default of rtspsrc is 2000)
  TIMEOUT          seconds without video after which the camera counts as gone (10)
  RETRY            seconds until it is tried again when it has gone; 0: that is the end (2)
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
  THRESHOLD        least score of a result, 0-1, and the middle of the undecided band (0.3)
  THREADS          processor threads for the model (0: as many as there are)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

URL=${URL:-rtsp://127.0.0.1:8554/camera}
PROTOCOLS=${PROTOCOLS:-udp+tcp}
LATENCY=${LATENCY:-50}
TIMEOUT=${TIMEOUT:-10}
RETRY=${RETRY:-2}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
THRESHOLD=${THRESHOLD:-0.3}
THREADS=${THREADS:-0}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
export URL USER_FILE=${USER_FILE:-} USER_ID=${USER_ID:-} USER_PW=${USER_PW:-}

# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

# A camera whose connection ends is gone at once, and rtspsrc says so; one that falls silent, as for a power cut, is the
# watchdog's. It comes behind ddsinfer: events that go upstream, as requests for a key frame, are signs of life to it.
# shellcheck source=pipelines/until-stopped.sh
source "$here/until-stopped.sh"
until_stopped "$URL" "$RETRY" \
  /usr/bin/python3 "$here/rtsp-launch.py" \
  rtspsrc name=camera protocols="$PROTOCOLS" latency="$LATENCY" \
  timeout=$((TIMEOUT * 1000000)) tcp-timeout=$((TIMEOUT * 1000000)) \
  ! rtph264depay \
  ! h264parse \
  ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" threads="$THREADS" box-confidence-threshold="$THRESHOLD" \
  ! watchdog timeout=$((TIMEOUT * 1000)) ! fakesink async=false \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
