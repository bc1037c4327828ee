#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The server of pipelines/srtp-camera.sh: opens its SRTP, runs the model with ddsinfer and prints one line of JSON per frame.
# Feedback leaves by itself in the RTCP of the session, here encrypted. What was altered, forged or sent again is dropped.
#
# The key is read from a file or the environment, and is on no command line; see srtp-camera.sh for who can see it.
#
# Expected output (srtp-camera.sh running), one line for each frame:
#   {"age_ms":null,...,"frame":0,"generation":17,...,"objects":[...],...,"regions":[...],"stream_id":2868303105,...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/srtp-server.sh [--help]

Watches the camera of pipelines/srtp-camera.sh. Results go to standard output, everything else to standard error.
Ctrl-C ends it.

parameters, by environment:
  SRTP_KEY_FILE    file with the key, the same as the camera's (srtp.key)
  SRTP_KEY         the key itself, instead of a file
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
  PORT             UDP port here for SRTP (5000); the next one is for the camera's SRTCP
  CAMERA_HOST      the camera, where SRTCP with the feedback goes (127.0.0.1)
  FEEDBACK_PORT    UDP port of the camera for SRTCP (5005)
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

export SRTP_KEY_FILE=${SRTP_KEY_FILE:-srtp.key}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
PORT=${PORT:-5000}
CAMERA_HOST=${CAMERA_HOST:-127.0.0.1}
FEEDBACK_PORT=${FEEDBACK_PORT:-5005}
LATENCY=${LATENCY:-20}
THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}

# gst-launch-1.0 would show the key in the list of processes, and cannot give srtpdec a key for SSRCs that are drawn anew at
# each start; fixed ones would code two streams with one key stream. Each direction has a key of its own, so that what one
# end sent is not taken by that same end. How often the 16-bit packet numbers have begun anew no packet tells
# (RFC 3711, 3.3.1): a server that comes after the camera tries until one opens.
# shellcheck disable=SC2016 # Python has backticks in its words.
launcher='
import hashlib, hmac, os, signal, sys, time
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
# Anybody can send under any SSRC, and each that is tried costs srtpdec memory and time: ten a second at their first packet,
# more of them at their second one, and only so many at once.
MOST, SEEN, A_SECOND = 64, 4096, 10
waiting = {}  # SSRC of which no video was opened yet: times that its packets were wrapped
seen = {}  # SSRCs that were not tried
tries = [A_SECOND, time.monotonic()]
probes = []

def forget(ssrc):
    waiting.pop(ssrc, None)
    # Not here: srtpdec may be asking for a key.
    GLib.idle_add(lambda: opener.emit("remove-key", ssrc) and False)

def is_tried(ssrc):
    now = time.monotonic()
    tries[:] = min(A_SECOND, tries[0] + A_SECOND * (now - tries[1])), now
    if ssrc in waiting or seen.pop(ssrc, False):
        return True
    if tries[0] >= 1:
        tries[0] -= 1
        return True
    while len(seen) >= SEEN:
        seen.pop(next(iter(seen)))
    seen[ssrc] = True
    return False

def request(element, ssrc):
    if not is_tried(ssrc):
        return None
    if ssrc not in waiting and len(waiting) >= MOST:
        forget(next(iter(waiting)))
    waiting[ssrc] = (waiting.get(ssrc, -1) + 1) % 4096
    if not probes:
        probes.append(opened.add_probe(Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST, found))
    return Gst.Caps.from_string(
        f"application/x-srtp,roc=(uint){waiting[ssrc]},srtp-key=(buffer){key(theirs)},srtp-cipher=aes-128-icm,"
        "srtp-auth=hmac-sha1-80,srtcp-cipher=aes-128-icm,srtcp-auth=hmac-sha1-80")

def found(pad, info):
    buffer = info.get_buffer() or info.get_buffer_list().get(0)
    waiting.pop(int.from_bytes(buffer.extract_dup(8, 4), "big"), None)
    for stranger in list(waiting):
        forget(stranger)
    probes.clear()
    return Gst.PadProbeReturn.REMOVE

def search(refused=[0]):
    before, refused[0] = refused[0], opener.get_property("stats").get_uint("recv-drop-count").value
    if refused[0] != before:
        for ssrc in list(waiting):
            opener.emit("remove-key", ssrc)
    return True

opener = pipeline.get_by_name("open")
opened = opener.get_static_pad("rtp_src")
opener.connect("request-key", request)
GLib.timeout_add(20, search)
for number in signal.SIGINT, signal.SIGTERM:
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, lambda: loop.quit())
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
# A file goes on where it ends: fdsink would write it from its first byte again.
if [ -f /proc/self/fd/1 ]; then { exec >>/proc/self/fd/1; } 2>/dev/null || exec > >(cat); fi

# rtcp-fb-nack-pli: without it no requests for a key frame leave for the camera.
exec /usr/bin/python3 -c "$launcher" server camera \
  ddsrtprecv name=rtp latency="$LATENCY" \
  srtpenc name=seal \
  srtpdec name=open \
  udpsrc port="$PORT" reuse=false buffer-size=2000000 \
  caps=application/x-srtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true \
  ! open.rtp_sink open.rtp_src ! rtp.rtp_sink \
  udpsrc port=$((PORT + 1)) reuse=false caps=application/x-srtcp ! open.rtcp_sink open.rtcp_src ! rtp.rtcp_sink \
  rtp.rtcp_src ! seal.rtcp_sink_0 \
  seal.rtcp_src_0 ! udpsink host="$CAMERA_HOST" port="$FEEDBACK_PORT" sync=false async=false \
  rtp.src ! rtph264depay \
  ! avdec_h264 max-threads=1 \
  ! ddsinfer name=infer model-file="$MODEL" box-confidence-threshold="$THRESHOLD" \
  ! fakesink async=false \
  infer.results ! queue ! fdsink fd=1 sync=false async=false
