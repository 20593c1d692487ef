"""The variables on each backend's page: a run exported with them arrives as the page says, at a receiver of ours."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from tests.cli.harness import offramp
from tests.docs.pages import ROOT, blocks
from tests.telemetry.conftest import serving
from tests.telemetry.receiver import Receiver
from tests.telemetry.test_one_trace import CALLER, ended, submit

BACKENDS = ROOT / "docs" / "how-to" / "backends"
APP = ROOT / "tests" / "telemetry" / "desk.py"
KEY = "c2VjcmV0OmtleQ=="  # what each secret on a page is set to
SESSION = "talk-1"


class Case(NamedTuple):
    """What the variables of a page amount to; the first `blocks` shell blocks from `start` are set together."""

    page: str
    traces: str
    session: str
    metrics: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    metrics_headers: Mapping[str, str] = MappingProxyType({})
    resource: Mapping[str, str] = MappingProxyType({})
    start: int = 0
    blocks: int = 1


CASES = [
    Case("phoenix", "/v1/traces", "session.id", resource={"openinference.project.name": "desk"}),
    Case("phoenix", "/v1/traces", "session.id", headers={"authorization": f"Bearer {KEY}"}, blocks=2),
    Case(
        "honeycomb",
        "/v1/traces",
        "gen_ai.conversation.id",
        metrics="/v1/metrics",
        headers={"x-honeycomb-team": KEY},
        metrics_headers={"x-honeycomb-dataset": "desk-metrics"},
    ),
    Case(
        "langsmith",
        "/otel/v1/traces",
        "langsmith.metadata.thread_id",
        headers={"x-api-key": KEY, "langsmith-project": "desk"},
    ),
    Case(
        "weave",
        "/agents/otel/v1/traces",
        "gen_ai.conversation.id",
        headers={"wandb-api-key": KEY},
        resource={"wandb.entity": "my-team", "wandb.project": "desk"},
    ),
    Case("grafana-tempo", "/v1/traces", "session.id"),
    Case(
        "grafana-tempo",
        "/otlp/v1/traces",
        "session.id",
        metrics="/otlp/v1/metrics",
        headers={"authorization": f"Basic {KEY}"},
        start=1,
    ),
    Case("jaeger", "/v1/traces", "session.id"),
]


class Backend(Receiver):
    """A receiver that knows where everything was posted, and with which headers."""

    def __init__(self):
        super().__init__()
        self.posted: dict[str, dict[str, str]] = {}

    def take(self, path, body, headers):
        self.posted[path] = {name.lower(): value for name, value in headers.items()}
        super().take("/v1/metrics" if path.endswith("/metrics") else path, body, headers)


@pytest.fixture
def backend():
    made = Backend()
    yield made
    made.close()


def variables(case: Case) -> dict[str, str]:
    """What the page's blocks export, with every secret filled in."""
    found = blocks(BACKENDS / f"{case.page}.md", "sh")[case.start : case.start + case.blocks]
    assert len(found) == case.blocks
    exported = {}
    for line in "\n".join(block.code for block in found).splitlines():
        word, assignment = shlex.split(line)
        assert word == "export"
        name, _, value = assignment.partition("=")
        exported[name] = re.sub(r"\$[A-Z_]+", KEY, value)
    return exported


def local(value: str, url: str) -> str:
    """The same address on this machine; what is no address stays."""
    return re.sub(r"^https?://[^/]+", url, value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.page}-{case.start}-{case.blocks}")
def test_what_is_exported_with_the_variables_of_a_page_arrives_as_it_says(case, backend, tmp_path):
    environment = {name: local(value, backend.url) for name, value in variables(case).items()}
    arguments = ("run", f"{APP}:app", "quick", "--input", '{"word": "why"}', "--session", SESSION)
    done = offramp(*arguments, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (0, '"why!"\n'), done.stderr
    assert case.traces in backend.posted
    assert set(backend.posted) <= {case.traces, case.metrics}
    for name, value in case.headers.items():
        assert backend.posted[case.traces][name] == value
    names = {span.name for span in backend.spans}
    assert names >= {"invoke_workflow quick", "chat write", "GET loop"}
    for span in backend.spans:
        assert span.attributes[case.session] == SESSION, span
        assert span.resource.items() >= case.resource.items()
    text = (BACKENDS / f"{case.page}.md").read_text(encoding="utf-8")
    assert case.session in text, "the page does not name what its backend groups by"


@pytest.mark.parametrize("case", [case for case in CASES if case.metrics], ids=lambda case: case.page)
def test_metrics_find_their_way_with_the_variables_of_a_page(case, backend, monkeypatch):
    for name, value in variables(case).items():
        monkeypatch.setenv(name, local(value, backend.url))
    exporter = OTLPMetricExporter()
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
    provider.get_meter("test").create_counter("counted").add(1)
    provider.shutdown()
    assert backend.metrics == {"counted"}
    for name, value in {**case.headers, **case.metrics_headers}.items():
        assert backend.posted[case.metrics][name] == value


def test_what_langsmith_gets_has_no_parent_elsewhere(backend, tmp_path):
    (case,) = [case for case in CASES if case.page == "langsmith"]
    given = {name: local(value, backend.url) for name, value in variables(case).items()}
    with serving(tmp_path, None, **given) as serve:
        run = submit(serve.url, "answer", {"word": "why", "gate": "open"}, CALLER, session_id=SESSION)
        assert run["demotion"]["reason"] == "budget"
        (tmp_path / "open").touch()
        document = ended(serve.url, run["id"])
        serve.send(signal.SIGTERM)
        assert serve.end()[0] == 0
    whole = [span for span in backend.spans if span.trace_id == document["trace_id"]]
    ids = {span.id for span in whole}
    assert [span.name for span in whole if span.parent not in ids] == ["POST /v1/pipelines/{name}/runs"]
    assert {"send answer", "process answer", "chat write"} <= {span.name for span in whole}


def test_every_page_is_in_the_list_names_its_sources_and_says_what_was_tested():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in BACKENDS.glob("*.md") if path.stem != "README"}
    listed = re.findall(r"\]\(([a-z-]+)\.md\)", (BACKENDS / "README.md").read_text(encoding="utf-8"))
    assert set(pages) == set(listed) == {case.page for case in CASES}
    for name, text in pages.items():
        assert "](https://" in text, f"{name} names no source"
        assert re.search(r"\*\*(Tested|Not tested)\*\*", text), f"{name} does not say what was tested"
