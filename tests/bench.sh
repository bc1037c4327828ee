#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Measures, in one run each, the ratios the README speaks of: processor time of ddsencode against x264enc, ddsinfer
# against the bare ONNX Runtime call, the map of quantizers, the way of feedback over RTCP, and what the closed loop is
# worth on real clips. About 15 minutes on 2 cores; run it on a machine that does nothing else.
#
# DDS_DATA names a folder with videos/ and models/ (default: ../shared/data); sections without their files are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ]; then
  sed -n '4,8s/^# \{0,1\}//p' "$0"
  exit 0
fi

data=${DDS_DATA:-../shared/data}
bash pipelines/setup.sh
eval "$(bash pipelines/setup.sh --env)"
cargo build --release --locked -p dds-tests --bins --quiet
cargo build --release --locked -p gst-plugin-dds --example qp_map_bench --quiet
bin=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release

section() { printf '\n## %s\n' "$*"; }
have() {
  local file
  for file in "$@"; do
    [ -f "$file" ] || { echo "skipped: $file is not there"; return 1; }
  done
}

printf 'machine: %s, %s cores, %s\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$(uname -rm)"
printf 'load before: %s\n' "$(cut -d' ' -f1-3 /proc/loadavg)"

section 'map of quantizers, 1080p, 256 regions (at most 50 us, no allocation)'
"$bin/examples/qp_map_bench"

section 'the way of feedback (p50 at most 33.3 ms, p95 at most 38.3 ms)'
"$bin/dds-bench" rtcp

section 'processor time of ddsencode with 50 moving regions against x264enc (ratio at most 1.05, bytes within 3 %)'
for clip in hk_expressway_720p:1280x720 sf_street_1080p:1920x1080; do
  file=$data/videos/${clip%%:*}.mp4
  if have "$file"; then "$bin/dds-bench" cpu "$file" "${clip##*:}"; fi
done

section 'wall time of ddsinfer against the bare call (ratio at most 1.05; small models: at most 2 ms more)'
"$bin/dds-bench" infer "$DDS_CLIP" gst-dds-infer/models/street_nano.onnx
for model in yolox_nano_736x1280 yolox_nano_416; do
  file=$data/models/$model.onnx clip=$data/videos/hk_expressway_720p.mp4
  if have "$file" "$clip"; then "$bin/dds-bench" infer "$clip" "$file"; fi
done

section 'the loop in lockstep, feedback one frame late, first 90 frames, YOLOX-Nano 736x1280'
model=$data/models/yolox_nano_736x1280.onnx
for row in sf_street_1080p:40:28 hk_expressway_720p:38:28 motorway_720p:38:28; do
  IFS=: read -r clip background region <<<"$row"
  file=$data/videos/$clip.mp4
  if have "$file" "$model"; then
    echo "$clip"
    for feedback in '' --no-feedback; do
      # shellcheck disable=SC2086 # An empty option is none.
      "$bin/dds-loop" "$file" --model "$model" --background "$background" --region "$region" $feedback
    done
    "$bin/dds-loop" "$file" --model "$model" --uniform 28 --uniform 32 --uniform 36 --uniform 40
  fi
done
