#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# One server for several cameras: each has its decoder, its ddsinfer and its feedback, all in one process. Every line of results
# begins with the name of its camera.
#
# Expected output (two times camera.sh running, PORT=5000 FEEDBACK_PORT=5005 and PORT=5010 FEEDBACK_PORT=5015):
#   {"camera":"gate","age_ms":null,...,"frame":7,"generation":17,...,"objects":[...],...,"stream_id":2868303105,...}
#   {"camera":"yard","age_ms":null,...,"frame":5,"generation":901,...,"objects":[...],...,"stream_id":1101208773,...}
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/several-cameras.sh [--help]

Watches cameras of pipelines/camera.sh and RTSP cameras. Results go to standard output, everything else to standard error.
Ctrl-C ends it. Cameras of camera.sh may come and go; an RTSP camera that cannot be reached, or ends, ends the whole line:
where that may be, watch it with rtsp-server.sh, in a process of its own.

parameters, by environment:
  CAMERAS          NAME=ADDRESS, separated by spaces ("gate=5000 yard=5010"). ADDRESS is one of
                   PORT                     UDP port here for RTP, the next one for RTCP; the camera's FEEDBACK_PORT is
                                            PORT + 5 on this machine
                   PORT@HOST:FEEDBACK_PORT  the same, the camera elsewhere
                   rtsp://...               an RTSP camera
  MODEL            ONNX model (gst-dds-infer/models/street_nano.onnx); a MODEL.modelinfo beside it describes it
  THREADS          processor threads for the model, of each camera (1)
  LATENCY          milliseconds that the jitter buffers wait for late packets (50)
  THRESHOLD        least score of a result, 0-1, and the middle of the undecided band (0.3)
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

CAMERAS=${CAMERAS:-gate=5000 yard=5010}
MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
THREADS=${THREADS:-1}
LATENCY=${LATENCY:-50}
THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}

# Puts the names into the lines: one thread a camera, so that none waits for another, and one line at a time.
# shellcheck disable=SC2016 # Python, where nothing is to be expanded.
gather='
import json, sys, threading
whole = threading.Lock()

def gather(name, results):
    head = b"{\"camera\":" + json.dumps(name).encode() + b","
    for line in open(results, "rb"):
        with whole:
            sys.stdout.buffer.write(head + line[1:])
            sys.stdout.buffer.flush()

for name, results in zip(sys.argv[1::2], sys.argv[2::2]):
    threading.Thread(target=gather, args=(name, results)).start()
'
results=$(mktemp -d)
gatherer=
trap 'rm -rf "$results"; [ -z "$gatherer" ] || kill "$gatherer" 2>/dev/null || true' EXIT

line=()
named=()
read -ra cameras <<<"$CAMERAS"
for i in "${!cameras[@]}"; do
  name=${cameras[i]%%=*}
  address=${cameras[i]#*=}
  case ${cameras[i]} in
    *=rtsp://* | *=rtsps://*)
      line+=(rtspsrc location="$address" latency="$LATENCY")
      ;;
    *=[0-9]*)
      port=${address%%@*}
      camera=127.0.0.1:$((port + 5))
      case $address in *@*:*) camera=${address#*@} ;; esac
      # rtcp-fb-nack-pli: without it rtpbin does not pass requests for a key frame to the camera.
      line+=(
        rtpbin name="rtp$i" latency="$LATENCY"
        udpsrc port="$port" buffer-size=2000000
        caps="application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true"
        ! "rtp$i.recv_rtp_sink_0"
        udpsrc port=$((port + 1)) ! "rtp$i.recv_rtcp_sink_0"
        "rtp$i.send_rtcp_src_0" ! udpsink host="${camera%:*}" port="${camera##*:}" sync=false async=false
        "rtp$i."
      )
      ;;
    *)
      echo "CAMERAS: ${cameras[i]} is neither NAME=PORT nor NAME=PORT@HOST:FEEDBACK_PORT nor NAME=rtsp://..." >&2
      exit 2
      ;;
  esac
  mkfifo "$results/$i"
  named+=("$name" "$results/$i")
  line+=(
    ! rtph264depay ! h264parse
    ! avdec_h264 max-threads=1
    ! ddsinfer name="infer$i" model-file="$MODEL" threads="$THREADS" box-confidence-threshold="$THRESHOLD"
    ! fakesink async=false
    "infer$i.results" ! queue ! filesink location="$results/$i" buffer-mode=unbuffered sync=false async=false
  )
done

/usr/bin/python3 -c "$gather" "${named[@]}" &
gatherer=$!
gst-launch-1.0 -q "${line[@]}"
