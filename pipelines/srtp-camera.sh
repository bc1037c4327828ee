#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The camera of pipelines/camera.sh with everything encrypted: video by SRTP, reports and feedback by SRTCP (RFC 3711). Who
# does not have the key sees no picture, does not learn where people are, and steers nothing.
#
# The key is read from a file or the environment, and is on no command line. Its file is seen by whom its permissions allow,
# the environment by this user and root. Debug logs of level 5 and above, and pipeline graphs (GST_DEBUG_DUMP_DOT_DIR), show
# the keys derived from it. Sizes and times of packets are seen by everybody.
#
# Expected output (srtp-server.sh running): none; it ends with the clip.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/srtp-camera.sh [--help]

Sends one camera's video, encrypted, to pipelines/srtp-server.sh. Ctrl-C ends it. Make a key, the same file at both ends:
  (umask 077; openssl rand -hex 32 > srtp.key)

parameters, by environment:
  SRTP_KEY_FILE    file with the key: any text of at least 16 bytes, hard to guess (srtp.key)
  SRTP_KEY         the key itself, instead of a file
  SOURCE           what to send: a file (default: the clip of setup.sh), a device (/dev/video0) or an address (rtsp://...)
  HOST             the server (127.0.0.1)
  PORT             UDP port of the server for SRTP (5000); the next one is for its SRTCP
  FEEDBACK_PORT    UDP port here for SRTCP from the server (5005)
  BACKGROUND_QP    quantizer outside regions, 1-51, higher is coarser (36)
  REGION_QP        quantizer inside regions (26)
  MAX_BITRATE      cap in kbit/s over any one second, 0: none (4000)
  KEY_INT_MAX      frames between key frames (250)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

export SRTP_KEY_FILE=${SRTP_KEY_FILE:-srtp.key}
SOURCE=${SOURCE:-${DDS_CLIP:-${XDG_DATA_HOME:-$HOME/.local/share}/gst-dds/clips/vtest.avi}}
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
FEEDBACK_PORT=${FEEDBACK_PORT:-5005}
BACKGROUND_QP=${BACKGROUND_QP:-36}
REGION_QP=${REGION_QP:-26}
MAX_BITRATE=${MAX_BITRATE:-4000}
KEY_INT_MAX=${KEY_INT_MAX:-250}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}
# Raw video at the pace of a camera; clocksync lets the frames of a file through at their time.
case $SOURCE in
  /dev/*) source=(v4l2src device="$SOURCE" ! decodebin) ;;
  *://*)
    # The address may hold a password.
    export SOURCE
    source=(uridecodebin name=source ! clocksync)
    ;;
  *) source=(filesrc location="$SOURCE" ! decodebin ! clocksync) ;;
esac

# gst-launch-1.0 would show the key in the list of processes, and cannot give srtpdec a key for SSRCs that are drawn anew at
# each start; fixed ones would code two streams with one key stream. Each direction has a key of its own, so that what one
# end sent is not taken by that same end.
# shellcheck disable=SC2016 # Python has backticks in its words.
launcher='
import hashlib, hmac, os, signal, sys
import gi
gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst

ours, theirs = sys.argv[1:3]
try:
    path = os.environ["SRTP_KEY_FILE"]
    secret = (os.environ.get("SRTP_KEY") or open(path).read()).strip()
    if not os.environ.get("SRTP_KEY") and os.stat(path).st_mode & 0o006:
        print(f"SRTP_KEY_FILE: {path} holds a secret, and every user of this machine may read or change it: "
              f"chmod o-rwx {path}", file=sys.stderr)
except OSError as error:
    sys.exit(f"SRTP_KEY_FILE: {error}")
if len(secret) < 16:
    sys.exit("the key is shorter than 16 bytes: make one with `openssl rand -hex 32`")

def key(end):  # 16 bytes of key, 14 of salt
    return hmac.new(secret.encode(), f"gst-dds srtp {end}".encode(), hashlib.sha256).hexdigest()[:60]

Gst.init(None)
try:
    pipeline = Gst.parse_launchv(sys.argv[3:])
except GLib.Error as error:
    sys.exit(error.message)
Gst.util_set_object_arg(pipeline.get_by_name("seal"), "key", key(ours))
if source := pipeline.get_by_name("source"):
    source.set_property("uri", os.environ["SOURCE"])
sealed = Gst.Caps.from_string(
    f"application/x-srtp,srtp-key=(buffer){key(theirs)},srtp-cipher=aes-128-icm,srtp-auth=hmac-sha1-80,"
    "srtcp-cipher=aes-128-icm,srtcp-auth=hmac-sha1-80")
pipeline.get_by_name("open").connect("request-key", lambda element, ssrc: sealed)
def end():  # a second time it is not waited for
    pipeline.send_event(Gst.Event.new_eos())
    return False

for number in signal.SIGINT, signal.SIGTERM:
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, end)

def gone(pad, info):  # rtpsession says good-bye at once, but does not always pass the end of stream on to its RTCP
    if info.get_event().type == Gst.EventType.EOS:
        GLib.timeout_add(500, loop.quit)
    return Gst.PadProbeReturn.OK

video = pipeline.get_by_name("seal").get_static_pad("rtp_src_0")
video.add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM, gone)
loop, failure = GLib.MainLoop(), []
bus = pipeline.get_bus()
bus.add_signal_watch()
bus.connect("message::eos", lambda bus, message: loop.quit())
bus.connect("message::error", lambda bus, message: (failure.extend(message.parse_error()), loop.quit()))
pipeline.set_state(Gst.State.PLAYING)
loop.run()
pipeline.set_state(Gst.State.NULL)
sys.exit(f"{failure[0].message} ({failure[1]})" if failure else 0)
'
exec /usr/bin/python3 -c "$launcher" camera server \
  rtpbin name=rtp \
  srtpenc name=seal \
  srtpdec name=open \
  "${source[@]}" \
  ! videoconvert \
  ! queue max-size-buffers=2 \
  ! ddsencode background-qp="$BACKGROUND_QP" region-qp="$REGION_QP" max-bitrate="$MAX_BITRATE" \
  speed-preset=veryfast key-int-max="$KEY_INT_MAX" \
  ! video/x-h264,stream-format=byte-stream \
  ! rtph264pay config-interval=-1 aggregate-mode=zero-latency \
  ! rtp.send_rtp_sink_0 \
  rtp.send_rtp_src_0 ! seal.rtp_sink_0 \
  seal.rtp_src_0 ! udpsink host="$HOST" port="$PORT" sync=false async=false \
  rtp.send_rtcp_src_0 ! seal.rtcp_sink_0 \
  seal.rtcp_src_0 ! udpsink host="$HOST" port=$((PORT + 1)) sync=false async=false \
  udpsrc port="$FEEDBACK_PORT" reuse=false caps=application/x-srtcp ! open.rtcp_sink \
  open.rtcp_src ! rtp.recv_rtcp_sink_0
