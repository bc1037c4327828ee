#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Publishes results by MQTT: each line of JSON on standard input becomes a message. It stands behind any server script here,
#   pipelines/server.sh | pipelines/json-to-mqtt.sh
# and can never stop the video: while the broker is away, lines are read and dropped, and it is tried again after 1 s, 2 s and
# so on up to 30 s. Where a connection hangs, ddsinfer drops its oldest results.
#
# Expected output: none; with mosquitto_sub -t gst-dds/results there is one line for each frame.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: SERVER_SCRIPT | [NAME=VALUE ...] pipelines/json-to-mqtt.sh [--help]

Publishes standard input by MQTT, a message a line, with quality of service 0. It ends with its input. Needs mosquitto_pub
(Debian: mosquitto-clients).

parameters, by environment:
  MQTT_HOST        the broker (127.0.0.1)
  MQTT_PORT        its TCP port (1883)
  MQTT_TOPIC       topic (gst-dds/results)

Names, passwords and certificates would be seen in the list of processes: write them into ~/.config/mosquitto_pub, a line
each as "-u NAME", "-P PASSWORD", "--cafile FILE".
USAGE
}
case "${1:-}" in
  '') ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

MQTT_HOST=${MQTT_HOST:-127.0.0.1}
MQTT_PORT=${MQTT_PORT:-1883}
MQTT_TOPIC=${MQTT_TOPIC:-gst-dds/results}
if ! command -v mosquitto_pub >/dev/null; then
  echo 'json-to-mqtt: there is no mosquitto_pub: install mosquitto-clients' >&2
  exit 1
fi

wait=1
while :; do
  began=$SECONDS
  # It ends well where its input ends, and goes on by itself after a short failure of the network.
  if mosquitto_pub -h "$MQTT_HOST" -p "$MQTT_PORT" -t "$MQTT_TOPIC" -l; then exit 0; fi
  if ((SECONDS - began > 30)); then wait=1; fi
  echo "json-to-mqtt: no broker at $MQTT_HOST:$MQTT_PORT, next try in $wait s" >&2
  # What comes until then is dropped. read fails with more than 128 where nothing came in time, with 1 at the end of input.
  next=$((SECONDS + wait))
  while ((SECONDS < next)); do
    read -r -t 1 || (($? > 128)) || exit 0
  done
  wait=$((wait < 15 ? wait * 2 : 30))
done
