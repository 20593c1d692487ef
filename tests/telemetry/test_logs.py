"""Log lines for a program: one line each, with the run, step and trace they are about, and nobody's secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import sys

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from offramp import App, testing
from offramp.cli.logs import CompactFormatter, KeyValues, Logfmt, show_logs
from offramp.errors import SettingsError
from offramp.settings import Settings
from offramp.telemetry import LogContext
from tests.cli.harness import running
from tests.support import failure_of, result_of

RUN = "run_01M80556NBCJM5ZX4VNNF0PSDB"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def logger():
    """A logger of its own, whose lines `lines(style)` gives back."""
    made = logging.getLogger("offramp.test_logs")
    made.setLevel(logging.DEBUG)
    made.propagate = False
    yield made
    made.handlers.clear()
    made.propagate = True


def lines_of(logger, formatter):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(LogContext())
    logger.addHandler(handler)
    return lambda: stream.getvalue().splitlines()


def parsed(line):
    """logfmt as its readers take it; quoted values are JSON strings."""
    found = {}
    for match in re.finditer(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ ]*)(?: |$)', line):
        found[match[1]] = json.loads(match[2]) if match[2].startswith('"') else match[2]
    return found


def test_a_line_of_json(logger):
    lines = lines_of(logger, KeyValues("worker 1"))
    logger.warning("%s: the lease was lost", RUN)
    (line,) = lines()
    made = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.pop("time"))
    assert made == {
        "level": "warning",
        "process": "worker 1",
        "logger": "offramp.test_logs",
        "message": f"{RUN}: the lease was lost",
        "run_id": RUN,
    }


def test_a_line_of_logfmt(logger):
    lines = lines_of(logger, Logfmt("worker 1"))
    logger.info('say "%s"=\n%s', "a\\b", RUN, extra={"reason": "budget", "empty": ""})
    (line,) = lines()
    assert ' level=info process="worker 1" logger=offramp.test_logs ' in line
    made = parsed(line)
    assert (made["message"], made["run_id"], made["reason"], made["empty"]) == (
        f'say "a\\b"=\n{RUN}',
        RUN,
        "budget",
        "",
    )
    assert 'empty=""' in line


@pytest.mark.parametrize("formatter", [KeyValues("p"), Logfmt("p")], ids=["json", "logfmt"])
def test_whatever_is_said_stays_one_line(formatter):
    try:
        raise ValueError("two\nlines")
    except ValueError:
        error = sys.exc_info()
    # Not logged: the tests' own reports cannot hold such text.
    record = logging.makeLogRecord(
        {
            "msg": "a\nb\r\x1b[31mred\x85\u2028 \udc80",
            "exc_info": error,
            "thing": {"x": object},
            "time": "mine",
        }
    )
    assert LogContext().filter(record)
    text = formatter.format(record)
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    made = json.loads(text) if isinstance(formatter, KeyValues) and not isinstance(formatter, Logfmt) else parsed(text)
    assert made["time"] != "mine"
    assert made["exception"].endswith("ValueError: two\nlines")
    assert "object" in str(made["thing"])


def test_lines_for_a_person_are_as_before(logger):
    lines = lines_of(logger, CompactFormatter("worker 1", colour=False))
    logger.warning("%s: the lease was lost", RUN, extra={"reason": "x"})
    (line,) = lines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d worker 1  warning: {RUN}: the lease was lost", line)


def test_what_is_given_wins(logger):
    lines = lines_of(logger, KeyValues("p"))
    logger.info("%s", RUN, extra={"run_id": "run_given", "trace_id": TRACE})
    made = json.loads(lines()[0])
    assert (made["run_id"], made["trace_id"]) == ("run_given", TRACE)


def test_a_line_in_a_span_has_its_ids(logger):
    lines = lines_of(logger, KeyValues("p"))
    with TracerProvider().get_tracer("test").start_as_current_span("outer") as span:
        logger.info("inside")
    made = json.loads(lines()[0])
    context = span.get_span_context()
    assert made["trace_id"] == trace.format_trace_id(context.trace_id)
    assert made["span_id"] == trace.format_span_id(context.span_id)


def test_unknown_fields_are_empty_for_other_formatters(logger):
    lines = lines_of(logger, logging.Formatter("%(run_id)s|%(step)s|%(attempt)s|%(session_id)s|%(trace_id)s"))
    logger.info("nothing known")
    assert lines() == ["||||"]


async def test_code_of_a_run_logs_with_its_ids(logger):
    app = App("logs")

    @app.step
    async def on_the_loop() -> None:
        logger.info("on the loop")

    @app.step
    def in_a_thread() -> None:
        logger.info("in a thread")

    @app.step
    async def raises() -> None:
        logger.info("about to fail")
        raise ValueError

    @app.pipeline
    async def pipe() -> None:
        logger.info("in the body")
        await on_the_loop()
        await in_a_thread()
        await raises()

    lines = lines_of(logger, KeyValues("p"))
    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await failure_of(handle)
    made = [json.loads(line) for line in lines()]
    assert {each["run_id"] for each in made} == {handle.id}
    told = [(each["message"], each.get("step"), each.get("attempt")) for each in made]
    assert told == [
        ("in the body", None, None),
        ("on the loop", "on_the_loop", 1),
        ("in a thread", "in_a_thread", 1),
        ("about to fail", "raises", 1),
    ]


async def test_runs_that_end_badly_are_told_with_their_code_and_nothing_that_they_said(caplog):
    app = App("logs")

    @app.step
    async def work(word: str) -> str:
        if word != "fine":
            raise ValueError(f"the password is {word}")
        return word

    @app.pipeline
    async def pipe(word: str) -> str:
        return await work(word)

    caplog.set_level(logging.INFO, "offramp")
    async with testing.runtime(app) as runtime:
        await result_of(await runtime.start("pipe", word="fine"))
        handle = await runtime.start("pipe", word="hunter2")
        await failure_of(handle)
    told = [record for record in caplog.records if record.name == "offramp"]
    (record,) = [each for each in told if "pipe failed" in each.getMessage()]
    assert record.getMessage() == f"{handle.id} of pipe failed: step-failed in step 'work' (attempt 1)"
    assert (record.run_id, record.step, record.code, record.pipeline) == (handle.id, "work", "step-failed", "pipe")
    assert "hunter2" not in caplog.text


@pytest.fixture
def offramp_logger():
    made = logging.getLogger("offramp")
    before = list(made.handlers), made.level, made.propagate
    yield made
    made.handlers, made.propagate = before[0], before[2]
    made.setLevel(before[1])


@pytest.mark.parametrize(("style", "kind"), [("text", CompactFormatter), ("json", KeyValues), ("logfmt", Logfmt)])
def test_showing_logs_again_takes_the_place_of_what_was_shown(offramp_logger, style, kind, capsys):
    show_logs("gateway")
    show_logs("worker 1", style, who="worker 1")
    ours = [
        handler for handler in offramp_logger.handlers if isinstance(handler.formatter, (CompactFormatter, KeyValues))
    ]
    assert [type(handler.formatter) for handler in ours] == [kind]
    logging.getLogger("offramp.gateway").info("said once")
    assert capsys.readouterr().err.count("said once") == 1


def test_a_format_that_is_none_is_refused():
    with pytest.raises(SettingsError, match=r"log_format: it is one of text, logfmt, json, got 'yaml'"):
        Settings(log_format="yaml")


DESK = """
import logging
from offramp import SLA, App

