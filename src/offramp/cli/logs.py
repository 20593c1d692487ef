"""Writes the log of `offramp` to stderr, one line per event, for a person or for a program."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from offramp.cli.output import coloured, printable
from offramp.core.timestamps import rfc3339
from offramp.telemetry.logs import FIELDS, FRAMES, LogContext, ReplayFilter

_COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
_SEPARATORS = {0x2028: "\\u2028", 0x2029: "\\u2029"}
"""JSON does not escape these, but some readers end a line at them."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class CompactFormatter(logging.Formatter):
    """`21:05:07 worker 1  message`; a level above INFO is shown, in colour on a terminal."""

    def __init__(self, who: str, *, colour: bool) -> None:
        super().__init__()
        self._who = f"{who}  " if who else ""
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by the traceback if there is one (without local variables), or by a failure's frames."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = f"{at} {self._who}{level}{' '.join(printable(record.getMessage()).splitlines())}"
        if self._colour and record.levelno in _COLOURS:
            line = f"\x1b[{_COLOURS[record.levelno]}m{line}\x1b[0m"
        if record.exc_info:
            line += "\n" + printable(self.formatException(record.exc_info))
        frames = vars(record).get(FRAMES)
        if frames:
            line += "\n" + printable(frames)
        return line


class KeyValues(logging.Formatter):
    """One line of named values: time (UTC), level, process, logger, message, `FIELDS`, extras, exception."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, even if its message has several."""
        values = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        given = vars(record)
        values |= {name: given[name] for name in FIELDS if given.get(name)}
        known = _STANDARD | values.keys() | set(FIELDS)
        values |= {name: value for name, value in given.items() if name not in known}
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return printable(self.line(values)).translate(_SEPARATORS)

    def line(self, values: Mapping[str, Any]) -> str:
        """The values as one line of JSON; values that JSON cannot encode become text."""
        return json.dumps(values, default=str, ensure_ascii=False)


class Logfmt(KeyValues):
    """The values as `name=value`, with quotes (and JSON's escapes) if a value needs them."""

    def line(self, values: Mapping[str, Any]) -> str:
        """The values in one line."""
        return " ".join(f"{name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(value: str) -> str:
    plain = value.isprintable() and not set(value) & set(' "=\\')
    return value if plain and value else json.dumps(value, ensure_ascii=False)


def show_logs(process: str = "gateway", style: str = "text", *, who: str = "", level: int = logging.INFO) -> None:
    """Send the logger `offramp` to stderr only.

    Args:
        process: this process's name in lines for a program.
        style: `text` for a person, `logfmt` or `json` for a program.
        who: this process's name in lines for a person; empty if it is the only one.
        level: the lowest shown.
    """
    logger = logging.getLogger("offramp")
    for handler in [handler for handler in logger.handlers if isinstance(handler.formatter, _FORMATTERS)]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    if style == "text":
        handler.setFormatter(CompactFormatter(who, colour=coloured(sys.stderr)))
    else:
        handler.setFormatter(KeyValues(process) if style == "json" else Logfmt(process))
        handler.addFilter(LogContext())
    handler.addFilter(ReplayFilter())
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


_FORMATTERS = (CompactFormatter, KeyValues)
