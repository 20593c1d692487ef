"""A command in a terminal of its own."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

from tests.cli.harness import OFFRAMP, WAIT_S, environment


class Terminal:
    """The screen's output so far, and keys for it."""

    def __init__(self, leader, process):
        self._leader, self._process = leader, process
        self._text = codecs.getincrementaldecoder("utf-8")()
        self.seen = ""

    def _read(self, within_s):
        """Whether there was output."""
        ready = select.select([self._leader], [], [], max(0.0, within_s))[0]
        if ready:
            self.seen += self._text.decode(os.read(self._leader, 65_536))
        return bool(ready)

    def wait_for(self, text, times=1):
        ends = time.monotonic() + WAIT_S
        while self.seen.count(text) < times:
            assert self._read(ends - time.monotonic()), f"no {text!r} in {self.seen}"

    def interrupt(self):
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def end(self):
        """The exit code, once all output was read: unread output would hold the command up."""
        ends = time.monotonic() + WAIT_S
        while self._process.poll() is None:
            assert time.monotonic() < ends, f"it goes on: {self.seen}"
            self._read(0.1)
        while self._read(0.0):
            pass
        return self._process.returncode


@contextlib.contextmanager
def terminal(*arguments, cwd, columns=80, lines=24):
    """Start a command of Offramp in a terminal of this size, which has to be left as it was."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    before = termios.tcgetattr(follower)
    given = environment(TERM="xterm")
    given.pop("COLUMNS", None)
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), follower)
    process = subprocess.Popen([*OFFRAMP, *arguments], cwd=cwd, env=given, **ends)
    try:
        yield Terminal(leader, process)
        assert termios.tcgetattr(follower) == before
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)
