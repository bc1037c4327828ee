#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Camera and server in one pipeline, and what the server finds drawn on what it decodes: boxes with names and scores, the
# regions for which it asks the camera for quality (orange corners), and a red frame around damaged pictures.
#
# Expected output: a window with the video; with OUT=FILE.mkv that file instead, and nothing on the terminal.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/overlay.sh [--help]

parameters, by environment:
  SOURCE           what to code: a file (default: the clip of setup.sh), a device (/dev/video0) or an address (rtsp://...)
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx)
  BACKGROUND_QP    quantizer outside regions (36)
  REGION_QP        quantizer inside regions (26)
  MAX_BITRATE      cap in kbit/s over any one second, 0: none (4000)
  INTERVAL         infer every n-th frame (1); results stay, dimmed, on the frames between
  OUT              Matroska file to write instead of showing a window
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
INTERVAL=${INTERVAL:-1}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
launch=(gst-launch-1.0 -q -e)
case $SOURCE in
  /dev/*) source=(v4l2src device="$SOURCE" ! decodebin) ;;
  *://*)
    # The address may hold a password.
    export SOURCE
    launch=(/usr/bin/python3 "$here/rtsp-launch.py" -e)
    source=(uridecodebin name=source)
    ;;
  *) source=(filesrc location="$SOURCE" ! decodebin) ;;
esac
sink=(autovideosink)
if [ -n "${OUT:-}" ]; then
  sink=(x264enc speed-preset=veryfast pass=quant quantizer=20 ! matroskamux ! filesink location="$OUT")
fi

"${launch[@]}" \
  "${source[@]}" \
  ! videoconvert \
  ! ddsencode background-qp="$BACKGROUND_QP" region-qp="$REGION_QP" max-bitrate="$MAX_BITRATE" \
  speed-preset=veryfast key-int-max=250 \
  ! avdec_h264 max-threads=1 \
  ! ddsinfer model-file="$MODEL" inference-interval="$INTERVAL" \
  ! ddsoverlay \
  ! videoconvert \
  ! "${sink[@]}"
