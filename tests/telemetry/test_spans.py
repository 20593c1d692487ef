"""What the spans of a run say, in one process under a provider that the program around us has set."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

import offramp
from offramp import SLA, App, Retry
from offramp.errors import DeclarationError
from offramp.paths.submission import Submission
from offramp.telemetry import names
from tests.support import GUARD_S, eventually, failure_of, frames_of, member, reach, result_of
from tests.telemetry.conftest import host_program

app = App("desk", classes=[SLA("patient", budget=30.0)])
tracer = trace.get_tracer


def client(name="GET"):
    return trace.get_tracer("client").start_as_current_span(name, kind=SpanKind.CLIENT)


@app.step(kind="tool")
def search(query: str, api_key: str) -> dict[str, str]:
    with client():
        return {"found": query, "session_token": "t0ken"}


@app.step(kind="agent")
async def think(word: str) -> str:
    with client():
        return word


@app.step(label="of {word}")
async def labelled(word: str) -> str:
    return word


@app.pipeline(sla="patient")
async def tells(word: str) -> str:
    return await labelled(word)


@app.step(retry=Retry(attempts=3, base=0.001))
async def fail(word: str) -> None:
    raise ValueError(f"no answer to {word}")


@app.step
async def hang() -> None:
    await asyncio.Event().wait()


@app.pipeline(sla="patient", version="3")
async def ask(word: str) -> str:
    with client("the body's own"):
        found = await search(word, "k3y")
    return await think(found["found"])


@app.pipeline(sla="patient")
async def stumble(word: str) -> None:
    await fail(word)


@app.pipeline(sla="patient")
async def race() -> str:
    first = asyncio.ensure_future(hang())
    await asyncio.sleep(0)  # it begins
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    return "done"


@app.pipeline(sla="patient")
async def approve() -> str:
    await offramp.sleep(0.001)
    return await offramp.signal("approval")


@app.pipeline(sla="patient")
async def stay() -> None:
    await hang()


async def run(pipeline, memory, /, settings=None, **inputs):
    """The run's document and its own span, after it ended."""
    async with app.local(store="memory:", **(settings or {})) as runtime:
        handle = await runtime.start(pipeline, **inputs)
        with contextlib.suppress(Exception):
            await result_of(handle)
        document = await handle.document()
    return document, memory.one(f"invoke_workflow {pipeline}")


def below(memory, parent):
    found = [span for span in memory.spans if span.parent is not None and span.parent.span_id == parent.context.span_id]
    return sorted(found, key=lambda span: span.start_time)


async def seen(service, run_id, kind):
    """Returns once the run's log has an event of this type."""
    async with asyncio.timeout(GUARD_S), contextlib.aclosing(service.follow(run_id)) as parts:
        async for part in parts:
            if kind in {frame.type for frame in part}:
                return


def everything_said(memory):
    return "\n".join(span.to_json() for span in memory.spans)


async def test_a_run_says_what_it_is(memory):
    document, whole = await run("ask", memory, word="why")
    attributes = whole.attributes
    assert document["trace_id"] == f"{whole.context.trace_id:032x}"
    assert attributes[names.RUN_ID] == document["id"]
    assert (attributes[names.RUN_PATH], attributes[names.RUN_CLASS], attributes[names.RUN_VERSION]) == (
        "fast",
        "patient",
        "3",
    )
    assert (attributes[names.OPERATION], attributes[names.WORKFLOW]) == ("invoke_workflow", "ask")
    assert (attributes[names.SPAN_KIND], attributes[names.RUN_OUTCOME]) == ("CHAIN", "completed")
    assert {attributes[name] for name in names.SESSION} == {document["id"]}


async def test_steps_say_what_they_are_and_have_their_clients_below(memory):
    _, whole = await run("ask", memory, word="why")
    own, agent = below(memory, whole)
    (tool,) = below(memory, own)
    assert own.name == "the body's own"
    assert tool.name == "execute_tool search"
    assert (tool.attributes[names.OPERATION], tool.attributes[names.TOOL]) == ("execute_tool", "search")
    assert (tool.attributes[names.SPAN_KIND], tool.attributes[names.STEP_LANE]) == ("TOOL", "thread")
    assert tool.attributes[names.QUEUE_WAIT_MS] >= 0
    assert agent.name == "invoke_agent think"
    assert (agent.attributes[names.OPERATION], agent.attributes[names.AGENT]) == ("invoke_agent", "think")
    assert (agent.attributes[names.SPAN_KIND], agent.attributes[names.STEP_LANE]) == ("AGENT", "loop")
    assert names.QUEUE_WAIT_MS not in agent.attributes
    for step in (tool, agent):
        (called,) = below(memory, step)
        assert called.name == "GET"
        assert called.attributes["session.id"] == whole.attributes["session.id"]


