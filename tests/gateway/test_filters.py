from __future__ import annotations

import msgspec
import pytest

from offramp.core.run import run_id


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("class=" + "x" * 201, "at most 200 characters"),
        ("q=" + "x" * 201, "at most 200 characters"),
        ("q=a%0Ab", "without control characters"),
        ("path=deap", "did you mean 'deep'?"),
        ("path=", "one of fast, deep"),
        ("status=done", "one of queued, running"),
        ("order=newest", "one of desc, asc"),
        ("since=yesterday", "2026-11-21T09:30:00Z"),
        ("since=2026-11-21", "a time such as"),
        ("since=2026-11-21T09:30:00", "a time such as"),
        ("until=2026-02-30T09:30:00Z", "a time such as"),
        ("until=0000-01-01T00:00:00Z", "a time such as"),
        ("since=" + "9" * 5_000, "a time such as"),
        ("until=", "a time such as"),
        ("clas=x", "did you mean 'class'?"),
        ("q=a&q=b", "more than once"),
    ],
)
async def test_an_impossible_filter_is_refused_by_name(client, query, says):
    answer = await client.get(f"/v1/runs?{query}")
    assert answer.status_code == 422
    problem = answer.json()
    assert says in problem["errors"][0]["message"]
    assert problem["errors"][0]["pointer"] == "/query/" + query.partition("=")[0]
    assert "known: " not in problem["detail"]
    assert len(answer.content) < 1_000


@pytest.fixture
def made(service):
    """Three runs, a minute apart from 2023-11-14T22:13:20Z on."""
    records = []
    for number, (sla, path) in enumerate([("slow", "deep"), ("quick", "fast"), ("quick", "deep")]):
        at = 1_700_000_000.0 + 60 * number
        run = service.new_run()
        del service.runs[run.record.id]
        changes = {"id": run_id(at, b"0123456789"), "sla": sla, "path": path, "created_at": at}
        run.record = msgspec.structs.replace(run.record, metadata={"customer": f"Ann-{number}"}, **changes)
        service.runs[run.record.id] = run
        records.append(run.record)
    return records


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("class=quick", [2, 1]),
        ("class=quick&path=fast", [1]),
        ("order=asc", [0, 1, 2]),
        ("order=asc&limit=1", [0]),
        ("since=2023-11-14T22:14:20Z", [2, 1]),
        ("since=2023-11-14T23:14:20%2B01:00&order=desc", [2, 1]),
        ("since=2023-11-14T23:14:20+01:00", [2, 1]),
        ("until=2023-11-14T22:14:20.000z", [0]),
        ("q=ann-2", [2]),
        ("q=", [2, 1, 0]),
        ("_=1", [2, 1, 0]),
    ],
)
async def test_runs_are_listed_by_what_is_asked(client, made, query, numbers):
    answer = await client.get(f"/v1/runs?{query}")
    assert answer.status_code == 200
    assert [run["id"] for run in answer.json()["runs"]] == [made[number].id for number in numbers]


async def test_a_listing_in_either_order_goes_on_after_its_page(client, made):
    for order, expected in (("asc", made), ("desc", made[::-1])):
        found, after = [], ""
        while after is not None:
            query = f"/v1/runs?order={order}&limit=1" + (f"&after={after}" if after else "")
            page = (await client.get(query)).json()
            found += [run["id"] for run in page["runs"]]
            after = page["after"]
        assert found == [record.id for record in expected]
