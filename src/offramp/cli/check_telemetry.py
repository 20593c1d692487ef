"""`offramp doctor` on telemetry: the configuration, and whether the backend accepts exports. Changes nothing."""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Iterator, Mapping

import httpx

from offramp.cli.findings import Finding
from offramp.errors import SettingsError
from offramp.ports.extras import install
from offramp.settings import Settings
from offramp.telemetry.setup import endpoint, exporter_class, plan

ANSWER_S_MAX = 2.0
"""How long the backend may take to answer an empty export."""


def check_telemetry(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether traces and metrics are exported, where to, and with which content."""
    wanted = plan(environment)
    if not wanted:
        disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        says = "switched off by OTEL_SDK_DISABLED" if disabled else "off: no OTEL_* variable names an exporter"
        yield Finding("note", "telemetry", says, "" if disabled else "OTEL_EXPORTER_OTLP_ENDPOINT=http://…:4318")
        return
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        yield Finding(
            "broken",
            "telemetry",
            f"{wanted.because} is set, but the OpenTelemetry SDK is not installed",
            f"{install('otel')}, or unset it",
        )
        return
    for signal, names in (("traces", wanted.traces), ("metrics", wanted.metrics)):
        for name in names:
            yield _reached(environment, signal, name)
    if settings.trace_content:
        yield Finding(
            "note",
            "telemetry",
            "traces show inputs and outputs, redacted by the names of keys, not by the content of texts",
            "unset OFFRAMP_TRACE_CONTENT if prompts are confidential",
        )
    if wanted.traces and "baggage" in environment.get("OTEL_PROPAGATORS", "tracecontext,baggage"):
        yield Finding(
            "note",
            "telemetry",
            "instrumented clients send the session id, as baggage, to every service that steps call",
            "OTEL_PROPAGATORS=tracecontext keeps it here",
        )


def _reached(environment: Mapping[str, str], signal: str, name: str) -> Finding:
    try:
        exporter_class(signal, name)
    except SettingsError as error:
        return Finding("broken", "telemetry", str(error), "install that exporter, or name another")
    if name != "otlp_proto_http":
        return Finding("ok", "telemetry", f"{signal} go to {name}")
    where = endpoint(environment, signal)
    fix = "start it, or correct the endpoint; until then nothing waits for it, and its data is lost"
    try:
        status = _send_nothing(environment, signal, where)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Finding("risk", "telemetry", f"{signal} go to {where}, which does not answer: {error}", fix)
    if not httpx.codes.is_success(status):
        wants = "OTEL_EXPORTER_OTLP_HEADERS holds its key" if status in {401, 403} else fix
        return Finding("risk", "telemetry", f"{signal} go to {where}, which answers {status}", wants)
    return Finding("ok", "telemetry", f"{signal} go to {where}")


def _send_nothing(environment: Mapping[str, str], signal: str, where: str) -> int:
    """The status of an export without spans or metrics, which is encoded as no bytes."""
    from opentelemetry.util.re import parse_env_headers

    own = environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS")
    given = parse_env_headers(own or environment.get("OTEL_EXPORTER_OTLP_HEADERS", ""), liberal=True)
    headers = {**given, "content-type": "application/x-protobuf"}
    certificate = environment.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
    tls = ssl.create_default_context(cafile=certificate) if certificate else True
    return httpx.post(where, headers=headers, content=b"", timeout=ANSWER_S_MAX, verify=tls).status_code
