"""Telemetry is switched on by the standard variables, says what is missing, and ends in bounded time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from offramp.cli import check_telemetry as check_telemetry_module
from offramp.cli.check_telemetry import check_telemetry
from offramp.settings import Settings
from offramp.telemetry import setup
from offramp.telemetry.setup import Plan, Telemetry, endpoint, plan
from tests.cli.harness import environment, offramp
from tests.telemetry.conftest import DESK
from tests.telemetry.receiver import refusing, silent

HTTP = ("otlp_proto_http",)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, Plan()),
        ({"OTEL_SERVICE_NAME": "desk"}, Plan()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, Plan(HTTP, HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT")),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, Plan(HTTP, (), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, Plan((), HTTP, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, Plan((*HTTP, "console"), (), "OTEL_TRACES_EXPORTER")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_METRICS_EXPORTER": "none"},
            Plan(HTTP, (), "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            Plan(("otlp_proto_grpc",), (), "OTEL_TRACES_EXPORTER"),
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}, Plan()),
    ],
)
def test_what_the_environment_asks_for(variables, wanted):
    assert plan(variables) == wanted
    assert bool(wanted) == bool(wanted.traces or wanted.metrics)


def test_where_signals_go():
    assert endpoint({}, "traces") == "http://localhost:4318/v1/traces"
    assert endpoint({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1/base/"}, "metrics") == "http://x:1/base/v1/metrics"
    assert endpoint({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:1/"}, "traces") == "http://x:1/"


def test_the_end_does_not_wait_for_what_hangs(monkeypatch):
    telemetry = Telemetry()
    settings_of = []
    telemetry.add(lambda: time.sleep(60))
    telemetry.add(lambda: settings_of.append("quick"))
    began = time.monotonic()
    telemetry.close(0.2)
    assert time.monotonic() - began < 10
    assert settings_of == ["quick"]


def python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


WITHOUT_SDK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from offramp.cli import main
sys.argv = ["offramp", *{arguments!r}]
main()
"""


