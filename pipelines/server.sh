#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The server: receives the camera's RTP, decodes it, runs the model with ddsinfer and prints one line of JSON per frame.
# Feedback leaves by itself in the RTCP of the session that the stream came through. A camera that restarts is seen again,
# and packets of others on the port are dropped: ddsrtprecv hands one stream on.
#
# Expected output (camera.sh running), one line for each frame:
#   {"age_ms":null,...,"damaged":false,"frame":0,"generation":17,...,"objects":[{"class":0,"height":90,"label":"person",
#   "score":0.71,...}],...,"regions":[{"height":96,"width":48,"x":288,"y":160}],"stream_id":2868303105,"width":768}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/server.sh [--help]

Watches the camera of pipelines/camera.sh. Results go to standard output, everything else to standard error.
Ctrl-C ends it.

parameters, by environment:
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
  PORT             UDP port here for RTP (5000); the next one is for the camera's RTCP
  CAMERA_HOST      the camera, where RTCP with the feedback goes (127.0.0.1)
  FEEDBACK_PORT    UDP port of the camera for RTCP (5005)
  LATENCY          milliseconds that the jitter buffer waits for late packets (20)
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

MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
PORT=${PORT:-5000}
CAMERA_HOST=${CAMERA_HOST:-127.0.0.1}
FEEDBACK_PORT=${FEEDBACK_PORT:-5005}
LATENCY=${LATENCY:-20}
THRESHOLD=${THRESHOLD:-0.3}
THREADS=${THREADS:-0}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}

# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

# rtcp-fb-nack-pli: without it no requests for a key frame leave for the camera. reuse=false: two on one port would
# share nothing, one of them got all.
exec gst-launch-1.0 -q \
  ddsrtprecv name=rtp latency="$LATENCY" \
  udpsrc port="$PORT" reuse=false buffer-size=2000000 \
  caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true \
  ! rtp.rtp_sink \
  udpsrc port=$((PORT + 1)) reuse=false ! rtp.rtcp_sink \
  rtp.rtcp_src ! udpsink host="$CAMERA_HOST" port="$FEEDBACK_PORT" sync=false async=false \
  rtp.src ! rtph264depay \
  ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" threads="$THREADS" box-confidence-threshold="$THRESHOLD" \
  ! fakesink async=false \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
