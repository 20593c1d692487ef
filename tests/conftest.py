"""What holds for every test."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Where a shell or an image forbids to keep bytecode, each process that a test starts would compile all that it imports:
# a third of the cost of a thousand starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Reading the world's certificates takes an httpx client 50 ms of CPU, and a test that polls makes one at each look.
# Tests reach this machine alone, and trust one authority, which signs nothing.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("authority.example.pem"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a script. Every process that a test starts and interrupts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
