"""Shows what the logger `offramp` says as one line an event on stderr: time, who, message."""

from __future__ import annotations

import logging
import sys
import time

from offramp.cli.output import coloured, printable

_COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


class CompactFormatter(logging.Formatter):
    """`21:05:07 worker 1  message`; anything above INFO says its level, in colour on a terminal."""

    def __init__(self, who: str, *, colour: bool) -> None:
        super().__init__()
        self._who = f"{who}  " if who else ""
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one (without local variables)."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = f"{at} {self._who}{level}{' '.join(printable(record.getMessage()).splitlines())}"
        if self._colour and record.levelno in _COLOURS:
            line = f"\x1b[{_COLOURS[record.levelno]}m{line}\x1b[0m"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def show_logs(who: str = "", level: int = logging.INFO) -> None:
    """Send the logger `offramp` to stderr, and to nowhere else; `who` names this process in each line."""
    logger = logging.getLogger("offramp")
    for handler in [handler for handler in logger.handlers if isinstance(handler.formatter, CompactFormatter)]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(CompactFormatter(who, colour=coloured(sys.stderr)))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
