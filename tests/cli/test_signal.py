"""`offramp signal` against a real gateway, and waiting runs that outlive the processes that knew them."""

import json
import os
import signal

import pytest

from tests.cli.conftest import warm
from tests.cli.harness import offramp, running, wait_until_gone

ASKS = """
from typing import Any

import offramp
from offramp import SLA, App

app = App("asks", classes=[SLA("batch", budget=0)])


@app.step
def note(text: str) -> str:
    with open("notes", "a") as file:
        file.write(text + "\\n")
    return text


@app.pipeline(sla="batch")
async def ask(name: str) -> Any:
    await note(f"before {name}")
    value = await offramp.signal(name)
    await note(f"after {name}")
    return value
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "asks.py").write_text(ASKS)
    return tmp_path


def serving(folder):
    return running("serve", "asks.py", "--port", "0", "--drain-timeout", "5", cwd=folder)


def ready(command):
    command.url = command.wait_for(r"at (http://[\d.:]+),")[1]
    return warm(command)


def ask(command, *arguments, folder, **options):
    return offramp(*arguments, "--url", command.url, cwd=folder, **options)


def begun(command, folder, name):
    run = ask(command, "submit", "ask", "-i", json.dumps({"name": name}), "--id", folder=folder).stdout.strip()
    with running("follow", run, "--url", command.url, cwd=folder) as follower:
        follower.wait_for("✓ note")
        follower.send(signal.SIGINT)
        follower.end()
    return run


def notes(folder):
    return (folder / "notes").read_text().splitlines()


def test_a_value_arrives_from_the_command_line_a_file_and_stdin(folder):
    (folder / "value.json").write_text('{"by": "ada"}')
    ways = [
        ([], "", None),
        (["--data", "true"], "", True),
        (["-d", "@value.json"], "", {"by": "ada"}),
        (["--data", "-"], "[1, 2]", [1, 2]),
    ]
    with serving(folder) as command:
        ready(command)
        for data, stdin, value in ways:
            run = begun(command, folder, "approved")
            sent = ask(command, "signal", run, "approved", *data, folder=folder, stdin=stdin)
            assert (sent.returncode, sent.stdout) == (0, "")
            assert sent.stderr == f"{run} was sent 'approved'\n"
            followed = ask(command, "follow", run, folder=folder)
            assert (followed.returncode, json.loads(followed.stdout)) == (0, value)
        ended = ask(command, "signal", run, "approved", folder=folder)
        run = begun(command, folder, "approved")
        keyed = ["--idempotency-key", "k-1"]
        again = [ask(command, "signal", run, "approved", *keyed, folder=folder).returncode for _ in range(2)]
        other = ask(command, "signal", run, "approved", "-d", "1", *keyed, folder=folder)
        odd = ask(command, "signal", run, "approved", "--idempotency-key", "é", folder=folder)
        unknown = ask(command, "signal", "run_" + "0" * 26, "approved", folder=folder)
    assert (ended.returncode, unknown.returncode) == (3, 3)
    assert "takes no signal" in ended.stderr
    assert (again, other.returncode, odd.returncode) == ([0, 0], 3, 2)
    assert "another signal" in other.stderr
    assert "no run" in unknown.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_waiting_run_survives_the_end_of_every_process(folder, how):
    with serving(folder) as first:
        ready(first)
        parked, early = begun(first, folder, "a"), begun(first, folder, "b")
        assert ask(first, "show", parked, "--json", folder=folder).stdout.count('"status":"running"') == 1
        if how == signal.SIGKILL:
            os.kill(first.worker, how)
        assert ask(first, "signal", early, "b", "-d", "2", folder=folder).returncode == 0
        first.send(how)
        first.process.wait(30)
        wait_until_gone(first.worker)
    with serving(folder) as second:
        ready(second)
        assert ask(second, "signal", parked, "a", "-d", "1", folder=folder).returncode == 0
        results = [ask(second, "follow", run, folder=folder).stdout for run in (parked, early)]
    assert results == ["1\n", "2\n"]
    assert sorted(notes(folder)) == ["after a", "after b", "before a", "before b"]
