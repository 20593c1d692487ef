"""Cases of the blobs port (B1 to B6)."""

from __future__ import annotations

import asyncio
from hashlib import sha256

from offramp.conformance.blobs_stage import OTHER, RUN, BlobsStage, refusal, streamed
from offramp.conformance.case import case
from offramp.core.reference import Reference
from offramp.errors import ObjectLost
from offramp.ports.blobs import PART_BYTES_MAX, Blobs

SIZES = (1, 1000, PART_BYTES_MAX - 1, PART_BYTES_MAX, PART_BYTES_MAX + 1, 3 * PART_BYTES_MAX + 7)
WRITERS = 8
MANY = 12


def _data(size: int, seed: int = 1) -> bytes:
    """Bytes in which no two parts are alike."""
    return b"".join(b"%015d\n" % (seed * 1_000_003 + at) for at in range(size // 16 + 1))[:size]


@case("B1")
async def what_is_put_is_there_for_every_process(stage: BlobsStage) -> None:
    data = _data(5000)
    reference = await stage.blobs.put(RUN, data)
    assert reference.run_id == RUN, f"{reference.key} does not name its run"
    assert (reference.size, reference.sha256) == (len(data), sha256(data).hexdigest())
    other = await stage.another()
    assert await other.get(reference) == data, "another process reads something else"


@case("B1")
async def what_was_put_outlives_the_process(stage: BlobsStage) -> None:
    writer = await stage.another()
    reference = await writer.put(RUN, _data(5000))
    writer.close()
    assert await stage.blobs.get(reference) == _data(5000)


@case("B2")
async def the_same_bytes_are_one_object(stage: BlobsStage) -> None:
    data, other = _data(2 * PART_BYTES_MAX), await stage.another()
    puts = [process.put(RUN, data) for process in (stage.blobs, other) for _ in range(WRITERS)]
    references = set(await asyncio.gather(*puts))
    assert len(references) == 1, f"{len(references)} objects of the same bytes"
    assert await other.put(RUN, data) in references, "put again later, it is another object"
    assert await stage.blobs.get(references.pop()) == data


@case("B3")
async def a_value_comes_back_as_it_was(stage: BlobsStage) -> None:
    for size in SIZES:
        data = _data(size)
        assert await stage.blobs.get(await stage.blobs.put(RUN, data)) == data, f"{size} bytes came back as others"


@case("B3")
async def what_is_not_there_is_lost(stage: BlobsStage) -> None:
    kept, gone = await stage.blobs.put(RUN, _data(10)), await stage.blobs.put(RUN, _data(20))
    await stage.spoilt(gone, None)
    await _is_lost(stage.blobs, gone)
    never = Reference(f"{OTHER}/{kept.sha256}", kept.size, kept.sha256)
    await _is_lost(stage.blobs, never)
    assert await stage.blobs.get(kept) == _data(10), "the object already there was lost with it"


@case("B3")
async def what_was_changed_is_not_given(stage: BlobsStage) -> None:
    data = _data(PART_BYTES_MAX + 100)
    reference = await stage.blobs.put(RUN, data)
    for spoilt in (data[:-1] + b"!", data[:-1], data + b"!", b"", data[:PART_BYTES_MAX]):
        await stage.spoilt(reference, spoilt)
        await _is_lost(stage.blobs, reference)


async def _is_lost(blobs: Blobs, reference: Reference) -> None:
    try:
        await blobs.get(reference)
    except ObjectLost:
        return
    raise AssertionError(f"{reference.key} was returned, but differs from the object put")


@case("B4")
async def a_stream_gives_the_same_in_bounded_parts(stage: BlobsStage) -> None:
    for size in SIZES:
        data = _data(size)
        parts = await streamed(stage.blobs, await stage.blobs.put(RUN, data))
        assert b"".join(parts) == data, f"{size} bytes were streamed as others"
        assert max(map(len, parts)) <= PART_BYTES_MAX, f"a part has {max(map(len, parts))} bytes"


@case("B4")
async def a_stream_of_something_else_ends_before_its_last_part(stage: BlobsStage) -> None:
    data = _data(2 * PART_BYTES_MAX + 100)
    reference = await stage.blobs.put(RUN, data)
    whole_parts = data[: 2 * PART_BYTES_MAX]
    for spoilt in (data[:-1] + b"!", b"!" + data[1:], data[:-1], data + b"!", whole_parts, b"", None):
        await stage.spoilt(reference, spoilt)
        given = 0
        try:
            async for part in stage.blobs.stream(reference):
                given += len(part)
        except ObjectLost:
            assert given < reference.size, "the whole object was streamed before its checksum was checked"
        else:
            raise AssertionError("an object that differs from the one put was streamed to its end")


@case("B5")
async def a_run_is_deleted_with_all_it_has_and_nothing_else(stage: BlobsStage) -> None:
    blobs = stage.blobs
    near = RUN + "0", RUN[:-1]
    mine = [await blobs.put(RUN, _data(50, seed)) for seed in range(MANY)]
    others = [await blobs.put(run_id, _data(50)) for run_id in (OTHER, *near)]
    await blobs.delete([RUN, "run_00000000000000000000000000"])
    for reference in mine:
        await _is_deleted(blobs, reference)
    for reference in others:
        assert await blobs.get(reference) == _data(50), f"{reference.key} was deleted with another run"


@case("B5")
async def runs_are_deleted_together_and_again(stage: BlobsStage) -> None:
    blobs = await stage.another()
    runs = [f"run_{number:026}" for number in range(10, 10 + MANY)]
    references = {run_id: await stage.blobs.put(run_id, _data(50)) for run_id in runs}
    gone, kept = runs[::2], runs[1::2]
    for _ in range(2):
        await blobs.delete(list(reversed(gone)))
    await blobs.delete([])
    for run_id in gone:
        await _is_deleted(stage.blobs, references[run_id])
    for run_id in kept:
        assert await blobs.get(references[run_id]) == _data(50), "the objects of a run that was not named were deleted"
    again = await blobs.put(gone[0], _data(50))
    assert await blobs.get(again) == _data(50), "a deleted object cannot be put again"


async def _is_deleted(blobs: Blobs, reference: Reference) -> None:
    try:
        await blobs.get(reference)
    except ObjectLost:
        return
    raise AssertionError(f"{reference.key} outlived its run")


@case("B6")
async def a_place_that_is_away_is_said_to_be(stage: BlobsStage) -> None:
    reference = await stage.blobs.put(RUN, _data(5000))
    other = await stage.another()
    await stage.harness.cut_off(stage.blobs)
    for blobs in (stage.blobs, other):
        told = await asyncio.gather(
            refusal(blobs.put(RUN, _data(6000))),
            refusal(blobs.get(reference)),
            refusal(streamed(blobs, reference)),
            refusal(blobs.delete([RUN])),
        )
        for text in told:
            assert blobs.where in text, f"{text!r} does not name the place"
            assert not [secret for secret in stage.harness.secrets if secret in text], "a message shows a secret"
