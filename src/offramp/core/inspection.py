"""What a document shows on request: inputs, arguments, results and tracebacks, within bounds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast, get_args

import msgspec

from offramp.core.events import StepState
from offramp.core.failure import Failure
from offramp.core.journal import Entry
from offramp.core.reference import reference_in
from offramp.core.run import RunRecord
from offramp.core.tracebacks import written

Include = Literal["input", "steps", "traceback"]
INCLUDES: tuple[Include, ...] = get_args(Include)
NOTHING: frozenset[Include] = frozenset()

VALUE_BYTES_MAX = 16 * 1024
"""A larger value is shown by its beginning and the address of the whole."""
SHOWN_BYTES_MAX = 4 << 20
"""All values of one answer together; past it, those that follow are shown by their beginning."""
PREVIEW_LENGTH_MAX = 500
"""Characters of such a beginning."""
ARGUMENTS_CUT_BYTES = 2_000
"""What is recorded of arguments that are too large to be recorded whole."""
_OBJECT = b"{"


def recorded_arguments(encoded: bytes, bytes_max: int) -> bytes | None:
    """What a journal keeps of a call's arguments, for people: all, or their size and beginning, or nothing for 0."""
    if len(encoded) <= bytes_max:
        return encoded
    return b"%d:%b" % (len(encoded), encoded[:ARGUMENTS_CUT_BYTES]) if bytes_max else None


class Showing:
    """The values of one answer.

    Args:
        include: what is asked for.
        whole: whether every value is shown whole.
    """

    def __init__(self, include: frozenset[Include], *, whole: bool = False) -> None:
        self.include = include
        self._whole = whole
        self._left = SHOWN_BYTES_MAX

    def value(self, encoded: bytes | None, link: str) -> Any:
        """An encoded value, or its beginning and the address of the whole."""
        if encoded is None:
            return None
        reference = reference_in(encoded)
        if reference is not None:
            return _truncated(reference.size, b"", link)
        size = len(encoded)
        if not self._whole and (size > VALUE_BYTES_MAX or size > self._left):
            return _truncated(size, encoded, link)
        self._left -= size
        return msgspec.Raw(encoded)

    def arguments(self, recorded: bytes | None, link: str) -> Any:
        """A call's arguments by name; without a link where they were not recorded whole."""
        if recorded is None or recorded[:1] == _OBJECT:
            return self.value(recorded, link)
        size, _, beginning = recorded.partition(b":")
        return _truncated(int(size), beginning, None) if size.isdigit() else None

    def error(self, failure: Failure | None) -> dict[str, Any] | None:
        """A failure, with its traceback if that is asked for."""
        if failure is None:
            return None
        shown = failure.public()
        return shown | {"traceback": written(failure) or None} if "traceback" in self.include else shown

    def step(self, step: StepState, entry: Entry | None, link: str) -> dict[str, Any]:
        """A step with what went in and out."""
        return step.document() | {
            "arguments": self.arguments(None if entry is None else entry.arguments, link),
            "result": self.value(None if entry is None else entry.value, link),
            "error": self.error(None if entry is None else entry.failure),
            "failures": [each.public() for each in (*step.failed, *([step.final] if step.final else []))],
        }

    def add_to(
        self, document: dict[str, Any], record: RunRecord, steps: Iterable[StepState], entries: Iterable[Entry]
    ) -> dict[str, Any]:
        """The document of a run with everything that is asked for."""
        here = document["links"]["self"]
        document["error"] = self.error(record.error)
        if "input" in self.include:
            document["input"] = None if record.purged else self.value(record.input, f"{here}/input")
        if "steps" in self.include:
            by_key = {entry.key: entry for entry in entries}
            document["steps"] = [self.step(each, by_key.get(each.key), step_link(here, each.key)) for each in steps]
        return document


def step_link(run: str, key: str) -> str:
    """The address of a step of the run at an address."""
    return f"{run}/steps/{key}"


def _truncated(size: int, beginning: bytes, link: str | None) -> dict[str, Any]:
    preview = beginning[: 4 * PREVIEW_LENGTH_MAX].decode(errors="ignore")[:PREVIEW_LENGTH_MAX]
    return {"truncated": True, "bytes": size, "preview": preview, "link": link}


def included(names: Iterable[str]) -> frozenset[Include]:
    """The given names, which are checked already."""
    return frozenset(cast("Iterable[Include]", names))