async def test_retries_are_events_and_a_failure_is_the_status(memory):
    _, whole = await run("stumble", memory, word="hidden")
    (step,) = below(memory, whole)
    assert [(event.name, event.attributes[names.STEP_ATTEMPT]) for event in step.events] == [
        ("step.retrying", 1),
        ("step.retrying", 2),
    ]
    assert {event.attributes[names.ERROR_TYPE] for event in step.events} == {"ValueError"}
    assert (step.attributes[names.STEP_ATTEMPTS], step.attributes[names.STEP_OUTCOME]) == (3, "failed")
    for span in (step, whole):
        assert span.status.status_code.name == "ERROR"
        assert span.attributes[names.ERROR_TYPE] == "ValueError"
    assert whole.attributes[names.ERROR_CODE] == "step-failed"
    assert whole.attributes[names.ERROR_STEP] == "fail"
    assert "hidden" not in everything_said(memory)  # the error's message quotes the input


async def test_a_step_that_its_pipeline_gives_up_is_no_error(memory):
    _, whole = await run("race", memory)
    step = memory.one("offramp.step hang")
    assert (step.attributes[names.STEP_OUTCOME], step.status.status_code.name) == ("cancelled", "UNSET")
    assert step.parent.span_id == whole.context.span_id  # though it ran in a task of its own
    assert whole.attributes[names.RUN_OUTCOME] == "completed"


async def test_waits_have_spans(memory):
    async with app.local(store="memory:") as runtime:
        handle = await runtime.start("approve")
        await handle.signal("approval", "yes")
        assert await result_of(handle) == "yes"
    whole = memory.one("invoke_workflow approve")
    assert [span.name for span in below(memory, whole)] == ["offramp.wait sleep", "offramp.wait approval"]
    assert {span.attributes[names.WAIT_OUTCOME] for span in below(memory, whole)} == {"over"}


async def test_a_cancelled_run_is_no_error(memory):
    async with app.local(store="memory:") as runtime:
        handle = await runtime.start("stay")
        await reach(handle, "step.started")
        await handle.cancel()
        await failure_of(handle)
    whole = memory.one("invoke_workflow stay")
    assert (whole.attributes[names.RUN_OUTCOME], whole.status.status_code.name) == ("cancelled", "UNSET")


async def test_a_run_that_is_cancelled_before_anybody_executes_it_says_so(memory):
    async with app.local(store="memory:", worker_runs=1) as runtime:
        busy = await runtime.submit(Submission(pipeline="stay", respond_async=True))
        await reach(busy, "step.started")
        queued = await runtime.submit(Submission(pipeline="ask", input=b'{"word": "w"}', respond_async=True))
        await queued.cancel()
        await failure_of(queued)
        await eventually(lambda: memory.named("invoke_workflow ask"))
        await busy.cancel()
        await failure_of(busy)
    whole, sent = memory.one("invoke_workflow ask"), memory.one("send ask")
    assert whole.attributes[names.RUN_OUTCOME] == "cancelled"
    assert memory.one("process ask").parent.span_id == sent.context.span_id


async def test_a_parked_run_goes_on_in_a_trace_that_links_back(memory, tmp_path):
    async with app.local(data=str(tmp_path)) as runtime:
        handle = await runtime.submit(Submission(pipeline="approve", respond_async=True))
        await eventually(lambda: memory.named("invoke_workflow approve"))  # it is parked: its span has ended
        await handle.signal("approval", "yes")
        assert await result_of(handle) == "yes"
    first, second = memory.named("invoke_workflow approve")
    waits = memory.named("offramp.wait approval")
    assert [span.attributes[names.WAIT_OUTCOME] for span in waits] == ["left", "over"]
    assert first.context.trace_id != second.context.trace_id
    again = memory.named("process approve")[1]
    assert again.parent is None
    assert again.links[0].context.trace_id == first.context.trace_id
    assert second.attributes["session.id"] == first.attributes["session.id"] == handle.id


async def test_what_a_gateway_left_goes_on_in_a_trace_that_links_back(memory, tmp_path):
    async with member(app, tmp_path, "worker") as worker, member(app, tmp_path, "gateway") as gateway:
        accepted = await gateway.submit(Submission(pipeline="stay", session_id="s1"))
        run_id = accepted.record.id
        await seen(gateway, run_id, "step.started")
        await worker.retire(gateway.id)  # as one that died
        await seen(worker, run_id, "run.resumed")
        await worker.cancel(run_id)
        await frames_of(worker, run_id)
        document = await worker.document(run_id)
    process = memory.one("process stay")
    first, again = sorted(memory.named("invoke_workflow stay"), key=lambda span: span.start_time)
    assert document["trace_id"] == f"{first.context.trace_id:032x}"
    assert process.parent is None
    assert process.context.trace_id == again.context.trace_id != first.context.trace_id
    assert [link.context.span_id for link in process.links] == [first.context.span_id]
    assert {span.attributes["session.id"] for span in memory.spans} == {"s1"}


