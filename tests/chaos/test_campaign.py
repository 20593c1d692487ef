"""A short kill campaign in every run of the tests, seeded with the number that pytest prints as `--randomly-seed`.

`make chaos` is the long one, under leases that run out.
"""

from __future__ import annotations

import pytest

from tests.chaos.campaign import Campaign

KILLS = 20


@pytest.mark.timeout(400)
async def test_whatever_is_killed_nothing_is_lost_and_no_finished_step_repeated(tmp_path, request):
    seed = request.config.getoption("randomly_seed", 7)
    campaign = Campaign(tmp_path, seed, KILLS, patient=True)
    found = await campaign.run()
    assert not found, "\n".join([*found[:20], campaign.summary(), f"again: pytest -p randomly --randomly-seed={seed}"])
    assert len(campaign.seen) >= KILLS
