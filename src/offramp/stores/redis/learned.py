"""What is learned of runs, on Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from offramp.ports.learning import (
    CELLS_KEPT,
    LAST_TURNS,
    SESSIONS_KEPT,
    BeliefCell,
    EndedTurn,
    Learned,
    SessionTurns,
    page_of,
)
from offramp.stores.redis.operations import wire
from offramp.stores.redis.scripts import LEARNED

KEPT_S = 90 * 86_400
"""Seconds after its last change for which the belief of a pipeline and class is kept."""
_decode_weights = msgspec.msgpack.Decoder(dict[str, float]).decode
_decode_turns = msgspec.msgpack.Decoder(tuple[int, tuple[float, ...]]).decode


def learn(cells: Sequence[BeliefCell], turns: Sequence[EndedTurn]) -> bytes:
    """The operation that adds weights and turns."""
    flat = [(_group(cell.pipeline, cell.sla), f"{cell.block}\0{cell.name}", dict(cell.weights)) for cell in cells]
    return wire("learn", flat, list(turns), CELLS_KEPT, SESSIONS_KEPT, LAST_TURNS, KEPT_S)


def forget(pipeline: str, sla: str, blocks: Sequence[int]) -> bytes:
    """The operation that removes blocks."""
    return wire("forget", _group(pipeline, sla), list(blocks))


def learned(client: Any, tag: str, after: int, limit: int) -> Learned:
    """What has changed since."""
    newest, *rows = LEARNED(client, [tag], tag, after, limit)
    return page_of([(number, _change(group, member, value)) for group, member, number, value in rows], newest, limit)


def turns_of(client: Any, tag: str, session: str) -> SessionTurns | None:
    """What is known of a session."""
    kept = client.hget(f"{tag}sw", session)
    return None if kept is None else SessionTurns(session, *_decode_turns(kept))


def _group(pipeline: str, sla: str) -> str:
    return f"{pipeline}\0{sla}"


def _change(group: bytes, member: bytes, value: bytes) -> BeliefCell | SessionTurns:
    if not group:
        return SessionTurns(member.decode(), *_decode_turns(value))
    pipeline, sla = group.decode().split("\0")
    block, name = member.decode().split("\0", 1)
    return BeliefCell(pipeline, sla, int(block), name, _decode_weights(value))
