"""`offramp routes` against a served gateway, its data folder, and files of recorded runs."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from tests.cli.harness import WAIT_S, offramp, running

SLOW = [{"pipeline": "audit", "took_s": 20.0 + at % 3, "session_id": "s"} for at in range(200)]
QUICK = [{"pipeline": "answer", "class": "chat", "took_s": 1.0, "input": {"question": "why?"}} for _ in range(40)]


def eventually_known(url):
    """The rows of the gateway, once its only run is among them."""
    ends_at = time.monotonic() + WAIT_S
    while True:
        rows = httpx.get(f"{url}/v1/routes", trust_env=False, timeout=WAIT_S).json()["routes"]
        if any(row["decided"] for row in rows):
            return rows
        assert time.monotonic() < ends_at, rows
        time.sleep(0.05)


def test_a_gateway_and_its_folder_say_what_was_learned(project):
    with running("serve", "desk.py", "--port", "0", "--workers", "0", cwd=project) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        submitted = offramp("submit", "explain", "--url", url, "--input", '{"question": "a"}', cwd=project)
        assert submitted.returncode == 0, submitted.stderr
        rows = eventually_known(url)
        asked = offramp("routes", "--url", url, "--json", cwd=project)
        assert json.loads(asked.stdout) == {"routes": rows}
        shown = offramp("routes", "desk.py", "--url", url, cwd=project)
    read = offramp("routes", "desk.py", cwd=project)
    for done in (shown, read):
        assert done.returncode == 0, done.stderr
        assert "explain (interactive): budget 5 s, early demotion 5%" in done.stdout
        assert "100% of 1 run;" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80


def replayed(folder, lines, *options):
    (folder / "runs.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    return offramp("routes", "--replay", "runs.jsonl", *options, cwd=folder)


def test_a_replay_says_what_a_budget_would_have_done(tmp_path):
    done = replayed(tmp_path, [*SLOW, *QUICK, {"pipeline": "audit", "status": "failed"}], "--budget", "8", "--json")
    document = json.loads(done.stdout)
    quick, slow = document["replay"]
    assert document["skipped"] == 1
    assert (quick["pipeline"], quick["class"], quick["learned"]["waited_s"]) == ("answer", "chat", 0)
    assert quick["always_deep"]["short_deep"] == quick["runs"] == 40
    assert slow["always_fast"]["waited_s"] == 200 * 8
    assert slow["learned"]["waited_s"] < slow["always_fast"]["waited_s"] / 2
    assert slow["learned"]["share_right"] > 0.5
    plain = replayed(tmp_path, SLOW, "--budget", "8")
    assert plain.stdout.startswith("audit (default): budget 8 s, early demotion 5%, 200 runs\n")
    assert max(map(len, plain.stdout.splitlines())) <= 80
    never = replayed(tmp_path, SLOW, "--budget", "8", "--early-demotion", "0", "--json")
    (row,) = json.loads(never.stdout)["replay"]
    assert row["learned"]["waited_s"] == row["always_fast"]["waited_s"]


def test_documents_and_pages_of_them_can_be_replayed(tmp_path):
    document = {
        "pipeline": "answer",
        "status": "completed",
        "path": "fast",
        "created_at": "2026-11-30T09:00:00.000Z",
        "finished_at": "2026-11-30T09:00:09.000Z",
        "steps": [],
    }
    page = {"runs": [document, document | {"status": "failed"}], "has_more": False}
    piped = offramp("routes", "--replay", "-", "--budget", "8", "--json", cwd=tmp_path, stdin=json.dumps(page))
    (row,) = json.loads(piped.stdout)["replay"]
    assert (row["runs"], row["always_fast"]["waited_s"]) == (1, 8)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--replay", "runs.jsonl"], "add --budget"),
        (["--replay", "runs.jsonl", "--budget", "0"], "above 0"),
        (["--replay", "runs.jsonl", "--budget", "inf"], "above 0"),
        (["--budget", "3"], "add --replay"),
        (["--replay", "none.jsonl", "--budget", "3"], "--replay none.jsonl: No such file"),
        (["--data", "there"], "add MODULE:APP"),
        (["--data", "there", "--url", "http://127.0.0.1:1"], "choose one"),
        (["desk.py", "--data", "there"], "there is no database in there"),
    ],
)
def test_what_does_not_fit_together_is_refused(project, words, complaint):
    (project / "runs.jsonl").write_text("{}\n", encoding="utf-8")
    done = offramp("routes", *words, cwd=project)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "is not JSON"),
        ("3", "'pipeline'"),
        ('{"pipeline": "p"}', "'took_s'"),
        ('{"pipeline": "p", "took_s": -1}', "-1"),
    ],
)
def test_a_line_that_is_no_run_is_named(tmp_path, line, complaint):
    (tmp_path / "runs.jsonl").write_text(f'{{"pipeline": "p", "took_s": 1}}\n\n{line}\n', encoding="utf-8")
    done = offramp("routes", "--replay", "runs.jsonl", "--budget", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "runs.jsonl, line 3" in done.stderr
    assert complaint in done.stderr
