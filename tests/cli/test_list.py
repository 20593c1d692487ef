"""`offramp list`: what its columns say, how they fit, and a list that is watched."""

import json
import signal

import pytest
from rich.cells import cell_len

from offramp.cli.run_table import COLUMNS, age, row, table
from tests.cli.conftest import warm
from tests.cli.harness import offramp, running
from tests.cli.terminal import terminal

AT = 1_700_000_000.0
STARTED = "2023-11-14T22:11:20.000Z"
NAMES = [column.name for column in COLUMNS]


def run(number=0, **more):
    made = {"id": f"run_{number:026}", "pipeline": "research", "status": "running", "path": "deep"}
    return {**made, "created_at": STARTED, "finished_at": None, "session_id": None, **more}


ERROR = {"code": "step-failed", "message": "KeyError: 'x'\nmore", "step": "fetch", "attempt": 1}
WAITS = [
    {"kind": "signal", "name": "approved", "until": None, "ask": "Refund 90 EUR?"},
    {"kind": "time", "name": None, "until": "2023-11-15T08:00:00.000Z", "ask": None},
]
RUNS = [
    run(3, session_id="s-1", waiting_for=WAITS),
    run(2, status="failed", error=ERROR, finished_at="2023-11-14T22:11:21.500Z", demotion={"reason": "budget"}),
    run(1, pipeline="p" * 100, status="queued"),
]


def cells(document):
    return dict(zip(NAMES, row(document, AT), strict=True))


def test_a_row_says_what_there_is_to_know():
    waits, failed, _ = map(cells, RUNS)
    assert waits["waits for"] == "signal approved (Refund 90 EUR?), the time 11-15 08:00:00"
    assert (waits["age"], waits["session"], waits["took"]) == ("2 min", "s-1", "")
    assert failed["error"] == "KeyError: 'x' more (step fetch)"
    assert (failed["path"], failed["took"]) == ("fast>deep", "1.5 s")
    assert [age(seconds) for seconds in (-1, 59, 60, 7300, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]


@pytest.mark.parametrize("width", [60, 80, 100, 240])
def test_a_table_fits_and_never_cuts_an_id(width):
    wide = [*RUNS, run(0, pipeline="漢字" * 20, session_id="日" * 30)]
    lines = table(wide, AT, width)
    assert all(cell_len(line) <= width for line in lines)
    assert [line.split()[0] for line in lines] == ["run", *(each["id"] for each in wide)]
    assert all(each["status"] in line for each, line in zip(wide, lines[1:], strict=True))


def test_a_narrow_table_keeps_what_tells_most():
    head, waits, *_ = table(RUNS, AT, 80)
    assert "waits for" in head
    assert "signal ap" in waits
    assert "took" not in head
    assert table(RUNS, AT, 240)[0].split("  ")[0] == "run"
    assert all(name in table(RUNS, AT, 240)[0] for name in NAMES)
    assert "session" not in table([run()], AT, 80)[0]


ASKS = """
import offramp
from offramp import SLA, App

app = App("asks", classes=[SLA("batch", budget=0)])


@app.pipeline(sla="batch")
async def ask(text: str) -> str:
    return await offramp.signal("approved", ask=text, schema=str) if text else text
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asks")
    (folder / "asks.py").write_text(ASKS)
    with running("serve", "asks.py", "--port", "0", "--drain-timeout", "5", cwd=folder) as command:
        command.url = command.wait_for(r"at (http://[\d.:]+),")[1]
        command.folder = folder
        yield warm(command)


def ask(served, *arguments):
    return offramp(*arguments, "--url", served.url, cwd=served.folder)


def begun(served, text):
    run = ask(served, "submit", "ask", "-i", json.dumps({"text": text}), "--async", "--id").stdout.strip()
    if text:
        with running("follow", run, "--url", served.url, cwd=served.folder) as follower:
            follower.wait_for("waits for signal approved")
            follower.send(signal.SIGINT)
            follower.end()
    return run


def test_waiting_runs_are_listed_answered_and_misspelt_names_are_seen(served):
    waits, done = begun(served, "Publish?"), begun(served, "")
    assert ask(served, "follow", done).returncode == 0
    listed = ask(served, "list", "--waiting").stdout
    assert waits in listed
    assert "signal approved (Publish?)" in listed
    assert done not in listed
    assert done in ask(served, "list").stdout
    (wait,) = json.loads(ask(served, "list", "--waiting", "--json").stdout)["runs"][0]["waiting_for"]
    assert (wait["ask"], wait["schema"]) == ("Publish?", {"type": "string"})
    misspelt = ask(served, "signal", waits, "approvd", "-d", '"yes"')
    assert misspelt.returncode == 4
    assert "waits for 'approved'" in misspelt.stderr
    misfit = ask(served, "signal", waits, "approved", "-d", "true")
    assert (misfit.returncode, misfit.stdout) == (3, "")
    assert "expected a string, got a boolean" in misfit.stderr
    assert ask(served, "signal", waits, "approved", "-d", '"yes"').returncode == 0
    assert ask(served, "follow", waits).stdout == '"yes"\n'
    assert waits not in ask(served, "list", "--waiting").stdout  # runs of other tests may wait
    assert ask(served, "list", "--session", "of-no-run").stderr == "no such runs\n"


def test_a_watched_list_ends_at_ctrl_c_and_leaves_the_terminal_as_it_was(served):
    first = begun(served, "First?")
    with terminal("list", "--waiting", "--watch", "--url", served.url, cwd=served.folder) as screen:
        screen.wait_for(first)
        second = begun(served, "Second?")
        screen.wait_for(second)
        screen.interrupt()
        assert screen.end() == 0
        assert "\x1b[?1049l" in screen.seen
        assert "Traceback" not in screen.seen


def test_elsewhere_a_watched_list_is_a_line_for_each_change(served):
    to_stderr = ("sh", "-c", 'exec "$@" 1>&2', "sh")
    with running("list", "--watch", "--url", served.url, cwd=served.folder, prefix=to_stderr) as watch:
        run = begun(served, "Lines?")
        watch.wait_for(f"{run}.*signal approved \\(Lines\\?\\)")
        ask(served, "signal", run, "approved", "-d", '"yes"')
        watch.wait_for(f"{run}.*completed")
        watch.send(signal.SIGINT)
        assert watch.process.wait(20) == 0


def test_a_watched_run_is_drawn_until_it_has_ended(served):
    run = begun(served, "Watched?")
    refused = ask(served, "show", run, "--watch")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert f"offramp follow {run}" in refused.stderr
    with terminal("show", run, "--watch", "--url", served.url, cwd=served.folder) as screen:
        screen.wait_for("signal approved (Watched?)", times=2)
        ask(served, "signal", run, "approved", "-d", '"seen"')
        assert screen.end() == 0
        assert "completed" in screen.seen.rpartition("\x1b[?1049l")[2]
        assert '"seen"' in screen.seen.rpartition("\x1b[?1049l")[2]
    other = begun(served, "Left?")
    with terminal("show", other, "--watch", "--url", served.url, cwd=served.folder) as screen:
        screen.wait_for("signal approved (Left?)")
        screen.interrupt()
        assert screen.end() == 0
        assert "Traceback" not in screen.seen
