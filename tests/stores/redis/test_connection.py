"""The URL, its server, and the messages about both, which never contain the password."""

from __future__ import annotations

import logging
import sys

import pytest

from offramp import App, wiring
from offramp.errors import MissingExtra, SettingsError, StoreError
from offramp.settings import Settings
from offramp.stores.redis import connection, writer
from offramp.stores.redis.address import Address, without_password
from tests.stores.redis.words import claim, create, created, entry, numbers, started
from tests.support import eventually

SECRET = "s3cr3t"


def test_a_url_is_read():
    address = Address.parse(f"rediss://me:{SECRET}%23@[::1]:7000/3?prefix=desk&ca=a&cert=b&key=c&fsync=1")
    assert address == Address(
        host="::1", port=7000, db=3, user="me", password=f"{SECRET}#", tls=True, prefix="desk",
        ca="a", cert="b", key="c", fsync=True,
    )  # fmt: skip
    assert (address.shown, address.key_of("r", "1")) == ("rediss://[::1]:7000/3", "{desk}:r:1")
    assert Address.parse("redis://db") == Address(host="db")
    assert SECRET not in repr(address) + repr(Settings(store=f"redis://:{SECRET}@db"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", "expected redis://"),
        (f"redis://:{SECRET}@", "expected redis://"),
        (f"redis://:{SECRET}@db:port", "expected redis://"),
        (f"redis://:{SECRET}@db:99999", "expected redis://"),
        (f"redis://:{SECRET}#@db", "expected redis://"),
        (f"redis://:{SECRET}@db/0#{SECRET}", "no #fragment"),
        (f"redis://:{SECRET}@db/first", "number of a database, got 'first'"),
        (f"redis://:{SECRET}@db?prefx=a", "did you mean 'prefix'"),
        (f"redis://:{SECRET}@db?prefix={{a}}", "prefix= must be 1 to 64"),
        (f"redis://:{SECRET}@db?fsync=perhaps", "fsync= must be true or false, got 'perhaps'"),
        (f"rediss://:{SECRET}@db?cert=a", "cert= and key= must both be given"),
        (f"redis://:{SECRET}@db?ca=a", "write rediss://"),
    ],
)
def test_a_url_that_does_not_fit_is_refused_without_its_password(url, expected):
    with pytest.raises(SettingsError) as raised:
        Address.parse(url)
    assert expected in str(raised.value)
    assert SECRET not in str(raised.value)


def test_what_is_shown_of_any_url_has_no_password():
    assert without_password(f"postgres://me:{SECRET}@x@db/1") == "postgres://…@db/1"
    assert without_password("redis://db") == "redis://db"


def test_files_for_tls_have_to_be_there(tmp_path):
    there = tmp_path / "ca.pem"
    there.touch()
    assert Address.parse(f"rediss://db?ca={there}").tls_options()["ssl_ca_certs"] == str(there)
    assert Address.parse("redis://db").tls_options() == {}
    with pytest.raises(SettingsError, match=r"absent\.pem cannot be read: No such file"):
        connection.client(Address.parse(f"rediss://:{SECRET}@db?ca={tmp_path}/absent.pem"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:1", "cannot be reached: .*Connection refused"),
        ("redis://:{secret}@127.0.0.1:{port}", "refuses the user name, the password"),
        ("redis://nobody:{secret}@127.0.0.1:{port}", "refuses the user name, the password"),
        ("redis://127.0.0.1:{port}", "refuses the user name, the password"),
        ("rediss://:{secret}@127.0.0.1:{port}", "does not answer in time"),
    ],
)
def test_a_server_that_refuses_or_is_not_there_is_reported_at_once(a_server, monkeypatch, url, expected):
    if url.startswith("rediss"):
        monkeypatch.setattr(writer, "WRITE_TIMEOUT_S", 0.5)  # to a server that waits for more
    server = a_server("--requirepass", "another")
    with pytest.raises(StoreError, match=expected) as raised:
        writer.Writer(Address.parse(url.format(secret=SECRET, port=server.port)), 1, 1.0, print)
    assert SECRET not in str(raised.value)
    assert str(raised.value).startswith(f"Redis at {Address.parse(url.format(secret=SECRET, port=server.port)).shown} ")


