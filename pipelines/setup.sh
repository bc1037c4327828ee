#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Sets up everything that gst-dds needs on Debian 12 or Ubuntu 24.04 (or newer). Safe to run again: what is there
# already is checked and left alone, and when nothing is missing it says nothing and needs no network.
#
# Expected output on a machine that has everything: none, exit status 0.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: pipelines/setup.sh [--env] [--no-clip] [--tests] [--help]

Installs, each only where it is missing:
  - Debian packages (apt-get; as root, or through sudo)
  - Rust 1.92 or newer with clippy and rustfmt (rustup)
  - ONNX Runtime 1.32.0, the shared library only, checked against a pinned SHA-256
  - the demo's clip vtest.avi out of Debian's package opencv-doc, checked against a pinned SHA-256

The last two lie under ${XDG_DATA_HOME:-~/.local/share}/gst-dds.

options:
  --env      install nothing; print the shell lines that make these tools usable, for
             eval "$(pipelines/setup.sh --env)"
  --no-clip  leave the clip out (95 MB of download on a fresh machine)
  --tests    what only the tests need, too: VLC, an MQTT broker, and Chromium, where it is a Debian package (Ubuntu has
             none)
  --help     this text
USAGE
}

# Oldest Rust that builds the workspace (rust-version in Cargo.toml).
RUST_MINOR=92
ORT_VERSION=1.32.0
ORT_SHA256_x86_64=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f
ORT_SHA256_aarch64=49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a
CLIP_SHA256=45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf
CLIP_IN_PACKAGE=./usr/share/doc/opencv-doc/examples/data/vtest.avi

# libclang: the installed x264.h and x265.h are read at build time. ugly: x264enc, the demo's yardstick.
# bad: h264parse, rsvgdec, cudaupload. good: rtpbin, udpsrc, mp4mux. libav: avdec_h264. ffmpeg: reads QPs back from the bitstream.
# fonts: the plots of dds-eval as PNG. rtspserver, rtsp: dds-rtsp-camera and its clients. glib-networking: rtsps.
# gi: the scripts that encrypt or log in.
PACKAGES=(
  build-essential ca-certificates curl ffmpeg fonts-dejavu-core libclang-dev pkg-config python3
  libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev libx264-dev libx265-dev
  glib-networking
  gstreamer1.0-libav gstreamer1.0-plugins-bad gstreamer1.0-plugins-base gstreamer1.0-plugins-good
  gstreamer1.0-plugins-ugly gstreamer1.0-rtsp gstreamer1.0-tools
  gir1.2-gstreamer-1.0 python3-gi
)
# Players, brokers, readers and headers of others that the tests run against.
TEST_PACKAGES=(libffmpeg-nvenc-dev mosquitto mosquitto-clients python3-yaml vlc-bin vlc-plugin-base)

data="${XDG_DATA_HOME:-$HOME/.local/share}/gst-dds"
ort="$data/onnxruntime/libonnxruntime.so.$ORT_VERSION"
clip="$data/clips/vtest.avi"
apt_list_is_fresh=
scratch=

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# Runs a command quietly; its output is shown only when it fails, above one line that names the cure.
quietly() { # cure, command...
  local cure=$1 log
  shift
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    rm -f "$log"
    fail "\`$*\` failed. $cure"
  fi
  rm -f "$log"
}

need_scratch() {
  [ -n "$scratch" ] || scratch=$(mktemp -d)
}
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT

has_sha256() { # file, sum
  [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif command -v sudo >/dev/null; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    fail "\`$*\` needs root. Run this script as root, or install sudo."
  fi
}

apt_update() {
  [ -n "$apt_list_is_fresh" ] || quietly "Check the network and /etc/apt/sources.list." as_root apt-get update
  apt_list_is_fresh=yes
}

install_packages() { # names
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q ' installed$' || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  apt_update
  quietly "Check the network and free disk space, then run it by hand to see more." \
    as_root apt-get install -y --no-install-recommends "${missing[@]}"
}

rust_is_new_enough() {
  local version minor
  version=$(rustc --version 2>/dev/null) || return 1
  minor=$(printf '%s' "$version" | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$RUST_MINOR" ] && cargo --version >/dev/null 2>&1
}

# Sets PATH (and, where the default toolchain is too old, RUSTUP_TOOLCHAIN) so that cargo is new enough.
find_rust() {
  rust_is_new_enough && return 0
  local bin="${CARGO_HOME:-$HOME/.cargo}/bin"
  case ":$PATH:" in *":$bin:"*) ;; *) export PATH="$bin:$PATH" ;; esac
  rust_is_new_enough && return 0
  RUSTUP_TOOLCHAIN=stable rust_is_new_enough && export RUSTUP_TOOLCHAIN=stable
}

set_up_rust() {
  local bin="${CARGO_HOME:-$HOME/.cargo}/bin"
  if ! find_rust; then
    if [ -x "$bin/rustup" ]; then
      say "updating Rust's stable toolchain (1.$RUST_MINOR or newer is needed)"
      quietly "Check the network." "$bin/rustup" toolchain install stable --profile minimal -c clippy -c rustfmt
    else
      say "installing Rust through rustup (1.$RUST_MINOR or newer is needed)"
      need_scratch
      quietly "Check the network, or install Rust 1.$RUST_MINOR or newer yourself." \
        curl --proto '=https' --tlsv1.2 -sSf -o "$scratch/rustup.sh" https://sh.rustup.rs
      quietly "Check the network, or install Rust 1.$RUST_MINOR or newer yourself." \
        sh "$scratch/rustup.sh" -y --no-modify-path --profile minimal -c clippy -c rustfmt
    fi
    find_rust || fail "no Rust 1.$RUST_MINOR or newer after the installation. Put \`cargo\` of such a Rust on PATH."
  fi
  if command -v rustup >/dev/null && { ! cargo clippy --version || ! cargo fmt --version; } >/dev/null 2>&1; then
    quietly "Check the network." rustup component add clippy rustfmt
  fi
}

