"""`offramp retry` against a real gateway: after a repair, after a deploy that was bad, and what it refuses."""

import json

import pytest

from tests.cli.conftest import warm
from tests.cli.harness import offramp, running

BANK = """
import pathlib

import offramp
from offramp import SLA, App

app = App("bank", classes=[SLA("batch", budget=0)])


@app.step
def look_up(order: str) -> int:
    with open("executed", "a") as file:
        file.write("look_up\\n")
    return 7


@app.step
def charge(cents: int) -> str:
    DEPLOYED
    return f"charged {cents}"


@app.pipeline(sla="batch")
async def settle(order: str) -> str:
    cents = await look_up(order)
    await offramp.signal("approve")
    return await charge(cents)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bank.py").write_text(BANK.replace("DEPLOYED", 'raise KeyError("typo")'))
    return tmp_path


def serving(folder):
    return running("serve", "bank.py", "--port", "0", "--drain-timeout", "5", cwd=folder)


def ask(command, *arguments, folder, **options):
    return offramp(*arguments, "--url", command.url, cwd=folder, **options)


def ready(command):
    command.url = command.wait_for(r"at (http://[\d.:]+),")[1]
    return warm(command)


def test_an_approved_run_that_died_at_a_bad_deploy_keeps_its_approval(folder):
    with serving(folder) as command:
        ready(command)
        run = ask(command, "submit", "settle", "-i", '{"order": "a"}', "--id", folder=folder).stdout.strip()
        ask(command, "signal", run, "approve", folder=folder)
        assert "KeyError" in ask(command, "follow", run, folder=folder).stderr
        unknown = ask(command, "retry", run, "--from", "charged", folder=folder)
        assert (unknown.returncode, "did you mean 'charge'" in unknown.stderr) == (3, True), unknown.stderr
        both = ask(command, "retry", run, "--from", "charge", "--fresh", folder=folder)
        assert (both.returncode, "either --from or --fresh" in both.stderr) == (2, True)
    (folder / "bank.py").write_text(BANK.replace("DEPLOYED", ""))
    with serving(folder) as command:
        ready(command)
        followed = ask(command, "retry", run, "--follow", folder=folder)
        assert json.loads(followed.stdout) == "charged 7"
        assert f"retries {run}" in followed.stderr
        retry = ask(command, "list", "--limit", "1", "--json", folder=folder)
        [document] = json.loads(retry.stdout)["runs"]
        assert document["retry_of"] == run
        shown = ask(command, "show", run, folder=folder).stdout
        assert f"retried   as {document['id']}" in shown
        assert ask(command, "retry", document["id"], folder=folder).returncode == 3
        again = ask(command, "retry", document["id"], "--from", "charge", "--id", folder=folder).stdout.strip()
        assert json.loads(ask(command, "follow", again, folder=folder).stdout) == "charged 7"
    assert (folder / "executed").read_text().split() == ["look_up"]
