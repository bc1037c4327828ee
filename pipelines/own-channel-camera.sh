#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The camera behind a relay that drops RTCP, as MediaMTX, go2rtc and recorders do: video goes to the relay, feedback comes on a
# channel of its own, encrypted and authenticated (feedback-uri). Nothing here needs an RTP session.
#
# Expected output (own-channel-server.sh running): as pipelines/camera.sh.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/own-channel-camera.sh [--help]

Sends one camera's video to a relay that pipelines/own-channel-server.sh watches. Ctrl-C ends it. Make a key, the same file
at both ends:
  (umask 077; echo "hex:$(openssl rand -hex 32)" > dds.key)

parameters, by environment:
  KEY_FILE         file with the key of the feedback channel (dds.key)
  FEEDBACK_URI     where feedback comes in (udp://0.0.0.0:5006); behind NAT the camera dials: udp://SERVER:5006?mode=caller
  RELAY            where video goes: udp://HOST:PORT by plain RTP (udp://127.0.0.1:5000), or rtsp://... to publish there
  USER_FILE        file with one line NAME:PASSWORD that the relay asks for by RTSP (none); or USER_ID and USER_PW
  SOURCE           what to send: a file (default: the clip of setup.sh), a device (/dev/video0) or an address (rtsp://...)
  BACKGROUND_QP    quantizer outside regions, 1-51, higher is coarser (36)
  REGION_QP        quantizer inside regions (26)
  MAX_BITRATE      cap in kbit/s over any one second, 0: none (4000)
  KEY_INT_MAX      frames between key frames (50): many relays pass no request for one on
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

KEY_FILE=${KEY_FILE:-dds.key}
FEEDBACK_URI=${FEEDBACK_URI:-udp://0.0.0.0:5006}
RELAY=${RELAY:-udp://127.0.0.1:5000}
SOURCE=${SOURCE:-${DDS_CLIP:-${XDG_DATA_HOME:-$HOME/.local/share}/gst-dds/clips/vtest.avi}}
BACKGROUND_QP=${BACKGROUND_QP:-36}
REGION_QP=${REGION_QP:-26}
MAX_BITRATE=${MAX_BITRATE:-4000}
KEY_INT_MAX=${KEY_INT_MAX:-50}
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
case $RELAY in
  udp://*:*)
    address=${RELAY#udp://}
    relay=(
      rtph264pay config-interval=-1 aggregate-mode=zero-latency
      ! udpsink host="${address%:*}" port="${address##*:}" sync=false async=false
    )
    ;;
  rtsp://* | rtsps://*)
    # The address may hold a password.
    export URL=$RELAY USER_FILE=${USER_FILE:-} USER_ID=${USER_ID:-} USER_PW=${USER_PW:-}
    launch=(/usr/bin/python3 "$here/rtsp-launch.py")
    relay=(rtspclientsink name=relay protocols=tcp latency=0)
    ;;
  *) echo "RELAY: $RELAY is neither udp://HOST:PORT nor rtsp://..." >&2; exit 2 ;;
esac

exec "${launch[@]}" \
  "${source[@]}" \
  ! videoconvert \
  ! queue max-size-buffers=2 \
  ! ddsencode background-qp="$BACKGROUND_QP" region-qp="$REGION_QP" max-bitrate="$MAX_BITRATE" \
  speed-preset=veryfast key-int-max="$KEY_INT_MAX" \
  feedback-uri="$FEEDBACK_URI" feedback-key-file="$KEY_FILE" \
  ! video/x-h264,stream-format=byte-stream \
  ! "${relay[@]}"
