"""An app whose runs have something to show, and what every engine and store has to show of them."""

from __future__ import annotations

import pytest

from offramp import App, Retry, current_run
from offramp.errors import UnknownStep
from tests.support import result_of

app = App("inspected")
LARGE = "é" * 20_000
"""More than 16 KiB."""


@app.step
def gather(source: str, query: str, *, limit: int = 3) -> list[str]:
    return [f"{source}: {query}"] * limit


@app.step(retry=Retry(attempts=2, base=0))
async def stumbles(word: str) -> str:
    if current_run().attempt == 1:
        raise ConnectionError("refused")
    return word


@app.step(retry=Retry(attempts=2, base=0))
async def fails(word: str) -> None:
    raise ValueError(f"no {word} in attempt {current_run().attempt}")


@app.step
async def copies(text: str) -> str:
    return text


@app.pipeline
async def shows(question: str, depth: int = 1) -> str:
    await gather("web", question)
    await stumbles("x")
    try:
        await fails("luck")
    except ValueError:
        await copies(LARGE)
    return question


@app.pipeline
async def ends_badly() -> None:
    await fails("luck")


async def check(runtime):
    handle = await runtime.start("shows", question="why", depth=2)
    assert await result_of(handle) == "why"
    plain = await handle.document()
    assert {"input", "arguments", "failures"}.isdisjoint({*plain, *plain["steps"][0]})
    shown = await handle.document(["input", "steps", "traceback"])
    assert shown["input"] == {"question": "why", "depth": 2}
    gathered, stumbled, failed, copied = shown["steps"]
    assert gathered["arguments"] == {"source": "web", "query": "why", "limit": 3}
    assert (gathered["result"], gathered["error"], gathered["failures"]) == (["web: why"] * 3, None, [])
    assert (stumbled["result"], stumbled["error"], stumbled["status"]) == ("x", None, "completed")
    [refused] = stumbled["failures"]
    assert (refused["code"], refused["message"], refused["attempt"]) == ("step-failed", "ConnectionError: refused", 1)
    assert refused["where"]["function"] == "stumbles"
    assert refused["at"] > stumbled["started_at"][:10]
    assert (failed["arguments"], failed["result"], failed["status"]) == ({"word": "luck"}, None, "failed")
    assert failed["error"]["message"] == failed["failures"][1]["message"] == "ValueError: no luck in attempt 2"
    assert [each["attempt"] for each in failed["failures"]] == [1, 2]
    assert "in fails" in failed["error"]["traceback"]
    size = len(LARGE.encode()) + len('""')
    link = f"/v1/runs/{handle.id}/steps/{copied['key']}"
    assert copied["result"] == {"truncated": True, "bytes": size, "preview": '"' + "é" * 499, "link": link}
    assert (copied["arguments"]["bytes"], copied["arguments"]["link"]) == (size + len('{"text":}'), link)
    whole = await runtime.service.step(handle.id, copied["key"])
    assert (bytes(whole["arguments"]), bytes(whole["result"])) == (
        f'{{"text":"{LARGE}"}}'.encode(),
        f'"{LARGE}"'.encode(),
    )
    with pytest.raises(UnknownStep, match="did you mean 'copies:"):
        await runtime.service.step(handle.id, copied["key"][:-1])
    await check_failed(runtime)


async def check_failed(runtime):
    handle = await runtime.start("ends_badly")
    async for _ in handle:
        pass
    plain, shown = await handle.document(), await handle.document(["traceback"])
    assert "traceback" not in plain["error"]
    assert shown["error"]["traceback"].splitlines()[-1] == "ValueError: no luck in attempt 2"
    assert "steps" in shown
    assert "arguments" not in shown["steps"][0]
