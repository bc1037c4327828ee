#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# A server that records what it analyses: the camera's H.264 goes to files as it came, undecoded, and beside that through the
# model. The recording is whole however slow the model is: frames wait for the decoder in a queue of their own, and ddsinfer
# leaves out what it has no time for.
#
# Expected output (camera.sh running), one line for each inferred frame; in OUT 00000.mkv, 00001.mkv, ...:
#   {"age_ms":null,...,"frame":0,"generation":17,...,"objects":[...],...,"regions":[...],"stream_id":2868303105,...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/record-beside-analysis.sh [--help]

Watches and records the camera of pipelines/camera.sh. Results go to standard output, everything else to standard error.
Ctrl-C ends it; the last file can be played even if the machine fails.
A camera may restart; one that comes again with another size ends it, for no file takes both.

parameters, by environment:
  OUT              folder of the recording (recording)
  SECONDS_A_FILE   longest file (60). Files begin with a key frame, so that none is shorter than the way from one to the
                   next: the camera's KEY_INT_MAX says how long that is
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
  PORT             UDP port here for RTP (5000); the next one is for the camera's RTCP
  CAMERA_HOST      the camera, where RTCP with the feedback goes (127.0.0.1)
  FEEDBACK_PORT    UDP port of the camera for RTCP (5005)
  LATENCY          milliseconds that the jitter buffer waits for late packets (20)
  THRESHOLD        least score of a result, 0-1, and the middle of the undecided band (0.3)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

OUT=${OUT:-recording}
SECONDS_A_FILE=${SECONDS_A_FILE:-60}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
PORT=${PORT:-5000}
CAMERA_HOST=${CAMERA_HOST:-127.0.0.1}
FEEDBACK_PORT=${FEEDBACK_PORT:-5005}
LATENCY=${LATENCY:-20}
THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
mkdir -p "$OUT"

# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

# feedback-rate=false: the recording is to show every picture, also those that the model has no time for.
# Matroska: a file that was cut off plays up to there. Of both queues only the one before the decoder may grow: up to 256 MB.
exec gst-launch-1.0 -q -e \
  ddsrtprecv name=rtp latency="$LATENCY" \
  udpsrc port="$PORT" reuse=false buffer-size=2000000 \
  caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true \
  ! rtp.rtp_sink \
  udpsrc port=$((PORT + 1)) reuse=false ! rtp.rtcp_sink \
  rtp.rtcp_src ! udpsink host="$CAMERA_HOST" port="$FEEDBACK_PORT" sync=false async=false \
  rtp.src ! rtph264depay ! h264parse ! tee name=camera \
  camera. ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=10000000000 \
  ! splitmuxsink muxer-factory=matroskamux location="$OUT/%05d.mkv" max-size-time=$((SECONDS_A_FILE * 1000000000)) \
  async-finalize=true sink-properties=properties,async=false \
  camera. ! queue max-size-buffers=0 max-size-bytes=256000000 max-size-time=0 \
  ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" box-confidence-threshold="$THRESHOLD" feedback-rate=false \
  ! fakesink async=false \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
