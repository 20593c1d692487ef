"""Runs that an earlier version recorded, whose keys were made of all arguments by place, go on."""

from __future__ import annotations

from typing import Any

import msgspec
import pydantic
import pytest

import offramp
from offramp import App
from offramp.core.codec import Signature
from offramp.execution import replay
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.paths.waiting import deep, parked, until
from tests.support import Signal, frames_of, member


class Query(pydantic.BaseModel):
    text: str = pydantic.Field(alias="q")
    limit: int = 3


def before(value: Any) -> Any:
    return value.model_dump(mode="json")


@pytest.fixture
def earlier_version():
    """Until it is left, keys are made as they were: of a JSON list of all values."""
    with pytest.MonkeyPatch.context() as patch:
        now = Signature.encode_call

        def encode_call(self, args, kwargs):
            call = now(self, args, kwargs)
            listed = msgspec.json.encode(call.values, enc_hook=before, order="deterministic")
            return msgspec.structs.replace(call, key=listed)

        patch.setattr(Signature, "encode_call", encode_call)
        yield patch


def release(executed, *, hold=None, further=()):
    app = App("desk")

    @app.step
    async def ask(query: Query, k: int = 1, *, tags: list[str] = []) -> int:  # noqa: B006 - what users write
        executed.append((query.text, k))
        return len(executed)

    @app.step(effect="once")
    async def pay(amount: int, currency: str = "EUR") -> str:
        executed.append(("pay", amount))
        if hold is not None:
            await hold.wait()
        return "paid"

    @app.pipeline
    async def asking() -> list[int]:
        made = [await ask(Query(q="a")), await ask(Query(q="a")), await ask(Query(q="a"), k=2)]
        for name in ("go", *further):
            await offramp.signal(name)
            made.append(await ask(Query(q="a"), tags=[]))
        return made

    @app.pipeline
    async def paying() -> str:
        return await pay(5)

    return app


async def test_recorded_steps_are_found_and_new_ones_counted_on(tmp_path, earlier_version, monkeypatch):
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.05)
    old, new, last = [], [], []
    async with member(release(old), tmp_path, "local", owner="old") as service:
        run = (await service.submit(deep("asking"))).record.id
        await parked(service, run)
    earlier_version.undo()
    # The second version records under its own keys, the third finds both.
    async with member(release(new, further=["again"]), tmp_path, "local", owner="new") as service:
        await service.signal(run, "go", b"1")
        await until(lambda: new)
        await parked(service, run)
    async with member(release(last, further=["again"]), tmp_path, "local", owner="last") as service:
        await LocalRuntime(service).service.signal(run, "again", b"1")
        await frames_of(service, run)
        record = await service.get(run)
    assert old == [("a", 1), ("a", 1), ("a", 2)]
    assert (new, last) == ([("a", 1)], [("a", 1)])
    assert (record.status, record.result) == ("completed", b"[1,2,3,1,1]")


async def test_a_step_that_was_begun_is_known_as_begun(tmp_path, earlier_version):
    clock, executed, again = FakeClock(), [], []
    old = release(executed, hold=Signal())
    async with member(old, tmp_path, "gateway", owner="gateway", clock=clock) as gateway:
        async with member(old, tmp_path, "worker", owner="old", clock=clock, drain_timeout=0.0) as leaving:
            run = (await gateway.submit(deep("paying"))).record.id
            await until(lambda: executed, clock)
            await leaving.live.get(run).log.durable()
            await gateway.retire("old")
        earlier_version.undo()
        async with member(release(again), tmp_path, "worker", owner="new", clock=clock, lease=600.0):
            await clock.run_until(frames_of(gateway, run), 0.2)
        record = await gateway.get(run)
    assert (record.status, record.error.code) == ("failed", "effect-unknown")
    assert again == []


def test_arguments_by_place_are_still_read():
    def step(a: int, b: list[int] = [], *, c: str = "x") -> None: ...  # noqa: B006 - what users write

    signature = Signature(step, "step 'step'")
    assert signature.decode_call(b'[1,[2],"y"]') == [1, [2], "y"]
    assert signature.decode_call(b"[1]") == [1, [], "x"]


def test_the_forms_of_a_call_end_where_an_argument_has_no_default():
    def step(a: int, b: int = 2, c: int = 3) -> None: ...

    signature = Signature(step, "step 'step'")
    assert list(signature.encode_call((1,), {}).earlier()) == [b'{"a":1,"b":2,"c":3}', b"[1,2,3]", b"[1,2]", b"[1]"]
    assert list(signature.encode_call((1, 2, 4), {}).earlier()) == [b'{"a":1,"b":2,"c":4}', b"[1,2,4]"]
