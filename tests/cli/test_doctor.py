import json
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from offramp import SLA, App, Retry
from offramp.cli.check_app import check_app, steps_used
from offramp.cli.check_data import check_database, check_folder, filesystem_of
from offramp.cli.check_host import check_address, check_settings, check_webhooks, has_wal_reset_bug
from offramp.cli.findings import Finding, exit_code, report
from offramp.settings import Settings
from offramp.stores.sqlite.database import FILE_NAME, Database
from tests.cli.harness import offramp
from tests.support import of_schema

MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/share /mnt/shared\\040data nfs4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
"""


BARE = """
from offramp import App

app = App("bare")

@app.pipeline
async def bare(x: int) -> int:
    return x
"""


def texts(findings, level):
    return [f"{finding.about}: {finding.says}" for finding in findings if finding.level == level]


def test_a_sound_app_in_a_sound_place_exits_0(project):
    done = offramp("doctor", "desk.py", "--port", "0", cwd=project)
    assert done.returncode == 0, done.stdout
    for told in ("python:", "sqlite:", "fsync:", "file system:", "pipeline explain:", "desk: 6 pipelines"):
        assert told in done.stdout
    assert not (project / ".offramp").exists()


def test_what_is_broken_exits_1_and_says_how_to_mend_it(project):
    (project / ".offramp").mkdir()
    (project / ".offramp" / "offramp.db").write_text("this is not a database, but it is long enough to be one" * 20)
    done = offramp("doctor", "desk.py", "--json", "--port", "0", cwd=project)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["app"] == "desk"
    assert found["counts"]["broken"] == 1
    broken = next(finding for finding in found["findings"] if finding["level"] == "broken")
    assert broken["about"] == "database"
    assert broken["fix"]


def test_an_app_that_cannot_be_found_is_wrong_usage(project):
    assert offramp("doctor", "dusk.py", cwd=project).returncode == 2


def test_a_database_that_never_shrinks_is_told(tmp_path):
    with of_schema(9, tmp_path):
        pass
    Database(tmp_path).close()
    [told] = texts(check_database(tmp_path / FILE_NAME), "note")
    assert told.endswith("KiB of it are free; it was made by an older version and never shrinks")


def test_runs_that_wait_are_counted(project):
    offramp("run", "desk.py", "explain", "-i", '{"question": "x"}', "--data", "d", cwd=project)
    database = project / "d" / "offramp.db"
    assert texts(check_database(database), "ok")[-1] == "runs: none unfinished, 1 in all"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE runs SET status = 'queued'")
        connection.execute("DELETE FROM owners")
    connection.close()
    assert texts(check_database(database), "note") == ["runs: 1 queued, and no process is at work here"]
    with sqlite3.connect(database) as connection:
        columns = "id, kind, port, ready, expires_at, started_at"
        connection.execute(f"INSERT INTO owners ({columns}) VALUES ('w', 'worker', 0, 1, ?, 0)", (time.time() + 60,))
    connection.close()
    assert texts(check_database(database), "ok")[-1] == "runs: 1 queued; 1 processes are at work"


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/var/lib", "ext4"), ("/mnt/shared data/offramp", "nfs4"), ("/tmp", "tmpfs"), ("/tmpx", "ext4")],
)
def test_the_file_system_is_that_of_the_nearest_mount(folder, kind):
    assert filesystem_of(Path(folder), MOUNTS) == kind


def test_a_network_file_system_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr("offramp.cli.check_data.mount_table", lambda: f"server:/x {tmp_path} nfs4 rw 0 0\n")
    assert any("network file system" in text for text in texts(check_folder(tmp_path), "broken"))


@pytest.mark.parametrize(
    ("version", "bug"),
    [
        ((3, 40, 1), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 53, 0), False),
    ],
)
def test_which_sqlite_has_the_wal_reset_bug(version, bug):
    assert has_wal_reset_bug(version) is bug


def test_a_variable_that_nobody_reads_is_a_risk():
    found = list(check_settings({"OFFRAMP_WORKER_RUN": "3", "OFFRAMP_DATA": "x", "HOME": "/"}))
    assert texts(found, "risk") == ["settings: OFFRAMP_WORKER_RUN is set, but nothing reads it"]
    assert "did you mean 'OFFRAMP_WORKER_RUNS'?" in found[0].fix


def test_addresses():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert texts(check_address("127.0.0.1", port), "risk") == [
            f"port: 127.0.0.1:{port} is taken (by a running gateway?)"
        ]
    assert texts(check_address("127.0.0.1", 0), "ok")


def shop() -> App:
    app = App("shop", classes=[SLA("quick", p95=3.0, budget=2.0), SLA("patient", budget=100.0)])

    @app.step(timeout=10, retry=Retry(attempts=3, base=1.0, factor=1.0))
    async def slow(x: int) -> int:
        return x

    @app.step(effect="once")
    def pay(x: int) -> int:
        return x

    @app.pipeline(sla="quick", deadline=1.0)
    async def inner(x: int) -> int:
        return sum([await slow(n) for n in range(x)])

    @app.pipeline(sla="patient")
    async def outer(x: int) -> int:
        return await pay(await inner(x))

    @app.pipeline
    async def bare(x: int) -> int:
        return x

    return app


def test_the_steps_of_a_pipeline_are_read_from_its_code():
    app = shop()
    used = {name: [step.name for step in steps_used(app, p.spec)] for name, p in app.pipelines.items()}
    assert {name: sorted(steps) for name, steps in used.items()} == {
        "inner": ["slow"],
        "outer": ["pay", "slow"],
        "bare": [],
    }


def test_the_steps_of_a_failover_are_looked_at_and_not_the_failover():
    app = App("shop")

    @app.step
    async def first(x: int) -> int:
        return x

    @app.step(timeout=100)
    async def second(x: int) -> int:
        return x

    answer = app.failover(first, second, name="answer")

    @app.pipeline
    async def whole(x: int) -> int:
        return await answer(x)

    assert [step.name for step in steps_used(app, whole.spec)] == ["first", "second"]
    found = list(check_app(app, Settings()))
    assert texts(found, "risk") == ["step first: has no timeout: a call that hangs blocks its run forever"]
    above = "pipeline whole: timeouts above its budget of 6 s: second 100 s; a slow step is demoted"
    assert above in texts(found, "note")


def test_declarations_that_fight_each_other_are_told():
    found = list(check_app(shop(), Settings()))
    assert texts(found, "risk") == [
        "class patient: budget 100 s is cut to 60 s",
        "pipeline bare: names no step: nothing is journaled, so a run that moves starts again from the beginning",
        "step pay: has no timeout: a call that hangs blocks its run forever",
    ]
    notes = texts(found, "note")
    assert "class quick: aims at p95 3 s, and runs are demoted after 2 s: demoted ones count too" in notes
    assert "pipeline inner: timeouts above its budget of 2 s: slow 10 s; a slow step is demoted" in notes
    assert any(text.startswith("step pay: effect='once'") for text in notes)
    assert "step slow: up to 3 attempts, at most 32 s in all" in texts(found, "ok")
    assert all(finding.fix for finding in found if finding.level in {"risk", "broken"})


def test_an_app_without_pipelines_is_broken():
    assert texts(check_app(App("empty"), Settings()), "broken") == ["app: App 'empty' has no pipeline"]


@pytest.mark.parametrize(
    ("level", "code", "strict_code"), [("ok", 0, 0), ("note", 0, 0), ("risk", 0, 1), ("broken", 1, 1)]
)
def test_risks_fail_only_where_that_is_asked_for(level, code, strict_code):
    findings = [Finding("ok", "a", "b"), Finding(level, "a", "b", "c")]
    assert (exit_code(findings), exit_code(findings, strict=True)) == (code, strict_code)


def test_a_risk_fails_a_strict_check_and_is_shown_as_before(project):
    (project / "bare.py").write_text(BARE)
    plain, strict = [offramp("doctor", "bare.py", "--port", "0", *more, cwd=project) for more in ((), ("--strict",))]
    assert (plain.returncode, strict.returncode) == (0, 1)
    assert "RISK" in strict.stdout
    assert "names no step" in strict.stdout


def test_the_report_counts_by_level():
    assert report("x", [Finding("broken", "a", "b")])["counts"] == {"broken": 1, "risk": 0, "note": 0, "ok": 0}


def test_webhooks_without_a_secret_are_told_and_what_is_allowed_is_a_risk():
    [found] = check_webhooks(Settings())
    assert found.level == "note"
    assert "OFFRAMP_WEBHOOK_SECRET" in found.says
    secret = "whsec_" + "a" * 32
    [found] = check_webhooks(Settings(webhook_secret=secret))
    assert (found.level, found.says) == ("ok", "signed with 1 secret")
    both = list(check_webhooks(Settings(webhook_secret=f"{secret} {secret}", webhook_allow="10.0.0.0/8")))
    assert [finding.level for finding in both] == ["ok", "risk"]
    assert "10.0.0.0/8" in both[1].says
    assert not any(secret in str(finding) for finding in [found, *both])
