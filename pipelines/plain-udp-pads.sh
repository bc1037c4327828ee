#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The loop without RTCP: the feedback pads of both elements carry bare packets, here over a UDP port of their
# own. Any transport that keeps datagrams whole can stand in its place.
#
# Expected output (one line for each frame, as in server.sh):
#   {"age_ms":null,...,"frame":0,"generation":0,...,"objects":[...],...,"regions":[...],"stream_id":2868303105,...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/plain-udp-pads.sh camera|server|both|--help

  camera  codes and sends video, takes feedback from a UDP port
  server  receives, infers, prints JSON lines and sends feedback to a UDP port
  both    the two as two processes; ends with the clip

parameters, by environment:
  SOURCE           what to send: a file (default: the clip of setup.sh), a device (/dev/video0) or an address (rtsp://...)
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx)
  SERVER_HOST      where video goes (127.0.0.1), UDP port PORT (5000)
  CAMERA_HOST      where feedback goes (127.0.0.1), UDP port FEEDBACK_PORT (5005)
  BACKGROUND_QP    quantizer outside regions (36)
  REGION_QP        quantizer inside regions (26)
  MAX_BITRATE      cap in kbit/s over any one second, 0: none (4000)
  THRESHOLD        least score of a result, 0-1, and the middle of the undecided band (0.3)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}

SOURCE=${SOURCE:-${DDS_CLIP:-${XDG_DATA_HOME:-$HOME/.local/share}/gst-dds/clips/vtest.avi}}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
SERVER_HOST=${SERVER_HOST:-127.0.0.1}
CAMERA_HOST=${CAMERA_HOST:-127.0.0.1}
PORT=${PORT:-5000}
FEEDBACK_PORT=${FEEDBACK_PORT:-5005}
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

camera() {
  "${launch[@]}" \
    "${source[@]}" \
    ! videoconvert \
    ! queue max-size-buffers=2 \
    ! ddsencode name=encoder background-qp="$BACKGROUND_QP" region-qp="$REGION_QP" max-bitrate="$MAX_BITRATE" \
    speed-preset=veryfast key-int-max=250 \
    ! video/x-h264,stream-format=byte-stream \
    ! rtph264pay config-interval=-1 aggregate-mode=zero-latency \
    ! udpsink host="$SERVER_HOST" port="$PORT" sync=false async=false \
    udpsrc port="$FEEDBACK_PORT" reuse=false ! encoder.feedback
}

server() {
  # A file goes on where it ends: fdsink would write it from its first byte again.
  if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi
  # In place of the shell, so that ending it ends the pipeline.
  exec gst-launch-1.0 -q \
    udpsrc port="$PORT" reuse=false buffer-size=2000000 \
    caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96 \
    ! ddsrtprecv latency=20 \
    ! rtph264depay \
    ! avdec_h264 max-threads=1 \
    ! ddsinfer name=infer model-file="$MODEL" box-confidence-threshold="$THRESHOLD" \
    ! fakesink async=false \
    infer.feedback ! udpsink host="$CAMERA_HOST" port="$FEEDBACK_PORT" sync=false async=false \
    infer.results ! queue ! fdsink fd=1 sync=false async=false
}

case "${1:-}" in
  --help | -h) usage; exit 0 ;;
  camera | server | both) ;;
  *) usage >&2; exit 2 ;;
esac
case $1 in
  camera) camera ;;
  server) server ;;
  both)
    server &
    server=$!
    trap 'kill "$server" 2>/dev/null || true' EXIT
    sleep 1
    camera >&2
    sleep 1
    ;;
esac
