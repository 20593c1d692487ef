"""`offramp backup` beside a real service, and `offramp restore` after it."""

from __future__ import annotations

import json
import signal

from tests.cli.conftest import warm
from tests.cli.harness import offramp, running


def test_a_run_in_a_backup_goes_on_where_it_was(gateway, project):
    sent = {"cwd": project, "env": {"OFFRAMP_URL": gateway.url}}
    run = offramp("submit", "ask", "-i", '{"question": "why"}', "--async", "--id", **sent).stdout.strip()
    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        follower.wait_for("look_up")
        follower.wait_for("answer")
    made = offramp("backup", ".offramp", "copy.db", cwd=project)
    assert (made.returncode, made.stdout) == (0, "")
    assert "copy.db: " in made.stderr
    later = offramp("submit", "explain", "-i", '{"question": "later"}', "--id", **sent).stdout.strip()

    refused = offramp("restore", "copy.db", ".offramp", cwd=project)
    assert refused.returncode == 1
    assert "stop every gateway and worker first" in refused.stderr
    gateway.send(signal.SIGKILL)
    gateway.end()
    while offramp("restore", "copy.db", ".offramp", cwd=project).returncode == 1:
        pass  # its worker leaves by itself

    with running("serve", "desk.py", "--port", "0", cwd=project) as again:
        again.url = again.wait_for(r"at (http://[\d.:]+),")[1]
        warm(again)
        sent["env"] = {"OFFRAMP_URL": again.url}
        assert offramp("show", later, **sent).returncode == 3
        assert offramp("signal", run, "answer", "--data", '"because"', **sent).returncode == 0
        followed = offramp("follow", run, **sent)
        assert (followed.returncode, followed.stdout) == (0, '"because"\n')
        shown = json.loads(offramp("show", run, "--json", **sent).stdout)
    assert [step["attempts"] for step in shown["steps"]] == [1]


def test_wrong_usage_is_exit_code_2(project):
    assert offramp("backup", "nothing", "copy.db", cwd=project).returncode == 2
    assert offramp("restore", "nothing.db", ".offramp", cwd=project).returncode == 2
    assert offramp("restore", "desk.py", ".offramp", cwd=project).returncode == 2
    assert not (project / ".offramp").exists()


def test_doctor_reads_the_whole_database_if_asked_to(project):
    offramp("run", "desk.py", "explain", "-i", '{"question": "why"}', cwd=project)
    with running("serve", "desk.py", "--port", "0", cwd=project) as gateway:
        gateway.wait_for(r"at (http://[\d.:]+),")
        looked = offramp("doctor", "desk.py", "--check-data", "--json", cwd=project)
    found = [finding["says"] for finding in json.loads(looked.stdout)["findings"]]
    assert "no damage in the whole file" in found
    plain = offramp("doctor", "desk.py", "--json", cwd=project)
    assert "no damage in the whole file" not in plain.stdout
