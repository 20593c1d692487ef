"""The payloads in Temporal's history: JSON by msgspec, bounded.

Only this module knows how large a payload may be. A larger one is stored as an object and travels as a reference
(`objects.py`); without an object store it is refused, with the step's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure as FailureMessage
from temporalio.common import RawValue
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverter,
    DefaultPayloadConverter,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadConverter,
)
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from offramp.core.events import Draft, StepState
from offramp.core.failure import Failure
from offramp.core.journal import Entry, without_arguments
from offramp.core.reference import Reference, reference_in
from offramp.core.run import Outcome
from offramp.errors import ObjectLost, ObjectsUnavailable, TooLarge
from offramp.ports.bodies import PAYLOAD_BYTES_MAX, Facts, TraceContext

PAGE_BYTES_MAX = 256 * 1024
"""The size of one page of a journal read into a body, unless a single entry is larger."""


class Held(msgspec.Struct, frozen=True):
    """Steps, by key, in flight in the process that demoted their run, while it lives."""

    by: str
    steps: list[str]


class Look(msgspec.Struct, frozen=True):
    """Argument of `offramp.look`: asks for the outcomes of steps, by key, in another process."""

    by: str
    steps: list[str]


class Looked(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entries of ended steps, the keys of steps that its process executes; `more` if the page did not hold all."""

    lives: bool = False
    entries: list[Entry] = []
    held: list[str] = []
    more: bool = False


class Take(msgspec.Struct, frozen=True):
    """Argument of `offramp.take`: a step of which no process may write any more."""

    token: int
    step: str


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """First argument of a workflow, before the pipeline's own.

    `fresh` if nothing of the run was executed before; `part` is the trace context of the history before this one;
    `seen` marks the results that its body saw, in order. `keyed` if the ids of activities are the keys of their calls,
    unlike in the oldest histories; `anew` if this history replaces one that its body did not repeat.
    """

    facts: Facts
    fresh: bool
    part: TraceContext | None = None
    held: Held | None = None
    seen: list[str] = []
    keyed: bool = False
    anew: bool = False
    timers: bool = False
    """Whether the timers of the body are journaled: not in a history older than journaled timers."""


class Begin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Argument of `offramp.begin`."""

    fresh: bool
    part: TraceContext | None = None
    held: Held | None = None
    seen: list[str] = []


class Page(msgspec.Struct, frozen=True):
    """Entries of the journal, and the start of the next page; None after the last."""

    entries: list[Entry] = []
    following: int | None = None


class Begun(msgspec.Struct, frozen=True, omit_defaults=True):
    """A body's start; `over` if the run has its outcome already, `first` if no worker had the run before."""

    over: bool = False
    token: int = 0
    first: bool = False
    cancel: bool = False
    signals: bool = False
    page: Page = Page()
    interrupted: dict[str, StepState] = {}
    waiting: list[str] = []
    part: TraceContext | None = None
    refused: list[str] = []


class Read(msgspec.Struct, frozen=True):
    """Argument of `offramp.journal` and `offramp.signals`: the position to read from."""

    after: int


class Signals(msgspec.Struct, frozen=True):
    """Signals from that position on; `more` if the page did not hold all."""

    received: list[tuple[str, bytes]] = []
    more: bool = False


class Notes(msgspec.Struct, frozen=True):
    """The records that a body made itself, in order."""

    token: int
    written: list[tuple[Entry | None, Draft | None]] = []


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run's outcome, and the last records of its body."""

    notes: Notes
    outcome: Outcome
    part: TraceContext | None = None


class Elsewhere(msgspec.Struct, frozen=True):
    """Argument of `offramp.value`: the stored form of a value, which a journal refers to."""

    stored: bytes = msgspec.field(name="kept")


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """Second argument of a step's activity, after its own: the authority for its writes.

    `first` if, as far as the body knows, no other worker can have begun the step; `opens` if no step of the run has
    ended before. `drawn` are values that the body has drawn, to be recorded before the step. `cleans_up` if the step
    belongs to a cleanup; None from an earlier version, whose bodies did not say.
    """

    token: int
    key: str
    attempt: int = 1
    decides: bool = False
    first: bool = False
    opens: bool = False
    part: TraceContext | None = None
    drawn: list[Entry] = []
    cleans_up: bool | None = None


class _Msgspec(EncodingPayloadConverter):
    """JSON that the Temporal UI can show; `msgspec.Raw` is JSON already."""

    @property
    def encoding(self) -> str:
        return "json/plain"

    def to_payload(self, value: Any) -> Payload | None:
        return Payload(metadata={"encoding": b"json/plain"}, data=msgspec.json.encode(value))

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        return msgspec.json.decode(payload.data, type=Any if type_hint is None else type_hint)


class MsgspecPayloadConverter(CompositePayloadConverter):
    """Temporal's own payload converter, with msgspec for JSON."""

    def __init__(self) -> None:
        known = DefaultPayloadConverter.default_encoding_payload_converters
        super().__init__(*(_Msgspec() if isinstance(made, JSONPlainPayloadConverter) else made for made in known))


