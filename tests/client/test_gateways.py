"""Both clients against real served gateways: killed and started again, with keys, over a demotion."""

from __future__ import annotations

import contextlib
import math
import signal

import pytest

from offramp.errors import InputError, RunCancelled, RunExpired, RunFailed, Unauthenticated, UnknownPipeline, UnknownRun
from tests.cli.harness import running
from tests.client.both import RUN, asynchronous, synchronous
from tests.servers import free_port

COUNT = """
import asyncio
from offramp import SLA, App, emit

app = App("count", classes=[SLA("short", budget=0.5)])


@app.step(timeout=60)
async def count(first: int) -> int:
    for number in range(first, first + 20):
        emit(number)
        await asyncio.sleep(0.02)
    return first + 20


@app.pipeline(sla="short")
async def counted(rounds: int) -> int:
    for number in range(rounds):
        await count(20 * number)
    return 20 * rounds
"""
ASK = """
from offramp import App, signal

app = App("asks")


@app.pipeline
async def ask(question: str) -> dict:
    return await signal("answer")


@app.pipeline
async def echo(text: str) -> str:
    return text


@app.pipeline(deadline=0.1)
async def dawdle() -> None:
    await signal("never")


@app.step
def break_off() -> None:
    raise KeyError("nothing")


@app.pipeline
async def fail() -> None:
    await break_off()
"""


def serve(stack, folder, port, **env):
    command = stack.enter_context(running("serve", "app.py", "--port", str(port), cwd=folder, env=env))
    command.url = f"http://127.0.0.1:{port}"
    return command


# Before the gateway has promised anything, and after.
@pytest.mark.parametrize(("connect", "kill_at"), [(synchronous, "step.completed"), (asynchronous, "run.demoted")])
def test_a_stream_goes_on_over_a_gateway_that_is_killed_and_started_again(connect, kill_at, tmp_path):
    (tmp_path / "app.py").write_text(COUNT)
    port = free_port()
    with contextlib.ExitStack() as stack:
        first = serve(stack, tmp_path, port)
        first.wait_for("ready in")
        client = stack.enter_context(connect(first.url))
        seen = []
        for event in client.stream("counted", {"rounds": 4}, session_id="s"):
            seen.append(event)
            if event.type == kill_at and first.process.poll() is None:
                first.send(signal.SIGKILL)
                first.end()
                serve(stack, tmp_path, port)
        assert first.process.returncode == -signal.SIGKILL
        assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
        assert (seen[-1].type, seen[-1].result) == ("run.completed", 80)
        run = client.get(seen[0].run_id)
        assert (run.status, run.path, run.session_id, len(run.steps)) == ("completed", "deep", "s", 4)
        assert client.result(run) == 80
        assert [event.seq for event in client.follow(run, after=len(seen) - 1)] == [len(seen)]
        assert list(client.follow(run, after=len(seen))) == []
        assert [event.seq for event in client.events(run)] == [event.seq for event in seen]


def test_a_run_that_its_client_left_at_the_end_of_the_wait_survives_its_gateway(tmp_path):
    (tmp_path / "app.py").write_text(COUNT)
    port = free_port()
    with contextlib.ExitStack() as stack:
        first = serve(stack, tmp_path, port)
        first.wait_for("ready in")
        client = stack.enter_context(synchronous(first.url))
        left = client.submit("counted", {"rounds": 2}, wait=0, budget=30)
        assert (left.status, left.path, left.route.by) == ("running", "fast", "preference")
        first.send(signal.SIGKILL)
        first.end()
        serve(stack, tmp_path, port)
        assert client.result(left, wait=60) == 40


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A gateway with two tenants, and a pipeline that waits for an answer."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "app.py").write_text(ASK)
    with contextlib.ExitStack() as stack:
        keys = "a/ada+run+inspect:ada-has-a-secret,b/bob:bob-has-a-secret"
        command = serve(stack, folder, free_port(), OFFRAMP_API_KEYS=keys)
        command.wait_for("ready in")
        yield command.url


def test_everything_a_client_can_do_with_a_run(connect, keyed):
    with connect(keyed, "ada-has-a-secret") as client:
        run = client.submit("ask", {"question": "why?"}, **{"class": "default"}, metadata={"team": "core"})
        assert (run.class_, run["class"], run.metadata, run.path) == ("default", "default", {"team": "core"}, "deep")
        assert (run.id, "default") in [(each.id, each["class"]) for each in client.list(pipeline="ask")]
        again = [client.signal(run, "answer", {"is": 42}, idempotency_key=f"of {run.id}") for _ in range(2)]
        assert {each.id for each in again} == {run.id}
        assert client.result(run, wait=30) == {"is": 42}
        finished = client.submit("echo", {"text": "é\u2028"}, wait=math.inf)
        assert (finished.status, finished.result) == ("completed", "é\u2028")
        assert client.run("echo", {"text": "x"}, budget=0) == "x"
        assert [event.type for event in client.stream("echo", {"text": "x"}, budget=0, follow=False)] == [
            "run.accepted"
        ]
        assert (client.route("echo", {"text": "x"}).path, client.route("ask", {"question": "?"}, budget=0).by) == (
            "fast",
            "preference",
        )
        with pytest.raises(InputError):
            client.route("echo", {"text": 3})
        with pytest.raises(RunFailed) as failed:
            client.run("fail", {})
        assert (failed.value.error_code, failed.value.problem.status) == ("step-failed", 409)
        broken = client.list(pipeline="fail", limit=1).runs[0]
        again = client.retry(broken, fresh=True)
        assert (again.retry_of, client.get(broken).retried_as[-1]) == (broken.id, again.id)
        shown = client.get(broken, include=["input", "steps", "traceback"])
        assert (shown.input, shown.steps[0].arguments, shown.steps[0].error.code) == ({}, {}, "step-failed")
        assert shown.error.where.function == shown.error.where["function"] == "break_off"
        assert "break_off" in str(shown.error.traceback)
        assert client.ticket(again).expires_at > again.created_at
        with pytest.raises(RunExpired) as expired:
            client.run("dawdle", {})
        assert expired.value.problem.status == 410
        waiting = client.submit("ask", {"question": "?"})
        assert client.cancel(waiting.id).id == waiting.id
        with pytest.raises(RunCancelled):
            client.result(waiting)
        assert client.request("GET", "/v1/pipelines")["app"] == "asks"
        assert {each.name for each in client.pipelines()} == {"ask", "dawdle", "echo", "fail"}


def test_keys_and_tenants(connect, keyed):
    with connect(keyed, "a-wrong-secret") as client:
        for call in (
            lambda: client.run("echo", {"text": "x"}),
            lambda: list(client.follow(RUN)),
            lambda: client.get(RUN),
        ):
            with pytest.raises(Unauthenticated) as refused:
                call()
            assert refused.value.problem.status == 401
    with connect(keyed, "ada-has-a-secret") as ada, connect(keyed, "bob-has-a-secret") as bob:
        run = ada.submit("echo", {"text": "mine"}, wait=math.inf)
        for call in (bob.get, bob.result, bob.cancel, bob.events, lambda run: list(bob.follow(run))):
            with pytest.raises(UnknownRun):
                call(run)
        with pytest.raises(UnknownPipeline, match="did you mean 'echo'"):
            list(bob.stream("ecko", {}))
        with pytest.raises(InputError) as misfit:
            bob.run("echo", {"text": 3})
        assert misfit.value.errors[0][0] == misfit.value.problem.errors[0].pointer == "/input/text"
