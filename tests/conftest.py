"""What holds for every test."""

from __future__ import annotations

import os
import signal
import sys

# Where a shell or an image forbids to keep bytecode, each process that a test starts would compile all that it imports:
# a third of the cost of a thousand starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a script. Every process that a test starts and interrupts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