set_up_onnxruntime() {
  local arch sum found
  arch=$(uname -m)
  case $arch in
    x86_64) sum=$ORT_SHA256_x86_64 ;;
    aarch64) sum=$ORT_SHA256_aarch64 ;;
    *)
      say "no pinned ONNX Runtime for $arch: install one and name it with ORT_DYLIB_PATH, or ddsinfer cannot infer"
      return 0
      ;;
  esac
  if ! has_sha256 "$ort" "$sum"; then
    say "fetching ONNX Runtime $ORT_VERSION"
    # pip of its own environment: Debian marks the system's as externally managed.
    install_packages python3-venv
    need_scratch
    quietly "Install the package python3-venv." /usr/bin/python3 -m venv "$scratch/venv"
    quietly "Check that pip reaches its package index." "$scratch/venv/bin/python" -m pip download -q \
      --disable-pip-version-check --no-deps --only-binary=:all: -d "$scratch" "onnxruntime==$ORT_VERSION"
    quietly "The wheel has another layout than expected." "$scratch/venv/bin/python" -m zipfile -e \
      "$scratch"/onnxruntime-"$ORT_VERSION"-*.whl "$scratch/wheel"
    found="$scratch/wheel/onnxruntime/capi/libonnxruntime.so.$ORT_VERSION"
    has_sha256 "$found" "$sum" ||
      fail "the SHA-256 of libonnxruntime.so.$ORT_VERSION for $arch is not the pinned one: the download was altered. Check pip's settings."
    mkdir -p "${ort%/*}"
    # Through a second name: whoever loads the library now never sees half of it.
    cp "$found" "$ort.part"
    mv "$ort.part" "$ort"
  fi
  [ "$(readlink "${ort%/*}/libonnxruntime.so.1")" = "${ort##*/}" ] || ln -sf "${ort##*/}" "${ort%/*}/libonnxruntime.so.1"
}

set_up_clip() {
  has_sha256 "$clip" "$CLIP_SHA256" && return 0
  say "fetching vtest.avi out of Debian's package opencv-doc (95 MB, kept for later runs)"
  need_scratch
  # Slim images drop /usr/share/doc on installation, so the package is fetched and opened instead.
  # apt-get download needs no root, but it does need a package list.
  if ! apt-cache show opencv-doc >/dev/null 2>&1; then apt_update; fi
  (cd "$scratch" && quietly "Check the network and that \`apt-cache policy opencv-doc\` shows a candidate (on Ubuntu: universe)." \
    apt-get download -o APT::Sandbox::User=root opencv-doc)
  mkdir -p "${clip%/*}"
  dpkg-deb --fsys-tarfile "$scratch"/opencv-doc_*.deb | tar -x -C "$scratch" --wildcards "$CLIP_IN_PACKAGE*" ||
    fail "opencv-doc does not hold $CLIP_IN_PACKAGE: use another file with \`pipelines/demo.sh --source FILE\`."
  if [ -f "$scratch/$CLIP_IN_PACKAGE.gz" ]; then gunzip "$scratch/$CLIP_IN_PACKAGE.gz"; fi
  has_sha256 "$scratch/$CLIP_IN_PACKAGE" "$CLIP_SHA256" ||
    fail "the SHA-256 of vtest.avi is not the pinned one: use another file with \`pipelines/demo.sh --source FILE\`."
  mv "$scratch/$CLIP_IN_PACKAGE" "$clip"
}

print_env() {
  find_rust || fail "no Rust 1.$RUST_MINOR or newer. Run pipelines/setup.sh first."
  printf 'export PATH=%q\n' "$PATH"
  if [ -n "${RUSTUP_TOOLCHAIN:-}" ]; then printf 'export RUSTUP_TOOLCHAIN=%q\n' "$RUSTUP_TOOLCHAIN"; fi
  printf 'export DDS_CLIP=%q\n' "${DDS_CLIP:-$clip}"
  if [ -z "${ORT_DYLIB_PATH:-}" ] && [ -f "$ort" ]; then printf 'export ORT_DYLIB_PATH=%q\n' "$ort"; fi
}

# The page of dds-eval is looked at in a browser.
set_up_chromium() {
  command -v chromium >/dev/null && return 0
  apt_update
  if [ "$(apt-cache policy chromium | sed -n 's/^ *Candidate: //p')" = '(none)' ] ||
    [ -z "$(apt-cache policy chromium)" ]; then
    say "there is no package chromium here: set DDS_NO_CHROMIUM=1, or put a chromium on PATH"
    return 0
  fi
  install_packages chromium
}

with_clip=yes
for_tests=
for option in "$@"; do
  case $option in
    --env) print_env; exit 0 ;;
    --no-clip) with_clip= ;;
    --tests) for_tests=yes ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $option" ;;
  esac
done

command -v apt-get >/dev/null ||
  fail "this script knows Debian and Ubuntu only. Elsewhere install by hand what \`pipelines/setup.sh --help\` lists."
install_packages "${PACKAGES[@]}"
set_up_rust
set_up_onnxruntime
if [ -n "$with_clip" ]; then set_up_clip; fi
if [ -n "$for_tests" ]; then
  install_packages "${TEST_PACKAGES[@]}"
  set_up_chromium
fi