log = logging.getLogger("offramp.desk")
app = App("desk", classes=[SLA("tight", p95=1.0, budget=0.2)])

@app.step
async def slow(secret: str) -> str:
    import asyncio
    await asyncio.sleep(0.4)
    return secret

@app.step
def shout(secret: str) -> str:
    log.info("shouting", extra={"loud": True})
    if secret.startswith("bad"):
        raise ValueError(secret)
    return secret

@app.pipeline(sla="tight")
async def echo(secret: str) -> str:
    return await shout(await slow(secret))
"""
SECRETS = {"OFFRAMP_API_KEYS": "ops:key-0123456789abcdef", "OFFRAMP_WEBHOOK_SECRET": "whsec_" + "c2VjcmV0" * 5}
KEY = {"Authorization": "Bearer key-0123456789abcdef", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.mark.parametrize("style", ["json", "logfmt"])
def test_every_line_of_a_service_can_be_read_by_a_program_and_holds_no_secret(tmp_path, style):
    (tmp_path / "desk.py").write_text(DESK)
    with running("serve", "desk.py", "--port", "0", "--log-format", style, cwd=tmp_path, env=SECRETS) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        command.wait_for("ready in")
        with httpx.Client(base_url=url, headers=KEY, trust_env=False, timeout=20) as client:
            body = {
                "input": {"secret": "bad hunter2"},
                "session_id": "s 1",
                "webhook": {"url": "https://hook.example/path?token=tok-secret"},
            }
            run = client.post("/v1/pipelines/echo/runs", json=body).json()["id"]
            assert client.get(f"/v1/runs/{run}/events").status_code == 200
        command.wait_for("of echo failed")
        command.send(signal.SIGTERM)
        code, _, stderr = command.end()
    assert code == 0
    made = [json.loads(line) if style == "json" else parsed(line) for line in stderr.splitlines()]
    assert all({"time", "level", "process", "logger", "message"} <= set(each) for each in made), stderr
    assert {each["process"] for each in made} == {"gateway", "worker 1"}
    about = [each for each in made if each.get("run_id") == run]
    demoted, resumed, shouting, failed = (
        next(each for each in about if word in each["message"])
        for word in ("was demoted", "from its journal", "shouting", "of echo failed")
    )
    assert [each["process"] for each in (demoted, resumed, shouting, failed)] == ["gateway", *["worker 1"] * 3]
    assert demoted["reason"] == "budget"
    assert {each["session_id"] for each in (demoted, resumed, shouting, failed)} == {"s 1"}
    assert {each["trace_id"] for each in (demoted, resumed, failed)} == {TRACE}
    assert (shouting["logger"], shouting["step"], str(shouting["loud"])) == ("offramp.desk", "shout", "True")
    assert (failed["code"], failed["step"]) == ("step-failed", "shout")
    frames = failed["traceback"].splitlines()
    assert [line for line in frames if line.endswith("in shout")] == [frames[-2]]
    assert frames[-1] == "ValueError"
    assert sum("traceback" in each for each in made) == 1  # of its failure, once
    for secret in ("hunter2", "key-0123456789abcdef", "c2VjcmV0", "tok-secret"):
        assert secret not in stderr
