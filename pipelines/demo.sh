#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The whole loop with one command: set-up, build, camera and server as two processes, and what that saves.
#
# Expected output: progress on standard error; on standard output a table like this one, then the files in out/.
#
#                                        kbit/s      F1   regions/frame    feedback delay p50, p95
#   ddsencode, QP 40, regions 30         82.1   0.987             1.7             100 ms, 100 ms
#   x264enc, constant QP 36             103.2   0.987
#   saved                                 21%
#
# The last line can as well say that bits were lost: on the default clip F1 is nearly flat (see README.md).
set -euo pipefail
invoked_from=$PWD
cd "$(dirname "$0")/.."

setup=()
for option in "$@"; do
  case $option in
    --help | -h)
      cat <<'USAGE'
usage: pipelines/demo.sh [option ...]

Sets up what is missing on Debian 12 or Ubuntu 24.04 (see pipelines/setup.sh --help), builds, and hands the options to
the program below. Files are named from the folder you are in.

USAGE
      # The program documents its options; read from its source, so that nothing has to be built for it.
      sed -n '/^const HELP/,/";$/p' tests/src/bin/dds-demo.rs | sed -e 1d -e 's/";$//'
      exit 0
      ;;
    # Another source needs no clip, which is 95 MB of download.
    --source | --source=*) setup=(--no-clip) ;;
  esac
done

bash pipelines/setup.sh "${setup[@]}"
eval "$(bash pipelines/setup.sh --env)"
# What the demo runs, and the plugins where the other scripts look for them. Optimisation across crates and line tables make
# no difference here, and half of the build.
CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 cargo build --release --locked \
  -p gst-plugin-dds -p gst-plugin-ddsinfer -p dds-tests --lib --bin dds-demo
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
cd "$invoked_from"
exec "$target/release/dds-demo" "$@"
