from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from offramp.telemetry.session import SessionProcessor
from tests.cli.harness import Running, running
from tests.telemetry.receiver import receiving

DESK = Path(__file__).with_name("desk.py")


@pytest.fixture
def receiver():
    with receiving() as made:
        yield made


class Memory:
    """The spans of this process."""

    def __init__(self, exporter):
        self._exporter = exporter

    @property
    def spans(self):
        return self._exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        (found,) = self.named(name)
        return found


@contextlib.contextmanager
def host_program(monkeypatch, *, sessions=True, **options):
    """A provider that the program around us has set, as far as this test sees; `sessions` has ours in it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **options)
    if sessions:
        provider.add_span_processor(SessionProcessor())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield Memory(exporter)
    provider.shutdown()


@pytest.fixture
def memory(monkeypatch):
    with host_program(monkeypatch) as made:
        yield made


@contextlib.contextmanager
def serving(folder: Path, endpoint: str | None, **environment: str):
    """`offramp serve` with one worker, ready; `url`, and `worker`, its process id."""
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "50", **environment}
    if endpoint is not None:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    command = ("serve", str(DESK), "--port", "0", "--drain-timeout", "10")
    with running(*command, cwd=folder, env=variables) as serve:
        serve.url = serve.wait_for(r"at (http://[\d.:]+),")[1]
        yield warm(serve)


def warm(serve: Running) -> Running:
    """Waits for the next worker to be ready."""
    serve.worker = int(serve.wait_for(r"worker 1 started \(pid (\d+)\)")[1])
    serve.wait_for(r"worker 1  ready in")
    return serve
