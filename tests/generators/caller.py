"""Uses the client that openapi-python-client made: `python caller.py URL`, beside the package `made`."""

import sys

from made import AuthenticatedClient
from made.api.pipelines import list_pipelines
from made.api.runs import follow_run, get_result, get_run, list_runs, send_signal, submit_research, submit_research_2
from made.models import (
    Problem,
    ResearchResult,
    Run,
    RunPage,
    SubmitResearch2Body,
    SubmitResearchBody,
    SubmitResearchBodyInput,
)

client = AuthenticatedClient(sys.argv[1], "generated-secret")
with client:
    body = SubmitResearchBody.from_dict({"input": {"question": "why?"}, "session_id": "s"})
    assert isinstance(body.input_, SubmitResearchBodyInput)
    answer = submit_research.sync_detailed(client=client, body=body, idempotency_key='"one"')
    run = answer.parsed
    assert answer.status_code == 200, answer
    assert isinstance(run.result, ResearchResult)
    assert (run.result.text, run.session_id) == ("why?", "s")
    assert isinstance(get_run.sync(run.id, client=client), Run)
    events = follow_run.sync(run.id, client=client, starting_after=1)
    assert "event: run.completed" in events
    assert "event: run.accepted" not in events
    again = follow_run.sync(run.id, client=client, last_event_id_header="0")
    assert "event: run.accepted" in again
    page = list_runs.sync(client=client, session_id="s")
    assert isinstance(page, RunPage)
    assert [each.id for each in page.runs] == [run.id]

    waiting = submit_research_2.sync(
        client=client, body=SubmitResearch2Body.from_dict({"input": {}}), prefer="respond-async"
    )
    assert send_signal.sync(waiting.id, "answer", client=client, body="red").id == waiting.id
    for _ in follow_run.sync(waiting.id, client=client).splitlines():
        pass
    assert get_result.sync(waiting.id, client=client) == [{"colour": "red", "size": None}]

    wrong = submit_research.sync(client=client, body=SubmitResearchBody.from_dict({"input": {"question": 3}}))
    assert isinstance(wrong, Problem)
    assert wrong.errors[0].pointer == "/input/question"
    assert len(list_pipelines.sync(client=client).pipelines) == 4
