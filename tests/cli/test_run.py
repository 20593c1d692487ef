import json
import os
import pty
import signal
import subprocess

import pytest

from tests.cli.harness import OFFRAMP, environment, offramp, running

QUESTION = '{"question": "why"}'


def test_the_result_stands_alone_on_stdout(project):
    done = offramp("run", "desk.py", "explain", "--input", QUESTION, cwd=project)
    assert (done.returncode, done.stdout) == (0, '"why WHY"\n')
    assert "a print of the user's" in done.stderr
    for told in (
        "explain, fast path, class interactive",
        "look_up in",
        "write | WHY",
        "write | done 2",
        "completed in",
    ):
        assert told in done.stderr
    assert "\x1b" not in done.stderr
    assert [path.name for path in project.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


def test_the_only_pipeline_needs_no_name(project):
    (project / "one.py").write_text(
        "from offramp import App\napp = App('one')\n@app.pipeline\nasync def echo(word: str) -> str:\n    return word\n"
    )
    done = offramp("run", "one.py", "-i", '{"word": "why"}', cwd=project)
    assert (done.returncode, done.stdout) == (0, '"why"\n')


def test_with_several_pipelines_their_names_are_shown(project):
    done = offramp("run", "desk.py", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "desk.py: which pipeline? name one of its pipelines: " in done.stderr
    assert "explain" in done.stderr


@pytest.mark.parametrize("given", ["@question.json", "-"])
def test_input_from_a_file_and_from_stdin(project, given):
    (project / "question.json").write_text(QUESTION)
    done = offramp("run", "desk:app", "explain", "--input", given, cwd=project, stdin=QUESTION)
    assert (done.returncode, json.loads(done.stdout)) == (0, "why WHY")


def test_a_lost_attempt_is_told_as_void(project):
    done = offramp("run", "desk.py", "stumble", "-i", QUESTION, cwd=project)
    assert done.returncode == 0
    assert "flaky attempt 1 is void: ValueError: not this time; again" in done.stderr
    assert "lost words" not in done.stderr


def test_without_budget_it_runs_on_the_deep_path(project):
    done = offramp("run", "desk.py", "explain", "-i", QUESTION, "--budget", "0", "--data", "kept", cwd=project)
    assert (done.returncode, done.stdout) == (0, '"why WHY"\n')
    assert "on the deep path" in done.stderr
    assert (project / "kept").is_dir()


def test_a_failed_run_exits_1_without_a_result(project):
    done = offramp("run", "desk.py", "refuse", "-i", QUESTION, cwd=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert "failed after" in done.stderr
    assert "ValueError: no answer to why" in done.stderr
    line = (project / "desk.py").read_text().splitlines().index('    raise ValueError(f"no answer to {question}")') + 1
    assert f"desk.py:{line} in refuse" in done.stderr
    traceback = done.stderr[done.stderr.index("Traceback (most recent call last):") :]
    assert traceback.count('  File "') == 1  # none of Offramp's own
    assert 'raise ValueError(f"no answer to {question}")' in traceback


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_cancelled(project, number, code):
    with running("run", "desk.py", "audit", "-i", '{"gates": ["never"]}', cwd=project) as command:
        command.wait_for("▸ wait_for")
        command.send(number)
        exit_code, stdout, stderr = command.end()
    assert (exit_code, stdout) == (code, "")
    assert "cancelled after" in stderr


def test_what_was_registered_for_the_end_is_called(project):
    with (project / "desk.py").open("a") as desk:
        desk.write("\nimport atexit\natexit.register(lambda: open('ended', 'x').close())\n")
    assert offramp("run", "desk.py", "explain", "-i", QUESTION, cwd=project).returncode == 0
    assert (project / "ended").exists()


def test_on_a_terminal_what_goes_on_is_drawn_and_removed(project):
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [*OFFRAMP, "run", "desk.py", "explain", "-i", QUESTION],
        cwd=project,
        env=environment(TERM="xterm-256color"),
        stdout=subprocess.PIPE,
        stderr=secondary,
    )
    os.close(secondary)
    shown = b""
    while part := _read(primary):
        shown += part
    os.close(primary)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read() == b'"why WHY"\n'
    assert process.wait(30) == 0
    assert b"\x1b[?25l" in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h")
    assert b"write | WHY" in shown
    assert b"a print of the user's" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says EIO once the other end is closed
        return b""
