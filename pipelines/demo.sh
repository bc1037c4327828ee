#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# The whole loop with one command: set-up, build, camera and server as two processes, and what it saves.
#
# Expected output: progress on standard error; on standard output the table (see README.md), and the files
# out/demo.png and out/demo.mp4.
set -euo pipefail
cd "$(dirname "$0")/.."

for option in "$@"; do
  case $option in
    --help | -h)
      cat <<'USAGE'
usage: pipelines/demo.sh [option ...]

Sets up what is missing (pipelines/setup.sh), builds, and runs the demo with the options given:

USAGE
      # The options themselves are documented in one place, and readable before anything is built.
      sed -n '/^const HELP/,/";$/p' tests/src/bin/dds-demo.rs | sed -e '1d' -e 's/";$//'
      exit 0
      ;;
  esac
done

setup=()
for option in "$@"; do
  case $option in --source | --source=*) setup=(--no-clip) ;; esac
done
bash pipelines/setup.sh "${setup[@]}"
eval "$(bash pipelines/setup.sh --env)"
cargo build --release --locked --workspace
exec cargo run --release --locked --quiet -p dds-tests --bin dds-demo -- "$@"