class QuietFailureConverter(DefaultFailureConverter):
    """Temporal's own failure converter, without the stack of an error that the run's log has; its frames are ours."""

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: FailureMessage
    ) -> None:
        """Describe an exception."""
        super().to_failure(exception, payload_converter, failure)
        if isinstance(exception, ApplicationError) and exception.category is ApplicationErrorCategory.BENIGN:
            failure.stack_trace = ""


DATA_CONVERTER = DataConverter(
    payload_converter_class=MsgspecPayloadConverter, failure_converter_class=QuietFailureConverter
)
_converter = _Msgspec()


STANDS_FOR = "offramp"
"""Metadata of a payload that is not a plain value."""
ANSWERS = "offramp-key"
"""Metadata of a step's result: the key of the call that it answers."""
OBJECT, LOST_OBJECT, BY_NAME, NAMED = b"object", b"lost", b"by name", b"named"
"""Its values: an object to fetch for the payload's reader; a missing object; a value whose reader receives only the
reference if it becomes an object; and such a reference."""


def standing(reference: Reference, how: bytes) -> Payload:
    """A payload that stands for an object; Temporal's UI shows the reference."""
    metadata = {"encoding": b"json/plain", STANDS_FOR: how}
    return Payload(metadata=metadata, data=msgspec.json.encode(reference.document()))


def raw(encoded: bytes, *, by_name: bool = False, answers: str = "") -> RawValue:
    """JSON that is encoded already, or the reference to it; `by_name` if its reader needs only the reference.

    A step's result names the key of the call that it `answers`.
    """
    reference = reference_in(encoded)
    if reference is not None:
        payload = standing(reference, OBJECT)
    else:
        metadata = {"encoding": b"json/plain"} | ({STANDS_FOR: BY_NAME} if by_name else {})
        payload = Payload(metadata=metadata, data=encoded)
    if answers:
        payload.metadata[ANSWERS] = answers.encode()
    return RawValue(payload)


def answered(value: RawValue) -> str:
    """The key of the call that a step's result answers; empty in the oldest histories."""
    return value.payload.metadata.get(ANSWERS, b"").decode()


def referred(payload: Payload) -> Reference:
    """The reference to the object that a payload stands for."""
    return msgspec.json.decode(payload.data, type=Reference)


def value_in(value: RawValue) -> bytes:
    """Encoded JSON, or the reference to it if the reader needs only that.

    Raises:
        ObjectLost: the payload stands for an object that no longer exists.
        ObjectsUnavailable: the payload stands for an object, and this process has no object store.
    """
    payload, how = value.payload, value.payload.metadata.get(STANDS_FOR)
    if how == LOST_OBJECT:
        raise ObjectLost(msgspec.json.decode(payload.data, type=str))
    if how == OBJECT:
        raise ObjectsUnavailable(
            f"object {referred(payload).key} is in an object store, and none is configured here: give this worker the "
            "--objects that the others have"
        )
    if how == NAMED:
        return referred(payload).encoded()
    return payload.data


def read(value: RawValue, kind: Any) -> Any:
    """An argument of a dynamic workflow or activity."""
    return _converter.from_payload(value.payload, kind)


def require_fit(encoded: bytes, what: str) -> None:
    """Refuse a payload that is too large for history.

    Raises:
        TooLarge: it has more than `PAYLOAD_BYTES_MAX`.
    """
    if len(encoded) > PAYLOAD_BYTES_MAX:
        raise TooLarge(
            f"{what} has {len(encoded)} bytes as JSON, at most {PAYLOAD_BYTES_MAX} (PAYLOAD_BYTES_MAX) travel through "
            "Temporal: set --objects (OFFRAMP_OBJECTS), which stores larger payloads"
        )


def page_of(entries: list[Entry], start: int) -> Page:
    """The page of a journal from a position on."""
    size, end = 0, start
    while end < len(entries) and (end == start or size + _size(entries[end]) <= PAGE_BYTES_MAX):
        size += _size(entries[end])
        end += 1
    return Page(without_arguments(entries[start:end]), end if end < len(entries) else None)


def signals_of(received: list[tuple[str, bytes]], start: int) -> Signals:
    """The page of signals from a position on."""
    size, end = 0, start
    while end < len(received) and (end == start or size + len(received[end][1]) <= PAGE_BYTES_MAX):
        size += len(received[end][1])
        end += 1
    return Signals(received[start:end], end < len(received))


def oversized(entries: Iterable[Entry]) -> Entry | None:
    """The first entry that is too large for history."""
    return next((entry for entry in entries if len(entry.value or b"") > PAYLOAD_BYTES_MAX), None)


def _size(entry: Entry) -> int:
    return len(entry.value or b"") + 256


def failure_in(details: object) -> Failure:
    """The failure that an activity's error carries."""
    return msgspec.convert(details, Failure)
