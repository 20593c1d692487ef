"""The unit of `deploy/systemd`: systemd accepts it, its command serves and stops as it says, its times agree."""

from __future__ import annotations

import configparser
import shlex
import shutil
import signal
import subprocess

import httpx
import pytest

from offramp.settings import Settings
from tests.cli.harness import offramp, running
from tests.cli.parsed import parse
from tests.deploy.files import DEPLOY, GATEWAY_CLOSING_S
from tests.servers import free_port

UNIT = DEPLOY / "systemd" / "offramp.service"
BACKUP = DEPLOY / "systemd" / "offramp-backup.service"
TIMER = DEPLOY / "systemd" / "offramp-backup.timer"
APP = """
from offramp import App

app = App("desk")

@app.step(timeout=5)
async def upper(text: str) -> str:
    return text.upper()

@app.pipeline
async def shout(text: str) -> str:
    return await upper(text)
"""


def service(unit=UNIT):
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str
    parsed.read(unit)
    return parsed["Service"]


def command(unit=UNIT):
    program, *words = shlex.split(service(unit)["ExecStart"])
    assert program.endswith("/offramp")
    return words


@pytest.mark.parametrize("unit", [UNIT, BACKUP], ids=lambda unit: unit.stem)
def test_its_command_is_one_that_the_program_knows(unit):
    parse(command(unit))


def test_the_backup_copies_the_data_of_the_service_to_where_it_may_write():
    _, data, file = command(BACKUP)
    assert data == command()[command().index("--data") + 1]
    assert file.startswith(service(BACKUP)["ReadWritePaths"] + "/")
    assert service(BACKUP)["User"] == service()["User"]


def test_wrong_settings_are_not_tried_again(tmp_path):
    done = offramp("serve", "missing.app:app", "--data", str(tmp_path / "data"), cwd=tmp_path)
    assert str(done.returncode) == service()["RestartPreventExitStatus"]


def test_a_drain_and_the_closing_after_it_end_before_systemd_kills():
    assert float(service()["TimeoutStopSec"]) > Settings().drain_timeout + GATEWAY_CLOSING_S


def test_the_data_is_where_it_may_write():
    data = command()[command().index("--data") + 1]
    assert data == f"/var/lib/{service()['StateDirectory']}"
    assert service()["ProtectSystem"] == "strict"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd")
def test_systemd_accepts_it(tmp_path):
    made = [tmp_path / unit.name for unit in (UNIT, BACKUP, TIMER)]
    for unit, copy in zip((UNIT, BACKUP, TIMER), made, strict=True):
        text = unit.read_text(encoding="utf-8").replace("/opt/offramp/bin/offramp", shutil.which("true"))
        copy.write_text(text.replace("User=offramp", "User=root"), encoding="utf-8")
    command = ["systemd-analyze", "verify", *map(str, made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    problems = [line for line in done.stderr.splitlines() if any(copy.name in line for copy in made)]
    assert (done.returncode, problems) == (0, []), done.stderr


def test_its_command_serves_and_its_signal_stops_it(tmp_path):
    folder, port = tmp_path / "desk", free_port()
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    (folder / "__init__.py").write_text("")
    words = command()
    words[words.index("--port") + 1] = str(port)
    words[words.index("--data") + 1] = str(tmp_path / "data")
    with running(*words, cwd=tmp_path, env={"OFFRAMP_API_KEYS": "desk:0123456789abcdef"}) as served:
        for _ in range(2):
            served.wait_for(r"worker \d +ready in")
        key = {"Authorization": "Bearer 0123456789abcdef"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key, trust_env=False) as client:
            assert client.get("/readyz").status_code == 200
            made = client.post("/v1/pipelines/shout/runs", json={"input": {"text": "a"}})
            assert made.json()["result"] == "A"
            kinds = [each["kind"] for each in client.get("/v1/workers").json()["workers"]]
            assert sorted(kinds) == ["gateway", "worker", "worker"]
        served.send(signal.SIGTERM)
        assert served.process.wait(60) == 0
