from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.changes import Era, Wanted, changes
from offramp.core.run import RunHead, run_id
from tests.support import NOW


def head(status="running", path="fast", *, demoted=False, ended=None, **more):
    made = RunHead(run_id(NOW, b"0123456789"), "acme", "p", "quick", "s", status, path, ended, 3, demoted)
    return made._replace(**more)


@pytest.mark.parametrize(
    ("path", "now", "reported"),
    [
        (None, head(), [("running", "fast", NOW)]),
        ("fast", head(), [("running", "fast", NOW + 9)]),
        (None, head("queued", "deep"), [("queued", "deep", NOW + 9)]),
        (None, head("completed", ended=NOW + 1), [("completed", "fast", NOW + 1)]),
        (None, head("running", "deep", demoted=True), [("running", "fast", NOW), ("running", "deep", NOW + 9)]),
        ("fast", head("queued", "deep", demoted=True), [("queued", "deep", NOW + 9)]),
        (
            "fast",
            head("failed", "deep", demoted=True, ended=NOW + 5),
            [("running", "deep", NOW + 5), ("failed", "deep", NOW + 5)],
        ),
        (
            None,
            head("failed", "deep", demoted=True, ended=NOW + 5),
            [("running", "fast", NOW), ("running", "deep", NOW + 5), ("failed", "deep", NOW + 5)],
        ),
        ("deep", head("cancelled", "deep", demoted=True, ended=NOW + 5), [("cancelled", "deep", NOW + 5)]),
    ],
)
def test_each_path_and_each_end_is_reported_however_late_it_is_seen(path, now, reported):
    assert [(change.status, change.path, change.at) for change in changes(path, now, NOW + 9)] == reported


def test_the_times_of_a_run_never_go_back():
    made = run_id(NOW + 0.03, b"0123456789")  # after `now`, which is from before the read
    ended = head("completed", "deep", demoted=True, ended=NOW + 0.04, id=made)
    reported = changes(None, head(id=made), NOW) + changes("fast", ended, NOW + 9)
    assert [change.at for change in reported] == pytest.approx([NOW + 0.03, NOW + 0.04, NOW + 0.04])


def test_a_change_is_told_without_its_tenant_and_session():
    (change,) = changes(None, head(), NOW)
    shown = msgspec.json.decode(change.encoded())
    assert shown == {
        "run_id": change.head.id,
        "status": "running",
        "path": "fast",
        "pipeline": "p",
        "class": "quick",
        "at": "2023-11-14T22:13:20.000Z",
    }


@given(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16))
def test_an_id_leads_back_to_its_number(number, secret):
    era = Era("5f0c9a1e", secret)
    assert era.number_in(era.id_of(number)) == number


def test_ids_do_not_show_how_many_changes_there_are():
    ids = [Era("5f0c9a1e", bytes(16)).id_of(number) for number in range(1000)]
    assert len(set(ids)) == 1000
    assert len({made[:13] for made in ids}) > 900, "neighbours are alike"
    assert Era("5f0c9a1e", b"k" * 16).number_in(ids[1]) != 1


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Wanted(), True),
        (Wanted("acme", "p", "quick", "s"), True),
        (Wanted("beta"), False),
        (Wanted(pipeline="q"), False),
        (Wanted(sla="slow"), False),
        (Wanted(session_id="t"), False),
    ],
)
def test_a_reader_gets_what_it_wants(wanted, fits):
    assert wanted.fits(head()) is fits
