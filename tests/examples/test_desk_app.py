"""The application on the real runtime, in this process: what a run returns, emits and refuses."""

import pytest

from examples.reference_desk.answer import QUOTED
from examples.reference_desk.app import app


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)


async def test_an_answer_is_what_was_streamed() -> None:
    async with app.local() as runtime:
        handle = await runtime.start("explain", question="What does the with statement do?")
        streamed = "".join([event.data["delta"] async for event in handle if event.type == "step.delta"])
        answer = await handle.result()
    assert answer.text == streamed
    assert answer.written_by == QUOTED
    assert any(source.startswith("with#") for source in answer.sources)


@pytest.mark.parametrize("question", ["", '" AND (', "😀"])
async def test_a_question_without_an_answer_is_answered(question: str) -> None:
    async with app.local() as runtime:
        handle = await runtime.start("explain", question=question)
        answer = await handle.result()
    assert answer.text


async def test_an_audit_reports_progress_and_a_report() -> None:
    async with app.local() as runtime:
        handle = await runtime.start("audit", path="examples/reference_desk")
        progress = [event.data["delta"] async for event in handle if event.type == "step.delta"]
        report = await handle.result()
    assert progress[-1] == {"done": 1, "of": 1, "functions": report.totals.functions}
    assert report.longest[0].place in report.text
    assert report.unparsed == []
