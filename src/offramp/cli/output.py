"""The output of the command line: exit codes, one line per error, JSON on stdout, text that is safe for a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

OK = 0
RUN_ENDED_BADLY = 1
USAGE = 2
REFUSED = 3
NOT_AWAITED = 4
INTERRUPTED = 130

EXITS_RUN = "Exit codes: 0 completed; 1 failed, cancelled or expired; 2 wrong usage; 130 interrupted."
EXITS_CLIENT = (
    "Exit codes: 0 done; 1 the run failed, was cancelled or expired; 2 wrong usage; "
    "3 the gateway cannot be reached or refused; 130 interrupted."
)
EXITS_LOOK = "Exit codes: 0 done; 2 wrong usage; 3 the gateway cannot be reached or refused; 130 interrupted."
EXITS_SIGNAL = (
    "Exit codes: 0 the run has the signal, or keeps it; 2 wrong usage; 3 the gateway cannot be reached or refused; "
    "4 the run keeps it, but waits for other names; 130 interrupted."
)
EXITS_KEYS = "Exit codes: 0 done; 2 wrong usage, or the file of keys cannot be used."
EXITS_INIT = "Exit codes: 0 done; 2 wrong usage, or the folder cannot be used."
EXITS_SERVER = "Exit codes: 0 stopped by a signal; 1 it could not continue; 2 wrong usage or settings."
EXITS_CHECK = "Exit codes: 0 every unfinished run fits; 1 some would break; 2 wrong usage or no App to import."
EXITS_COPY = "Exit codes: 0 done; 1 a process uses the database, or the copy failed; 2 wrong usage or no such file."
EXITS_DOCTOR = (
    "Exit codes: 0 nothing is broken; 1 something is, or is a risk with --strict; "
    "2 wrong usage or the App cannot be imported."
)

WIDTH_ELSEWHERE = 240
"""Columns of a table outside a terminal."""

# What a model writes must not drive a terminal, nor show in another order than it is read (Unicode Technical Report 36,
# "Bidirectional Text Spoofing"): escape sequences, every control character but tab and newline, and bidi controls.
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*+(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f" + _BIDI + "]"
)
_IN_JSON = re.compile(f"[\x7f-\x9f{_BIDI}]")
"""Characters that JSON need not escape; they occur only in strings, where an escape is equivalent."""


class CommandError(Exception):
    """The command cannot continue; `code` is its exit code, the message one line that says what to change."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def printable(text: str) -> str:
    """`text` without characters that control a terminal or reorder its text; tabs and newlines stay."""
    return _CONTROL.sub("", text)


def counted(number: int, noun: str) -> str:
    """`number` and the noun, in the plural where there is not one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_line(text: str) -> str:
    """`text` as a single line, safe for a terminal."""
    return " ".join(printable(text).split())


def with_fields(error: Exception, fields: Iterable[tuple[str, str]]) -> str:
    """An error as one line, with those of its `(JSON pointer, message)` pairs whose message it does not have yet."""
    text = str(error)
    listed = [f"{pointer or 'the value'}: {message}" for pointer, message in fields if message not in text]
    return one_line("; ".join([text, *listed]))


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"offramp: {one_line(message)}", file=sys.stderr, flush=True)


def say(message: str) -> None:
    """A remark for a person, on stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def write_json(value: Any, to: TextIO | None = None) -> None:
    """`value` as JSON on stdout: indented for a person, one line for a program."""
    stream = sys.stdout if to is None else to
    encoded = value if isinstance(value, bytes) else msgspec.json.encode(value)
    if stream.isatty():
        encoded = msgspec.json.format(encoded, indent=2)
    stream.write(_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded.decode()) + "\n")
    stream.flush()


def console(stream: TextIO | None = None) -> Console:
    """A rich console without highlighting, markup and emoji codes; it respects `NO_COLOR` and pipes."""
    from rich.console import Console

    stream = stream or sys.stderr
    # Output for a program or a file is not cut to the width of a terminal.
    width = None if stream.isatty() else WIDTH_ELSEWHERE
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def coloured(stream: TextIO) -> bool:
    """Whether to write colours to this stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
