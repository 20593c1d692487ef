"""Runs are retried while everything is killed: no recorded step is executed again, and an approval stays given."""

from __future__ import annotations

import pytest

from tests.chaos.retrying import RetryCampaign


async def campaign(folder, request, kills, *, patient):
    seed = request.config.getoption("randomly_seed", 7)
    made = RetryCampaign(folder, seed, kills, patient=patient)
    found = await made.run()
    assert not found, "\n".join([*found[:20], made.summary(), f"again: pytest -p randomly --randomly-seed={seed}"])
    assert any(len(chain.runs) > 3 for chain in made.chains)
    return made


@pytest.mark.timeout(300)
async def test_a_retry_never_executes_a_recorded_step_again(tmp_path, request):
    await campaign(tmp_path, request, 4, patient=True)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_nor_does_it_under_many_kills_and_leases_that_run_out(tmp_path, request):
    await campaign(tmp_path, request, 100, patient=False)
