#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
#
# For the scripts beside this file whose addresses may hold a password: runs a line in gst-launch syntax. An rtspsrc named
# `camera`, or an rtspclientsink named `relay`, gets its address, name and password from the environment (URL, USER_ID, USER_PW)
# or from a file (USER_FILE, one line NAME:PASSWORD), a uridecodebin named `source` gets its address from SOURCE.
# gst-launch-1.0 would show them to everybody in the list of processes. Nothing here prints them.
#
# With -e in front of the line, Ctrl-C ends the stream as it does with gst-launch-1.0 -e.
#
# Expected output: as gst-launch-1.0 -q.
import os
import shlex
import signal
import stat
import sys
from urllib.parse import unquote, urlsplit, urlunsplit

import gi
gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst


def say(text):
    print(text, file=sys.stderr, flush=True)


def login_of_file(path):
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o006:
                say(f"USER_FILE: {path} holds a secret, and every user of this machine may read or change it: "
                    f"chmod o-rwx {shlex.quote(path)}")
            lines = [line for line in file.read().splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        sys.exit(f"USER_FILE {path}: it cannot be read ({getattr(error, 'strerror', error.__class__.__name__)})")
    if len(lines) != 1 or not all(lines[0].partition(":")[::2]):
        sys.exit(f"USER_FILE {path}: give one line NAME:PASSWORD, neither empty")
    return lines[0].split(":", 1)


def apart(address):
    """The address without the name and password that it holds, and those: the address is what errors and logs show."""
    parts = urlsplit(address)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return plain, unquote(parts.username or ""), unquote(parts.password or "")


def log_in(element, name, password):
    if name and element.find_property("user-id"):
        element.set_property("user-id", name)
        element.set_property("user-pw", password)


line = sys.argv[1:]
ends_by_eos = line[:1] == ["-e"]
if ends_by_eos:
    line = line[1:]
Gst.init(None)
try:
    pipeline = Gst.parse_launchv(line)
except GLib.Error as error:
    sys.exit(error.message)

camera = pipeline.get_by_name("camera") or pipeline.get_by_name("relay")
if camera:
    plain, name, password = apart(os.environ["URL"])
    name, password = os.environ.get("USER_ID") or name, os.environ.get("USER_PW") or password
    if os.environ.get("USER_FILE"):
        if name:
            sys.exit("USER_FILE: USER_ID or the address names a user as well. Give one of them")
        name, password = login_of_file(os.environ["USER_FILE"])
    camera.set_property("location", plain)
    log_in(camera, name, password)
source = pipeline.get_by_name("source")
if source:
    plain, *login = apart(os.environ["SOURCE"])
    source.set_property("uri", plain)
    source.connect("source-setup", lambda _, element: log_in(element, *login))

loop, failure = GLib.MainLoop(), []


def told(bus, message):
    kind = message.type
    if kind == Gst.MessageType.EOS:
        loop.quit()
    elif kind in (Gst.MessageType.ERROR, Gst.MessageType.WARNING):
        error = kind == Gst.MessageType.ERROR
        words, debug = message.parse_error() if error else message.parse_warning()
        say(f"{'ERROR' if error else 'WARNING'}: from element {message.src.get_path_string()}: {words.message}")
        if debug:
            say(f"Additional debug info:\n{debug}")
        if error:
            failure.append(words)
            loop.quit()
    elif kind == Gst.MessageType.LATENCY:
        pipeline.recalculate_latency()


def interrupted():
    pipeline.send_event(Gst.Event.new_eos())
    # A second one does not wait.
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGINT, loop.quit)
    return False


GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGINT, interrupted if ends_by_eos else loop.quit)
GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
bus = pipeline.get_bus()
bus.add_signal_watch()
bus.connect("message", told)
if pipeline.set_state(Gst.State.PLAYING) == Gst.StateChangeReturn.FAILURE:
    # Its error is on the bus; one that tells none is not waited for.
    failure.append(None)
    GLib.timeout_add(1000, loop.quit)
loop.run()
pipeline.set_state(Gst.State.NULL)
sys.exit(1 if failure else 0)
