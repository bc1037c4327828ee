# shellcheck shell=bash
# SPDX-License-Identifier: MPL-2.0
#
# For the RTSP servers beside this file: runs a pipeline again whenever its camera has gone.

# until_stopped CAMERA SECONDS COMMAND...: runs the command until it ends for a reason that no new try would mend, or
# SIGINT or SIGTERM comes. SECONDS between two tries, 0: one try. Returns the command's status.
until_stopped() {
  local camera=$1 pause=$2 child='' status said
  shift 2
  # Name and password in an address are nobody's business.
  camera=$(sed -E 's|^([a-z]+://)[^/?#]*@|\1|' <<<"$camera")
  said=$(mktemp)
  # A background job of a script does not hear Ctrl-C: it is ended from here.
  trap 'kill "$child" 2>/dev/null || true; rm -f "$said"; trap - EXIT; exit 130' INT
  trap 'kill "$child" 2>/dev/null || true; rm -f "$said"; trap - EXIT; exit 143' TERM
  trap 'rm -f "$said"' EXIT
  while true; do
    status=0
    : >"$said"
    "$@" 2> >(tee "$said" >&2) &
    child=$!
    wait "$child" || status=$?
    # 0: the camera said goodbye. Otherwise its error comes from the source or from the watchdog behind it.
    if [ "$pause" = 0 ] || { [ "$status" -ne 0 ] && ! camera_is_gone "$said"; }; then return "$status"; fi
    echo "${0##*/}: $camera has gone or does not answer; trying again in $pause s" >&2
    sleep "$pause" &
    child=$!
    wait "$child" || true
  done
}

# A wrong name or password stays wrong, and cameras lock out those who guess.
camera_is_gone() {
  grep -Eq 'ERROR: from element .*(GstRTSPSrc|GstWatchdog)' "$1" && ! grep -Eq 'Unauthorized|\(401\)' "$1"
}