async def test_a_run_is_below_the_span_of_the_program_that_starts_it(memory):
    async with app.local(store="memory:") as runtime:
        with client("the program's"):
            handle = await runtime.start("ask", word="w")
        await result_of(handle)
    whole = memory.one("invoke_workflow ask")
    assert whole.parent.span_id == memory.one("the program's").context.span_id


async def test_a_label_is_shown_whether_inputs_are_or_not(memory):
    _, whole = await run("tells", memory, word="why")
    (step,) = below(memory, whole)
    assert step.attributes[names.STEP_LABEL] == "of why"


async def test_nothing_of_inputs_and_outputs_is_shown(memory):
    await run("ask", memory, word="hidden")
    said = everything_said(memory)
    assert "hidden" not in said
    assert "k3y" not in said


async def test_inputs_and_outputs_are_shown_without_credentials_where_that_is_switched_on(memory):
    _, whole = await run("ask", memory, settings={"trace_content": True}, word="why")
    tool = memory.one("execute_tool search")
    assert msgspec.json.decode(whole.attributes[names.INPUT]) == {"word": "why"}
    assert msgspec.json.decode(whole.attributes[names.OUTPUT]) == "why"
    arguments = {"query": "why", "api_key": "[redacted]"}
    result = {"found": "why", "session_token": "[redacted]"}
    assert msgspec.json.decode(tool.attributes[names.INPUT]) == arguments
    assert msgspec.json.decode(tool.attributes[names.TOOL_ARGUMENTS]) == arguments
    assert msgspec.json.decode(tool.attributes[names.OUTPUT]) == result
    assert msgspec.json.decode(tool.attributes[names.TOOL_RESULT]) == result
    assert tool.attributes[names.INPUT_TYPE] == "application/json"


async def test_what_is_shown_is_cut(memory):
    _, whole = await run("ask", memory, settings={"trace_content": True, "trace_content_bytes": 16}, word="ä" * 100)
    assert whole.attributes[names.INPUT] == '{"word":"äää…'
    assert whole.attributes[names.OUTPUT] == '"ääääääa…'.replace("a…", "ä…")


async def test_messages_of_errors_are_shown_with_inputs(memory):
    await run("stumble", memory, settings={"trace_content": True}, word="this")
    step = memory.one("offramp.step fail")
    assert step.events[0].attributes[names.EXCEPTION_MESSAGE] == "ValueError: no answer to this"
    assert step.events[-1].name == "exception"


async def test_what_is_sampled_out_opens_no_span_but_keeps_its_context(monkeypatch):
    contexts = []

    @app.step(name="look")
    async def look() -> None:
        contexts.append(trace.get_current_span().get_span_context())

    @app.pipeline(name="watch", sla="patient")
    async def watch() -> None:
        await look()

    try:
        with host_program(monkeypatch, sampler=ALWAYS_OFF) as memory:
            async with app.local(store="memory:") as runtime:
                handle = await runtime.start("watch")
                await result_of(handle)
                document = await handle.document()
    finally:
        del app.steps["look"], app.pipelines["watch"]
    assert memory.spans == ()
    (seen,) = contexts
    assert seen.is_valid
    assert not seen.trace_flags.sampled
    assert document["trace_id"] == f"{seen.trace_id:032x}"


async def test_our_own_spans_need_nothing_added_to_the_programs_provider(monkeypatch):
    with host_program(monkeypatch, sessions=False) as memory:
        document, _ = await run("ask", memory, word="w")
    sessions = {span.name: span.attributes.get("session.id") for span in memory.spans}
    assert sessions.pop("GET") is None
    assert sessions.pop("the body's own") is None
    assert set(sessions.values()) == {document["id"]}


async def test_without_a_provider_a_run_keeps_the_callers_trace_and_has_none_of_its_own():
    caller = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "a=1"}
    async with app.local(store="memory:") as runtime:
        alone = await runtime.start("ask", word="w")
        called = await runtime.submit(Submission(pipeline="ask", input=b'{"word": "w"}', trace=caller))
        await result_of(alone)
        await result_of(called)
        assert (await alone.document())["trace_id"] is None
        assert (await called.document())["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        assert (await runtime.service.get(called.id)).trace == caller


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(DeclarationError, match="kind="):
        App("other").step(kind="chain")(think.fn)
