"""`offramp show` against a real gateway and worker: the story of a run, over time."""

import json
import os
import signal

from tests.cli.conftest import warm
from tests.cli.harness import offramp, running


def ask(gateway, *arguments, cwd, **env):
    return offramp(*arguments, cwd=cwd, env={"OFFRAMP_URL": gateway.url, **env})


def submitted(gateway, project, *arguments):
    done = ask(gateway, "submit", *arguments, "--id", cwd=project)
    return done.stdout.strip()


def shown(gateway, project, run, **env):
    done = ask(gateway, "show", run, cwd=project, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def row(text, name):
    """The lines of the waterfall that begin with this name."""
    found = [line for line in text.splitlines() if line.strip("▸ ").startswith(name)]
    assert found, text
    return found


def test_a_demoted_run_from_its_first_step_to_its_outcome(gateway, project):
    gates = json.dumps({"gates": ["first", "second"]})
    run = submitted(gateway, project, "audit", "-i", gates, "--class", "interactive", "--budget", "0.3")
    midway = shown(gateway, project, run)
    assert len(row(midway, "wait_for")) == 1
    assert "running" in row(midway, "wait_for")[0]
    assert "▼ demoted at" in midway
    assert "▶ resumed" not in midway

    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        (project / "first").touch()
        follower.wait_for("resumed by worker-1-")
        (project / "second").touch()
        follower.wait_for("completed in")
    whole = shown(gateway, project, run)
    assert [line[0] for line in row(whole, "wait_for")] == ["▸", "▸"]
    assert all("█" in line for line in row(whole, "wait_for"))
    assert "▼" in row(whole, "audit")[0]
    assert "▶" in row(whole, "audit")[0]
    for told in ("demoted", "worker-1-", "1 steps taken over", "handoff to a worker", "in steps", "overhead"):
        assert told in whole
    path = whole.partition("critical path  ")[2].splitlines()[0]
    assert [part.rpartition(" ")[0].split()[0] for part in path.split(" → ")] == ["wait_for", "handoff", "wait_for"]


def test_the_attempt_of_a_killed_worker_is_lost_and_the_run_goes_on(gateway, project):
    run = submitted(gateway, project, "audit", "-i", '{"gates": ["later"]}', "--async")
    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        follower.wait_for("▸ wait_for")
        os.kill(gateway.worker, signal.SIGKILL)
        follower.wait_for("resumed by worker-1-")
        (project / "later").touch()
        follower.wait_for("completed in")
    warm(gateway)
    text = shown(gateway, project, run)
    assert "✗" in row(text, "wait_for")[0]
    assert "attempts" not in row(text, "wait_for")[0]
    assert "attempt lost with its process" in text
    assert "queued" in text.partition("critical path")[2]


def test_a_run_that_waits_for_a_signal(gateway, project):
    run = submitted(gateway, project, "ask", "-i", '{"question": "why"}', "--async")
    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        follower.wait_for("✓ look_up")
        follower.send(signal.SIGINT)
        follower.end()
    waiting = shown(gateway, project, run)
    assert "waiting" in row(waiting, "signal answer")[0]
    ask(gateway, "signal", run, "answer", "-d", '"because"', cwd=project)
    ask(gateway, "follow", run, cwd=project)
    text = shown(gateway, project, run)
    assert "▓" in row(text, "signal answer")[0]
    assert "waiting" not in row(text, "signal answer")[0]
    assert text.rstrip().endswith('"because"')


def test_elsewhere_than_on_a_terminal_it_is_plain_text_and_json_is_the_document(gateway, project):
    run = submitted(gateway, project, "stumble", "-i", '{"question": "why"}')
    text = shown(gateway, project, run)
    assert "\x1b" not in text
    assert "2 attempts" in row(text, "flaky")[0]
    plain = shown(gateway, project, run, PYTHONIOENCODING="ascii")
    assert plain.isascii()
    assert "x" in row(plain.replace("> flaky", "flaky"), "flaky")[0]
    document = json.loads(ask(gateway, "show", run, "--json", cwd=project).stdout)
    assert [step["name"] for step in document["steps"]] == ["flaky"]
    assert "input" not in document


def test_what_failed_and_what_went_in_and_out(gateway, project):
    run = submitted(gateway, project, "stumble", "-i", '{"question": "why"}')
    text = shown(gateway, project, run)
    line = (project / "desk.py").read_text().splitlines().index('        raise ValueError("not this time")') + 1
    assert f"✗ attempt 1: ValueError: not this time (desk.py:{line} in flaky)" in text
    steps = ask(gateway, "show", run, "--steps", cwd=project).stdout
    for part in ('input       {"question":"why"}', 'arguments   {"word":"why"}', 'result      "why"', "completed in"):
        assert part in steps
    key = json.loads(ask(gateway, "show", run, "--json", cwd=project).stdout)["steps"][0]["key"]
    for given in ("flaky", key):
        step = ask(gateway, "show", run, "--step", given, cwd=project).stdout
        assert '{\n  "word": "why"\n}' in step
        assert "attempt 1   ValueError: not this time" in step
    assert json.loads(ask(gateway, "show", run, "--step", key, "--json", cwd=project).stdout)["result"] == "why"
    unknown = ask(gateway, "show", run, "--step", "flakey", cwd=project)
    assert (unknown.returncode, "did you mean" in unknown.stderr) == (3, True)
    failed = submitted(gateway, project, "refuse", "-i", '{"question": "why"}')
    assert "Traceback (most recent call last):" in shown(gateway, project, failed)
    assert json.loads(ask(gateway, "show", failed, "--steps", "--json", cwd=project).stdout)["input"] == {
        "question": "why"
    }
