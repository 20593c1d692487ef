"""docs/tutorial.md, executed from top to bottom: its commands in a shell, its servers as processes, its files written.

A line of output is matched as it stands; `…` stands for anything. What the servers say is awaited, and a command that
only reads is repeated until it says what the page shows, since a reader is slower than a test.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.commands import BIN, missing
from tests.cli.harness import WAIT_S, Running, environment, running
from tests.cli.test_init import free_port
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "tutorial.md"
INSTALLED = "<!-- installed already -->"
END = "the end of the command"
READING = ("offramp show", "grep")
SERVED = re.compile(r"(?P<variable>\w+=\w+) offramp (?P<arguments>serve .*) > (?P<file>\S+)")


class Shell:
    """One shell for the whole page: folders and variables stay."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh"],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, command: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\ncode=$?; echo; echo '{END}' $code\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.startswith(END):
                assert line.split()[-1] == "0", f"{command}\n" + "\n".join(lines)
                return lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended at {command}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def pattern(line: str) -> str:
    """What a line of the page allows."""
    return r"\s+".join(".*".join(map(re.escape, word.split("…"))) for word in line.split())


def missed(expected: list[str], lines: list[str]) -> str | None:
    """The first line of the page that the output does not have, in the page's order."""
    rest = iter(lines)
    return next((line for line in expected if not any(re.search(line, found) for found in rest)), None)


class Reader:
    """Does what the page says."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._port = free_port()
        self._env = {"OFFRAMP_PORT": self._port, "OFFRAMP_URL": f"http://127.0.0.1:{self._port}"}
        self._project = folder / "desk"
        self._stack = stack
        given = environment(**self._env)
        self._shell = Shell(folder, {**given, "PATH": f"{BIN}:{given['PATH']}"})
        stack.callback(self._shell.close)
        self.server: Running | None = None

    def types(self, command: str, expected: list[str]) -> None:
        command = command.replace(":8000", f":{self._port}")
        expected = [pattern(line.replace(":8000", f":{self._port}")) for line in expected]
        if served := SERVED.fullmatch(command):
            into = f'exec env {served["variable"]} "$@" > {served["file"]}'
            prefix = ["/bin/sh", "-c", into, "sh"]
            serve = running(*shlex.split(served["arguments"]), cwd=self._project, env=self._env, prefix=prefix)
            self.server = self._stack.enter_context(serve)
        if served or not command:
            assert self.server is not None
            for line in expected:
                self.server.wait_for(line)
            return
        ends_at = time.monotonic() + WAIT_S
        while (line := missed(expected, lines := self._shell(command))) is not None:
            said = f"no {line!r} in:\n" + "\n".join(lines)
            assert command.startswith(READING), said
            assert time.monotonic() < ends_at, said
            time.sleep(0.2)

    def reads(self, code: str, prose: str) -> None:
        """A block of Python: appended to app.py, its extended import, or quoted from it."""
        file = self._project / "app.py"
        text = file.read_text()
        if prose == "Append to the file:":
            file.write_text(f"{text}\n\n{code}\n")
        elif prose == "In `app.py`, extend the import from `offramp`:":
            (old,) = re.findall(r"^from offramp import .*$", text, re.MULTILINE)
            assert code.startswith(f"{old}, ")
            file.write_text(text.replace(old, code.strip()))
        else:
            assert code in text


def sections(code: str) -> list[tuple[str, list[str]]]:
    """Each command of a block, continued lines joined, with its output; a block without one shows a server's output."""
    found: list[tuple[str, list[str]]] = []
    for line in code.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found = found or [("", [])]
            found[-1][1].append(line)
    return found


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_tutorial_from_top_to_bottom(tmp_path):
    above = PAGE.read_text(encoding="utf-8").splitlines()
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        for block in blocks(PAGE, "console", "python"):
            texts = [line for line in above[: block.line - 2] if line]
            if block.language == "python":
                reader.reads(block.code, texts[-2] if block.fragment else texts[-1])
            elif texts[-1] != INSTALLED:
                for command, expected in sections(block.code):
                    reader.types(command, expected)
        assert reader.server is not None
        reader.server.send(signal.SIGINT)
        assert reader.server.end()[0] == 0


@pytest.mark.parametrize(
    ("page", "output", "expected"),
    [
        (["a … c"], ["x", "a b c"], None),
        (["a", "b"], ["b", "a"], "b"),
        (["took 2…"], ["took 31 s"], "took 2…"),
    ],
)
def test_a_line_that_the_page_shows_and_a_command_does_not_is_found(page, output, expected):
    lines = [pattern(line) for line in page]
    assert missed(lines, output) == (None if expected is None else pattern(expected))
