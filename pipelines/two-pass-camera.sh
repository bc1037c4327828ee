#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# A camera of two passes: whole frames in low quality on one RTP session, and on a second one the same frames again, only
# the regions that pipelines/two-pass-server.sh asked for, in high quality.
#
# Expected output: as pipelines/camera.sh.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/two-pass-camera.sh [--help]

Sends one camera's video to pipelines/two-pass-server.sh, as fast as a real camera would. Ctrl-C ends it.

parameters, by environment:
  SOURCE           what to send: a file (default: the clip of setup.sh), a device (/dev/video0) or an address (rtsp://...)
  HOST             the server (127.0.0.1)
  PORT             UDP port of the server for RTP of the first pass (5000); the next ones are for its RTCP, and for RTP and
                   RTCP of the second pass
  FEEDBACK_PORT    UDP port here for RTCP from the server (5005); the next one is for that of the second pass
  BACKGROUND_QP    quantizer of the first pass, 1-51, higher is coarser (36)
  REGION_QP        quantizer of the second pass (26)
  MAX_BITRATE      cap in kbit/s over any one second, of the first pass alone; 0: none (4000)
  LOW_SCALE        size of the first pass, 0.25-1 (1)
  SEGMENT_LENGTH   0: every frame is asked about by itself; 15: in segments, as the paper does (0)
  KEY_INT_MAX      frames between key frames (250)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

SOURCE=${SOURCE:-${DDS_CLIP:-${XDG_DATA_HOME:-$HOME/.local/share}/gst-dds/clips/vtest.avi}}
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
FEEDBACK_PORT=${FEEDBACK_PORT:-5005}
BACKGROUND_QP=${BACKGROUND_QP:-36}
REGION_QP=${REGION_QP:-26}
MAX_BITRATE=${MAX_BITRATE:-4000}
LOW_SCALE=${LOW_SCALE:-1}
SEGMENT_LENGTH=${SEGMENT_LENGTH:-0}
KEY_INT_MAX=${KEY_INT_MAX:-250}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
launch=(gst-launch-1.0 -e)
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

"${launch[@]}" \
  rtpbin name=rtp \
  "${source[@]}" \
  ! videoconvert \
  ! queue max-size-buffers=2 \
  ! ddsencode name=camera mode=two-pass background-qp="$BACKGROUND_QP" region-qp="$REGION_QP" max-bitrate="$MAX_BITRATE" \
  low-scale="$LOW_SCALE" segment-length="$SEGMENT_LENGTH" speed-preset=veryfast key-int-max="$KEY_INT_MAX" \
  ! video/x-h264,stream-format=byte-stream \
  ! rtph264pay config-interval=-1 aggregate-mode=zero-latency \
  ! rtp.send_rtp_sink_0 \
  camera.refine ! video/x-h264,stream-format=byte-stream \
  ! rtph264pay config-interval=-1 aggregate-mode=zero-latency \
  ! rtp.send_rtp_sink_1 \
  rtp.send_rtp_src_0 ! udpsink host="$HOST" port="$PORT" sync=false async=false \
  rtp.send_rtcp_src_0 ! udpsink host="$HOST" port=$((PORT + 1)) sync=false async=false \
  rtp.send_rtp_src_1 ! udpsink host="$HOST" port=$((PORT + 2)) sync=false async=false \
  rtp.send_rtcp_src_1 ! udpsink host="$HOST" port=$((PORT + 3)) sync=false async=false \
  udpsrc port="$FEEDBACK_PORT" reuse=false ! rtp.recv_rtcp_sink_0 \
  udpsrc port=$((FEEDBACK_PORT + 1)) reuse=false ! rtp.recv_rtcp_sink_1
