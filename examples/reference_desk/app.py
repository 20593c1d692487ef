"""The application: its steps, its pipelines, and their service levels.

The other modules do the work and do not depend on runs. Serve it with
`offramp serve examples/reference_desk/app.py:app`.
"""

import asyncio

from offramp import SLA, App, Retry, emit, per_loop

from .answer import QUOTED, Answer, ask_model, model_configured, openai_client, quote
from .findings import Findings, measure_batch, merge
from .ranking import fuse
from .rephrasing import rephrase
from .report import AuditReport, write_report
from .search import reference_index
from .sources import SourceTree, source_tree
from .topics import Passage

PASSAGES_MAX = 4
"""Passages per answer."""

BATCHES_AT_ONCE = 2
"""Batches of one audit measured at once, so that it leaves cores for other runs."""

app = App("reference_desk", classes=[SLA("interactive", p95=2.0, budget=6.0), SLA("batch", budget=0)])

client = per_loop(openai_client)


@app.pipeline(sla="interactive")
async def explain(question: str) -> Answer:
    """Answer a question about Python from its language reference."""
    async with asyncio.TaskGroup() as group:
        searches = [group.create_task(search(query)) for query in rephrase(question)]
    # Pure and quick, so not a step: a replay computes the same result.
    passages = fuse([each.result() for each in searches], PASSAGES_MAX)
    return await write(question, passages)


@app.step(timeout=5)
def search(query: str) -> list[Passage]:
    """Find passages that answer one phrasing of the question."""
    return reference_index().search(query)


@app.step(timeout=60, retry=Retry(attempts=3))
async def write(question: str, passages: list[Passage]) -> Answer:
    """Write the answer, streaming it: by a language model if one is configured, else by quoting."""
    pieces: list[str] = []
    model = model_configured()
    if model and passages:
        async for piece in ask_model(client, model, question, passages):
            emit(piece)
            pieces.append(piece)
    else:
        model = None
        for piece in quote(passages):
            emit(piece)
            pieces.append(piece)
    sources = [passage.id for passage in passages]
    return Answer(question=question, text="".join(pieces), sources=sources, written_by=model or QUOTED)


@app.pipeline(sla="interactive")
async def audit(path: str | None = None) -> AuditReport:
    """Measure every function below a folder of the server's working directory, or of the standard library."""
    tree = await find_sources(path)
    slots = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def measure_in_turn(files: list[str]) -> Findings:
        async with slots:
            return await measure(tree.root, files)

    parts: list[Findings] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(measure_in_turn(files)) for files in tree.batches]
        # In the order of the batches, not of their ends: a replay then emits the same.
        for done, task in enumerate(tasks, start=1):
            parts.append(await task)
            functions = sum(part.totals.functions for part in parts)
            emit({"done": done, "of": len(tasks), "functions": functions})
    # Merged here, as arguments of a step are bounded: on Temporal by 256 KiB.
    return await report(tree.root, [merge(parts)])


@app.step(timeout=30)
def find_sources(path: str | None) -> SourceTree:
    """List the files once: a run that moves to another process continues with the same batches."""
    return source_tree(path)


@app.step(lane="process", timeout=60)
def measure(root: str, files: list[str]) -> Findings:
    """Parse and measure some files in a lane process, apart from all streams."""
    return measure_batch(root, files)


@app.step(timeout=30)
def report(root: str, parts: list[Findings]) -> AuditReport:
    """Write the report from the batches' findings."""
    return write_report(root, parts)
