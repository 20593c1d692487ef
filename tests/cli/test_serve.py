import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.cli.conftest import warm
from tests.cli.harness import offramp, running, wait_until_gone

QUESTION = '{"question": "why"}'


def ask(gateway, *arguments: str, cwd):
    return offramp(*arguments, cwd=cwd, env={"OFFRAMP_URL": gateway.url})


def test_a_run_is_submitted_shown_listed_and_stays_known(gateway, project):
    submitted = ask(gateway, "submit", "explain", "-i", QUESTION, "--session", "s1", cwd=project)
    document = json.loads(submitted.stdout)
    assert (submitted.returncode, document["status"], document["result"]) == (0, "completed", "why WHY")

    shown = ask(gateway, "show", document["id"], cwd=project).stdout
    for told in (document["id"], "completed", "interactive", "look_up", "write", '"why WHY"'):
        assert told in shown
    assert json.loads(ask(gateway, "show", document["id"], "--json", cwd=project).stdout)["id"] == document["id"]

    listed = ask(gateway, "list", "--session", "s1", cwd=project)
    assert document["id"] in listed.stdout
    assert "no such runs" in ask(gateway, "list", "--session", "s2", cwd=project).stderr
    page = json.loads(ask(gateway, "list", "--pipeline", "explain", "--json", cwd=project).stdout)
    assert [run["id"] for run in page["runs"]] == [document["id"]]

    refused = ask(gateway, "cancel", document["id"], cwd=project)
    assert refused.returncode == 3
    assert "already ended" in refused.stderr


def test_following_from_submit_gives_the_result_alone(gateway, project):
    done = ask(gateway, "submit", "explain", "-i", QUESTION, "--follow", cwd=project)
    assert (done.returncode, done.stdout) == (0, '"why WHY"\n')
    assert "completed in" in done.stderr


def test_a_failed_run_is_exit_code_1(gateway, project):
    assert ask(gateway, "submit", "refuse", "-i", QUESTION, cwd=project).returncode == 1
    followed = ask(gateway, "submit", "refuse", "-i", QUESTION, "--follow", cwd=project)
    assert (followed.returncode, followed.stdout) == (1, "")


def test_refusals_name_what_is_wrong(gateway, project):
    unknown = ask(gateway, "submit", "explian", "-i", QUESTION, cwd=project)
    assert (unknown.returncode, unknown.stdout) == (3, "")
    assert "did you mean 'explain'?" in unknown.stderr
    wrong = ask(gateway, "submit", "explain", "-i", '{"question": 1}', "--follow", cwd=project)
    assert wrong.returncode == 3
    assert "/input/question" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_a_run_can_be_cancelled_while_it_is_followed(gateway, project):
    run = ask(gateway, "submit", "audit", "-i", '{"gates": ["never"]}', "--async", "--id", cwd=project).stdout.strip()
    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        follower.wait_for("▸ wait_for")
        assert ask(gateway, "cancel", run, cwd=project).returncode == 0
        code, stdout, stderr = follower.end()
    assert (code, stdout) == (1, "")
    assert "cancelled after" in stderr


def test_a_follower_that_is_interrupted_leaves_the_run_alone(gateway, project):
    run = ask(gateway, "submit", "audit", "-i", '{"gates": ["gate"]}', "--async", "--id", cwd=project).stdout.strip()
    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        follower.wait_for("▸ wait_for")
        follower.send(signal.SIGINT)
        code, _, stderr = follower.end()
    assert code == 130
    assert f"offramp follow {run}" in stderr
    (project / "gate").touch()
    assert ask(gateway, "follow", run, cwd=project).returncode == 0


