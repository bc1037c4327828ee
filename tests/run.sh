#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Sets up what the tests need (pipelines/setup.sh) and runs everything: formatting, lints, documentation, all tests, what
# the built plugins link, and a type check for 64-bit Arm where that target can be had.
#
# Expected output: one line per step, the test runner's own report, and "all checks passed" at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ]; then
  sed -n '4,8s/^# \{0,1\}//p' "$0"
  exit 0
fi

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

step 'set-up'
bash pipelines/setup.sh --no-clip --tests
eval "$(bash pipelines/setup.sh --env)"
if ! command -v chromium >/dev/null; then
  echo 'skipped: no chromium, the page of dds-eval is not looked at in a browser'
  export DDS_NO_CHROMIUM=1
fi

step 'formatting'
cargo fmt --all --check

step 'lints'
cargo clippy --workspace --all-targets --locked -- -D warnings

step 'documentation'
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet

step 'build'
cargo build --workspace --locked

step 'tests'
cargo test --workspace --locked --no-fail-fast

step 'what the plugins are'
plugins=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug
export GST_PLUGIN_PATH=$plugins
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export GST_REGISTRY=$scratch/registry.bin
has() { case $1 in *"$2"*) ;; *) return 1 ;; esac }
# The server's plugin must stay free of libx264 and libx265, which are GPL: not linked, not loaded by name, not in its tree.
needed=$(readelf -d "$plugins/libgstddsinfer.so")
has "$needed" '(NEEDED)' || fail 'readelf shows nothing that libgstddsinfer.so needs'
tree=$(cargo tree --locked -p gst-plugin-ddsinfer -e normal,build --prefix none)
for library in x264 x265; do
  if has "$needed" "$library"; then fail "libgstddsinfer.so links lib$library"; fi
  [ "$(grep -ac "lib$library" "$plugins/libgstddsinfer.so" || true)" = 0 ] || fail "libgstddsinfer.so names lib$library"
  if has "$tree" "$library"; then fail "gst-plugin-ddsinfer depends on $library"; fi
  has "$(readelf -d "$plugins/libgstdds.so")" "lib$library" || fail "libgstdds.so does not link lib$library"
done
# grep reads to the end, so that gst-inspect never writes into a closed pipe.
gst-inspect-1.0 dds | grep 'License *GPL' >/dev/null || fail 'the camera plugin does not register as GPL'
gst-inspect-1.0 ddsinfer | grep 'License *MPL' >/dev/null || fail 'the server plugin does not register as MPL'
for element in ddsencode ddsinfer ddsoverlay ddsrtprecv; do
  gst-inspect-1.0 "$element" >"$scratch/$element.txt" || fail "gst-inspect-1.0 $element"
  grep -q 'Rank *none (0)' "$scratch/$element.txt" || fail "$element has a rank"
done

step 'camera without libx264, without libx265, without both'
for features in x265 x264 ''; do
  cargo clippy --locked -p gst-plugin-dds --no-default-features --features "$features" -- -D warnings
done

step '64-bit Arm'
arm=aarch64-unknown-linux-gnu
if rustup target list --installed 2>/dev/null | grep -qx "$arm" || rustup target add "$arm" >/dev/null 2>&1; then
  # A type check: the host's .pc files tell versions only, nothing is linked. libx264's bindings are made from the host's
  # C headers, which ask for the host's own macro; sizes and layouts are the same on all 64-bit Linux.
  export PKG_CONFIG_ALLOW_CROSS=1
  if [ "$(uname -m)" != aarch64 ]; then
    BINDGEN_EXTRA_CLANG_ARGS="-I/usr/include/$(gcc -print-multiarch) -D__$(uname -m)__"
    export BINDGEN_EXTRA_CLANG_ARGS
  fi
  cargo check --locked --target "$arm" -p dds-protocol -p gst-dds-link -p gst-plugin-ddsinfer -p gst-plugin-dds
else
  echo "skipped: rustup cannot give the target $arm here"
fi

if command -v shellcheck >/dev/null; then
  step 'shell scripts'
  shellcheck pipelines/*.sh tests/*.sh .ci/run
fi

step 'all checks passed'
