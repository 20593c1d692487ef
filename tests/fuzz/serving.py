"""A real `offramp serve` with a key, to be fuzzed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.chaos.serving import Serving

KEY = "fuzz-0123456789abcdef"
APP = Path(__file__).with_name("pipelines.py")


@contextlib.contextmanager
def served(home):
    # Without a secret to sign with there are no webhooks: what is made up must not be sent to anybody.
    settings = {"lease": 10, "drain_timeout": 5, "blocked_after": 30, "webhook_secret": ""}
    gateway = Serving(home, app=APP, workers=1, api_keys=f"fuzz:{KEY}", **settings)
    gateway.start()
    try:
        gateway.wait_until_up()
        yield gateway
    finally:
        gateway.close()


def flaws_in_log(gateway):
    """Lines that tell of something that no request may cause; pipelines fail with a traceback of their own."""
    log = gateway.log.read_text(errors="replace")
    lines = log.replace(" failed: pipeline-failed\nTraceback (most recent call last):", " failed").splitlines()
    bad = ("Traceback", "error:", "warning:", "Exception", "died:", "has been blocked")
    return [line for line in lines if any(word in line for word in bad)]
