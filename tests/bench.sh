#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Measures, in one run each, the ratios the README speaks of: processor time of ddsencode against x264enc, ddsinfer
# against the bare ONNX Runtime call, the map of quantizers, the way of feedback over RTCP, and what the closed loop is
# worth on real clips, in one pass and in two, for three tasks. About 45 minutes on 2 cores; run it on a machine that does
# nothing else.
#
# DDS_DATA names a folder with videos/ and models/ (default: ../shared/data); sections without their files are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ]; then
  sed -n '4,9s/^# \{0,1\}//p' "$0"
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

section 'two passes: processor time against one pass (at most 1.6), memory of the ring (raw size + 10 %)'
cargo build --release --locked -p gst-plugin-dds --example two_pass_bench --quiet
"$bin/examples/two_pass_bench"
"$bin/examples/two_pass_bench" memory

section 'bandwidth: any second at most 1.15 of the target, mean within 5 %'
for scene in '' "$data/videos/hk_expressway_720p.mp4" "$data/videos/motorway_720p.mp4"; do
  if [ -z "$scene" ] || have "$scene"; then
    for segments in '' --segments; do
      # shellcheck disable=SC2086 # An empty option is none.
      "$bin/dds-control" $scene $segments --plot "${TMPDIR:-/tmp}/bandwidth.png"
    done
  fi
done

section 'two passes as in the paper against uniform encodes with its closed GOP, first 90 frames'
uniform=$(printf -- '--uniform %s ' 26 28 30 32 34 36 38 40)
for clip in sf_street_1080p hk_expressway_720p motorway_720p vn_avenue dashcam_highway_540p kitti_city_drive; do
  file=$data/videos/$clip.mp4
  if have "$file" "$model"; then
    echo "$clip"
    frames=90
    if [ "$clip" = kitti_city_drive ]; then frames=75; fi
    loop=("$bin/dds-loop" "$file" --model "$model" --frames "$frames" --paper)
    "${loop[@]}" --background 40 --region 28
    "${loop[@]}" --two-pass --segment 15 --low-scale 0.8 --background 36 --region 26 --infer feedback-policy=paper
    "${loop[@]}" --two-pass --background 40 --region 28
    for scale in 0.8 1; do
      # shellcheck disable=SC2086 # Several options.
      "${loop[@]}" --gop 15 --scale "$scale" $uniform
    done
  fi
done

section 'segmentation: agreement and mIoU'
file=$data/videos/kitti_city_drive.mp4 segmenter=$data/models/espnetv2_s2_city_512x1024.onnx
if have "$file" "$segmenter"; then
  loop=("$bin/dds-loop" "$file" --model "$segmenter" --frames 60 --ignore 19 --infer segmentation-map=true)
  "${loop[@]}" --background 40 --region 28
  "${loop[@]}" --two-pass --background 40 --region 28
  "${loop[@]}" --two-pass --segment 15 --low-scale 0.8 --background 36 --region 26
  "${loop[@]}" --uniform 26 --uniform 30 --uniform 34 --uniform 38 --uniform 42
fi

section 'faces: right names and boxes (DDS_GALLERY names a folder of pictures of people in the clip)'
file=$data/videos/crowd_faces_450p.mp4 finder=$data/models/yunet_n_face.onnx embedder=$data/models/mobilefacenet_112.onnx
if have "$file" "$finder" "$embedder" && [ -d "${DDS_GALLERY:-}" ]; then
  loop=("$bin/dds-loop" "$file" --model "$finder" --first 5 --infer "embedding-model-file=$embedder gallery=$DDS_GALLERY \
    box-confidence-threshold=0.6 feedback-threshold=-1 iou-threshold=0.3 similarity-threshold=0.5")
  "${loop[@]}" --background 40 --region 26
  "${loop[@]}" --two-pass --background 40 --region 26
  "${loop[@]}" --uniform 22 --uniform 26 --uniform 30 --uniform 34 --uniform 38 --uniform 42
fi