def test_a_killed_worker_is_replaced_and_its_run_completes(gateway, project):
    gates = json.dumps({"gates": ["first", "second"]})
    run = ask(gateway, "submit", "audit", "-i", gates, "--async", "--id", cwd=project).stdout.strip()
    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        follower.wait_for("▸ wait_for")
        (project / "first").touch()
        follower.wait_for("✓ wait_for")
        follower.wait_for("▸ wait_for")
        os.kill(gateway.worker, signal.SIGKILL)
        # By the first to notice its death: its supervisor, or the gateway's own check.
        gateway.wait_for(r"died: SIGKILL .* 1 run taken back|died; runs taken back: 1")
        follower.wait_for("resumed by worker-1-")
        (project / "second").touch()
        code, stdout, _ = follower.end()
    first = gateway.worker
    second = warm(gateway).worker
    assert code == 0
    assert json.loads(stdout) == [first, second]
    gateway.send(signal.SIGTERM)
    assert gateway.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_drains_and_leaves_no_worker(gateway, project, number):
    run = ask(gateway, "submit", "audit", "-i", '{"gates": ["later"]}', "--async", "--id", cwd=project).stdout.strip()
    gateway.send(number)
    code, _, stderr = gateway.end()
    assert code == 0, stderr
    wait_until_gone(gateway.worker)
    assert "Traceback" not in stderr
    (project / "later").touch()
    # The next gateway of the folder continues the run.
    with running("serve", "desk.py", "--port", "0", cwd=project) as again:
        again.url = again.wait_for(r"at (http://[\d.:]+),")[1]
        assert ask(again, "follow", run, cwd=project).returncode == 0
        again.send(signal.SIGTERM)
        assert again.end()[0] == 0


def stuck(gateway, project) -> str:
    """A run in a step that nothing can stop."""
    run = ask(gateway, "submit", "stick", "-i", '{"gate": "never"}', "--async", "--id", cwd=project).stdout.strip()
    with running("follow", run, "--url", gateway.url, cwd=project) as follower:
        follower.wait_for("▸ hold")
    return run


def test_a_thread_that_cannot_be_stopped_keeps_nobody_from_leaving(project):
    with running("serve", "desk.py", "--port", "0", "--drain-timeout", "0.5", cwd=project) as gateway:
        gateway.url = gateway.wait_for(r"at (http://[\d.:]+),")[1]
        warm(gateway)
        stuck(gateway, project)
        gateway.send(signal.SIGTERM)
        code, _, stderr = gateway.end()
    assert code == 0
    assert "did not leave in time" not in stderr


def test_a_second_signal_does_not_wait_for_the_drain(project):
    with running("serve", "desk.py", "--port", "0", "--drain-timeout", "600", cwd=project) as gateway:
        gateway.url = gateway.wait_for(r"at (http://[\d.:]+),")[1]
        warm(gateway)
        stuck(gateway, project)
        gateway.send(signal.SIGTERM)
        gateway.wait_for("worker 1  stopping")
        gateway.send(signal.SIGTERM)
        assert gateway.end()[0] == 1
        wait_until_gone(gateway.worker)


def test_workers_leave_when_their_gateway_is_killed(gateway):
    gateway.send(signal.SIGKILL)
    gateway.wait_for(r"worker 1  stopping \(the serving process has ended\)")
    wait_until_gone(gateway.worker)


def test_workers_may_be_started_elsewhere(project):
    with running("serve", "desk.py", "--port", "0", "--workers", "0", cwd=project) as gateway:
        gateway.url = gateway.wait_for(r"at (http://[\d.:]+),")[1]
        gateway.wait_for("offramp worker desk.py --engine embedded:")
        assert httpx.get(f"{gateway.url}/readyz").status_code == 503
        with running("worker", "desk.py", "--engine", "embedded:.offramp", cwd=project) as worker:
            worker.wait_for("ready in")
            done = ask(gateway, "submit", "audit", "-i", '{"gates": []}', "--async", "--follow", cwd=project)
            assert (done.returncode, done.stdout) == (0, "[]\n")
            worker.send(signal.SIGTERM)
            assert worker.end()[0] == 0
        gateway.send(signal.SIGTERM)
        assert gateway.end()[0] == 0


def test_settings_come_from_variables_and_the_file(project):
    (project / "offramp.toml").write_text('data = "from-file"\n')
    env = {"OFFRAMP_PORT": "0", "OFFRAMP_WORKERS": "0", "OFFRAMP_ROOT_PATH": "/agents"}
    with running("serve", "desk.py", cwd=project, env=env) as gateway:
        url = gateway.wait_for(r"at (http://[\d.:]+/agents),.* at \1/docs")[1]
        assert httpx.get(f"{url}/healthz").status_code == 200
        gateway.wait_for("embedded:.*from-file")
        gateway.send(signal.SIGTERM)
        assert gateway.end()[0] == 0
    with running("serve", "desk.py", cwd=project, env={"OFFRAMP_PORT": "0", "OFFRAMP_DATA": "from-env"}) as gateway:
        gateway.wait_for("worker 1  ready in .*from-env")
        gateway.send(signal.SIGTERM)
        assert gateway.end()[0] == 0


