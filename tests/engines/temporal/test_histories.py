"""Histories that earlier versions recorded are replayed by this one, command by command."""

from __future__ import annotations

import json

import pytest

from offramp import wiring
from offramp.settings import Settings
from tests.engines.temporal.recorded import HISTORIES, PIPELINES, app

FILES = sorted(HISTORIES.glob("*.json"))


@pytest.fixture
async def replayer(tmp_path):
    from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

    from offramp.engines.temporal.body import PipelineWorkflow
    from offramp.engines.temporal.home import HomeInterceptor
    from offramp.engines.temporal.payloads import DATA_CONVERTER

    settings = Settings(engine="temporal://127.0.0.1:1/none", data=str(tmp_path))
    service = wiring.build(app, settings, role="worker")
    service._engine.history_events_max = 60
    yield Replayer(
        workflows=[PipelineWorkflow],
        data_converter=DATA_CONVERTER,
        interceptors=[HomeInterceptor(service._engine)],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    await service.close()


def test_every_pipeline_has_a_history():
    assert {file.name.rpartition("-")[0] for file in FILES} == set(PIPELINES)
    assert len(list(HISTORIES.glob("long-*.json"))) > 1, "the long run was to go on in a second history"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_a_history_is_replayed(replayer, file):
    from temporalio.client import WorkflowHistory

    history = WorkflowHistory.from_json(file.stem, file.read_text(encoding="utf-8"))
    result = await replayer.replay_workflow(history)
    assert result.replay_failure is None


async def test_a_replay_notices_other_commands(replayer):
    from temporalio.client import WorkflowHistory
    from temporalio.workflow import NondeterminismError

    data = json.loads((HISTORIES / "failing-1.json").read_text(encoding="utf-8"))
    for event in data["events"]:
        attributes = event.get("activityTaskScheduledEventAttributes")
        if attributes is not None:
            attributes["activityType"]["name"] = "another"
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(WorkflowHistory.from_json("failing-1", data))