async def test_a_user_with_a_password_is_let_in(a_server, at):
    server = a_server("--user", "me", "on", f">{SECRET}", "~{mine}:*", "&{mine}:*", "+@all", "-@dangerous", "+info")
    opened = at(f"redis://me:{SECRET}@127.0.0.1:{server.port}?prefix=mine")
    await created(opened)
    elsewhere = at(f"redis://me:{SECRET}@127.0.0.1:{server.port}?prefix=theirs")
    with pytest.raises(StoreError, match="refuses the user name, the password, or the user's permissions"):
        await create(elsewhere)[1]


def test_an_old_server_is_refused(server, monkeypatch):
    monkeypatch.setattr(connection, "VALKEY_MIN", (99, 1))
    with pytest.raises(SettingsError, match=r"it is Valkey \d+\.\d+\.\d+, and must be Redis 7\.0 or Valkey 99\.1"):
        connection.check(address := Address.parse(server.url()), connection.client(address))


def test_a_server_that_cannot_wait_for_its_disk_is_refused_if_it_has_to(server, monkeypatch):
    monkeypatch.setattr(connection, "WAITAOF_SINCE", (99, 2))
    with pytest.raises(SettingsError, match=r"fsync= needs Redis or Valkey 99\.2"):
        connection.check(address := Address.parse(server.url(fsync=1)), connection.client(address))


def test_what_is_risky_is_logged(a_server, caplog):
    server = a_server("--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    address = Address.parse(server.url())
    with caplog.at_level(logging.WARNING, "offramp"):
        connection.check(address, connection.client(address))
    assert [record.message.split(": ")[0] for record in caplog.records] == [
        f"redis://127.0.0.1:{server.port}/0 keeps no append-only file",
        f"redis://127.0.0.1:{server.port}/0 evicts keys when its memory is full (maxmemory-policy allkeys-lru)",
    ]
    with pytest.raises(SettingsError, match="needs an append-only file"):
        connection.check(Address.parse(server.url(fsync=1)), connection.client(address))


async def test_a_promise_waits_for_the_disk_if_it_is_to(a_server, at):
    server = a_server("--appendonly", "yes", "--appendfsync", "everysec")
    opened = at(server.url(fsync=1))
    run, log = await created(opened)
    log.append(entry(1), started(1))
    await log.durable()
    with server.client() as client:
        assert client.info("commandstats")["cmdstat_waitaof"]["calls"] == 2
        log.append(entry(2), None)
        await claim(opened, "b")  # a batch that does not wait for the disk
        assert client.info("commandstats")["cmdstat_waitaof"]["calls"] == 2
    assert await numbers(opened, run) == [1, 2]


async def test_what_is_not_on_the_disk_is_not_promised(a_server, at, monkeypatch):
    monkeypatch.setattr(writer, "FSYNC_TIMEOUT_S", 0.02)
    monkeypatch.setattr(writer, "PATIENCE_S", 0.2)
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.02)
    server = a_server("--appendonly", "yes", "--appendfsync", "everysec")
    opened = at(server.url(fsync=1))
    run, log = await created(opened)
    with server.client() as client:
        client.config_set("appendfsync", "no")
        log.append(entry(1), started(1))
        promise = log.durable()
        refused, commit, _ = create(opened)
        with pytest.raises(StoreError, match="to its disk"):
            await commit
        client.config_set("appendfsync", "everysec")
    await promise
    assert await numbers(opened, run) == [1, 2], "what was sent again was applied again"

    async def is_taken_back():
        return await opened.store.get(refused.id) is None

    await eventually(is_taken_back)


def test_without_the_extra_it_is_named(server, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith(("offramp.stores.redis.", "redis"))]:
        if name != "offramp.stores.redis.address":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtra, match=r"store redis:// needs redis: pip install .*Offramp's extra 'redis'"):
        wiring.build(App("none"), Settings(store=server.url(), data=str(tmp_path)), role="gateway")


def test_a_process_that_cannot_reach_its_store_does_not_start(tmp_path):
    with pytest.raises(StoreError, match="cannot be reached"):
        wiring.build(App("none"), Settings(store="redis://127.0.0.1:1", data=str(tmp_path)), role="worker")
    assert list(tmp_path.iterdir()) == [], "a folder for a database that is not there"
