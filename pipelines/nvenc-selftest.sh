#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Whether NVENC on this machine, with its real driver, codes regions as asked: noise goes through ddsencode, and ffmpeg
# reads the quantizers back from the stream. Needs an NVIDIA GPU with an encoder, driver 470.57.02 or newer, and ffmpeg.
#
# Expected output: the encoder, a table for each of three sizes and one for pictures in CUDA memory, and a verdict.
#
#   encoder  NVENC 12.2 on NVIDIA ..., CUDA 12.4
#   driver   NVRM version: NVIDIA UNIX x86_64 Kernel Module ...
#   640x480                            asked       got
#     pictures                            30        30  PASS
#     ...
#     pictures 0 to 9, outside            36        36  PASS
#       region 64,48 96x96                26        26  PASS
#     ...
#   PASS: every macroblock has the quantizer asked for
#
# Exit status: 0 where everything passed, 1 where something failed, 2 where it could not be tried.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

case ${1:-} in
  --help | -h)
    cat <<'USAGE'
usage: [NAME=VALUE ...] pipelines/nvenc-selftest.sh [option ...]

parameters, by environment:
  SELFTEST  the built program (default: dds-nvenc-selftest of this repository, built first)

options, handed to the program:
USAGE
    # The program documents its options; read from its source, so that nothing has to be built for it.
    sed -n '/^const HELP/,/";$/p' "$here/../tests/src/bin/dds-nvenc-selftest.rs" | sed -e '1,/^options:/d' -e '/^";$/d'
    exit 0
    ;;
esac

if ! command -v ffmpeg >/dev/null; then
  echo 'error: ffmpeg reads the quantizers back and is missing: install the package ffmpeg' >&2
  exit 2
fi
if [ -z "${SELFTEST:-}" ]; then
  cd "$here/.."
  cargo build --release --locked -p dds-tests --bin dds-nvenc-selftest
  target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  SELFTEST=$target/release/dds-nvenc-selftest
fi
exec "$SELFTEST" "$@"