def test_without_the_sdk_the_error_names_what_to_install(tmp_path):
    code = WITHOUT_SDK.format(arguments=["serve", str(DESK), "--port", "0", "--data", str(tmp_path)])
    refused = python(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert refused.returncode == 2, refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set" in refused.stderr
    assert "pip install 'opentelemetry-exporter-otlp-proto-http<2,>=1.30' 'opentelemetry-sdk" in refused.stderr


def test_without_the_sdk_and_without_the_wish_nothing_is_missed(tmp_path):
    code = WITHOUT_SDK.format(arguments=["run", str(DESK), "quick", "-i", '{"word": "w"}'])
    done = python(code)
    assert (done.returncode, done.stdout) == (0, '"w!"\n'), done.stderr


def test_an_exporter_that_is_not_there_is_named(tmp_path):
    refused = offramp("serve", str(DESK), "--port", "0", cwd=tmp_path, env={"OTEL_TRACES_EXPORTER": "zipkin"})
    assert refused.returncode == 2
    assert "no exporter 'zipkin'" in refused.stderr


def test_a_propagator_that_is_not_there_is_named(tmp_path):
    variables = {"OTEL_TRACES_EXPORTER": "console", "OTEL_PROPAGATORS": "b3"}
    refused = offramp("run", str(DESK), "quick", "-i", '{"word": "w"}', cwd=tmp_path, env=variables)
    assert refused.returncode == 2
    assert "b3" in refused.stderr


def test_a_run_in_the_terminal_is_traced_too(receiver, tmp_path):
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SERVICE_NAME": "mine"}
    done = offramp("run", str(DESK), "quick", "-i", '{"word": "w"}', cwd=tmp_path, env=variables)
    assert (done.returncode, done.stdout) == (0, '"w!"\n')
    span = receiver.one("invoke_workflow quick")
    assert span.resource["service.name"] == "mine"
    assert span.resource["offramp.process.kind"] == "local"


METRICS = """
from offramp.telemetry.setup import set_up
telemetry = set_up("desk", "gateway")
from opentelemetry import metrics, trace
metrics.get_meter("x").create_counter("made.here").add(1)
assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
telemetry.close()
"""


def test_metrics_go_out_too_the_last_at_the_end(receiver):
    done = python(METRICS, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{receiver.url}/v1/metrics")
    assert done.returncode == 0, done.stderr
    assert receiver.metrics == {"made.here"}
    assert receiver.resources[0]["service.name"] == "desk"


def test_what_is_disabled_sends_nothing(receiver, tmp_path):
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SDK_DISABLED": "true"}
    done = offramp("run", str(DESK), "quick", "-i", '{"word": "w"}', cwd=tmp_path, env=variables)
    assert (done.returncode, done.stdout) == (0, '"w!"\n')
    assert receiver.headers == []


OWN_PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
from offramp.telemetry.setup import set_up
mine = trace.get_tracer_provider()
set_up("desk", "gateway").close()
assert trace.get_tracer_provider() is mine
with trace.get_tracer("x").start_as_current_span("goes on") as span:
    assert span.is_recording()
"""


def test_a_provider_of_the_application_wins():
    done = python(OWN_PROVIDER, OTEL_TRACES_EXPORTER="console")
    assert done.returncode == 0, done.stderr


def test_exporters_complain_once_in_a_while(monkeypatch, caplog):
    monkeypatch.setattr(setup, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    now = [100.0]
    handler = setup.Quiet()
    logger = setup.logging.getLogger("offramp.tests.exporter")
    logger.propagate = False
    logger.addHandler(handler)
    for second in (0.0, 1.0, setup.TOLD_EVERY_S - 0.1, setup.TOLD_EVERY_S):
        now[0] = 100.0 + second
        logger.warning("failed\nat %g", second)
    logger.removeHandler(handler)
    assert [record.getMessage() for record in caplog.records] == ["telemetry: failed at 0", "telemetry: failed at 60"]


def settings_of(settings=None, **variables):
    return {finding.says: finding for finding in check_telemetry(settings or Settings(), variables)}


@pytest.mark.parametrize("backend", [refusing, silent])
def test_doctor_says_whether_the_backend_answers(backend, monkeypatch):
    monkeypatch.setattr(check_telemetry_module, "ANSWER_S_MAX", 0.2)
    with backend() as url:
        (first, _) = settings_of(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=url).values()
    assert first.says.startswith(f"traces go to {url}, which does not answer")
    assert (first.level, bool(first.fix)) == ("risk", True)


def test_doctor_says_what_is_configured(receiver):
    on = settings_of(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_EXPORTER_OTLP_HEADERS="x-key=k1")
    assert on[f"traces go to {receiver.url}/v1/traces"].level == "ok"
    assert on[f"metrics go to {receiver.url}/v1/metrics"].level == "ok"
    assert {headers["x-key"] for headers in receiver.headers} == {"k1"}
    (baggage,) = [finding for finding in on.values() if "baggage" in finding.says]
    assert baggage.fix.startswith("OTEL_PROPAGATORS=tracecontext")
    assert "switched off by OTEL_SDK_DISABLED" in settings_of(OTEL_SDK_DISABLED="true")
    (missing, _) = settings_of(OTEL_TRACES_EXPORTER="zipkin").values()
    assert (missing.level, "no exporter 'zipkin'" in missing.says) == ("broken", True)
    console, content = settings_of(
        Settings(trace_content=True), OTEL_TRACES_EXPORTER="console", OTEL_PROPAGATORS="tracecontext"
    )
    assert console == "traces go to console"
    assert content.startswith("traces show inputs and outputs")


def test_doctor_looks_at_telemetry(tmp_path):
    said = " ".join(offramp("doctor", str(DESK), cwd=tmp_path).stdout.split())
    assert "telemetry: off: no OTEL_* variable names an exporter" in said
