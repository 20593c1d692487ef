"""Histories that earlier versions recorded are replayed by this one, command by command."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest

from offramp import wiring
from offramp.settings import Settings
from tests.engines.temporal.recorded import FORM, HISTORIES, PIPELINES, app

FILES = sorted(HISTORIES.rglob("*.json"))


@pytest.fixture
async def replayer(tmp_path):
    from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

    from offramp.engines.temporal.body import PipelineWorkflow
    from offramp.engines.temporal.home import HomeInterceptor
    from offramp.engines.temporal.payloads import DATA_CONVERTER

    settings = Settings(engine="temporal://127.0.0.1:1/none", data=str(tmp_path))
    service = wiring.build(app, settings, role="worker")
    service.engine.history_events_max = 60
    yield Replayer(
        workflows=[PipelineWorkflow],
        data_converter=DATA_CONVERTER,
        interceptors=[HomeInterceptor(service.engine)],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    await service.close()


@pytest.mark.parametrize("folder", [HISTORIES, HISTORIES / FORM], ids=["first", FORM])
def test_every_pipeline_has_a_history(folder):
    assert {file.name.rpartition("-")[0] for file in folder.glob("*.json")} == set(PIPELINES)
    assert len(list(folder.glob("long-*.json"))) > 1, "the long run was to go on in a second history"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(HISTORIES).as_posix())
async def test_a_history_is_replayed(replayer, file):
    from temporalio.client import WorkflowHistory

    history = WorkflowHistory.from_json(file.stem, file.read_text(encoding="utf-8"))
    result = await replayer.replay_workflow(history)
    assert result.replay_failure is None


def changed(file, change, *, checked=True):
    """A history whose scheduled activities were changed; where it is not `checked`, the SDK does not check its ids."""
    from temporalio.client import WorkflowHistory

    data = json.loads((HISTORIES / file).read_text(encoding="utf-8"))
    for event in data["events"]:
        scheduled = event.get("activityTaskScheduledEventAttributes")
        if scheduled is not None:
            change(scheduled)
        completed = event.get("workflowTaskCompletedEventAttributes")
        if completed is not None and not checked:
            completed.pop("sdkMetadata", None)
    return WorkflowHistory.from_json("changed", data)


async def test_a_replay_notices_other_commands(replayer):
    from temporalio.workflow import NondeterminismError

    def change(scheduled):
        scheduled["activityType"]["name"] = "another"

    with pytest.raises(NondeterminismError, match="activity type"):
        await replayer.replay_workflow(changed("failing-1.json", change))


def of_another_call(scheduled):
    scheduled["activityId"] = "shaky:0000000000000000:0"


async def test_a_replay_notices_another_call_of_the_same_step(replayer):
    from temporalio.workflow import NondeterminismError

    with pytest.raises(NondeterminismError, match="shaky:0000000000000000:0"):
        await replayer.replay_workflow(changed(f"{FORM}/failing-1.json", of_another_call))


@pytest.mark.parametrize("name", ["failing", "demoted"])
async def test_an_answer_to_another_call_is_noticed_where_the_server_checks_no_ids(replayer, monkeypatch, name):
    """`failing` has the key in an error's details, `demoted` in the metadata of results."""
    from temporalio.client import WorkflowHistory

    from offramp.engines.temporal.engine import TemporalEngine

    noticed = []
    monkeypatch.setattr(TemporalEngine, "strayed", lambda _, strayed: noticed.append(strayed.why))
    history = changed(f"{FORM}/{name}-1.json", lambda scheduled: None, checked=False).to_json()
    given = json.loads(history)
    for event in given["events"]:
        _answer_another_call(event)
    with contextlib.suppress(Exception):  # the body stands still, and history goes on
        await replayer.replay_workflow(WorkflowHistory.from_json("changed", given))
    assert "where history has the answer to another:call:0" in noticed[0]


def _answer_another_call(event):
    another = base64.b64encode(b"another:call:0").decode()
    completed = event.get("activityTaskCompletedEventAttributes", {})
    for payload in completed.get("result", {}).get("payloads", []):
        payload["metadata"]["offramp-key"] = another
    failed = event.get("activityTaskFailedEventAttributes", {}).get("failure", {})
    details = failed.get("applicationFailureInfo", {}).get("details", {}).get("payloads", [])
    if len(details) > 1:
        details[1]["data"] = base64.b64encode(b'"another:call:0"').decode()
