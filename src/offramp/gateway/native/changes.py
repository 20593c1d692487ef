"""`GET /v1/changes`: a stream of the changes of all runs, for pages and programs that show many of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from offramp.core.changes import Era, Wanted
from offramp.core.events import Frame
from offramp.gateway.call import Call
from offramp.gateway.native.filters import choice_of, text_of
from offramp.gateway.native.framing import FIRST, HEARTBEAT
from offramp.gateway.reply import Answer
from offramp.gateway.streams import EventStream
from offramp.paths.changes import RESET


class ChangeEncoder:
    """Changes as server-sent events.

    Args:
        era: makes their ids.
    """

    opening = FIRST
    heartbeat = HEARTBEAT

    def __init__(self, era: Era) -> None:
        self._era = era

    def encode(self, frames: Sequence[Frame]) -> tuple[bytes, int, bool]:
        """All of them: no change ends the stream."""
        parts = []
        for frame in frames:
            kind = "reset" if frame.data == RESET else "run.changed"
            parts.append(f"id: {self._era.id_of(frame.seq)}\nevent: {kind}\ndata: {(frame.data or b'{}').decode()}\n\n")
        return "".join(parts).encode(), len(frames), False


class ChangeStream(EventStream):
    """The answer.

    Args:
        call: the request.
        place: the log, and the number after which it begins.
        wanted: the runs whose changes are sent.
    """

    def __init__(self, call: Call, place: tuple[Era, int], wanted: Wanted) -> None:
        era, after = place
        super().__init__(call, "changes", after, ChangeEncoder(era), slot=call.open_stream())
        self._wanted = wanted

    def _batches(self, idle: float) -> AsyncGenerator[list[Frame], None]:
        return self._call.service.changes(self._after, self._wanted, idle)


async def stream(call: Call) -> Answer:
    """From now on, or after the last change that the client has."""
    query, service = call.query("pipeline", "class", "session_id", "lastEventId"), call.service
    wanted = Wanted(
        call.tenant,
        choice_of(query, "pipeline", service.pipelines),
        choice_of(query, "class", service.classes),
        text_of(query, "session_id"),
    )
    last_id = call.connection.headers.get("last-event-id") or query.get("lastEventId")
    return ChangeStream(call, await service.place_in_changes(last_id or None), wanted)
