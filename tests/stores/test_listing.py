from __future__ import annotations

import pytest

from offramp.ports.listing import RunFilter
from offramp.stores.sqlite import listing
from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.rows import encode_record
from tests.support import Files, a_record, accepted, of_schema


async def test_runs_of_an_older_version_are_found_by_class_and_text(tmp_path):
    old = a_record(sla="slow", metadata={"customer": "Ann"})
    with of_schema(10, tmp_path) as connection:
        columns = "id, tenant, pipeline, status, path, priority, token, retention, record"
        values = (old.id, "", "p", "completed", "deep", 0, 1, 1.0, encode_record(old))
        connection.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    files = Files(tmp_path)
    try:
        new = a_record(sla="quick", metadata={"customer": "Anna"})
        await files.store.create(new, accepted(new), owner=None, durable=True)[0]
        for wanted, found in [
            ({"sla": "slow"}, [old]),
            ({"sla": "quick"}, [new]),
            ({"q": "ann"}, [new, old]),
            ({"q": "anna"}, [new]),
            ({"q": "ann", "sla": "slow"}, [old]),
        ]:
            page = await files.store.runs(RunFilter(**wanted))
            assert [run.id for run in page.runs] == [run.id for run in found]
    finally:
        await files.close()


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("wanted", [{"sla": "c"}, {"path": "deep"}, {"q": "x"}, {"pipeline": "q", "status": "failed"}])
@pytest.mark.parametrize("tenant", ["", None])
def test_the_work_of_a_page_does_not_grow_with_the_number_of_runs(tmp_path, monkeypatch, tenant, wanted, newest_first):
    monkeypatch.setattr(listing, "LIST_LOOKS_MAX", 10)
    database = Database(tmp_path)
    try:
        connection = database.connect()
        listing.prepare(connection)
        connection.execute(
            "INSERT INTO runs (id, tenant, pipeline, status, path, priority, token, retention, record, class) "
            "WITH numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 3000) "
            "SELECT printf('run_%026d', n), '', 'p', 'failed', 'fast', 0, 1, 1.0, x'', 'a' FROM numbers"
        )
        steps = 0

        def count():
            nonlocal steps
            steps += 1

        connection.set_progress_handler(count, 10)
        page = listing.page(connection, RunFilter(tenant=tenant, newest_first=newest_first, **wanted))
        connection.close()
        assert page.runs == []
        assert page.after is not None
        assert steps < 200, "it scanned more than ten rows"
    finally:
        database.close()
