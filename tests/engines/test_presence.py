"""The dead are told from the silent, each to one process, and only while that can be known."""

from __future__ import annotations

import pytest

from offramp import App
from offramp.engines.leased.presence import Presence
from offramp.paths.submission import Submission
from tests.support import GUARD_S, Files, eventually, frames_of, member

OWNER = "gateway-host.example-1-ab/cd"


@pytest.fixture
def present(tmp_path):
    """Makes processes that are there."""
    made = []

    def make(owner):
        made.append(Presence(tmp_path / "alive", owner))
        made[-1].open()
        return made[-1]

    yield make
    for presence in made:
        presence.close()


def die(presence):
    """What the system does to a killed process's locks: a copy in a child that is forked gives them up alike."""
    presence.forked()


def test_a_process_that_is_there_is_not_dead(present):
    one, other = present("one"), present("other")
    assert (one.dead(), other.dead()) == ([], [])


def test_a_dead_process_is_told_to_one_until_it_is_buried(present):
    dead, one, other = present(OWNER), present("one"), present("other")
    die(dead)
    assert [one.dead(), one.dead(), other.dead()] == [[OWNER], [OWNER], []]
    one.bury(OWNER)
    assert (one.dead(), other.dead()) == ([], [])


def test_whoever_dies_before_burying_leaves_both_to_the_next(present):
    dead, one, other = present(OWNER), present("one"), present("other")
    die(dead)
    assert one.dead() == [OWNER]
    die(one)
    assert sorted(other.dead()) == [OWNER, "one"]


def test_a_process_that_left_leaves_no_trace(present, tmp_path):
    one, other = present("one"), present("other")
    one.close()
    assert other.dead() == []
    assert [path.name for path in (tmp_path / "alive").iterdir()] == ["other"]


def test_where_no_file_can_be_made_nobody_is_called_dead(present, tmp_path, caplog):
    (tmp_path / "alive").write_text("a file where the folder is to be")
    assert present("one").dead() == []
    assert "its lease has to run out" in caplog.text


async def test_what_a_killed_process_held_does_not_wait_for_its_lease(tmp_path):
    app = App("prompt")

    @app.pipeline
    async def pipe() -> str:
        return "done"

    files, killed = Files(tmp_path), Presence(tmp_path / "alive", "killed")
    killed.open()
    try:
        async with member(app, tmp_path, "gateway", lease=600) as gateway:
            run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
            [claim] = await files.leases.claim("killed", 1, ["pipe"], gateway.process.clock.time())
            assert claim.record.id == run
            die(killed)
            async with member(app, tmp_path, "worker", lease=600):
                await frames_of(gateway, run)
                assert (await gateway.get(run)).status == "completed"
                await eventually(lambda: not (tmp_path / "alive" / "killed").exists())
    finally:
        await files.close()
    assert GUARD_S < 600
