"""A provider of model calls as a process of its own, which counts what breaks its limits, whatever is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
UP_S = 30.0


class Provider:
    """It, from outside."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def stats(self) -> dict[str, Any]:
        """What arrived so far; see `bench._provider_model.Stats`."""
        return httpx.get(f"{self.url}/stats").json()

    def change(self, **terms: object) -> None:
        """Its terms from now on, such as `errors=0.9`."""
        httpx.post(f"{self.url}/set", json=terms).raise_for_status()

    def _is_up(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False

    def wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        ends_at = time.monotonic() + UP_S
        while not self._is_up():
            assert process.poll() is None, "the provider ended by itself"
            assert time.monotonic() < ends_at, f"the provider was not ready in {UP_S:g} s"
            time.sleep(0.02)


@contextlib.contextmanager
def providing(*arguments: str) -> Iterator[Provider]:
    """One that answers within a tenth of a second, with more arguments of `python -m bench._provider`."""
    provider = Provider(free_port())
    command = [sys.executable, "-m", "bench._provider", "--port", provider.url.rpartition(":")[2], "--slow", "0.05"]
    with subprocess.Popen([*command, *arguments], cwd=ROOT) as process:
        try:
            provider.wait_until_up(process)
            yield provider
        finally:
            process.kill()
