from __future__ import annotations

from offramp.ports.listing import RunFilter
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
