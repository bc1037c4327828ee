#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The server of pipelines/own-channel-camera.sh: video comes from a relay that drops RTCP, feedback goes straight to the camera
# on a channel of its own.
#
# Expected output (own-channel-camera.sh running), one line for each frame:
#   {"age_ms":null,...,"frame":12,"generation":17,...,"objects":[...],...,"regions":[...],"stream_id":2868303105,...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/own-channel-server.sh [--help]

Watches the camera of pipelines/own-channel-camera.sh past a relay. Results go to standard output, everything else to
standard error. Ctrl-C ends it.

parameters, by environment:
  KEY_FILE         file with the key of the feedback channel, the same as the camera's (dds.key)
  FEEDBACK_URI     the camera (udp://127.0.0.1:5006); where the camera dials: udp://0.0.0.0:5006?mode=listener
  URL              where video comes from: udp://0.0.0.0:PORT by plain RTP (udp://0.0.0.0:5000), or rtsp://... of the relay
  USER_FILE        file with one line NAME:PASSWORD that the relay asks for by RTSP (none); or USER_ID and USER_PW
  LATENCY          milliseconds that the jitter buffer waits for late packets (50)
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
  THRESHOLD        least score of a result, 0-1, and the middle of the undecided band (0.3)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

KEY_FILE=${KEY_FILE:-dds.key}
FEEDBACK_URI=${FEEDBACK_URI:-udp://127.0.0.1:5006}
URL=${URL:-udp://0.0.0.0:5000}
LATENCY=${LATENCY:-50}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
launch=(gst-launch-1.0 -q)
case $URL in
  udp://*:*)
    address=${URL#udp://}
    video=(
      udpsrc address="${address%:*}" port="${address##*:}" reuse=false buffer-size=2000000
      caps="application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96"
      ! ddsrtprecv latency="$LATENCY"
    )
    ;;
  rtsp://* | rtsps://*)
    # The address may hold a password.
    export URL USER_FILE=${USER_FILE:-} USER_ID=${USER_ID:-} USER_PW=${USER_PW:-}
    launch=(/usr/bin/python3 "$here/rtsp-launch.py")
    video=(rtspsrc name=camera protocols=tcp latency="$LATENCY")
    ;;
  *) echo "URL: $URL is neither udp://ADDRESS:PORT nor rtsp://..." >&2; exit 2 ;;
esac

# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

exec "${launch[@]}" \
  "${video[@]}" \
  ! rtph264depay \
  ! h264parse \
  ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" box-confidence-threshold="$THRESHOLD" \
  feedback-uri="$FEEDBACK_URI" feedback-key-file="$KEY_FILE" \
  ! fakesink async=false \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
