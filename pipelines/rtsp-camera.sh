#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# An RTSP camera as any recorder knows it: one URL, one H.264 track, by UDP or through the RTSP connection. The first server
# that sends feedback steers it (rtsp-server.sh); everybody else just watches, and all share one encoder.
#
# Expected output, then a line of JSON with what happened when it ends:
#   dds-rtsp-camera: rtsp://0.0.0.0:8554/camera
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/rtsp-camera.sh [--help] [option of dds-rtsp-camera ...]

Serves one camera's video. Watch it with pipelines/rtsp-server.sh, ffplay, VLC or a recorder. Ctrl-C ends it.
With --encoder "mode=two-pass background-qp=36 region-qp=26" pipelines/rtsp-two-pass-server.sh watches both passes.

parameters, by environment:
  SOURCE           what to show: a file in a loop (default: the clip of setup.sh), a device (/dev/video0) or test:ball
  PORT             TCP port (8554)
  BACKGROUND_QP    quantizer outside regions, 1-51, higher is coarser (36)
  REGION_QP        quantizer inside regions (26)
  KEY_INTERVAL     seconds between key frames, or auto: 2 while a recorder watches, 10 while only servers do (auto)
  KEY_INT_MAX      frames between key frames, instead of it (none)
  MAX_BITRATE      most kbit/s in any second, 0: no cap (by size and rate: about three times what a busy street takes)
  USER_FILE        file with one line NAME:PASSWORD that clients must give (none)
  DDS_RTSP_USER    NAME:PASSWORD itself, instead of a file (none)
  DDS_RTSP_VIEWER  NAME:PASSWORD of one who may watch and not steer (none)
  DDS_RTSP_CAMERA  the program (target/release/dds-rtsp-camera of this repository); its --help has the other options
USAGE
}
case "${1:-}" in
  --help | -h) usage; exit 0 ;;
esac

SOURCE=${SOURCE:-${DDS_CLIP:-${XDG_DATA_HOME:-$HOME/.local/share}/gst-dds/clips/vtest.avi}}
PORT=${PORT:-8554}
BACKGROUND_QP=${BACKGROUND_QP:-36}
REGION_QP=${REGION_QP:-26}
encoder="background-qp=$BACKGROUND_QP region-qp=$REGION_QP speed-preset=veryfast"
if [ -n "${KEY_INT_MAX:-}" ]; then encoder+=" key-int-max=$KEY_INT_MAX"; fi
options=()
if [ -n "${KEY_INTERVAL:-}" ]; then options+=(--key-interval "$KEY_INTERVAL"); fi
if [ -n "${MAX_BITRATE:-}" ]; then options+=(--max-bitrate "$MAX_BITRATE"); fi
if [ -n "${USER_FILE:-}" ]; then options+=(--user-file "$USER_FILE"); fi
DDS_RTSP_CAMERA=${DDS_RTSP_CAMERA:-$here/../target/release/dds-rtsp-camera}

exec "$DDS_RTSP_CAMERA" "$SOURCE" --port "$PORT" --encoder "$encoder" "${options[@]}" "$@"
