"""Payloads too large for a history: objects of their run, stored and fetched on the way to and from Temporal.

A codec works outside workflows, so it may wait. An unreachable object fails the task, which Temporal repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from offramp.engines.temporal.payloads import (
    ANSWERS,
    BY_NAME,
    DATA_CONVERTER,
    LOST_OBJECT,
    NAMED,
    OBJECT,
    STANDS_FOR,
    referred,
    standing,
)
from offramp.errors import ObjectLost
from offramp.ports.blobs import Blobs
from offramp.ports.bodies import PAYLOAD_BYTES_MAX


class ObjectCodec(PayloadCodec, WithSerializationContext):
    """Stores payloads above `PAYLOAD_BYTES_MAX` as objects.

    Args:
        blobs: the object store.
        run_id: the run of the payloads; None if unknown: the payloads then stay as they are.
    """

    def __init__(self, blobs: Blobs, run_id: str | None = None) -> None:
        self._blobs = blobs
        self._run_id = run_id

    def with_context(self, context: SerializationContext) -> ObjectCodec:
        """The codec for the payloads of one run: a workflow has the id of its run."""
        if isinstance(context, (WorkflowSerializationContext, ActivitySerializationContext)):
            return ObjectCodec(self._blobs, context.workflow_id)
        return self

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """To Temporal."""
        return [await self._encoded(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """From Temporal."""
        return [await self._decoded(payload) for payload in payloads]

    async def _encoded(self, payload: Payload) -> Payload:
        run_id = self._run_id
        if len(payload.data) <= PAYLOAD_BYTES_MAX or run_id is None or payload.metadata["encoding"] != b"json/plain":
            return payload
        how = NAMED if payload.metadata.get(STANDS_FOR) == BY_NAME else OBJECT
        return _alike(payload, standing(await self._blobs.put(run_id, payload.data), how))

    async def _decoded(self, payload: Payload) -> Payload:
        if payload.metadata.get(STANDS_FOR) != OBJECT:
            return payload
        plain = {"encoding": b"json/plain"}
        try:
            return _alike(payload, Payload(metadata=plain, data=await self._blobs.get(referred(payload))))
        except ObjectLost as error:
            # A failure here would be retried without limit: the reader of the payload decides how the run ends.
            lost = Payload(metadata=plain | {STANDS_FOR: LOST_OBJECT}, data=msgspec.json.encode(str(error)))
            return _alike(payload, lost)


def _alike(payload: Payload, made: Payload) -> Payload:
    """Keep the key of the answered call on a converted payload."""
    if ANSWERS in payload.metadata:
        made.metadata[ANSWERS] = payload.metadata[ANSWERS]
    return made


def converter(blobs: Blobs | None) -> DataConverter:
    """The converter that writes and reads payloads."""
    return DATA_CONVERTER if blobs is None else replace(DATA_CONVERTER, payload_codec=ObjectCodec(blobs))
