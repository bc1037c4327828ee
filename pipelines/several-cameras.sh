#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# One server for several cameras: a process for each, with its decoder, its ddsinfer and its feedback, so that one that goes
# takes nothing with it. Every line of results begins with the name of its camera.
#
# Expected output (two times camera.sh running, PORT=5000 FEEDBACK_PORT=5005 and PORT=5010 FEEDBACK_PORT=5015):
#   {"camera":"gate","age_ms":null,...,"frame":7,"generation":17,...,"objects":[...],...,"stream_id":2868303105,...}
#   {"camera":"yard","age_ms":null,...,"frame":5,"generation":901,...,"objects":[...],...,"stream_id":1101208773,...}
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

usage() {
  cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/several-cameras.sh [--help]

Watches cameras of pipelines/camera.sh and RTSP cameras. Results go to standard output, everything else to standard error.
Ctrl-C ends it. Cameras may come and go; an RTSP camera that has gone is tried again as rtsp-server.sh does.

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
  PROTOCOLS        of RTSP cameras, and
  TIMEOUT, RETRY   when they count as gone and are tried again: see rtsp-server.sh
  GST_PLUGIN_PATH  folder of the built plugins (target/release of this repository)
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

CAMERAS=${CAMERAS:-gate=5000 yard=5010}
export MODEL=${MODEL:-$here/../gst-dds-infer/models/street_nano.onnx}
export THREADS=${THREADS:-1}
export LATENCY=${LATENCY:-50}
export THRESHOLD=${THRESHOLD:-0.3}
export GST_PLUGIN_PATH=${GST_PLUGIN_PATH:-$here/../target/release}

# Puts the names into the lines: one thread a camera, so that none waits for another, and one line at a time. A process that
# was killed may leave half a line.
# shellcheck disable=SC2016 # Python, where nothing is to be expanded.
gather='
import json, os, sys, threading
whole = threading.Lock()

def gather(name, results):
    head = b"{\"camera\":" + json.dumps(name).encode() + b","
    for line in open(results, "rb"):
        if line.startswith(b"{") and line.endswith(b"\n"):
            with whole:
                try:
                    sys.stdout.buffer.write(head + line[1:])
                    sys.stdout.buffer.flush()
                except OSError:
                    os._exit(1)  # nobody reads any more
    print(f"several-cameras.sh: {name} is not watched any more", file=sys.stderr)

for name, results in zip(sys.argv[1::2], sys.argv[2::2]):
    threading.Thread(target=gather, args=(name, results)).start()
'
results=$(mktemp -d)
running=()
# Background jobs of a script do not hear Ctrl-C: they are ended from here.
finish() {
  local process
  for process in "${running[@]}"; do kill "$process" 2>/dev/null || true; done
  wait
  rm -rf "$results"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What each camera is, before any of them is watched.
read -ra cameras <<<"$CAMERAS"
named=()
for i in "${!cameras[@]}"; do
  case ${cameras[i]} in
    ?*=rtsp://* | ?*=rtsps://* | ?*=[0-9]*) ;;
    *)
      echo "CAMERAS: ${cameras[i]} is neither NAME=PORT nor NAME=PORT@HOST:FEEDBACK_PORT nor NAME=rtsp://..." >&2
      exit 2
      ;;
  esac
  mkfifo "$results/$i"
  named+=("${cameras[i]%%=*}" "$results/$i")
done
if [ ${#cameras[@]} = 0 ]; then
  echo 'CAMERAS names no camera' >&2
  exit 2
fi

/usr/bin/python3 -c "$gather" "${named[@]}" &
gatherer=$!
running+=("$gatherer")
for i in "${!cameras[@]}"; do
  address=${cameras[i]#*=}
  case $address in
    rtsp*) script=rtsp-server.sh parameters=(URL="$address") ;;
    *)
      port=${address%%@*}
      camera=127.0.0.1:$((port + 5))
      case $address in *@*:*) camera=${address#*@} ;; esac
      script=server.sh parameters=(PORT="$port" CAMERA_HOST="${camera%:*}" FEEDBACK_PORT="${camera##*:}")
      ;;
  esac
  # By the environment: a URL may have a password in it, and command lines are seen by everybody.
  (export "${parameters[@]}" && exec bash "$here/$script") >"$results/$i" &
  running+=($!)
done

# It ends when nobody writes any more.
wait "$gatherer" || exit 1
for process in "${running[@]}"; do wait "$process" || exit 1; done
