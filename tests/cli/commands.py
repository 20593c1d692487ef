"""Commands as a person types them, from pages and from what a command prints: executed, or served in the background."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.harness import WAIT_S, environment

BIN = str(Path(sys.executable).parent)


def typed(command: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command in a POSIX shell, which finds the programs of this environment first."""
    given = environment(**env)
    given["PATH"] = f"{BIN}:{given.get('PATH', '')}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=cwd,
        env=given,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT_S * 2,
        check=False,
    )


def arguments(command: str) -> list[str]:
    """The arguments of `offramp …`, to start it in the background."""
    words = shlex.split(command)
    assert words[0] == "offramp", command
    return words[1:]


def missing() -> str | None:
    """Why typed commands cannot be executed here."""
    return None if shutil.which("curl") else "curl is not installed"
