"""Cases of the secret that the processes of a store share (S22)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.store_stage import StoreStage


@case("S22")
async def one_secret_is_kept_for_all_processes(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.store.secret(b"a" * 32) == b"a" * 32, "the first secret offered was not taken"
    assert await peer.store.secret(b"b" * 32) == b"a" * 32, "another process has another secret"
    assert await stage.store.secret(b"c" * 32) == b"a" * 32, "the secret did not stay"


@case("S22", needs=("durable", "shared"))
async def the_secret_outlives_its_process(stage: StoreStage) -> None:
    await stage.store.secret(b"a" * 32)
    after = await stage.end()
    assert await after.store.secret(b"b" * 32) == b"a" * 32, "the secret went with the process that offered it"