def test_a_misspelt_variable_is_one_line_and_a_misspelt_key_an_error(project):
    misspelt = {"OFFRAMP_WORKER_RUN": "3", "OFFRAMP_POL": "1"}
    with running("serve", "desk.py", "--port", "0", cwd=project, env=misspelt) as gateway:
        gateway.wait_for("worker 1  ready")
        gateway.send(signal.SIGTERM)
        code, _, log = gateway.end()
    [line] = [line for line in log.splitlines() if "nothing reads" in line]
    assert code == 0
    assert "warning: OFFRAMP_POL is set" in line
    assert "did you mean 'OFFRAMP_WORKER_RUNS'?" in line
    (project / "offramp.toml").write_text("worker_run = 3\n")
    with running("serve", "desk.py", "--port", "0", cwd=project) as refused:
        code, _, log = refused.end()
    assert code == 2
    assert "offramp.toml: no setting 'worker_run'; did you mean 'worker_runs'?" in log


def test_a_step_that_blocks_its_loop_is_told_with_its_line(project):
    (project / "blocker.py").write_text(
        "import time\nfrom offramp import App\napp = App('blocker')\n\n"
        "@app.step\nasync def stall() -> int:\n    time.sleep(1)\n    return 1\n\n"
        "@app.pipeline\nasync def block() -> int:\n    return await stall()\n"
    )
    with running("serve", "blocker.py", "--port", "0", "--workers", "0", cwd=project) as gateway:
        gateway.url = gateway.wait_for(r"at (http://[\d.:]+),")[1]
        assert ask(gateway, "submit", "block", cwd=project).returncode == 0
        gateway.wait_for(r"warning: .*blocker\.py.*7")


STARTING = """
import os, time
from offramp import App

app = App("starting")


@app.on_start
def load():
    if os.environ.get("FAILS"):
        raise KeyError("model")
    while not os.path.exists("go"):
        time.sleep(0.01)


@app.step
def name() -> str:
    return "loaded" if os.path.exists("go") else "cold"


@app.pipeline
async def ask() -> str:
    return await name()
"""


def test_probes_are_answered_while_hooks_run_and_requests_wait_for_them(tmp_path):
    (tmp_path / "starting.py").write_text(STARTING)
    with running("serve", "starting:app", "--port", "0", cwd=tmp_path) as command:
        url = command.wait_for(r"at (http://\S+?),")[1]
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            assert client.get("/healthz").status_code == 200
            refused = client.get("/readyz")
            assert (refused.status_code, refused.json()["detail"]) == (503, "starting: on_start 'load' runs")
            with ThreadPoolExecutor() as pool:
                early = pool.submit(httpx.post, f"{url}/v1/pipelines/ask/runs", json={"input": {}}, timeout=30)
                (tmp_path / "go").touch()
                document = early.result().json()
            assert (document["result"], document["demotion"]) == ("loaded", None)
        command.wait_for("worker 1 +ready")
        command.send(signal.SIGTERM)
        assert command.end()[0] == 0


def test_a_stop_while_hooks_run_is_a_stop(tmp_path):
    (tmp_path / "starting.py").write_text(STARTING)
    with running("serve", "starting:app", "--port", "0", cwd=tmp_path) as command:
        pid = int(command.wait_for(r"worker 1 started \(pid (\d+)\)")[1])
        command.send(signal.SIGTERM)
        assert command.end()[0] == 0
        wait_until_gone(pid)


@pytest.mark.parametrize(
    "arguments", [("serve", "starting:app", "--port", "0"), ("worker", "starting:app", "--engine", "embedded:data")]
)
def test_a_hook_that_fails_is_named_and_the_process_exits_1(tmp_path, arguments):
    (tmp_path / "starting.py").write_text(STARTING)
    with running(*arguments, cwd=tmp_path, env={"FAILS": "1"}) as command:
        code, _out, err = command.end()
    assert code == 1
    assert err.splitlines()[-1].endswith("on_start 'load' failed: KeyError: 'model'")
    assert "starting.py" in err
