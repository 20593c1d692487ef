"""`offramp doctor` on servers that are as they should be, and on others."""

from __future__ import annotations

import time

import pytest

from offramp.cli import check_redis as check_redis_module
from offramp.cli.check_redis import check_redis
from offramp.settings import Settings
from tests import valkey
from tests.cli.harness import WAIT_S, offramp

pytestmark = pytest.mark.skipif(valkey.missing() is not None, reason=valkey.missing() or "")


def check(url, **settings):
    return list(check_redis(Settings(store=url, **settings)))


def texts(findings, level):
    return [f"{finding.about}: {finding.says}" for finding in findings if finding.level == level]


@pytest.fixture
def server(tmp_path, request):
    made = valkey.Server(tmp_path, *getattr(request, "param", ()))
    try:
        yield made
    finally:
        made.kill()


def until(condition):
    """What a server does by itself, it tells nobody."""
    ends_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def options(*given):
    return pytest.mark.parametrize("server", [given], indirect=True)


@options("--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "200mb", "--maxmemory-policy", "noeviction")
def test_a_sound_server(server, project, monkeypatch):
    monkeypatch.setattr(check_redis_module, "LATENCY_RISK_MS", 1000.0)  # of a machine that is not busy
    found = check(server.url("desk"))
    assert {finding.level for finding in found} == {"ok"}
    assert f"redis://127.0.0.1:{server.port}/0, prefix desk, answers in" in texts(found, "ok")[0]
    done = offramp("doctor", "desk.py", "--port", "0", "--store", server.url("desk"), cwd=project)
    assert done.returncode == 0, done.stdout
    assert "what is acknowledged is on its disk" in done.stdout
    assert "fsync takes" not in done.stdout, "there is no database in the data folder"


@options("--appendonly", "no", "--maxmemory", "200mb", "--maxmemory-policy", "allkeys-lru")
def test_a_server_that_keeps_nothing_and_evicts(server, caplog):
    risks = texts(check(server.url()), "risk")
    assert [risk.partition(":")[0] for risk in risks] == ["eviction", "persistence"]
    assert "allkeys-lru" in risks[0]
    assert "every run is lost" in risks[1]
    assert caplog.text == "", "what is found is said once"
    with server.client() as client:
        client.config_set("save", "3600 1")
    assert "since the last one are lost" in texts(check(server.url()), "risk")[1]


@options("--appendonly", "yes", "--appendfsync", "everysec")
def test_a_second_may_be_lost_unless_writes_wait_for_the_disk(server):
    notes = texts(check(server.url()), "note")
    assert "persistence: append-only file, appendfsync everysec" in notes[1]
    assert "no maxmemory" in notes[0]
    assert any("fsync=true in --store" in text for text in texts(check(server.url(fsync="true")), "ok"))


def test_a_memory_that_is_nearly_full(server):
    with server.client() as client:
        client.set("much", b"x" * (18 << 20))
        client.config_set("maxmemory", 22 << 20)
    assert "redis memory" in {finding.about for finding in check(server.url()) if finding.level == "risk"}


def test_a_refusal_shows_no_password(server):
    with server.client() as client:
        client.config_set("requirepass", "s3cret-word")
    url = server.url()
    for given in (url, url.replace("redis://", "redis://:wr0ng-word@")):
        (finding,) = check(given)
        assert finding.level == "broken"
        assert "refuses the user name, the password" in finding.says
        assert "word@" not in f"{finding}"
    found = check(url.replace("redis://", "redis://:s3cret-word@"))
    assert "broken" not in {finding.level for finding in found}
    assert "s3cret-word" not in f"{found}"


def test_a_replica_and_fsync_without_a_file_are_broken(server, tmp_path):
    (tmp_path / "replica").mkdir()
    replica = valkey.Server(tmp_path / "replica", "--replicaof", "127.0.0.1", str(server.port), "--appendonly", "no")
    try:
        with replica.client() as client:
            until(lambda: client.info("replication")["master_link_status"] == "up")
        (finding,) = check(replica.url())
        assert (finding.level, "it is a replica" in finding.says) == ("broken", True)
        assert any("1 replicas" in text for text in texts(check(server.url()), "note"))
    finally:
        replica.kill()
    with server.client() as client:
        client.config_set("appendonly", "no")
    (finding,) = check(server.url(fsync="true"))
    assert (finding.level, "append-only file" in finding.says) == ("broken", True)


def test_nobody_answers():
    (finding,) = check("redis://127.0.0.1:1/0")
    assert (finding.level, "cannot be reached" in finding.says) == ("broken", True)
    assert finding.fix


def test_a_url_that_does_not_fit():
    (finding,) = check("redis://:s3cret@127.0.0.1:1/0?prefiks=a")
    assert (finding.level, "no option 'prefiks'" in finding.says) == ("broken", True)
    assert "s3cret" not in f"{finding}"


@pytest.mark.parametrize("off_s", [-20.0, 20.0])
def test_a_clock_that_is_off(server, monkeypatch, off_s):
    from offramp.stores.redis import inspection

    monkeypatch.setattr(inspection, "distance", lambda _: (0.1, off_s))
    (risk,) = [text for text in texts(check(server.url(), lease=10.0), "risk") if text.startswith("clock")]
    assert ("ahead of" if off_s > 0 else "behind") in risk


def test_far_away_and_in_the_clear(server, monkeypatch):
    from offramp.stores.redis import inspection

    monkeypatch.setattr(inspection, "distance", lambda _: (30.0, 0.0))
    monkeypatch.setattr(check_redis_module, "is_loopback", lambda _host: False)
    risks = texts(check(server.url()), "risk")
    assert any("without TLS" in text for text in risks)
    assert any("an answer takes 30.0 ms" in text for text in risks)


def test_a_user_who_may_not_see_the_servers_settings(server):
    with server.client() as client:
        rights = ["~desk:*", "~{desk}:*", "&{desk}:*", "+@all", "-@dangerous", "+info"]
        client.execute_command("ACL", "SETUSER", "desk", "on", ">w0rd", *rights)
    found = check(server.url("desk").replace("redis://", "redis://desk:w0rd@"))
    assert "broken" not in {finding.level for finding in found}
    assert any("appendfsync unknown" in text for text in texts(found, "note"))


def test_another_store_is_not_looked_at():
    assert check("") == []
