#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Camera and server in one pipeline: no network, no feedback branch. Feedback goes upstream as an event, through the
# decoder, to ddsencode. The shortest line that shows the loop.
#
# Expected output (one line for each frame):
#   {"age_ms":null,...,"frame":0,"generation":0,...,"objects":[...],...,"regions":[...],"stream_id":2868303105,...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/in-process.sh [--help]

parameters, by environment:
  SOURCE           what to code: a file (default: the clip of setup.sh), a device (/dev/video0) or an address (rtsp://...)
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx)
  BACKGROUND_QP    quantizer outside regions (36)
  REGION_QP        quantizer inside regions (26)
  MAX_BITRATE      cap in kbit/s over any one second, 0: none (4000)
  THRESHOLD        least score of a result, 0-1, and the middle of the undecided band (0.3)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

SOURCE=${SOURCE:-${DDS_CLIP:-${XDG_DATA_HOME:-$HOME/.local/share}/gst-dds/clips/vtest.avi}}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
BACKGROUND_QP=${BACKGROUND_QP:-36}
REGION_QP=${REGION_QP:-26}
MAX_BITRATE=${MAX_BITRATE:-4000}
THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
launch=(gst-launch-1.0 -q -e)
# Raw video at the pace of a camera; clocksync lets the frames of a file through at their time.
case $SOURCE in
  /dev/*) source=(v4l2src device="$SOURCE" ! decodebin) ;;
  *://*)
    # The address may hold a password.
    export SOURCE
    launch=(/usr/bin/python3 "$here/rtsp-launch.py" -e)
    source=(uridecodebin name=source ! clocksync)
    ;;
  *) source=(filesrc location="$SOURCE" ! decodebin ! clocksync) ;;
esac

# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

"${launch[@]}" \
  "${source[@]}" \
  ! videoconvert \
  ! ddsencode background-qp="$BACKGROUND_QP" region-qp="$REGION_QP" max-bitrate="$MAX_BITRATE" \
  speed-preset=veryfast key-int-max=250 \
  ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" box-confidence-threshold="$THRESHOLD" \
  ! fakesink async=false \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
