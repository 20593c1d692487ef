"""The label of a step call: in its events and its run's document, in every lane, also where it cannot be formatted."""

from __future__ import annotations

from dataclasses import dataclass

from offramp import App, Retry, testing
from tests.support import failure_of, log_of, of, result_of


@dataclass
class Place:
    name: str


app = App("labelled")


@app.step(label="{place.name} {query!r}")
def gather(place: Place, query: str, limit: int = 3) -> str:
    return query


@app.step(label="try {word:d}", retry=Retry(attempts=2, base=0))
async def stumbles(word: str) -> str:
    return word


@app.step
async def bare() -> None:
    pass


@app.pipeline
async def labelled() -> str:
    found = [await gather(Place(name), "why") for name in ("web", "db")]
    await bare()
    return found[0] + await stumbles("x")


async def check(runtime):
    """What a runtime of any engine has to say of `app`."""
    handle = await runtime.start("labelled")
    assert await result_of(handle) == "whyx"
    expected = ["web 'why'", "db 'why'", None, None]
    assert [event.data.get("label") for event in of(await log_of(handle), "step.started")] == expected
    assert [step["label"] for step in (await handle.document())["steps"]] == expected


async def test_calls_of_a_step_are_told_apart():
    async with testing.runtime(app) as runtime:
        await check(runtime)


async def test_a_retry_shows_the_labels_and_the_arguments_of_what_it_began_with():
    retried, fails = App("retried"), [True]

    @retried.step(label="of {word}")
    async def first(word: str) -> str:
        return word

    @retried.step
    async def second(word: str) -> str:
        if fails.pop():
            raise ValueError("not yet")
        return word

    @retried.pipeline
    async def pipe(word: str) -> str:
        return await second(await first(word))

    async with testing.runtime(retried) as runtime:
        handle = await runtime.start("pipe", word="x")
        await failure_of(handle)
        fails.append(False)
        again = await handle.retry()
        assert await result_of(again) == "x"
        [begun, _] = (await again.document(["steps"]))["steps"]
    assert (begun["label"], begun["arguments"], begun["result"]) == ("of x", {"word": "x"}, "x")
